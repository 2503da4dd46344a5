"""Finalists: the best configurations of a search, run again with other seeds.

The search is over when they are chosen, from the record alone, so that a resumed study chooses the
same ones. What was run of them already is not repeated; `--extend` may add others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from tuning.record import TrialRecord
from tuning.samplers import tuned
from tuning.space import Config
from tuning.study import Study


class Run(NamedTuple):
    """One run that a finalist needs: the trial that it was in the search, and what to run."""

    finalist_of: str
    config: Config


def count_runs(study: Study) -> int:
    """Return how many runs the finalists need, the most."""
    return study.finalists.count * study.finalists.seeds if study.finalists else 0


def choose(study: Study, trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the search's best trials, each of another configuration, the best first.

    The first objective decides, of equal values the next, then the order of the search. Only trials
    that completed within all bounds come into question.
    """
    directions = study.search.directions()
    ranked: list[tuple[list[float], TrialRecord]] = []
    for trial in trials:
        values = trial.objective_values(directions)
        if trial.status == "completed" and values and trial.feasible(study.search.bounds()):
            signs = (-1 if mode == "max" else 1 for mode in directions.values())
            losses = [sign * value for sign, value in zip(signs, values, strict=True)]
            ranked.append((losses, trial))
    ranked.sort(key=lambda pair: pair[0])
    chosen: dict[Any, TrialRecord] = {}
    for _, trial in ranked:
        chosen.setdefault(_without_seed(trial.config), trial)
    return list(chosen.values())[: study.finalists.count if study.finalists else 0]


def missing_runs(study: Study, trials: Iterable[TrialRecord]) -> list[Run]:
    """Return the finalists' runs that the record does not hold, of all trials of the study."""
    if study.finalists is None:
        return []
    trials = list(trials)
    known = {tuned(trial.config) for trial in trials if trial.finalist_of}
    found = []
    for trial in choose(study, (t for t in trials if not t.finalist_of)):
        for number in range(1, study.finalists.seeds + 1):
            config = trial.config | {"seed": study.search.seed + number}
            if tuned(config) not in known:
                found.append(Run(trial.trial, config))
    return found


def _without_seed(config: Config) -> Any:
    return tuned({key: value for key, value in config.items() if key != "seed"})
