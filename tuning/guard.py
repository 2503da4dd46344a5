"""The guard: stops a study before its end, resumable, when a budget is spent or the disk is full.

It stops as Ctrl-C does: running trials go back to their last checkpoints, nothing is marked as
failed, and `tuning resume` goes on.
"""

from __future__ import annotations

import errno
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.experiment import Trial

from tuning.record import Event, TrialRecord
from tuning.study import Study

#: Errors of a disk that takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT)
#: Seconds between two looks.
EVERY = 0.5


class DiskError(ValueError):
    """There is too little free space to begin; the text says how much."""


class Guard(Callback):
    """Watches the budgets of a study and the free space of its storage.

    Attributes:
        reason: why the study was stopped; empty while it was not.
    """

    def __init__(
        self, study: Study, folder: Path, trials: dict[str, TrialRecord], events: Iterable[Event]
    ) -> None:
        self.study = study
        self.folder = folder
        self.trials = trials
        self.reason = ""
        self._earlier_seconds = wall_seconds(events)
        self._started = time.monotonic()
        self._looked = 0.0

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        if time.monotonic() - self._looked > EVERY:
            self._looked = time.monotonic()
            self.stop(self.spent() or low_disk(self.study, self.folder))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        # Epochs are counted at once, so that a study with one slot ends at the same one every time.
        self.stop(result.get("pause", "") or self.spent())

    def stop(self, reason: str) -> None:
        """Stop the study if there is a reason and it was not stopped already."""
        if reason and not self.reason:
            self.reason = reason
            signal.raise_signal(signal.SIGINT)

    def spent(self) -> str:
        """Return which budget is spent, over all sessions of the study, or nothing."""
        budget = self.study.budget
        seconds = self._earlier_seconds + time.monotonic() - self._started
        if budget.seconds is not None and seconds >= budget.seconds:
            return _spent("seconds", budget.seconds)
        if budget.device_seconds is not None:
            devices = sum(map(device_seconds, list(self.trials.values())))
            if devices >= budget.device_seconds:
                return _spent("device_seconds", budget.device_seconds)
        run = (trial for trial in self.trials.values() if not trial.answered_from)
        epochs = sum(len(trial.reports) for trial in run)
        if budget.epochs is not None and epochs >= budget.epochs:
            return _spent("epochs", budget.epochs)
        return ""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _spent(key: str, value: float) -> str:
    return f"budget.{key}: {value:g} is spent (raise it with --set budget.{key}=N)"


def wall_seconds(events: Iterable[Event]) -> float:
    """Return how long the sessions of a study ran, each up to its last event."""
    total, began, last = 0.0, None, 0.0
    for event in events:
        if event["event"] == "session":
            total += last - began if began is not None else 0.0
            began = event["time"]
        last = event["time"]
    return total + (last - began if began is not None else 0.0)


def device_seconds(trial: TrialRecord) -> float:
    """Return the time that a trial held its GPUs, or its CPUs if it has no GPU, times their number.

    A running trial counts up to now.
    """
    devices = trial.facts.get("gpus") or trial.facts.get("cpus") or 1.0
    running = time.time() - trial.busy_since if trial.busy_since and not trial.finished else 0.0
    return float(devices * (trial.busy_seconds + running))


def low_disk(study: Study, folder: Path) -> str:
    """Return how little space is free on the storage, if that is less than the study's limit."""
    free = shutil.disk_usage(folder).free >> 20
    wanted = study.limits.free_disk_mib
    if free >= wanted:
        return ""
    return f"{folder}: {free} MiB are free, limits.free_disk_mib wants {wanted}; free some space"


def check_disk(study: Study, folder: Path) -> None:
    """Refuse to begin without free space.

    Args:
        study: for its limit.
        folder: on the storage; it may not exist yet.

    Raises:
        DiskError: less is free than the study wants.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    reason = low_disk(study, existing)
    if reason:
        raise DiskError(reason)
