"""Searchers: which configuration to try next.

All of them ask and tell in an order that the study's record holds, and are seeded. A resumed
study therefore rebuilds its searcher by asking and telling again what the record says: nothing of
the searcher's own needs to be saved, so nothing of it can be lost or silently reset.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from ray.tune.search import Searcher

from tuning.finalists import Run, missing_runs
from tuning.outcome import NONE, Outcome, Value, Violations
from tuning.record import (
    Event,
    Record,
    TrialRecord,
    answer,
    apply,
    apply_round,
    read_trials,
    suggested,
)
from tuning.samplers import Encoder, build_sampler, optuna_study, tuned
from tuning.space import Config, draw, expand
from tuning.study import Study
from tuning.study_file import StudyError, load


class ResumeError(ValueError):
    """A study cannot go on as it began; the text says why."""


class WarmStartError(ValueError):
    """A study cannot begin with what an earlier one found; the text says why."""


class Strategy(Protocol):
    """Proposes configurations and learns from their values."""

    def ask(self, trial: str) -> Config | None:
        """Return the configuration of the next trial; None when there are no more."""

    def report(self, trial: str, epoch: float, value: float) -> None:
        """Take the metric of a running trial after an epoch."""

    def tell(self, trial: str, outcome: Outcome) -> None:
        """Take how a trial has ended."""

    def learn(self, values: Config, value: Value, violations: Violations = NONE) -> None:
        """Take the metric of a configuration that was run elsewhere, before the first `ask`."""

    def adopt(self, trial: str, config: Config) -> None:
        """Take a configuration of the record, where the study has changed, as if proposed."""


class Listed:
    """Configurations that are known before the start: a grid, or random draws."""

    def __init__(self, configs: Iterable[Config]) -> None:
        self._configs = iter(configs)
        self._adopted: list[Config] = []

    def ask(self, trial: str) -> Config | None:
        return next((c for c in self._configs if c not in self._adopted), None)

    def report(self, trial: str, epoch: float, value: float) -> None:
        """Learn nothing."""

    def tell(self, trial: str, outcome: Outcome) -> None:
        """Learn nothing."""

    def learn(self, values: Config, value: Value, violations: Violations = NONE) -> None:
        """Learn nothing."""

    def adopt(self, trial: str, config: Config) -> None:
        self._adopted.append(config)


class Sampled:
    """Configurations that one of Optuna's samplers proposes.

    To TPE a trial that was stopped early is pruned, with its metric after every epoch: it ranks
    below those that completed, and among the others by how far it came and what it had there. The
    other samplers would not look at pruned trials, and are told them as complete.

    In a space of few values a sampler often proposes what was tried already. It is then asked
    again, `PATIENCE` times, and after that the next configuration is drawn at random.
    """

    PATIENCE = 20

    def __init__(self, study: Study) -> None:
        self._study = study
        self._space = study.full_space()
        self._trials: dict[str, optuna.Trial] = {}
        self._told: set[str] = set()
        self._outside: set[str] = set()
        self._tried: set[Any] = set()
        self._optuna = optuna_study(study, build_sampler(study))
        # Optuna knows values of epochs only where there is one objective.
        self._prunes = study.search.sampler == "tpe" and not study.search.objectives
        seed = study.search.seed
        self._draws = optuna_study(study, optuna.samplers.RandomSampler(seed=seed))
        for point in study.search.points:
            if point.result is None:
                self._optuna.enqueue_trial(Encoder(self._space, point.values).params)

    def ask(self, trial: str) -> Config | None:
        if len(self._trials) == self._study.search.trials:
            return None
        for attempt in range(2 * self.PATIENCE):
            if attempt >= self.PATIENCE:
                values = draw(self._space, self._draws.ask())
                self._optuna.enqueue_trial(Encoder(self._space, values).params)
            asked = self._optuna.ask()
            config = draw(self._space, asked)
            if not self._study.search.distinct or tuned(config) not in self._tried:
                break
            self._optuna.tell(asked, state=optuna.trial.TrialState.FAIL)
        else:
            asked = self._optuna.ask()
            config = draw(self._space, asked)
        self._trials[trial] = asked
        self._tried.add(tuned(config))
        return self._study.complete(config) | {"seed": self._study.search.seed}

    def learn(self, values: Config, value: Value, violations: Violations = NONE) -> None:
        known = Encoder(self._space, values)
        self._add(known.params, known.distributions, value, violations)
        self._tried.add(tuned(known.config))

    def report(self, trial: str, epoch: float, value: float) -> None:
        if self._prunes and trial not in self._told:
            self._trials[trial].report(value, int(epoch))

    def tell(self, trial: str, outcome: Outcome) -> None:
        if trial in self._outside:
            return
        told, value = self._trials[trial], outcome.value
        if trial not in self._told:
            self._told.add(trial)
            for key, excess in outcome.violations.items():
                told.set_constraint(key, excess)
            if value is None:
                self._optuna.tell(told, state=optuna.trial.TrialState.FAIL)
            elif outcome.stopped and self._prunes:
                self._optuna.tell(told, state=optuna.trial.TrialState.PRUNED)
            else:
                self._optuna.tell(told, value)
        elif value is not None:
            # It failed, was told as such, and has been retried: Optuna takes it as one more.
            known = self._optuna.get_trials(deepcopy=False)[told.number]
            self._add(known.params, known.distributions, value, outcome.violations)

    def _add(
        self,
        params: Config,
        distributions: dict[str, BaseDistribution],
        value: Value,
        violations: Violations,
    ) -> None:
        self._optuna.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions=distributions,
                values=[value] if isinstance(value, int | float) else value,
                constraints=dict(violations),
            )
        )

    def adopt(self, trial: str, config: Config) -> None:
        fixed = _Fixed(config)
        draw(self._space, fixed)
        if fixed.inside:
            self._optuna.enqueue_trial(fixed.values)
        self._trials[trial] = self._optuna.ask()
        self._tried.add(tuned(config))
        if fixed.inside:
            draw(self._space, self._trials[trial])
        else:
            self.tell(trial, Outcome(None))
            self._outside.add(trial)


class _Fixed:
    """A sampler that draws the values of one configuration, by the names that a space gives them.

    Attributes:
        values: drawn, by name.
        inside: the space holds the whole configuration.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.values: Config = {}
        self.inside = True

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        value = self._config.get(name.rpartition("/")[2])
        return self._take(name, value, choices[0], holds=value in choices)

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        value = self._config.get(name.rpartition("/")[2])
        holds = isinstance(value, float | int) and low <= value <= high
        return float(self._take(name, value, low, holds=holds))

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:
        value = self._config.get(name.rpartition("/")[2])
        holds = isinstance(value, int) and low <= value <= high
        return int(self._take(name, value, low, holds=holds))

    def _take(self, name: str, value: Any, otherwise: Any, *, holds: bool) -> Any:
        self.inside &= holds
        self.values[name] = value if holds else otherwise
        return self.values[name]


