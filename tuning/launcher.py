"""The cluster file of Ray's launcher: which hosts it names, and SSH to them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

#: The options that the launcher itself uses: hosts of a cluster are installed anew too often for
#: their keys to be kept. A password is never asked for.
SSH_OPTIONS = (
    "BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR",
    "ConnectTimeout=10", "IdentitiesOnly=yes",
)  # fmt: skip


class LauncherError(RuntimeError):
    """The cluster file is wrong, or a host does not answer; the text says which and why."""


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster file says of its hosts.

    Attributes:
        path: of the file.
        config: the whole file.
        head: address of the head.
        workers: addresses of the others.
        user: who logs in.
        key: of the user, for SSH.
    """

    path: Path
    config: dict[str, Any]
    head: str
    workers: list[str]
    user: str
    key: Path

    @property
    def addresses(self) -> list[str]:
        """Addresses of all hosts, the head first."""
        return [self.head, *self.workers]

    def ssh_command(self) -> list[str]:
        """Return `ssh` with its options, without a host."""
        options = [part for option in SSH_OPTIONS for part in ("-o", option)]
        return ["ssh", "-i", str(self.key), *options]

    def ssh(self, address: str, command: str, text: str = "", seconds: float = 60) -> str:
        """Run a command on a host and return what it prints.

        Args:
            address: of the host.
            command: for its shell.
            text: for the command's input.
            seconds: after which it is given up.

        Raises:
            LauncherError: the host does not answer in time, or the command fails.
        """
        whole = [*self.ssh_command(), f"{self.user}@{address}", command]
        try:
            done = subprocess.run(
                whole, input=text, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise LauncherError(f"{address}: no answer within {seconds:g} s") from None
        except OSError as error:
            raise LauncherError(f"ssh cannot be started: {error}") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise LauncherError(f"{address}: {lines[-1]}")
        return done.stdout

    def pull(self, folder: str, out: Path) -> Path:
        """Copy a folder of the head into a local one; what is here already is not sent again.

        Returns:
            The copied folder.

        Raises:
            LauncherError: it cannot be copied.
        """
        out.mkdir(parents=True, exist_ok=True)
        source = f"{self.user}@{self.head}:{folder.rstrip('/')}"
        remote_shell = " ".join(self.ssh_command())
        command = ["rsync", "-az", "--partial", "-e", remote_shell, source, str(out)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise LauncherError(f"rsync cannot be started: {error}") from None
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise LauncherError(f"{source}: cannot be copied: {lines[0]}")
        return out / Path(folder).name


def read(path: Path) -> ClusterFile:
    """Read a cluster file of the provider `local`.

    Raises:
        LauncherError: it cannot be read or names no hosts.
    """
    try:
        config = yaml.safe_load(path.read_text())
        provider, auth = config["provider"], config["auth"]
        return ClusterFile(
            path,
            config,
            str(provider["head_ip"]),
            [str(address) for address in provider["worker_ips"]],
            str(auth["ssh_user"]),
            Path(auth["ssh_private_key"]).expanduser(),
        )
    except OSError as error:
        raise LauncherError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        reason = str(error).replace("\n", " ")
        raise LauncherError(f"{path}: is not YAML: {reason}") from None
    except KeyError as error:
        raise LauncherError(f"{path}: {error.args[0]} is missing") from None
    except TypeError:
        raise LauncherError(f"{path}: is no cluster file with `provider` and `auth`") from None
