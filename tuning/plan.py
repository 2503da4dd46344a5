"""The plan: what a study would do, how many trials fit at once, and their time and memory.

Nothing is trained. The time of a ResNet is estimated from a few forward passes on this machine,
that of an SVM from times measured once; both are estimates, and the plan says what they rest on.
"""

from __future__ import annotations

import string
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from tuning import cluster
from tuning.finalists import count_runs
from tuning.parameters import PARAMETERS
from tuning.probe import gpu_names
from tuning.resources import Host, Request, ResourceError, count_slots, request
from tuning.searchers import count_trials, preview_configs
from tuning.space import Config
from tuning.study import Study

#: A backward pass costs two forward ones (one product per gradient: of inputs and of weights).
PASSES = 3
#: Seconds per parameter for the optimizer's step and the casts of the weights, on one CPU thread.
#: Fitted on ResNet-18 at four combinations of image and batch size (2 cores, AVX512-BF16).
UPDATE_SECONDS = 6e-9
#: Likewise with Muon, on ResNet-18 (2 cores of an AMD EPYC with AVX512-BF16).
MUON_SECONDS = 1.9e-8
#: Images per second of the reference's A30 (10 epochs, Adam, 64 pixels), for want of a GPU here.
A30_IMAGES_PER_SECOND = {"resnet18": 627.8, "resnet34": 429.7, "resnet50": 341.9}
#: CPU seconds of an RBF SVC's fit and prediction at 10,000 and 49,000 FashionMNIST images, and the
#: power of the number of images between them (scikit-learn 1.9, and pairwise on an AMD EPYC).
SVM_SECONDS = {"pairwise": (1.9, 1.53), "sklearn": (12.7, 2.06)}
#: Resident memory of a trial's process before it holds any data (Ray, torch, scikit-learn).
PROCESS_BYTES = 700 << 20
ALL_IMAGES = 49_000
PIXELS = 784
_LETTERS = [*string.ascii_lowercase, *(f"k{n}" for n in range(1, 1000))]


@dataclass(frozen=True)
class Kind:
    """Trials of one sort: how many, and what one of them takes at the most.

    Attributes:
        label: model, image size, batch size and device.
        trials: how many, rounded where configurations are drawn.
        cpu: CPUs of one, or of each of its workers.
        gpu: GPUs of one, or of each of its workers.
        slots: how many fit at once on all hosts.
        seconds: of one trial, over all its epochs.
        memory_bytes: of one trial.
        custom: names and amounts of custom resources of one.
        workers: processes that train one; 0 for a trial that trains itself.
    """

    label: str
    trials: int
    cpu: float
    gpu: float
    slots: int
    seconds: float
    memory_bytes: int
    custom: tuple[tuple[str, float], ...] = ()
    workers: int = 0


@dataclass(frozen=True)
class Packing:
    """What the probe found for one way to divide this machine among trials.

    Attributes:
        resources: for the study file: `cpu`, and `gpu` where there are GPUs.
        slots: trials at once.
        kinds: per kind of trial its images per second, those of all slots together, and the
            memory of one trial in bytes.
        seconds: of the study from the first trial's start; the median where trials are stopped
            early, since that depends on their scores.
        low: seconds in one of ten simulations at the most.
        high: seconds in one of ten simulations at the least.
        refused: why it is not recommended, whatever its time; empty if it can be.
    """

    resources: dict[str, float]
    slots: int
    kinds: list[dict[str, Any]]
    seconds: float
    low: float
    high: float
    refused: str


