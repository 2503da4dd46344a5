"""Packing: how many trials at once finish a study sooner, measured on this machine.

Few trials with many threads each, or many with few? Each kind of trial is run for a few steps in
as many processes at once as there would be slots, with that many threads each; what they reach
together, and the memory they take, is put into a simulation of the study.

    python -m tuning.packing REQUEST    one of these processes; REQUEST is JSON
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tuning.data import ImageData, load_dataset
from tuning.resources import Allotment
from tuning.space import Config
from tuning.study import Dataset, Study, svm_epochs

#: Optimizer steps of each measured epoch, and images of each measured evaluation.
STEPS, EVALUATED = 12, 1024
#: Most images of a measured SVM fit, and the power of their number with which its time grows
#: (scikit-learn-intelex 2026.2, between 10,000 and 49,000 images of FashionMNIST).
SVM_IMAGES, SVM_POWER = 6000, 1.5
#: Seconds between two trials in one slot: the driver's turn, and the next trial's beginning.
BETWEEN_SECONDS = 0.15
#: Simulations of a study whose trials are stopped early, by random scores.
SIMULATIONS = 100


class ProbeError(RuntimeError):
    """A measured process failed; the text is its last line."""


@dataclass(frozen=True)
class Layout:
    """One way to divide this machine among trials.

    Attributes:
        slots: trials at once.
        cpu: CPUs of each.
        gpu: GPUs of each.
    """

    slots: int
    cpu: float
    gpu: float


@dataclass(frozen=True)
class Measured:
    """What one trial reached beside the others of its layout.

    Attributes:
        images_per_second: training; for an SVM of the fit on `images` images.
        evaluated_per_second: images in validation and testing.
        images: trained on per measured epoch or fit.
        memory_bytes: peak resident memory of the process, or of the GPU where it has one.
    """

    images_per_second: float
    evaluated_per_second: float
    images: int
    memory_bytes: int


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


def measure(config: Config, dataset: Dataset, layout: Layout) -> Measured:
    """Run a few steps of a trial in each slot, all at once; return the medians.

    Raises:
        ProbeError: a process failed, for want of memory say.
    """
    processes = []
    for slot in range(layout.slots):
        request = {"config": config, "dataset": dataset.model_dump(),
                   "cpus": layout.cpu, "gpus": layout.gpu}  # fmt: skip
        environment = dict(os.environ)
        if layout.gpu:
            environment["CUDA_VISIBLE_DEVICES"] = str(int(slot * layout.gpu))
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "tuning.packing", json.dumps(request)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=environment,
            )
        )  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    answers = []
    for process in processes:
        assert process.stdin is not None
        try:
            process.stdin.write("go\n")
            process.stdin.flush()
        except BrokenPipeError:
            continue
    for process in processes:
        output, errors = process.communicate()
        if process.returncode:
            lines = errors.strip().splitlines() or [f"exit code {process.returncode}"]
            for other in processes:
                other.kill()
            raise ProbeError(f"the probe of {layout.slots} trials at once failed: {lines[-1]}")
        answers.append(Measured(**json.loads(output)))
    return Measured(
        statistics.median(a.images_per_second for a in answers),
        statistics.median(a.evaluated_per_second for a in answers),
        answers[0].images,
        max(a.memory_bytes for a in answers),
    )


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


def _measure_here(config: Config, dataset: Dataset, allotment: Allotment) -> Measured:
    """Measure one trial in this process, once the others are ready too."""
    from tuning.parameters import parameters_of
    from tuning.trial import NOT_PARAMETERS, trainable_class

    allotment.apply()
    data = load_dataset(config["dataset"], dataset)
    svm = config["trainable"] == "svm"
    available = min(config["train_size"] or len(data.train), len(data.train))
    images = min(available, SVM_IMAGES if svm else STEPS * config["batch_size"])
    small = dataclasses.replace(
        data, train=data.train[:images], val=data.val[:EVALUATED], test=data.test[:EVALUATED]
    )
    values = {k: v for k, v in config.items() if k not in NOT_PARAMETERS}
    values |= {"train_size": None} | ({"rungs": 1} if svm else {"epochs": 3})
    parameters = parameters_of(config["trainable"]).model_validate(values)
    build = trainable_class(config["trainable"])

    training = build(parameters, small, 0, allotment)
    training.step()  # libraries are loaded, and choose their ways, in the first step
    if svm:
        training = build(parameters, small, 0, allotment)
    before = training.train_seconds
    _say("ready")
    sys.stdin.readline()
    started = time.perf_counter()
    report = training.step()
    wall = time.perf_counter() - started
    train = report["train_seconds"] - before
    evaluated = len(small.val) + (len(small.test) if svm else 0)
    return Measured(images / train, evaluated / (wall - train), images, _peak_bytes(allotment))


def _peak_bytes(allotment: Allotment) -> int:
    import torch

    if allotment.gpus and torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(request: str) -> None:
    """Measure what the request asks, and print it as JSON."""
    asked = json.loads(request)
    measured = _measure_here(
        asked["config"], Dataset(**asked["dataset"]), Allotment(asked["cpus"], asked["gpus"])
    )
    _say(json.dumps(dataclasses.asdict(measured)))


if __name__ == "__main__":
    main(sys.argv[1])
