"""Schedulers: which trials are stopped early.

ASHA and median stopping are rebuilt on resume from the reports in the record, in their order, and
decide as if nothing had happened. Hyperband's brackets and the populations of PBT and PB2 hold
running trials, which a resumed study does not have: there the unfinished trials go on from their
last checkpoints, with their last configurations, in brackets or a population that begin anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from tuning.record import Event, collect
from tuning.study import Study

#: Schedulers that pause trials, so that more of them are begun than there are slots.
PAUSING = ("hyperband", "pbt", "pb2")


def build_scheduler(study: Study) -> TrialScheduler:
    """Return the scheduler that a study asks for; all of them count epochs.

    A trial that reports once, such as an SVM without rungs, is never compared.

    References:
        asha: Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020.
        hyperband: Li et al., "Hyperband", JMLR 2018.
        median: Golovin et al., "Google Vizier", KDD 2017.
    """
    s = study.scheduler
    common = {"time_attr": "epoch", "metric": study.search.metric, "mode": study.search.mode}
    match s.type:
        case "fifo":
            return FIFOScheduler()
        case "asha":
            return _Asha(
                **common,
                max_t=study.max_epochs(),
                grace_period=s.grace_epochs,
                reduction_factor=s.reduction_factor,
            )
        case "hyperband":
            return _Hyperband(
                **common, max_t=study.max_epochs(), reduction_factor=s.reduction_factor
            )
        case "median":
            # Without time slices: a trial that cannot be judged yet goes on.
            return _Median(
                **common,
                grace_period=s.grace_epochs,
                min_samples_required=3,
                min_time_slice=float("inf"),
            )


def concurrency(study: Study, slots: int) -> int | None:
    """Return how many trials may have begun and not ended; None for any number."""
    return None if study.scheduler.type in PAUSING else slots


@dataclass(frozen=True)
class _Named:
    """What a scheduler needs to know of a trial: a name that outlives the session."""

    trial_id: str


def _asks(result: dict[str, Any]) -> bool:
    """Tell whether a result is no report, but asks for a pause or a larger share of a GPU."""
    return "pause" in result or "enlarge" in result


class _Hyperband(HyperBandScheduler):
    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if _asks(result):
            return str(TrialScheduler.CONTINUE)
        return str(super().on_trial_result(controller, trial, result))


class _ByName(FIFOScheduler):
    """Makes a scheduler know trials by the study's names, and remember its last decisions.

    A resumed trial may report its last epoch again, which the record has; it meets the decision
    that was made then.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._decided: dict[str, tuple[int, str]] = {}

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        super().on_trial_add(controller, _named(trial))

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if _asks(result):
            return str(TrialScheduler.CONTINUE)
        named, epoch = _named(trial), result.get("epoch", 1)
        last, action = self._decided.get(named.trial_id, (0, TrialScheduler.CONTINUE))
        if epoch > last:
            action = super().on_trial_result(controller, named, result)
            self._decided[named.trial_id] = (epoch, action)
        return str(action)

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if "failure" not in result and "epoch" in result:
            super().on_trial_complete(controller, _named(trial), result)

    def on_trial_error(self, controller: Any, trial: Any) -> None:
        super().on_trial_error(controller, _named(trial))

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        super().on_trial_remove(controller, _named(trial))


class _Asha(_ByName, AsyncHyperBandScheduler):
    pass


class _Median(_ByName, MedianStoppingRule):
    pass


def _named(trial: Any) -> _Named:
    return trial if isinstance(trial, _Named) else _Named(str(trial.config["trial"]))


def replay(scheduler: TrialScheduler, events: Iterable[Event]) -> None:
    """Tell a scheduler, in order, what was reported before the study was interrupted."""
    if not isinstance(scheduler, _ByName):
        return
    events = list(events)
    trials = collect(events)
    for event in events:
        match event["event"]:
            case "trial":
                scheduler.on_trial_add(None, _Named(event["trial"]))
            case "report":
                trial, named = trials[event["trial"]], _Named(event["trial"])
                ended = trial.status == "completed" and trial.reports[-1] == event["metrics"]
                if ended:
                    scheduler.on_trial_complete(None, named, event["metrics"])
                else:
                    scheduler.on_trial_result(None, named, event["metrics"])