@dataclass(frozen=True)
class Plan:
    """What a study would do.

    Attributes:
        name: of the study.
        search: searcher and scheduler, the defaults too.
        trials: how many in all.
        slots: how many run at once, the most.
        hosts: name, CPUs, GPUs, and how many trials of each kind fit.
        kinds: the sorts of trials.
        seconds: of the whole study, if no trial is stopped early.
        basis: what the estimates rest on.
        packings: what the probe measured, the study's own resources first; empty without a probe.
        recommended: `resources` of the packing that ends first.
    """

    name: str
    search: str
    trials: int
    slots: int
    hosts: list[dict[str, Any]]
    kinds: list[Kind]
    seconds: float
    basis: list[str]
    packings: tuple[Packing, ...] = ()
    recommended: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain values."""
        return asdict(self)


def make_plan(study: Study, address: str | None) -> Plan:
    """Return the plan of a study on this machine, or on a running cluster.

    Raises:
        ResourceError: some trial fits on no host, or is of a user's own trainable.
    """
    unknown = study.trainables() - set(PARAMETERS)
    if unknown:
        raise ResourceError(
            f"trainable: {', '.join(sorted(unknown))} is your own, whose time and memory cannot be "
            "estimated; run it with a small search.trials instead"
        )
    hosts = _hosts(address)
    gpus_exist = any(host.gpus for host in hosts)
    total = count_trials(study) + count_runs(study)
    configs = list(preview_configs(study))
    groups: dict[tuple[str, Request], list[Config]] = defaultdict(list)
    for config in configs:
        wanted = request(study, config, gpus_exist=gpus_exist)
        groups[label(config, wanted), wanted].append(config)
    slots = count_slots((wanted for _, wanted in groups), hosts)
    kinds = []
    for (name, wanted), members in groups.items():
        longest = max(members, key=lambda c: (c.get("epochs", 1), _images(c)))
        kinds.append(
            Kind(
                name,
                round(total * len(members) / len(configs)),
                wanted.cpu,
                wanted.gpu,
                count_slots([wanted], hosts),
                _seconds(longest, wanted),
                _memory_bytes(longest),
                wanted.custom,
                wanted.workers,
            )
        )
    return Plan(
        study.name,
        study.describe_search(),
        total,
        min(slots, study.search.max_concurrent or slots),
        [_host_dict(host, kinds) for host in hosts],
        kinds,
        sum(kind.seconds * kind.trials / kind.slots for kind in kinds),
        list(_basis(study, kinds)),
    )


def show(plan: Plan, console: Console) -> None:
    """Print a plan."""
    console.print(
        f"{plan.name}: {plan.trials} trials, {plan.search}, {plan.slots} at once, "
        f"about {_duration(plan.seconds)} at the most",
        highlight=False,
    )
    table = Table(title="Kinds of trials", title_justify="left")
    workers = any(kind.workers for kind in plan.kinds)
    columns = ["", "kind", "trials", *["workers"] * workers, "CPUs", "GPUs", "time each"]
    for column in (*columns, "memory each"):
        table.add_column(column, justify="left" if column in ("", "kind") else "right")
    for letter, kind in zip(_LETTERS, plan.kinds, strict=False):
        table.add_row(
            letter,
            kind.label,
            str(kind.trials),
            *[str(kind.workers or "-")] * workers,
            f"{kind.cpu:g}",
            f"{kind.gpu:g}",
            _duration(kind.seconds),
            f"{kind.memory_bytes / 2**30:.1f} GiB",
        )
    console.print(table)
    table = Table("host", "CPUs", "GPUs", "fits at once, of one kind", title="Hosts")
    table.title_justify = "left"
    for host in plan.hosts:
        fits = ", ".join(
            f"{n} {'workers of' if kind.workers else 'x'} {letter}"
            for letter, kind, n in zip(_LETTERS, plan.kinds, host["fits"].values(), strict=False)
        )
        table.add_row(host["name"], f"{host['cpus']:g}", f"{host['gpus']:g}", fits)
    console.print(table)
    _show_packings(plan, console)
    for line in plan.basis:
        console.print(f"- {line}", highlight=False, soft_wrap=True)


def _show_packings(plan: Plan, console: Console) -> None:
    if not plan.packings:
        return
    table = Table(title="Packings, measured; the study's own first", title_justify="left")
    for column in ("resources", "slots", "kind", "images/s each", "together", "memory", "study"):
        table.add_column(column, justify="left" if column in ("resources", "kind") else "right")
    for found in plan.packings:
        study_time = _duration(found.seconds)
        if found.low < found.high:
            study_time += f" ({_duration(found.low)} to {_duration(found.high)})"
        heads = [(_resources(found.resources), str(found.slots), found.refused or study_time)]
        for kind in found.kinds:
            resources, slots, text = heads.pop() if heads else ("", "", "")
            table.add_row(
                resources,
                slots,
                kind["label"],
                f"{kind['images_per_second']:.0f}",
                f"{kind['images_per_second_of_all']:.0f}",
                f"{kind['memory_bytes'] / 2**30:.1f} GiB",
                text,
            )
    console.print(table)
    if plan.recommended:
        text = f"recommended: resources: {{{_resources(plan.recommended)}}}"
        console.print(text, highlight=False, markup=False)


def _resources(resources: dict[str, float]) -> str:
    return ", ".join(f"{name}: {amount:g}" for name, amount in resources.items())


def _hosts(address: str | None) -> list[Host]:
    if address is None:
        return [Host("this machine", psutil.cpu_count() or 1, len(gpu_names()))]
    with cluster.connect(address):
        return cluster.hosts()


def _host_dict(host: Host, kinds: list[Kind]) -> dict[str, Any]:
    fits = {
        k.label: Request(k.cpu, k.gpu, k.custom).slots(host.cpus, host.gpus, host.custom)
        for k in kinds
    }
    return {"name": host.name, "cpus": host.cpus, "gpus": host.gpus, "fits": fits}


def label(config: Config, wanted: Request) -> str:
    """Return the kind of a trial: trainable, sizes and device."""
    device = "GPU" if wanted.gpu else "CPU"
    if config["trainable"] == "svm":
        return f"svm {config['kernel']}, {_images(config)} images, {device}"
    zero = f" ZeRO {config['zero_stage']}" if config["engine"] == "deepspeed" else ""
    engine = "" if config["engine"] == "native" else f", {config['engine']}{zero}"
    return (
        f"{config['model']}, {config['image_size']} px, batch {config['batch_size']}, "
        f"{config['epochs']} epochs, {device}{engine}"
    )


def _images(config: Config) -> int:
    return int(config["train_size"] or ALL_IMAGES)


def _seconds(config: Config, wanted: Request) -> float:
    threads = max(1, int(wanted.cpu))
    if config["trainable"] == "svm":
        name = "sklearn" if config["implementation"] == "sklearn" else "pairwise"
        seconds, power = SVM_SECONDS[name]
        # Each rung has a third of the images of the next.
        seconds *= sum(3.0 ** (-power * rung) for rung in range(config["rungs"]))
        return float(
            seconds * (_images(config) / 10_000) ** power / (threads if name == "pairwise" else 1)
        )
    images = _images(config) * config["epochs"] / max(1, wanted.workers)
    if wanted.gpu:
        return float(images / A30_IMAGES_PER_SECOND[config["model"]])
    forward, parameters = _measure_forward(config, threads)
    update = MUON_SECONDS if config["optimizer"] == "muon" else UPDATE_SECONDS
    step = PASSES * forward + update * parameters / threads
    evaluated = 0.2 * images + 14_000
    return float(images / config["batch_size"] * step + evaluated * forward / config["batch_size"])


def _measure_forward(config: Config, threads: int) -> tuple[float, int]:
    """Return the seconds of one forward pass of a batch on this CPU, and the parameters."""
    import torch

    from tuning.models import build_resnet, count_parameters
    from tuning.training import choose_precision

    torch.set_num_threads(threads)
    cpu = torch.device("cpu")
    precision = choose_precision(config["precision"], cpu)
    network = build_resnet(config["model"], config["stem"], 10).to(
        memory_format=torch.channels_last
    )
    size = config["image_size"]
    batch = torch.rand(config["batch_size"], 3, size, size)
    batch = batch.contiguous(memory_format=torch.channels_last)
    best = float("inf")
    with torch.inference_mode(), precision.autocast(cpu):
        for _ in range(4):
            started = time.perf_counter()
            network(batch)
            best = min(best, time.perf_counter() - started)
    return best, count_parameters(network)


def _memory_bytes(config: Config) -> int:
    """Return the memory of a trial: process, images, weights and what training adds to them."""
    if config["trainable"] == "svm":
        return PROCESS_BYTES + 2 * 8 * PIXELS * (_images(config) + 14_000)
    from tuning.models import build_resnet, count_parameters

    network = build_resnet(config["model"], config["stem"], 10)
    # Weights, gradients, the optimizer's state, the best epoch's weights; four bytes each.
    copies = 3 + (1 if config["optimizer"] in ("sgd", "muon") else 2)
    weights = 4 * copies * count_parameters(network)
    activations: int = config["batch_size"] * _activation_bytes(network, config["image_size"])
    return PROCESS_BYTES + _images(config) * PIXELS + weights + activations


def _activation_bytes(network: Any, image_size: int) -> int:
    """Return the bytes that the layers' outputs for one image take in 16 bits."""
    import torch

    sizes: list[int] = []
    for layer in network.modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda _l, _i, out: sizes.append(out.numel()))
    network.to("meta").eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
    return 2 * sum(sizes)


def _basis(study: Study, kinds: list[Kind]) -> Iterator[str]:
    count = Counter(
        "gpu" if k.gpu else "svm" if k.label.startswith("svm") else "cpu" for k in kinds
    )
    if count["cpu"]:
        yield (
            "ResNets on the CPU: forward passes measured on this machine just now, taken "
            f"{PASSES} times, without other trials beside them"
        )
    if count["gpu"]:
        yield "ResNets on a GPU: the reference's rates on one A30 at 64 px, not measured here"
    if count["svm"]:
        yield "SVMs: scaled from times measured at 10,000 and 49,000 images of FashionMNIST"
    if any(k.workers > 1 for k in kinds):
        yield "several workers: as if each more took its share of the time and talk cost none"
    yield f"train_size left out is taken for {ALL_IMAGES} images"
    if study.finalists:
        yield f"{count_runs(study)} of the trials are runs of finalists, taken for like the others"
    if study.search.algorithm != "grid":
        yield "the shares of the kinds are those of random draws; the search may differ"
    if study.scheduler.type != "fifo":
        yield f"{study.scheduler.type} stops trials early, which is not counted"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
