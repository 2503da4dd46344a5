"""A trial that costs no computation, keeps a ledger of its epochs, and misbehaves on demand.

The ledger tells what really ran: a line when an epoch begins, another when it has been trained.
The environment of the driver (see `harness.Bench`) says where it is and what goes wrong.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuning.outcome import NonFiniteLoss
from tuning.trial import StudyTrial


class StandIn:
    """Follows the protocol `tuning.trial.Training`; accuracy is a function of lr and epoch."""

    def __init__(self, config: dict[str, Any], n_test: int) -> None:
        self.config = config
        self.n_test = n_test
        self.epoch = 0
        self.weights = torch.zeros(int(float(os.environ["FAULTS_CHECKPOINT_MIB"]) * 2**18))
        self.test_predictions: Any = None
        self.facts = {"model": "resnet18", "device": "cpu", "precision": "fp32"}

    def step(self) -> dict[str, Any]:
        note(self.config["trial"], self.epoch + 1, "begin")
        misbehave(self.config["trial"], self.epoch + 1)
        time.sleep(float(os.environ["FAULTS_EPOCH_SECONDS"]))
        self.epoch += 1
        self.weights += self.config["lr"]
        # The accuracy depends on the state, so that a wrong restore shows.
        accuracy = 100 - 500 * abs(self.config["lr"] - 0.02) + float(self.weights[0])
        note(self.config["trial"], self.epoch, "end")
        done = self.epoch >= self.config["epochs"]
        report = {"epoch": self.epoch, "val_accuracy": accuracy, "train_seconds": 1.0 * self.epoch,
                  "done": done}  # fmt: skip
        if done:
            self.test_predictions = np.zeros(self.n_test, np.uint8)
            report |= {"test_accuracy": 10.0, "predict_seconds": 0.1}
        return report

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "weights": self.weights}

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.weights = state["epoch"], state["weights"]


class StandInTrial(StudyTrial):
    def _build(self, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        allotment = self._allotment()
        training = StandIn(config, len(self.data[config["dataset"]].test))
        return training, training.facts | {"cpus": allotment.cpus, "gpus": 0, "host": "here"}


def note(trial: str, epoch: int, what: str) -> None:
    with Path(os.environ["FAULTS_LEDGER"]).open("a") as file:
        file.write(f"{trial} {epoch} {what} {os.getpid()} {time.time()}\n")


def misbehave(trial: str, epoch: int) -> None:
    """Do what FAULTS_DO says: `00001:2:hang,00003:1:raise` (trial, epoch, what)."""
    for fault in filter(None, os.environ.get("FAULTS_DO", "").split(",")):
        name, when, what = fault.split(":")
        if (name, int(when)) == (trial, epoch):
            MISDEEDS[what]()


def fail() -> None:
    raise RuntimeError("the loss came out green")


def fail_once() -> None:
    mark = Path(os.environ["FAULTS_LEDGER"] + ".raised")
    if not mark.exists():
        mark.touch()
        raise KeyError("lost my place")


def diverge() -> None:
    raise NonFiniteLoss("the training loss is nan at step 7")


def take_memory(gib: int, hold_seconds: float = 0) -> None:
    """Take memory, a quarter of a GiB every twentieth of a second, and give it back."""
    held = []
    while len(held) < 4 * gib:
        held.append(torch.ones(2**26))
        time.sleep(0.05)
    time.sleep(hold_seconds)


MISDEEDS: dict[str, Callable[[], object]] = {
    "raise": fail,
    "raise once": fail_once,
    "nan": diverge,
    "hang": lambda: time.sleep(3600),
    "hang in C": lambda: ctypes.PyDLL(None).sleep(3600),  # with the interpreter's lock held
    "memory": lambda: take_memory(64),
    "memory of the host": lambda: take_memory(8, 30),  # until Ray's memory monitor ends it
}
