"""Measuring: what trials of one kind reach beside each other on this machine, after a few steps."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import resource
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

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
    # Each measurement has fresh processes, whose memory is the trial's alone; what they import is
    # imported once, in the server from which they fork.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tuning.resnet", "tuning.svm"])
    slots = []
    for slot in range(layout.slots):
        here, there = context.Pipe()
        process = context.Process(target=_slot, args=(there, slot, config, dataset, layout))
        process.start()
        there.close()
        slots.append((process, here))
    try:
        for process, connection in slots:
            _answer(process, connection, layout)
        for _, connection in slots:
            with suppress(BrokenPipeError):  # it has ended, which its answer tells
                connection.send("go")
        answers = [_answer(process, connection, layout) for process, connection in slots]
    finally:
        for process, _ in slots:
            process.kill()
            process.join()
    return Measured(
        statistics.median(a.images_per_second for a in answers),
        statistics.median(a.evaluated_per_second for a in answers),
        answers[0].images,
        max(a.memory_bytes for a in answers),
    )


def _answer(process: BaseProcess, connection: Connection, layout: Layout) -> Any:
    """Return what a process sends; an error that it sends, or its end, is raised."""
    try:
        answer = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        answer = ProbeError(f"exit code {process.exitcode}")
    if isinstance(answer, ProbeError):
        raise ProbeError(f"the probe of {layout.slots} trials at once failed: {answer}")
    return answer


def _slot(
    connection: Connection, slot: int, config: Config, dataset: Dataset, layout: Layout
) -> None:
    """Measure one trial in this process, and send first that it is ready, then what it reached."""
    if layout.gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(int(slot * layout.gpu))
    try:
        connection.send(_measure_here(connection, config, dataset, layout))
    except Exception as error:  # noqa: BLE001 - whatever a trainable raises, the other side tells
        lines = str(error).strip().splitlines() or [type(error).__name__]
        connection.send(ProbeError(lines[-1]))


def _measure_here(others: Connection, config: Config, dataset: Dataset, layout: Layout) -> Measured:
    """Measure one trial in this process, once the others are ready too."""
    allotment = Allotment(layout.cpu, layout.gpu)
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
    others.send("ready")
    others.recv()
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