def strategy(study: Study) -> Strategy:
    """Return the strategy that a study asks for, at its beginning."""
    match study.search.algorithm:
        case "optuna":
            return Sampled(study)
        case "bohb":
            # An optional package, which takes a second to import.
            from tuning.bohb import Bohb

            return Bohb(study)
        case _:
            return Listed(listed_configs(study))


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
    draws = optuna_study(study, optuna.samplers.RandomSampler(seed=study.search.seed))
    space = study.full_space()
    for _ in range(count):
        trial = draws.ask()
        yield draw(space, trial)
        draws.tell(trial, state=optuna.trial.TrialState.FAIL)


def metric_value(study: Study, trial: TrialRecord) -> float | None:
    """Return a trial's metric (its first objective) at its best epoch; None for a failed trial."""
    return trial.best_value(study.search.metric, study.search.mode)


def outcome(study: Study, trial: TrialRecord) -> Outcome:
    """Return what a strategy is told of a finished trial.

    What a stopped trial has not measured counts as just within its bound, so that each trial has
    all bounds, as the samplers need; a completed one that lacks a measurement counts as failed.
    """
    values = trial.objective_values(study.search.directions())
    violations = trial.violations(study.search.bounds())
    if values is None or (trial.status == "completed" and None in violations.values()):
        return Outcome(None)
    value = values if study.search.objectives else values[0]
    known = {key: excess or 0.0 for key, excess in violations.items()}
    return Outcome(value, known, stopped=trial.status == "stopped")


