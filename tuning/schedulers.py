"""Schedulers: which trials are stopped early.

ASHA, median stopping, PBT and PB2 are rebuilt on resume from the record, in its order, and decide
as if nothing had happened. Hyperband's brackets hold running trials, which a resumed study does not
have: there the unfinished trials go on from their last checkpoints in brackets that begin anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    TrialScheduler,
)

from tuning.record import Event, collect
from tuning.study import Study

if TYPE_CHECKING:
    from tuning.population import Takeover

#: Takes the epoch of a round, the scores of its trials, and who takes over from whom.
OnRound = Callable[[int, dict[str, float | None], "dict[str, Takeover]"], None]

#: Schedulers that pause trials, so that more of them are begun than there are slots.
PAUSING = ("hyperband", "pbt", "pb2")


def build_scheduler(study: Study, on_round: OnRound | None = None) -> TrialScheduler:
    """Return the scheduler that a study asks for; all of them count epochs.

    A trial that reports once, such as an SVM without rungs, is never compared.

    Args:
        study: for its scheduler, space and metric.
        on_round: carries out what PBT and PB2 decide (see `Rounds`).

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
        case "pbt" | "pb2":
            return Rounds(study, on_round or (lambda *_: None))


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


@dataclass
class _Standing:
    """With what a member of a population began, and how far it is."""

    config: dict[str, Any]
    epoch: int = 0
    score: float | None = None
    ended: bool = False


class Rounds(FIFOScheduler):
    """PBT and PB2: every `perturb_epochs` all trials wait for each other, then a round is played.

    A waiting trial is paused without a checkpoint of Tune's: it has its own, or a donor's that
    `on_round` put in its place, and finds it when it goes on.
    """

    def __init__(self, study: Study, on_round: OnRound) -> None:
        # Here, since no other scheduler needs scikit-learn's Gaussian processes.
        from tuning.population import Population

        super().__init__()
        self._metric = study.search.metric
        self._interval = self._next = study.scheduler.perturb_epochs
        self._size = (study.search.trials or 0) * study.repeats
        self._population = Population(study)
        self._standings: dict[str, _Standing] = {}
        self._on_round = on_round

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        own = ("trial", "gpu_share")
        config = {key: value for key, value in trial.config.items() if key not in own}
        self.join(_named(trial).trial_id, config)

    def on_trial_result(self, controller: Any, trial: Any, result: dict[str, Any]) -> str:
        epoch = result.get("epoch", 0)
        self.report(_named(trial).trial_id, result)
        if epoch < self._next:
            return str(TrialScheduler.CONTINUE)
        controller.pause_trial(trial, should_checkpoint=False)
        return str(TrialScheduler.NOOP)

    def on_trial_complete(self, controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.end(_named(trial).trial_id)

    def on_trial_error(self, controller: Any, trial: Any) -> None:
        # A trial that is tried again is added once more.
        self.end(_named(trial).trial_id)

    def on_trial_remove(self, controller: Any, trial: Any) -> None:
        self.end(_named(trial).trial_id)

    def choose_trial_to_run(self, controller: Any) -> Any:
        """Return the trial that is behind the most; before, play the round that is due."""
        live = controller.get_live_trials()
        if all(trial.status == Trial.PAUSED for trial in live):
            configs = self.play_if_due()
            for trial in live:
                if (name := _named(trial).trial_id) in configs:
                    trial.set_config(trial.config | configs[name].config)
        waiting = [
            (self._standings[name].epoch, name, trial)
            for trial in live
            if trial.status in (Trial.PENDING, Trial.PAUSED)
            and self._standings[name := _named(trial).trial_id].epoch < self._next
        ]
        return min(waiting, key=lambda entry: entry[:2])[2] if waiting else None

    def join(self, name: str, config: dict[str, Any]) -> None:
        """Add a trial, or one that failed and is tried again."""
        if name not in self._standings:
            self._population.join(name, config)
            self._standings[name] = _Standing(config)
        self._standings[name].ended = False

    def report(self, name: str, metrics: dict[str, Any]) -> None:
        """Take a report; one of an epoch that is known changes nothing."""
        standing = self._standings[name]
        if metrics.get("epoch", 0) > standing.epoch:
            score = metrics.get(self._metric)
            finite = score is not None and math.isfinite(score)
            standing.epoch, standing.score = metrics["epoch"], score if finite else None

    def end(self, name: str) -> None:
        """Take a trial out of all rounds to come."""
        self._standings[name].ended = True

    def begin_anew(self, name: str) -> None:
        """Let a failed trial start again."""
        config = self._standings[name].config
        self._standings[name] = _Standing(config)
        self._population.take(name, config)

    def repeat(self, round_: Event) -> None:
        """Play a round of the record again; its trials take what they took then."""
        self._population.play(round_["epoch"], _numbers(round_["scores"]))
        for name, taken in round_["trials"].items():
            self._population.take(name, taken["config"])
        self._next = round_["epoch"] + self._interval

    def play_if_due(self) -> dict[str, Takeover]:
        """Play a round if all trials that have not ended wait for it; return the takeovers."""
        live = {name: s for name, s in self._standings.items() if not s.ended}
        here = len(self._standings) == self._size
        if not live or not here or any(s.epoch < self._next for s in live.values()):
            return {}
        epoch = max(s.epoch for s in live.values())
        scores = {name: s.score for name, s in sorted(live.items())}
        taken = self._population.play(epoch, _numbers(scores))
        self._on_round(epoch, scores, taken)
        self._next = epoch + self._interval
        return taken


def _numbers(scores: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if score is None else score for name, score in scores.items()}


def _named(trial: Any) -> _Named:
    return trial if isinstance(trial, _Named) else _Named(str(trial.config["trial"]))


def replay(scheduler: TrialScheduler, events: Iterable[Event]) -> None:
    """Tell a scheduler, in order, what was reported before the study was interrupted."""
    if isinstance(scheduler, Rounds):
        _replay_rounds(scheduler, events)
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


def _replay_rounds(scheduler: Rounds, events: Iterable[Event]) -> None:
    for event in events:
        match event["event"]:
            case "trial":
                scheduler.join(event["trial"], event["config"])
            case "report":
                scheduler.report(event["trial"], event["metrics"])
            case "end":
                scheduler.end(event["trial"])
            case "retry":
                scheduler.begin_anew(event["trial"])
            case "round":
                scheduler.repeat(event)
    # The study may have been cut off just before a round; its trials must not go on without it.
    scheduler.play_if_due()
