"""Packing: how many trials at once finish a study sooner, measured on this machine.

Few trials with many threads each, or many with few? Each kind of trial runs a few steps in as many
processes at once as there would be slots (`tuning.measure`); what they reach together, and the
memory they take, is put into a simulation of the study.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

import psutil

from tuning.data import ImageData, load_dataset
from tuning.measure import Layout, Measured, ProbeError, measure
from tuning.plan import Packing, Plan, label
from tuning.probe import gpu_names
from tuning.resources import Request, request
from tuning.searchers import count_trials, strategy
from tuning.space import Config
from tuning.study import LEARNING, Study, svm_epochs

#: The power of the number of images with which an SVM's time grows (pairwise, between
#: 10,000 and 49,000 images of FashionMNIST).
SVM_POWER = 1.5
#: Most trials of a study whose configurations are looked at one by one.
PREVIEW = 200
#: Seconds between two trials in one slot: the driver's turn, and the next trial's beginning.
BETWEEN_SECONDS = 0.15
#: Simulations of a study whose trials are stopped early, by random scores.
SIMULATIONS = 100


def probed(study: Study, plan: Plan) -> Plan:
    """Return a plan with what a few steps of each kind of trial on this machine tell.

    Raises:
        ProbeError: the study's own resources are too few, or a trial has several workers.
        DataError: the data cannot be had.
    """
    if any(kind.workers > 1 for kind in plan.kinds):
        raise ProbeError("--probe: measures trials of one process; `engine` asks for several")
    configs, scale = _upcoming(study)
    gpus = len(gpu_names())
    wanted = request(study, configs[0], gpus_exist=gpus > 0)
    own = Layout(plan.slots, wanted.cpu, wanted.gpu)
    others = [x for x in layouts(psutil.cpu_count() or 1, gpus) if x != own]
    packings, basis = [_packing(study, configs, scale, own)], list(_probe_basis(study, scale))
    for layout in others:
        try:
            packings.append(_packing(study, configs, scale, layout))
        except ProbeError as error:
            basis.append(str(error))
    fitting = [p for p in packings if not p.refused]
    best = min(fitting, key=lambda p: p.seconds, default=None)
    return replace(
        plan,
        seconds=packings[0].seconds,
        basis=basis,
        packings=tuple(packings),
        recommended=best.resources if best else None,
    )


def _upcoming(study: Study) -> tuple[list[Config], float]:
    """Return the configurations that a study begins with, and how many trials each stands for."""
    total = count_trials(study)
    searcher = strategy(study)
    asked = (searcher.ask(f"{n:05d}") for n in range(min(total, PREVIEW)))
    configs = [config for config in asked if config is not None]
    return configs, total / len(configs)


def _packing(study: Study, configs: list[Config], scale: float, layout: Layout) -> Packing:
    groups: dict[str, list[Config]] = defaultdict(list)
    for config in configs:
        groups[label(config, Request(layout.cpu, layout.gpu))].append(config)
    data = {name: load_dataset(name, study.dataset) for name in study.datasets()}
    measured = {
        kind: measure(members[0], study.dataset, layout) for kind, members in groups.items()
    }
    trials = [
        segments(config, measured[kind], data[config["dataset"]])
        for config in configs
        for kind in [label(config, Request(layout.cpu, layout.gpu))]
    ]
    found = [scale * seconds for seconds in simulate(study, trials, layout.slots)]
    most = layout.slots * max(m.memory_bytes for m in measured.values())
    room = psutil.virtual_memory().total
    kinds = [
        {
            "label": kind,
            "images_per_second": m.images_per_second,
            "images_per_second_of_all": m.images_per_second * layout.slots,
            "memory_bytes": m.memory_bytes,
        }
        for kind, m in measured.items()
    ]
    return Packing(
        {"cpu": layout.cpu} | ({"gpu": layout.gpu} if layout.gpu else {}),
        layout.slots,
        kinds,
        statistics.median(found),
        found[len(found) // 10],
        found[-1 - len(found) // 10],
        "" if layout.gpu or most < room else f"needs {most / 2**30:.0f} GiB of {room / 2**30:.0f}",
    )


def _probe_basis(study: Study, scale: float) -> Iterator[str]:
    yield "a few steps of each kind of trial, measured on this machine just now in all slots"
    yield "seconds count from the first trial's start, when Ray is up"
    if scale != 1:
        yield f"the first {PREVIEW} trials stand for the others"
    if study.search.algorithm in LEARNING:
        yield "what the search learns changes which configurations come; that is not foreseen"
    if study.scheduler.type == "asha":
        yield "ASHA's stops are simulated with random scores"
    elif study.scheduler.type != "fifo":
        yield f"{study.scheduler.type} stops trials early, which is not counted"


def layouts(cpus: int, gpus: int) -> list[Layout]:
    """Return the layouts worth a try: 1, 2, 4, ... trials, on all CPUs or per GPU."""
    counts = [2**n for n in range(10)]
    if gpus:
        return [
            Layout(n * gpus, max(1, cpus // (n * gpus)), 1 / n)
            for n in counts[:4]
            if n * gpus <= cpus
        ]
    return [Layout(n, cpus // n, 0) for n in counts if n <= cpus]


def segments(config: Config, measured: Measured, data: ImageData) -> list[tuple[int, float]]:
    """Return the reports of one trial: the epoch of each, and the seconds from the last one."""
    images = min(config["train_size"] or len(data.train), len(data.train))
    val = len(data.val) / measured.evaluated_per_second
    test = len(data.test) / measured.evaluated_per_second
    if config["trainable"] == "svm":
        rungs = config["rungs"]
        reports = []
        for rung in range(rungs):
            fitted = images * svm_epochs(rung + 1) / svm_epochs(rungs)
            grown = (fitted / measured.images) ** SVM_POWER
            fit = grown * measured.images / measured.images_per_second
            reports.append((svm_epochs(rung + 1), fit + grown * val))
        last, seconds = reports[-1]
        return [*reports[:-1], (last, seconds + grown * test)]
    epoch = images / measured.images_per_second + val
    epochs = config["epochs"]
    return [(n + 1, epoch + (test if n + 1 == epochs else 0)) for n in range(epochs)]


def simulate(study: Study, trials: list[list[tuple[int, float]]], slots: int) -> list[float]:
    """Return the seconds of a study's trials in several simulations, sorted.

    Without a scheduler that stops trials there is one. Under ASHA each trial has a random score
    that it keeps at all rungs.
    """
    if study.scheduler.type != "asha":
        return [_run(trials, slots, lambda *_: True)]
    found = []
    for seed in range(SIMULATIONS):
        draws = random.Random(seed)
        scores = [draws.random() for _ in trials]
        found.append(_run(trials, slots, _Rungs(study, scores).go_on))
    return sorted(found)


class _Rungs:
    """ASHA's rungs: a trial goes on if it is in the best `1 / reduction_factor` so far."""

    def __init__(self, study: Study, scores: list[float]) -> None:
        s = study.scheduler
        self._share = 1 - 1 / s.reduction_factor
        self._scores = scores
        self._seen: dict[int, list[float]] = {}
        epoch = s.grace_epochs
        while epoch < study.max_epochs():
            self._seen[epoch] = []
            epoch *= s.reduction_factor

    def go_on(self, trial: int, epoch: int) -> bool:
        seen = self._seen.get(epoch)
        if seen is None:
            return True
        score, others = self._scores[trial], sorted(seen)
        seen.append(score)
        if not others:
            return True
        place = self._share * (len(others) - 1)
        low, part = others[int(place)], place - int(place)
        high = others[min(int(place) + 1, len(others) - 1)]
        return score >= low + part * (high - low)


def _run(
    trials: list[list[tuple[int, float]]], slots: int, go_on: Callable[[int, int], bool]
) -> float:
    """Return when the last trial ends, each slot taking the next one as it comes free."""
    events = [(0.0, slot, -1, 0) for slot in range(min(slots, len(trials)))]
    waiting = iter(range(len(trials)))
    end = 0.0
    while events:
        now, slot, trial, report = heapq.heappop(events)
        end = max(end, now)
        more = trial >= 0 and report < len(trials[trial])
        if more and go_on(trial, trials[trial][report - 1][0]):
            heapq.heappush(events, (now + trials[trial][report][1], slot, trial, report + 1))
        elif (following := next(waiting, None)) is not None:
            first = BETWEEN_SECONDS + trials[following][0][1]
            heapq.heappush(events, (now + first, slot, following, 1))
    return end
