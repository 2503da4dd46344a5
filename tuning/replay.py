"""Replay: search a recorded table again in simulated time, on a simulated cluster of N slots.

A table is a study folder whose record holds a whole grid: for every configuration the metric and
the seconds after each epoch. A replay trains nothing. It drives the searchers and schedulers that
`tuning run` drives, and a trial that they start takes, in simulated time, as long as it took when
it was recorded. The time that searcher and scheduler take to decide is measured and added. As in
Ray Tune, decisions are made one after the other, so with enough slots trials wait for them.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from tuning.record import TrialRecord, read_trials
from tuning.samplers import tuned
from tuning.schedulers import build_scheduler, concurrency
from tuning.searchers import Strategy, metric_value, outcome, preview_configs, strategy
from tuning.space import Branch, Choice, Config, Entry, Grid, Ordinal, Space
from tuning.study import Scheduler, Search, Study, missing_for_bohb
from tuning.study_file import load

#: Schedulers that a table can answer: it does not know what PBT's new configurations would give.
SCHEDULERS = ("fifo", "asha", "hyperband", "median")


class TableError(ValueError):
    """A folder holds no table that can be replayed; the text says why."""


@dataclass(frozen=True)
class Table:
    """What every configuration of a grid gave.

    Attributes:
        study: the grid search.
        rows: the recorded trials, by configuration (see `row`).
    """

    study: Study
    rows: dict[Any, TrialRecord]

    @classmethod
    def read(cls, folder: Path) -> Table:
        """Read a study folder.

        Raises:
            TableError: it holds no study, or not all of its grid.
            CorruptRecord, StudyError: it is damaged.
        """
        try:
            trials = read_trials(folder)
        except FileNotFoundError:
            raise TableError(f"{folder}: is no study folder (it holds no record)") from None
        study = load(folder / "study.yaml")
        if study.search.algorithm != "grid":
            raise TableError(f"{folder}: only a grid search leaves a whole table to replay")
        rows = {_key(_complete(study, t.config)): t for t in trials.values() if t.finished}
        table = cls(study, rows)
        missing = sum(_key(config) not in table.rows for config in preview_configs(study))
        if missing:
            raise TableError(f"{folder}: {missing} configurations of its grid are not recorded")
        return table

    def row(self, config: Config) -> TrialRecord:
        """Return what a configuration gave, whatever the seed asked for."""
        return self.rows[_key(config)]

    def best(self) -> float:
        """Return the best metric in the table."""
        found = (metric_value(self.study, row) for row in self.rows.values())
        values = [value for value in found if value is not None]
        return max(values) if self.study.search.mode == "max" else min(values)

    def seconds(self) -> float:
        """Return the compute of the whole grid."""
        return float(
            sum(row.reports[-1]["total_seconds"] for row in self.rows.values() if row.reports)
        )


def _complete(study: Study, config: Config) -> Config:
    """Return a recorded configuration with parameters that came up later at their defaults."""
    return study.complete({key: value for key, value in config.items() if key != "seed"})


def _key(config: Config) -> Any:
    return tuned({k: v for k, v in config.items() if k != "seed"})


def searched(table: Table, search: Search, scheduler: Scheduler) -> Study:
    """Return the study that searches a table.

    A grid of numbers becomes an `ordinal` domain in ascending order, any other one a `choice`.
    The order of a grid search is arbitrary, so each seed of it takes the parameters and their
    values in another order.
    """
    if search.algorithm == "grid":
        space = _shuffled(table.study.space, random.Random(search.seed))
    else:
        space = {key: _drawable(entry) for key, entry in table.study.space.items()}
    return table.study.model_copy(update={"space": space, "search": search, "scheduler": scheduler})


def _drawable(entry: Entry) -> Entry:
    match entry:
        case Grid(grid=values) if all(type(v) in (int, float) for v in values):
            return Ordinal(ordinal=sorted(values))  # type: ignore[type-var]
        case Grid(grid=values):
            return Choice(choice=values)
        case Branch(branch=branches):
            inner = {v: {k: _drawable(e) for k, e in s.items()} for v, s in branches.items()}
            return Branch(branch=inner)
        case _:
            return entry


def _shuffled(space: Space, draws: random.Random) -> Space:
    shuffled: Space = {}
    for key in draws.sample(list(space), len(space)):
        entry = space[key]
        if isinstance(entry, Grid):
            entry = Grid(grid=draws.sample(entry.grid, len(entry.grid)))
        elif isinstance(entry, Branch):
            keys = draws.sample(list(entry.branch), len(entry.branch))
            entry = Branch(branch={k: _shuffled(entry.branch[k], draws) for k in keys})
        shuffled[key] = entry
    return shuffled


@dataclass(frozen=True)
class Step:
    """A moment at which the best value so far rose.

    Attributes:
        elapsed: simulated seconds since the start.
        compute: seconds of all trials and of deciding, up to then.
        epochs: reports of all trials, up to then.
        value: the metric.
    """

    elapsed: float
    compute: float
    epochs: int
    value: float


@dataclass
class Course:
    """How one search went: its steps in order, and the whole of it (units as in `Step`)."""

    steps: list[Step] = field(default_factory=list)
    elapsed: float = 0.0
    compute: float = 0.0
    deciding: float = 0.0
    epochs: int = 0
    trials: int = 0

    def compute_until(self, reached: Callable[[float], bool]) -> float:
        """Return the compute until a value was good enough; infinity if none was."""
        return next((s.compute for s in self.steps if reached(s.value)), math.inf)

    def epochs_until(self, reached: Callable[[float], bool]) -> float:
        """Return the epochs until a value was good enough; infinity if none was."""
        return next((s.epochs for s in self.steps if reached(s.value)), math.inf)

    def best_after(self, compute: float) -> float:
        """Return the best value within an amount of compute; NaN if there was none yet."""
        within = [s.value for s in self.steps if s.compute <= compute]
        return within[-1] if within else math.nan


@dataclass(eq=False)
class _SimulatedTrial:
    """What schedulers see of a trial, and its recorded reports."""

    trial_id: str
    config: Config
    row: TrialRecord
    status: str = Trial.PENDING
    reported: int = 0
    is_saving: bool = False

    def seen(self) -> TrialRecord:
        """Return the trial as a study would know it by now."""
        reports = self.row.reports[: self.reported]
        status = self.row.status if self.reported == len(self.row.reports) else "stopped"
        return TrialRecord(self.trial_id, self.config, {}, reports, status)


class Simulation:
    """A cluster of slots that takes its trials' results from a table.

    To schedulers it is the controller: `get_trials`, `get_live_trials`, `stop_trial` and
    `has_resources_for_trial` are Ray Tune's.
    """

    def __init__(
        self,
        table: Table,
        study: Study,
        slots: int,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        """Set up a search.

        Args:
            table: the recorded grid.
            study: from `searched`.
            slots: trials at once.
            clock: measures the seconds of deciding; those of this process alone, so that other
                work on the machine does not count.
        """
        self.table = table
        self.study = study
        self.clock = clock
        self.course = Course()
        self.free = slots
        self.limit = concurrency(study, slots) or math.inf
        self.live: dict[str, _SimulatedTrial] = {}
        self.exhausted = False
        self._numbers = itertools.count()
        self._queue: list[tuple[float, int, float, _SimulatedTrial]] = []
        self._ready = 0.0
        self.strategy: Strategy = self._decide(0.0, lambda: strategy(study))
        self.scheduler: TrialScheduler = build_scheduler(study)

    def run(self, until: Callable[[Course], bool] = lambda course: False) -> Course:
        """Run until the search has no more trials, or a condition on its course holds."""
        self._fill(0.0)
        while self._queue and not until(self.course):
            now, _, seconds, trial = heapq.heappop(self._queue)
            self.course.elapsed = now
            self.course.compute += seconds
            self._report(now, trial)
            self._fill(now)
        return self.course

    def get_trials(self) -> list[_SimulatedTrial]:
        return list(self.live.values())

    get_live_trials = get_trials

    def has_resources_for_trial(self, trial: _SimulatedTrial) -> bool:
        return True

    def stop_trial(self, trial: _SimulatedTrial) -> None:
        """End a trial that the scheduler had paused."""
        self.scheduler.on_trial_remove(self, trial)
        self._end(trial)

    def _decide(self, now: float, work: Callable[[], Any]) -> Any:
        """Do a piece of deciding after those before it, and add its time."""
        started = self.clock()
        result = work()
        seconds = self.clock() - started
        self._ready = max(self._ready, now) + seconds
        self.course.deciding += seconds
        self.course.compute += seconds
        return result

    def _fill(self, now: float) -> None:
        """Give the free slots trials, and keep one waiting where Ray Tune would."""
        while self.free or math.isinf(self.limit):
            pending = any(t.status == Trial.PENDING for t in self.live.values())
            if not pending and not self.exhausted and len(self.live) < self.limit:
                self._decide(now, self._suggest)
            if not self.free:
                return
            trial = self._decide(now, lambda: self.scheduler.choose_trial_to_run(self))
            if trial is None:
                return
            trial.status = Trial.RUNNING
            self.free -= 1
            self._run_on(trial)

    def _suggest(self) -> None:
        name = f"{self.course.trials:05d}"
        config = self.strategy.ask(name)
        if config is None:
            self.exhausted = True
            return
        self.course.trials += 1
        trial = self.live[name] = _SimulatedTrial(
            name, {"trial": name} | config, self.table.row(config)
        )
        self.scheduler.on_trial_add(self, trial)

    def _run_on(self, trial: _SimulatedTrial) -> None:
        """Let a running trial go on to its next report, from when the last decision was made."""
        reports, n = trial.row.reports, trial.reported
        before = reports[n - 1]["total_seconds"] if n else 0.0
        seconds = reports[n]["total_seconds"] - before if n < len(reports) else 0.0
        event = (self._ready + seconds, next(self._numbers), seconds, trial)
        heapq.heappush(self._queue, event)

    def _report(self, now: float, trial: _SimulatedTrial) -> None:
        if trial.reported < len(trial.row.reports):
            trial.reported += 1
            self.course.epochs += 1
            self._note_best(now, trial)
            self._decide(now, lambda: self._pass_on(trial))
        last = trial.reported == len(trial.row.reports)
        action = self._decide(now, lambda: self._judge(trial, last))
        if action == TrialScheduler.CONTINUE:
            self._run_on(trial)
            return
        self.free += 1
        if action == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        else:
            self._decide(now, lambda: self._end(trial))

    def _pass_on(self, trial: _SimulatedTrial) -> None:
        """Tell the searcher a report."""
        report = trial.row.reports[trial.reported - 1]
        if (value := report.get(self.study.search.metric)) is not None:
            self.strategy.report(trial.trial_id, report.get("epoch", 1), value)

    def _judge(self, trial: _SimulatedTrial, last: bool) -> str:
        if last and trial.row.status == "failed":
            self.scheduler.on_trial_error(self, trial)
            return str(TrialScheduler.STOP)
        n = trial.reported
        result = {"epoch": 1} | trial.row.reports[n - 1] | {"training_iteration": n}
        if last:
            self.scheduler.on_trial_complete(self, trial, result)
            return str(TrialScheduler.STOP)
        return str(self.scheduler.on_trial_result(self, trial, result))

    def _end(self, trial: _SimulatedTrial) -> None:
        trial.status = Trial.TERMINATED
        del self.live[trial.trial_id]
        self.strategy.tell(trial.trial_id, outcome(self.study, trial.seen()))

    def _note_best(self, now: float, trial: _SimulatedTrial) -> None:
        value = trial.row.reports[trial.reported - 1].get(self.study.search.metric)
        steps, sign = self.course.steps, 1 if self.study.search.mode == "max" else -1
        if value is not None and (not steps or sign * value > sign * steps[-1].value):
            steps.append(Step(now, self.course.compute, self.course.epochs, value))


def replays(
    table: Table,
    search: Search,
    scheduler: Scheduler,
    slots: int,
    seeds: int,
    until: Callable[[Course], bool] = lambda course: False,
) -> Iterator[Course]:
    """Yield one course for each of the seeds 0, 1, ..."""
    for seed in range(seeds):
        # ASHA draws its bracket from numpy's global generator.
        np.random.seed(seed)  # noqa: NPY002
        study = searched(table, search.model_copy(update={"seed": seed}), scheduler)
        yield Simulation(table, study, slots).run(until)


def summary(
    folder: Path,
    search: str,
    scheduler: str,
    slots: int,
    seeds: int,
    trials: int | None,
    target: float,
) -> str:
    """Return what a search finds in a table, as text for the command line.

    Args:
        folder: of the table.
        search: `grid`, `bohb`, or a sampler of Optuna's.
        scheduler: its type.
        slots: trials at once.
        seeds: how many repetitions.
        trials: of each search; None for as many as the grid has.
        target: share of the best value that counts as reached (its inverse, if less is better).

    Raises:
        TableError: the folder or an option is wrong.
    """
    table = Table.read(folder)
    chosen = _search(table, search, trials)
    if scheduler not in SCHEDULERS:
        raise TableError(f"--scheduler: got {scheduler!r}; allowed: {', '.join(SCHEDULERS)}")
    done = list(replays(table, chosen, Scheduler.model_validate({"type": scheduler}), slots, seeds))
    best, whole = table.best(), table.seconds()
    larger = table.study.search.mode == "max"
    goal = best * target if larger else best / target
    found = [c.compute_until(lambda v: v >= goal if larger else v <= goal) for c in done]
    lines = [
        f"{folder}: {len(table.rows)} configurations, {whole:.0f} s of compute, "
        f"best {chosen.metric} {best:.4g}",
        f"search {search}, scheduler {scheduler}, {slots} slots, {seeds} seeds; "
        "median with its 95 % interval",
    ]
    rows = {
        f"compute until {goal:.4g}, s": found,
        "  in % of the grid's": [100 * value / whole for value in found],
        "compute in all, s": [course.compute for course in done],
        "elapsed in all, s": [course.elapsed for course in done],
        "  of which deciding, s": [course.deciding for course in done],
        "trials": [float(course.trials) for course in done],
        f"best {chosen.metric} found": [c.steps[-1].value if c.steps else math.nan for c in done],
    }
    for label, values in rows.items():
        middle, low, high = median_interval(values)
        lines.append(f"{label:32}{middle:>12.4g}  [{low:.4g}, {high:.4g}]")
    reached = sum(math.isfinite(value) for value in found)
    lines.append(f"{'reached the target':32}{reached:>12} of {seeds}")
    return "\n".join(lines)


def _search(table: Table, name: str, trials: int | None) -> Search:
    given = table.study.search
    common = {"metric": given.metric, "mode": given.mode}
    if name == "grid":
        return Search.model_validate({"algorithm": "grid"} | common)
    samplers = get_args(Search.model_fields["sampler"].annotation)
    if name not in ("bohb", *samplers):
        raise TableError(f"--search: got {name!r}; allowed: grid, bohb, {', '.join(samplers)}")
    if name == "bohb" and (text := missing_for_bohb()):
        raise TableError(f"--search: {text}")
    chosen = {"algorithm": "bohb"} if name == "bohb" else {"algorithm": "optuna", "sampler": name}
    return Search.model_validate(chosen | {"trials": trials or len(table.rows)} | common)


def median_interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return a median with its distribution-free interval from order statistics.

    Values may be infinite (a target that was never reached). The interval's ends are the ranks
    between which a binomial count of values below the true median falls with this probability
    (Conover, "Practical Nonparametric Statistics", 3.2).
    """
    from scipy.stats import binom

    ordered = sorted(values)
    count = len(ordered)
    low = int(binom.ppf((1 - level) / 2, count, 0.5))
    middle = ordered[(count - 1) // 2]
    if count % 2 == 0 and math.isfinite(ordered[count // 2]):
        middle = (middle + ordered[count // 2]) / 2
    elif count % 2 == 0:
        middle = ordered[count // 2]
    return middle, ordered[max(low - 1, 0)], ordered[min(count - low, count - 1)]
