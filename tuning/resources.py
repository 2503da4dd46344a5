"""Resources: what a trial asks for, what it got, and how many trials fit at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuning.study import Study


class ResourceError(ValueError):
    """No host can run a trial of the study; the text says what is asked and what there is."""


@dataclass(frozen=True)
class Request:
    """CPUs, GPUs and amounts of custom resources of one trial."""

    cpu: float
    gpu: float
    custom: tuple[tuple[str, float], ...] = ()

    def slots(self, cpus: float, gpus: float, custom: Mapping[str, float] | None = None) -> int:
        """Return how many such trials fit at once on a host.

        A fraction of a GPU comes from one GPU: three trials of 0.4 do not fit on one.
        """
        by_cpu = math.floor(cpus / self.cpu + 1e-9)
        for name, amount in self.custom:
            by_cpu = min(by_cpu, math.floor((custom or {}).get(name, 0) / amount + 1e-9))
        if self.gpu == 0:
            return by_cpu
        if self.gpu < 1:
            by_gpu = math.floor(gpus) * math.floor(1 / self.gpu + 1e-9)
        else:
            by_gpu = math.floor(gpus / self.gpu)
        return min(by_cpu, by_gpu)


def request(study: Study, config: Mapping[str, Any], *, gpus_exist: bool = True) -> Request:
    """Return what a trial of a configuration asks for.

    A trial that cannot use a GPU asks for none. On a cluster without GPUs a trial whose device is
    `auto` does without.
    """
    wanted = study.resources
    device = config.get("device", "cpu")
    if device == "cuda" or (device == "auto" and wanted.gpu > 0 and gpus_exist):
        return Request(wanted.cpu, wanted.gpu, tuple(sorted(wanted.custom.items())))
    return Request(wanted.cpu_without_gpu or wanted.cpu, 0)


@dataclass(frozen=True)
class Host:
    """A machine of the cluster with its logical CPUs, GPUs and other resources by name."""

    name: str
    cpus: float
    gpus: float
    custom: Mapping[str, float] = field(default_factory=dict)


def count_slots(requests: Iterable[Request], hosts: Iterable[Host]) -> int:
    """Return how many trials can run at once, by the request of which most fit.

    Raises:
        ResourceError: some request fits on no host.
    """
    hosts = list(hosts)
    most = 0
    for wanted in set(requests):
        slots = sum(wanted.slots(host.cpus, host.gpus, host.custom) for host in hosts)
        if slots == 0:
            there = ", ".join(f"{h.name}: {h.cpus:g} CPUs, {h.gpus:g} GPUs" for h in hosts)
            custom = "".join(f", {amount:g} {name}" for name, amount in wanted.custom)
            raise ResourceError(
                f"resources: a trial asks for {wanted.cpu:g} CPUs and {wanted.gpu:g} GPUs{custom}, "
                f"which no host has ({there}); lower them, or set others: "
                "--set resources.cpu=N --set resources.cpu_without_gpu=N --set resources.gpu=N"
            )
        most = max(most, slots)
    return most


@dataclass(frozen=True)
class Allotment:
    """What a running trial got."""

    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Threads of torch, BLAS and oneDAL in this trial."""
        return max(1, int(self.cpus))

    def device(self, asked: str) -> str:
        """Return `cpu` or `cuda`.

        Raises:
            ResourceError: `cuda` was asked for and this process has none.
        """
        import torch

        if asked == "cpu" or (asked == "auto" and self.gpus == 0):
            return "cpu"
        if torch.cuda.is_available():
            return "cuda"
        if asked == "cuda":
            raise ResourceError("device: cuda was asked for, but torch sees no CUDA device here")
        return "cpu"

    def apply(self) -> None:
        """Set this process's threads, and its share of the GPU's memory."""
        import torch
        from threadpoolctl import threadpool_limits

        torch.set_num_threads(self.threads)
        threadpool_limits(self.threads)
        if 0 < self.gpus < 1 and torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(self.gpus)
