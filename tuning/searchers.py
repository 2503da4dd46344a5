"""Searchers: which configuration to try next.

All of them ask and tell in an order that the study's record holds, and are seeded. A resumed
study therefore rebuilds its searcher by asking and telling again what the record says: nothing of
the searcher's own needs to be saved, so nothing of it can be lost or silently reset.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import optuna
from ray.tune.search import Searcher

from tuning.record import Event, Record, TrialRecord, apply
from tuning.space import Config, draw, expand
from tuning.study import Study


class ResumeError(ValueError):
    """A study cannot go on as it began; the text says why."""


class Strategy(Protocol):
    """Proposes configurations and learns from their values."""

    def ask(self, trial: str) -> Config | None:
        """Return the configuration of the next trial; None when there are no more."""

    def tell(self, trial: str, value: float | None) -> None:
        """Take the metric of a finished trial; None for a failed one."""


class Listed:
    """Configurations that are known before the start: a grid, or random draws."""

    def __init__(self, configs: Iterable[Config]) -> None:
        self._configs = iter(configs)

    def ask(self, trial: str) -> Config | None:
        return next(self._configs, None)

    def tell(self, trial: str, value: float | None) -> None:
        """Learn nothing."""


class Sampled:
    """Configurations that one of Optuna's samplers proposes."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._space = study.full_space()
        self._trials: dict[str, optuna.Trial] = {}
        self._optuna = _optuna_study(study, optuna.samplers.TPESampler(seed=study.search.seed))

    def ask(self, trial: str) -> Config | None:
        if len(self._trials) == self._study.search.trials:
            return None
        self._trials[trial] = self._optuna.ask()
        config = draw(self._space, self._trials[trial])
        return self._study.complete(config) | {"seed": self._study.search.seed}

    def tell(self, trial: str, value: float | None) -> None:
        state = optuna.trial.TrialState.FAIL if value is None else None
        self._optuna.tell(self._trials[trial], value, state=state)


def strategy(study: Study) -> Strategy:
    """Return the strategy that a study asks for, at its beginning."""
    return Sampled(study) if study.search.algorithm == "optuna" else Listed(listed_configs(study))


def listed_configs(study: Study) -> Iterator[Config]:
    """Yield the complete configurations of a grid or random search, each with its seed."""
    drawn = study.search.algorithm == "random"
    for config in _drawn(study, study.search.trials or 0) if drawn else _grid(study):
        for repeat in range(study.repeats):
            yield study.complete(config) | {"seed": study.search.seed + repeat}


def count_trials(study: Study) -> int:
    """Return the number of trials of a study."""
    if study.search.algorithm == "grid":
        return sum(1 for _ in _grid(study)) * study.repeats
    return (study.search.trials or 0) * study.repeats


def preview_configs(study: Study) -> Iterator[Config]:
    """Yield complete configurations that stand for the study's: the grid, or random draws."""
    if study.search.algorithm == "grid":
        yield from map(study.complete, _grid(study))
    else:
        yield from map(study.complete, _drawn(study, max(study.search.trials or 0, 64)))


def _grid(study: Study) -> Iterator[Config]:
    yield from expand(study.full_space())


def _drawn(study: Study, count: int) -> Iterator[Config]:
    draws = _optuna_study(study, optuna.samplers.RandomSampler(seed=study.search.seed))
    space = study.full_space()
    for _ in range(count):
        trial = draws.ask()
        yield draw(space, trial)
        draws.tell(trial, state=optuna.trial.TrialState.FAIL)


def _optuna_study(study: Study, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    # Optuna announces every trial on the console; the progress table does that.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = optuna.study.StudyDirection
    direction = directions.MAXIMIZE if study.search.mode == "max" else directions.MINIMIZE
    return optuna.create_study(sampler=sampler, direction=direction)


def metric_value(study: Study, trial: TrialRecord) -> float | None:
    """Return a trial's metric at its best epoch; None for a failed trial."""
    values: list[float] = [
        r[study.search.metric] for r in trial.reports if study.search.metric in r
    ]
    if trial.status == "failed" or not values:
        return None
    return max(values) if study.search.mode == "max" else min(values)


class StudySearcher(Searcher):
    """Feeds a strategy's proposals to Ray Tune, and writes each into the record first.

    Attributes:
        trials: all trials so far by id.
    """

    def __init__(
        self,
        study: Study,
        record: Record,
        events: Iterable[Event] = (),
        on_resumed: Callable[[TrialRecord, str], None] = lambda trial, tune_id: None,
    ) -> None:
        """Begin a study, or rebuild the searcher of one from its events.

        Args:
            study: what to search.
            record: where suggestions are written.
            events: what the record holds already.
            on_resumed: called with an unfinished trial and Tune's id of it before it goes on.

        Raises:
            ResumeError: the searcher does not propose again what the record says it did.
        """
        super().__init__(metric=study.search.metric, mode=study.search.mode)
        self.study = study
        self.record = record
        self.on_resumed = on_resumed
        self.strategy = strategy(study)
        self.trials: dict[str, TrialRecord] = {}
        for event in events:
            self._replay(event)
        self.unfinished = [t for t in self.trials.values() if not t.finished]
        self._by_tune_id: dict[str, TrialRecord] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial: an unfinished one first."""
        if self.unfinished:
            trial = self.unfinished.pop(0)
            self.on_resumed(trial, trial_id)
        else:
            name = f"{len(self.trials):05d}"
            config = self.strategy.ask(name)
            if config is None:
                return str(Searcher.FINISHED)
            trial = TrialRecord(name, config)
            self.record.append("trial", time=time.time(), trial=name, config=config)
            self.trials[name] = trial
        self._by_tune_id[trial_id] = trial
        return {"trial": trial.trial} | trial.config

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the strategy how a trial ended. Its last report is in the record already."""
        trial = self._by_tune_id.pop(trial_id)
        failed = error or result is None or "failure" in result
        value = None if failed else metric_value(self.study, trial)
        self.strategy.tell(trial.trial, value)

    def _replay(self, event: Event) -> None:
        if event["event"] == "trial":
            name, config = event["trial"], event["config"]
            proposed = self.strategy.ask(name)
            if proposed != config:
                raise ResumeError(
                    f"trial {name}: the searcher proposes {proposed}, where the record has "
                    f"{config}; the study file or the version of Optuna has changed"
                )
            self.trials[name] = TrialRecord(name, config)
        elif "trial" in event:
            trial = self.trials[event["trial"]]
            apply(trial, event)
            if event["event"] == "end":
                self.strategy.tell(trial.trial, metric_value(self.study, trial))

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the record holds what the searcher needs."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing; see the module's text."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
