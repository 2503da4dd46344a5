"""The probe: what a host says of itself. `tuning doctor` sends this file to the host's Python.

It runs there by itself, so it imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "torchvision", "numpy", "scikit-learn", "optuna", "tunelab")


def probe(
    marker: str, data: Mapping[str, Sequence[Sequence[str]]], *, make_marker: bool = False
) -> dict[str, Any]:
    """Describe this host as Ray will find it.

    Args:
        marker: name of a file on the shared storage; the head, which is asked first, makes it,
            and the others look for it.
        data: for each data set, the groups of files of which one must be there; `$TUNING_STORAGE`
            in a path is the host's.
        make_marker: make that file.
    """
    storage = os.environ.get("TUNING_STORAGE", "")
    if make_marker and storage:
        with contextlib.suppress(OSError):
            (Path(storage) / marker).write_text("")
    return {
        "host": platform.node(),
        "time": time.time(),
        "python": platform.python_version(),
        "packages": versions(),
        "token": token(),
        "storage": storage,
        "storage_error": storage_error(storage),
        "shares_storage": bool(storage) and _shares(Path(storage) / marker),
        "missing_data": [name for name, groups in data.items()
                         if not any(map(_all_there, groups))],
        "free_bytes": {place: shutil.disk_usage(place).free for place in ("/tmp", storage)
                       if place and Path(place).is_dir()},
        "cpus": os.cpu_count(),
        "gpus": gpu_names(),
        "raylet": raylet(),
        "omp": os.environ.get("OMP_NUM_THREADS", ""),
    }  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of the packages that must agree; empty for one that is missing."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def token() -> str:
    """Return a fingerprint of the cluster's token, or nothing where there is none."""
    path = Path.home() / ".ray" / "auth_token"
    if not path.is_file():
        return ""
    return hashlib.sha256(path.read_bytes().strip()).hexdigest()[:16]


def storage_error(storage: str) -> str:
    """Return why the storage cannot be written, or nothing."""
    if not storage:
        return "TUNING_STORAGE is not set"
    trial = Path(storage) / f".doctor-{platform.node()}-{os.getpid()}"
    try:
        trial.write_text("")
        trial.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _all_there(files: Sequence[str]) -> bool:
    paths = [os.path.expandvars(file) for file in files]
    return all(Path(path).exists() or Path(path + ".gz").exists() for path in paths)


def _shares(marker: Path) -> bool:
    # Listing the folder makes an NFS client look again, rather than answer from its cache.
    return marker.parent.is_dir() and marker in marker.parent.iterdir()


def gpu_names() -> list[str]:
    """Return the model names of the NVIDIA GPUs of this host."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]


def raylet() -> dict[str, str] | None:
    """Return what of the running raylet's environment matters, or None where none runs."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() != "raylet":
                continue
            entries = (process / "environ").read_text().split("\0")
        except OSError:
            continue
        environment = dict(entry.split("=", 1) for entry in entries if "=" in entry)
        return {key: environment.get(key, "") for key in ("OMP_NUM_THREADS", "RAY_AUTH_MODE")}
    return None


if __name__ == "__main__":
    marker, data, *flags = sys.argv[1:]
    found = probe(marker, json.loads(data), make_marker="--make-marker" in flags)
    print(json.dumps(found))  # noqa: T201
