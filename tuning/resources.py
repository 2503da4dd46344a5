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
    """CPUs, GPUs and amounts of custom resources of one trial, or of each of its workers.

    Attributes:
        workers: processes that train beside the trial's own, which then asks for nothing; 0 for a
            trial that trains itself.
    """

    cpu: float
    gpu: float
    custom: tuple[tuple[str, float], ...] = ()
    workers: int = 0

    def bundles(self) -> list[dict[str, float]]:
        """Return the bundles of a placement group: the trial's own first, then its workers'."""
        bundle = {"CPU": self.cpu} | ({"GPU": self.gpu} if self.gpu else {}) | dict(self.custom)
        return [{}, *[bundle] * self.workers] if self.workers else [bundle]

    def slots(self, cpus: float, gpus: float, custom: Mapping[str, float] | None = None) -> int:
        """Return how many such trials, or workers of them, fit at once on a host.

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
    `auto` does without. One that ran out of its GPU's memory has a larger share in `gpu_share`.
    """
    wanted = study.resources
    workers = wanted.workers if takes_workers(config) else 0
    device = config.get("device", "cpu")
    if device == "cuda" or (device == "auto" and wanted.gpu > 0 and gpus_exist):
        gpu = config.get("gpu_share", wanted.gpu)
        return Request(wanted.cpu, gpu, tuple(sorted(wanted.custom.items())), workers)
    return Request(wanted.cpu_without_gpu or wanted.cpu, 0, (), workers)


def takes_workers(config: Mapping[str, Any]) -> bool:
    """Tell whether a trial of a configuration trains in worker processes."""
    return config.get("trainable") == "resnet" and config.get("engine", "native") != "native"


def larger_share(gpu: float) -> float | None:
    """Return the share of a GPU for a trial that ran out of this one; None above a whole GPU."""
    return min(1.0, 2 * gpu) if 0 < gpu < 1 else None


@dataclass(frozen=True)
class Host:
    """A machine of the cluster with its logical CPUs, GPUs and other resources by name."""

    name: str
    cpus: float
    gpus: float
    custom: Mapping[str, float] = field(default_factory=dict)


def count_slots(requests: Iterable[Request], hosts: Iterable[Host]) -> int:
    """Return how many trials can run at once, by the request of which most fit.

    The workers of a trial may be on several hosts.

    Raises:
        ResourceError: some request fits on no host, or its workers not on all of them.
    """
    hosts = list(hosts)
    most = 0
    for wanted in set(requests):
        fitting = sum(wanted.slots(host.cpus, host.gpus, host.custom) for host in hosts)
        slots = fitting // max(1, wanted.workers)
        if slots == 0:
            there = ", ".join(f"{h.name}: {h.cpus:g} CPUs, {h.gpus:g} GPUs" for h in hosts)
            custom = "".join(f", {amount:g} {name}" for name, amount in wanted.custom)
            if wanted.workers > 1:
                who = f"each of a trial's {wanted.workers} workers"
                lacking = f"and there is room for {fitting}"
            else:
                who, lacking = "a trial", "which no host has"
            worker = " --set resources.workers=N" if wanted.workers > 1 else ""
            raise ResourceError(
                f"resources: {who} asks for {wanted.cpu:g} CPUs and {wanted.gpu:g} GPUs{custom}, "
                f"{lacking} ({there}); lower them, or set others: --set resources.cpu=N "
                f"--set resources.cpu_without_gpu=N --set resources.gpu=N{worker}"
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
        """Threads of torch, BLAS and an SVM's pairs in this trial."""
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
