"""The process of a trial, or of one of its workers: when it ends, what it may use, where it is."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

from tuning.environment import cpu_name
from tuning.resources import Allotment


def end_with_parent() -> None:
    """Let the kernel end this process with the raylet that started it.

    A worker looks for its raylet only between two calls; until then it would go on writing into
    the folder of a trial that a resumed study has begun again.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def limit_memory(gib: float) -> None:
    """Limit what this process may allocate beyond what it has; shared memory does not count."""
    status = Path("/proc/self/status")
    if not status.exists():
        return
    held = next(line for line in status.read_text().splitlines() if line.startswith("VmData"))
    limit = (int(held.split()[1]) << 10) + int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def memory_bytes() -> int:
    """Return the peak of this process's GPU memory, or on a CPU its resident memory."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)


def describe(allotment: Allotment, device: str) -> dict[str, Any]:
    """Return where this process computes, and with what.

    Args:
        allotment: what it got.
        device: `cpu` or `cuda`.
    """
    import torch

    return {
        "host": platform.node(),
        "cpus": allotment.cpus,
        "gpus": allotment.gpus,
        "gpu_ids": os.environ.get("CUDA_VISIBLE_DEVICES", "") if allotment.gpus else "",
        "threads": torch.get_num_threads(),
        "device_name": str(torch.cuda.get_device_name()) if device == "cuda" else cpu_name(),
    }