def known_results(study: Study) -> list[dict[str, Any]]:
    """Return the results that a study begins with: of its `points` and its `warm_start` folders.

    Returns:
        Mappings with `values` (parameters of the space), `value` (the metric, or a list of the
        objectives), `source`, and where the study has constraints `violations`.

    Raises:
        WarmStartError: a folder is no study, or has nothing for this one.
    """
    results = [
        {"values": point.values, "value": point.result, "source": "study file"}
        for point in study.search.points
        if point.result is not None
    ]
    for folder in study.search.warm_start:
        results += _earlier_results(study, Path(folder))
    return results


def _earlier_results(study: Study, folder: Path) -> list[dict[str, Any]]:
    try:
        earlier, trials = load(folder / "study.yaml"), read_trials(folder)
    except (FileNotFoundError, StudyError) as error:
        raise WarmStartError(f"search.warm_start: {folder}: is no study folder ({error})") from None
    where = {"folder", "path"}
    if earlier.dataset.model_dump(exclude=where) != study.dataset.model_dump(exclude=where):
        raise WarmStartError(f"search.warm_start: {folder}: has another data set, split or size")
    results = []
    space = study.full_space()
    for trial in trials.values():
        value, violations, _ = outcome(study, trial)
        config = {k: v for k, v in trial.config.items() if k != "seed"}
        try:
            known = Encoder(space, config)
        except ValueError:
            continue
        if trial.takeovers:
            continue  # Its value is that of a schedule, which no configuration of this study is.
        if value is not None and trial.finished and study.complete(known.config) == config:
            found = {"values": known.values, "value": value, "source": folder.name}
            results.append(found | ({"violations": dict(violations)} if violations else {}))
    if not results:
        raise WarmStartError(
            f"search.warm_start: {folder}: none of its {len(trials)} trials is one that this study "
            "could run (same fixed parameters, values inside `space`)"
        )
    return results


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
        *,
        allow_changed: bool = False,
    ) -> None:
        """Begin a study, or rebuild the searcher of one from its events.

        Args:
            study: what to search.
            record: where suggestions are written.
            events: what the record holds already.
            allow_changed: take the recorded configurations as they are, though the study or a
                package has changed so that the searcher would propose others.

        Raises:
            ResumeError: the searcher does not propose again what the record says it did.
        """
        super().__init__(metric=study.search.metric, mode=study.search.mode)
        self.study = study
        self.record = record
        self.strategy = strategy(study)
        self._allow_changed = allow_changed
        self.trials: dict[str, TrialRecord] = {}
        events = list(events)
        for event in events:
            self._replay(event)
        if not any(event["event"] in ("trial", "known") for event in events):
            self._begin()
        self._final_runs: list[Run] | None = None
        self.unfinished = [t for t in self.searched() if not t.finished]
        self._by_tune_id: dict[str, TrialRecord] = {}
        # In the record's order, so that a resumed study learns them in the same one.
        record.listeners.append(self._hear)

    def searched(self) -> list[TrialRecord]:
        """Return the trials of the search itself, without the finalists' runs."""
        return [trial for trial in self.trials.values() if not trial.finalist_of]

    def _begin(self) -> None:
        """Write what is known from elsewhere into the record, and learn it."""
        results = known_results(self.study)
        if results:
            self.record.append("known", time=time.time(), results=results)
            self._replay({"event": "known", "results": results})

    def begin_finals(self) -> int:
        """Go on with the finalists' runs, the search being over; return how many are to do."""
        self._final_runs = missing_runs(self.study, self.trials.values())
        self.unfinished = [t for t in self.trials.values() if not t.finished]
        return self.final_runs_left()

    def final_runs_left(self) -> int:
        """Return how many of the finalists' runs have not ended or not begun."""
        unfinished = sum(not t.finished for t in self.trials.values() if t.finalist_of)
        return unfinished + len(missing_runs(self.study, self.trials.values()))

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Return the configuration of the next trial: an unfinished one first."""
        trial = self._next_to_run()
        if trial is None:
            return str(Searcher.FINISHED)
        self._by_tune_id[trial_id] = trial
        share = {} if trial.gpu_share is None else {"gpu_share": trial.gpu_share}
        unread = self.study.finalists is not None and not trial.finalist_of
        own = {"trial": trial.trial} | share | ({"reads_test": False} if unread else {})
        return own | trial.last_config()

    def answer_first(self) -> bool:
        """Answer the trials to come that the record answers; return whether one is left to run."""
        if not self.study.search.answer_repeats:
            return True
        trial = self._next_to_run()
        if trial is not None:
            self.unfinished.insert(0, trial)
        return trial is not None

    def _next_to_run(self) -> TrialRecord | None:
        trial = self._next()
        while trial is not None and (source := self._equal(trial)):
            now = time.time()
            self.record.append("answer", time=now, trial=trial.trial, of=source.trial)
            answer(trial, source, now)
            self._tell_answer(trial)
            trial = self._next()
        return trial

    def _next(self) -> TrialRecord | None:
        """Return an unfinished trial, or a new one that is in the record; None after the last."""
        if self.unfinished:
            return self.unfinished.pop(0)
        name = f"{len(self.trials):05d}"
        if self._final_runs is None:
            config = self.strategy.ask(name)
            if config is None:
                return None
            event: Event = {"trial": name, "config": config}
        elif self._final_runs:
            run = self._final_runs.pop(0)
            event = {"trial": name, "config": run.config, "finalist_of": run.finalist_of}
        else:
            return None
        self.record.append("trial", time=time.time(), **event)
        self.trials[name] = suggested(event)
        return self.trials[name]

    def _equal(self, trial: TrialRecord) -> TrialRecord | None:
        """Return the trial whose results are this one's, where the study answers repeats."""
        if not self.study.search.answer_repeats or trial.started:
            return None
        return next(
            (
                known
                for known in self.trials.values()
                if known.config == trial.config
                and known.status == "completed"
                and not known.answered_from
            ),
            None,
        )

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the strategy how a trial ended. Its last report is in the record already."""
        trial = self._by_tune_id.pop(trial_id)
        if trial.finalist_of:
            return
        if error or result is None or "failure" in result:
            self.strategy.tell(trial.trial, Outcome(None))
            return
        status = "completed" if result.get("final") else "stopped"
        self.strategy.tell(trial.trial, outcome(self.study, replace(trial, status=status)))

    def _hear(self, event: Event) -> None:
        """Pass on what a trial of the search reports, as the record has it."""
        if event["event"] == "report" and not self.trials[event["trial"]].finalist_of:
            self._report(event["trial"], event["metrics"])

    def _report(self, trial: str, metrics: Mapping[str, Any]) -> None:
        if (value := metrics.get(self.study.search.metric)) is not None:
            self.strategy.report(trial, metrics.get("epoch", 1), value)

    def _tell_answer(self, trial: TrialRecord) -> None:
        for metrics in trial.reports:
            self._report(trial.trial, metrics)
        self.strategy.tell(trial.trial, outcome(self.study, trial))

    def _replay(self, event: Event) -> None:
        if event["event"] == "trial":
            self.trials[event["trial"]] = suggested(event)
            if "finalist_of" not in event:
                self._ask_again(event["trial"], event["config"])
        elif event["event"] == "known":
            for result in event["results"]:
                self.strategy.learn(
                    result["values"], result["value"], result.get("violations", NONE)
                )
        elif event["event"] == "round":
            apply_round(self.trials, event)
        elif "trial" in event:
            trial = self.trials[event["trial"]]
            if event["event"] == "answer":
                answer(trial, self.trials[event["of"]], event["time"])
                self._tell_answer(trial)
                return
            apply(trial, event)
            self._hear(event)
            if event["event"] == "end" and not trial.finalist_of:
                self.strategy.tell(trial.trial, outcome(self.study, trial))

    def _ask_again(self, name: str, config: Config) -> None:
        if self._allow_changed:
            self.strategy.adopt(name, config)
        elif (proposed := self.strategy.ask(name)) != config:
            raise ResumeError(
                f"trial {name}: the searcher proposes {proposed}, where the record has "
                f"{config}; the study file or the version of Optuna has changed "
                "(--allow-changed goes on with what the record has)"
            )

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the record holds what the searcher needs."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing; see the module's text."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
