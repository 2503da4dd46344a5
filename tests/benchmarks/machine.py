"""The line that names the machine above each benchmark's table."""

from __future__ import annotations

import importlib.metadata
import os

import psutil

from tuning.environment import cpu_name


def describe(*packages: str) -> str:
    """Return the CPU, its number, memory, the load, and the versions of some packages."""
    versions = "".join(f", {name} {importlib.metadata.version(name)}" for name in packages)
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{cpu_name()}, {psutil.cpu_count()} CPUs, {memory:.0f} GiB, "
        f"load {os.getloadavg()[0]:.1f}{versions}"
    )
