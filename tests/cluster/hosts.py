"""Hosts on one machine: each with its own network, processes, home, /tmp, /dev/shm, name and sshd.

Linux namespaces make them: nothing that runs in one host sees another's processes or files, so
`ray stop` in one ends nothing elsewhere, and a cable can be pulled. They share the folder that
stands for NFS, and the Python that runs the tests.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("ip", "unshare", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
HOME = Path("/root")
STORAGE = Path("/mnt/studies")
#: Folders that each host has for itself; a Python that lies in one of them is mounted back.
PRIVATE = (HOME, Path("/tmp"), Path("/mnt"))


def why_not() -> str:
    """Return why this machine cannot raise hosts, or nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux, for network and mount namespaces"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"needs {', '.join(missing)} (Debian: iproute2 openssh-server rsync)"
    if _run("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true", check=False):
        return "this machine allows no new namespaces"
    return ""


@dataclass(frozen=True)
class Host:
    """A raised host."""

    name: str
    address: str
    link: str
    private: Path

    @property
    def home(self) -> Path:
        """The host's home folder, as this machine sees it."""
        return self.private / "root"

    def cut(self) -> None:
        """Pull the network cable."""
        _run("ip", "link", "set", self.link, "down")

    def mend(self) -> None:
        """Put the network cable back."""
        _run("ip", "link", "set", self.link, "up")


@dataclass(frozen=True)
class Site:
    """The raised hosts, the key that opens them, and the storage that they share."""

    hosts: list[Host]
    key: Path
    storage: Path

    def ssh(self, host: Host, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host."""
        return subprocess.run(
            [*ssh_command(self.key), f"root@{host.address}", command],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip


def ssh_command(key: Path) -> list[str]:
    options = ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null",
               "LogLevel=ERROR", "ConnectTimeout=5", "IdentitiesOnly=yes")  # fmt: skip
    return ["ssh", "-i", str(key), *(part for o in options for part in ("-o", o))]


@contextmanager
def raise_hosts(folder: Path, count: int = 2) -> Iterator[Site]:
    """Raise hosts on a bridge of their own, until the context ends.

    Args:
        folder: for all that they keep; on this machine's disk.
        count: of hosts.
    """
    number = os.getpid() % 250
    bridge, network = f"tl{number}", f"10.213.{number}"
    key = folder / "key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    storage = folder / "storage"
    storage.mkdir()
    with ExitStack() as stack:
        stack.enter_context(_device(bridge, "bridge"))
        _run("ip", "addr", "add", f"{network}.254/24", "dev", bridge)
        _run("ip", "link", "set", bridge, "up")
        hosts = []
        for n in range(1, count + 1):
            host = Host(f"node{n}", f"{network}.{n}", f"{bridge}n{n}", folder / f"node{n}")
            stack.enter_context(_host(host, bridge, f"{network}.254", key, storage))
            hosts.append(host)
        site = Site(hosts, key, storage)
        for host in hosts:
            _wait_for_ssh(site, host)
        yield site


@contextmanager
def _host(host: Host, bridge: str, gateway: str, key: Path, storage: Path) -> Iterator[None]:
    namespace = host.link
    _prepare_files(host, key)
    with _namespace(namespace), _device(host.link, "veth", "peer", "name", "eth0", "netns",
                                        namespace):  # fmt: skip
        _run("ip", "link", "set", host.link, "master", bridge, "up")
        inside = ["ip", "-n", namespace]
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _run(*inside, "link", "set", "eth0", "up")
        # Nothing is forwarded; Ray finds a host's own address by its default route.
        _run(*inside, "route", "add", "default", "via", gateway)
        with (host.private / "sshd.log").open("w") as log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, "unshare", "--mount", "--uts", "--ipc", "--pid",
                 "--fork", "--kill-child", "--mount-proc", "bash", "-c", _script(host, storage)],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield
        finally:
            process.kill()
            process.wait()


def _prepare_files(host: Host, key: Path) -> None:
    for folder in ("root/.ssh", "tmp", "mnt/studies"):
        (host.private / folder).mkdir(parents=True)
    public = key.with_name("key.pub").read_text()
    (host.home / ".ssh" / "authorized_keys").write_text(public)
    # The code that `ray up` brought, rather than what the shared Python has installed.
    (host.home / ".bashrc").write_text("export PYTHONPATH=$HOME/tunelab\n")
    # As Debian's and Ubuntu's own.
    (host.home / ".profile").write_text('. ~/.bashrc\nPATH="$HOME/.local/bin:$PATH"\n')
    host_key = host.private / "host_key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host_key))
    shutil.copy(host_key, host.home / ".host_key")
    (host.home / ".host_key").chmod(0o600)
    (host.home / ".sshd_config").write_text(
        f"HostKey {HOME}/.host_key\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\nAllowTcpForwarding yes\n"
    )


def _script(host: Host, storage: Path) -> str:
    """Return what the host's first process does: mount its own folders, and become sshd."""
    shared = [p for p in {Path(sys.prefix), Path(sys.base_prefix)}
              if any(p.is_relative_to(hidden) for hidden in PRIVATE)]  # fmt: skip
    for path in shared:
        (host.private / _within(path)).mkdir(parents=True, exist_ok=True)
    lines = [
        "set -e",
        f"hostname {host.name}",
        f"echo '127.0.0.1 localhost\n{host.address} {host.name}' > {host.private}/hosts",
        f"mount --bind {host.private}/hosts /etc/hosts",
        f"mount --bind {storage} {host.private}/mnt/studies",
        *(f"mount --bind {path} {host.private / _within(path)}" for path in shared),
        # /tmp last: the other sources may lie in it.
        *(f"mount --rbind {shlex.quote(str(host.private / p.name))} {p}"
          for p in sorted(PRIVATE, key=lambda p: p == Path("/tmp"))),
        "mount -t tmpfs tmpfs /dev/shm",
        "mount -t tmpfs tmpfs /run",
        "mkdir -p /run/sshd",
        f"exec /usr/sbin/sshd -D -e -f {HOME}/.sshd_config",
    ]  # fmt: skip
    return "\n".join(lines)


def _within(path: Path) -> Path:
    hidden = next(p for p in PRIVATE if path.is_relative_to(p))
    return Path(hidden.name) / path.relative_to(hidden)


@contextmanager
def _namespace(name: str) -> Iterator[None]:
    _run("ip", "netns", "add", name)
    try:
        yield
    finally:
        _run("ip", "netns", "del", name)


@contextmanager
def _device(name: str, kind: str, *arguments: str) -> Iterator[None]:
    _run("ip", "link", "add", name, "type", kind, *arguments)
    try:
        yield
    finally:
        _run("ip", "link", "del", name, check=False)


def _wait_for_ssh(site: Site, host: Host) -> None:
    deadline = time.monotonic() + 30
    while site.ssh(host, "true").returncode:
        if time.monotonic() > deadline:
            log = (host.private / "sshd.log").read_text()
            raise RuntimeError(f"{host.name} does not answer: {log}")
        time.sleep(0.2)


def _run(*command: str, check: bool = True) -> int:
    done = subprocess.run(command, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.returncode
