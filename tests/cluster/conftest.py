"""A cluster on raised hosts, started with the shipped cluster.yaml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.hosts import STORAGE, Site, raise_hosts, ssh_command, why_not
from tests.conftest import ROOT

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Cluster:
    """A site, the cluster file for it, and the home and working folder of the user."""

    site: Site
    file: Path
    home: Path
    folder: Path
    address: str

    def write(self, study: dict[str, Any]) -> Path:
        """Write a study file into the user's working folder."""
        path = self.folder / f"{study['name']}.yaml"
        path.write_text(yaml.safe_dump(study))
        return path

    def seen_here(self, folder: Path) -> Path:
        """Return where a folder of the hosts' storage lies on this machine."""
        return self.site.storage / folder.relative_to(STORAGE)

    def run(self, *command: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a command as the user, in the working folder."""
        return subprocess.run(
            [str(part) for part in command], cwd=self.folder, env=self.environment(**changes),
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    def start(self, *command: object) -> subprocess.Popen[str]:
        """Start a command as the user."""
        return subprocess.Popen(
            [str(part) for part in command], cwd=self.folder, env=self.environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def tuning(self, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run `tuning` as the user."""
        return self.run(sys.executable, "-m", "tuning", *arguments, **changes)

    def environment(self, **changes: str) -> dict[str, str]:
        """Return the user's environment: a home of his own."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        own = {"HOME": str(self.home), "RAY_TMPDIR": str(self.home / "ray"),
               "PYTHONPATH": str(ROOT), "PATH": f"{BIN}:{os.environ['PATH']}",
               "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
        return kept | own | changes

    def on_head(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run Python on the head, connected to the cluster as `ray`."""
        script = "import ray; ray.init('auto', log_to_driver=False, logging_level='ERROR')\n" + code
        python = f"PYTHONPATH=~/tunelab RAY_AUTH_MODE=token {sys.executable} -"
        head = self.site.hosts[0]
        return subprocess.run(
            [*ssh_command(self.site.key), f"root@{head.address}", python],
            input=script, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    def wait_for_nodes(self, count: int, seconds: float = 120) -> None:
        """Wait until this many hosts are up."""
        code = "print('alive', sum(node['Alive'] for node in ray.nodes()))"
        deadline = time.monotonic() + seconds
        while f"alive {count}\n" not in (found := self.on_head(code)).stdout:
            if time.monotonic() > deadline:
                raise AssertionError(f"not {count} hosts: {found.stdout} {found.stderr}")
            time.sleep(1)


def adapt(folder: Path, site: Site) -> Path:
    """Write the shipped cluster.yaml with this site's addresses, key and install step.

    The Python that runs the tests takes the place of one installed by pip; all else is as shipped.
    """
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    head, *workers = (host.address for host in site.hosts)
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(site.key)}
    config["file_mounts"] = {
        target: source if source.startswith("~") else str(ROOT / source)
        for target, source in config["file_mounts"].items()
    }
    make_venv, install, link = config["setup_commands"]
    assert ("venv" in make_venv, "pip install" in install) == (True, True)
    config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/tunelab/.venv", link]
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def _tunnel(site: Site, port: int) -> Iterator[None]:
    """Make the head's port 8265 reachable here, as `ray dashboard` does."""
    forward = ["-N", "-L", f"{port}:127.0.0.1:8265", f"root@{site.hosts[0].address}"]
    tunnel = subprocess.Popen([*ssh_command(site.key), *forward])
    try:
        yield
    finally:
        tunnel.kill()
        tunnel.wait()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Two hosts on which `ray up` was run."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    # Sockets need short paths, and the storage must outlive no test run.
    folder = Path(tempfile.mkdtemp(prefix="tunelab-"))
    home, work = folder / "user", folder / "work"
    (home / "ray").mkdir(parents=True)
    (work / "data").mkdir(parents=True)
    port = 28000 + os.getpid() % 1000
    try:
        with raise_hosts(folder) as site, _tunnel(site, port):
            made = Cluster(site, adapt(work, site), home, work, f"http://127.0.0.1:{port}")
            token = made.run("ray", "get-auth-token", "--generate")
            assert token.returncode == 0, token.stderr
            up = made.run("ray", "up", "--yes", made.file)
            assert up.returncode == 0, up.stdout + up.stderr
            made.wait_for_nodes(len(site.hosts))
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def study_folder(output: str) -> Path:
    """Return the study folder that a job's output names."""
    return Path(re.findall(r"^/mnt/studies/\S+$", output, re.MULTILINE)[-1])


def job_of(output: str) -> str:
    """Return the name of the job that `tuning submit` started."""
    return re.findall(r"^job (\S+)$", output, re.MULTILINE)[0]
