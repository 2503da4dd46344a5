"""The environment: what a study ran on, recorded so that its times mean something later."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

from tuning.probe import gpu_names

PACKAGES = (
    "tunelab",
    "ray",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "optuna",
    "deepspeed",
)
#: Carries the commit of a study's sender to the cluster, where the source lies without its history.
COMMIT_VARIABLE = "TUNING_GIT_COMMIT"
#: Side of the square matrices whose product measures a device's peak: large enough that the
#: product is bound by arithmetic, small enough to take milliseconds on a laptop's core.
PEAK_SIDE = 2048


def describe_software() -> dict[str, Any]:
    """Return the versions of Python and of the packages, and the git commit."""
    return {
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "git_commit": os.environ.get(COMMIT_VARIABLE) or git_commit(),
    }


def describe_host(*, measure: bool) -> dict[str, Any]:
    """Return this host's name, processors and memory.

    Args:
        measure: also measure the peak rate of matrix products, in GFLOP/s, which takes about two
            seconds on all CPUs; the host should do nothing else meanwhile.
    """
    host: dict[str, Any] = {
        "host": platform.node(),
        "cpu": cpu_name(),
        "cpus": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpu_names(),
    }
    return host | (measure_peaks() if measure else {})


def cpu_name() -> str:
    """Return the model name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measure_peaks() -> dict[str, float]:
    """Measure the rate of large matrix products on the CPU (and the GPU, where there is one).

    Returns:
        GFLOP/s as `fp32_gflops` and `bf16_gflops` (CPU), `gpu_fp32_gflops` and `gpu_fp16_gflops`.
    """
    import torch

    torch.set_num_threads(psutil.cpu_count() or 1)
    peaks = {
        "fp32_gflops": _matmul_gflops(torch.device("cpu"), torch.float32),
        "bf16_gflops": _matmul_gflops(torch.device("cpu"), torch.bfloat16),
    }
    if torch.cuda.is_available():
        peaks["gpu_fp32_gflops"] = _matmul_gflops(torch.device("cuda"), torch.float32)
        peaks["gpu_fp16_gflops"] = _matmul_gflops(torch.device("cuda"), torch.float16)
    return peaks


def _matmul_gflops(device: Any, dtype: Any, seconds: float = 0.5) -> float:
    """Return the best rate seen: an interrupted product says nothing of the device."""
    import torch

    side = PEAK_SIDE * (4 if device.type == "cuda" else 1)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    (a @ b)[0, 0].item()
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        (a @ b)[0, 0].item()
        best = min(best, time.perf_counter() - started)
    return float(round(2 * side**3 / best / 1e9, 1))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str:
    """Return the commit of the source that runs, with `+changes` if it differs, or nothing."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty=+changes"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
