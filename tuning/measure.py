"""Measuring: what trials of one kind reach beside each other on this machine, after a few steps.

python -m tuning.measure REQUEST    one of the processes; REQUEST is JSON
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from tuning.data import load_dataset
from tuning.parameters import parameters_of
from tuning.resources import Allotment
from tuning.space import Config
from tuning.study import Dataset
from tuning.trial import NOT_PARAMETERS, trainable_class

#: Optimizer steps of the measured epoch, and images of the measured evaluation.
STEPS, EVALUATED = 12, 1024
#: Most images of a measured SVM fit.
SVM_IMAGES = 6000


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
                [sys.executable, "-m", "tuning.measure", json.dumps(request)],
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


def _measure_here(config: Config, dataset: Dataset, allotment: Allotment) -> Measured:
    """Measure one trial in this process, once the others are ready too."""
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
