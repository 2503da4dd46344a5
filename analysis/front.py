"""Tables F and G: the Pareto front of studies with several objectives, and the finalists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.columns import heading, write
from analysis.load import Results, Study
from analysis.pareto import Objective, comparable, constraints, hypervolume, losses, objectives
from analysis.search import choose, configuration
from analysis.statistics import mean_interval
from analysis.tables import Table, varied


class Coverage(NamedTuple):
    """The hypervolume [n] after each of n trials, in percent of the box; seconds [n] when."""

    seconds: NDArray[np.float64]
    share: NDArray[np.float64]


def front(results: Results) -> Table:
    """Return table F: the trials that no other one beats, by the first objective."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for study, dataset, trials, goals in _several(results):
        settings = ["label", *varied(trials, study.hyperparameters)]
        mine = trials[trials["pareto"].eq(True)]
        order = np.lexsort(losses(mine, goals).T[::-1])
        best = called_best(trials)
        for _, trial in mine.iloc[order].iterrows():
            rows.append(
                {
                    "study": study.name,
                    "dataset": dataset,
                    "trial_id": trial["trial_id"],
                    **{goal.metric: trial[goal.metric] for goal in goals},
                    "configuration": configuration(trial, settings),
                    "best": trial["trial_id"] in best,
                }
            )
        notes += _notes(f"{study.name}, {dataset}", study, trials, goals)
    return Table("front", "F. Pareto front", _one_study(pd.DataFrame(rows)), tuple(notes))


def called_best(trials: pd.DataFrame) -> set[str]:
    """Return the ids of the search's trials that are called best: one, or more if equal.

    The first objective decides, of equal values the next; where finalists ran again, their mean.
    """
    best = choose(trials)
    if "finalist_of" not in best:
        return set(best["trial_id"])
    return set(best["finalist_of"].fillna(best["trial_id"]))


def covered(results: Results) -> Table:
    """Return the hypervolume over time: a row for each trial that raised it."""
    rows = []
    for study, dataset, trials, goals in _several(results):
        done = _in_time(comparable(trials, goals))
        coverage = coverage_of(done, goals)
        raised = np.diff(coverage.share, prepend=0.0) > 0
        for position in np.flatnonzero(raised):
            rows.append(
                {
                    "study": study.name,
                    "dataset": dataset,
                    "trial_id": done["trial_id"].iloc[position],
                    "ended_seconds": coverage.seconds[position],
                    "hypervolume_percent": coverage.share[position],
                }
            )
    note = (
        "Share of the box between the best and the worst value of each objective (over the trials "
        "that completed within all bounds) that the trials so far cover."
    )
    frame = _one_study(pd.DataFrame(rows))
    return Table("hypervolume", "Hypervolume over time", frame, (note,) if rows else ())


def coverage_of(trials: pd.DataFrame, goals: tuple[Objective, ...]) -> Coverage:
    """Return the hypervolume after each of some comparable trials, in the order they ended in."""
    done = _in_time(trials)
    values = losses(done, goals)
    if not len(values):
        return Coverage(np.zeros(0), np.zeros(0))
    low, high = values.min(axis=0), values.max(axis=0)
    # An objective that never differs takes no part; its side of the box has no length.
    scaled = (values - low)[:, high > low] / (high - low)[high > low]
    shares, best = [], 0.0
    for n in range(1, len(scaled) + 1):
        if scaled.shape[1] and not _beaten(scaled[n - 1], scaled[: n - 1]):
            best = hypervolume(scaled[:n], np.ones(scaled.shape[1]))
        shares.append(100 * best)
    seconds = done["ended"].to_numpy(float) - float(trials["began"].iloc[0])
    return Coverage(seconds, np.array(shares))


def finalists(results: Results) -> Table:
    """Return table G: the finalists, ranked by the mean of their runs with new seeds."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for study in results.studies:
        mine = results.trials[results.trials["study"].eq(study.name)]
        if "finalist_of" not in mine:
            continue
        for dataset, trials in mine.groupby("dataset", dropna=False, sort=False):
            ranked = _ranked(study, trials)
            if not ranked:
                continue
            rows += [{"study": study.name, "dataset": dataset, **row} for row in ranked]
            notes += _finalist_notes(study, ranked)
    frame = _one_study(pd.DataFrame(rows))
    return Table("finalists", "G. Finalists", frame, tuple(dict.fromkeys(notes)))


def _ranked(study: Study, trials: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row per finalist of one study and data set, the best mean first."""
    metric, mode = study.goal
    settings = ["label", *varied(trials, study.hyperparameters)]
    runs = trials[trials["finalist_of"].notna() & trials["status"].eq("completed")]
    rows: list[dict[str, Any]] = []
    for first, group in runs.groupby("finalist_of", sort=False):
        values = pd.to_numeric(group[metric], errors="coerce").dropna().tolist()
        if not values:
            continue
        mean = mean_interval(values)
        found = trials[trials["trial_id"].eq(first)]
        rows.append(
            {
                "finalist": first,
                "configuration": configuration(group.iloc[0], settings),
                metric: mean.estimate,
                f"{metric}_low": mean.low,
                f"{metric}_high": mean.high,
                "in_search": found[metric].iloc[0] if len(found) else None,
                "test_accuracy": group["test_accuracy"].mean(),
                "test_accuracy_spread": group["test_accuracy"].std(),
                "n": mean.n,
                "trials": ", ".join(group["trial_id"]),
            }
        )
    sign = -1 if mode == "max" else 1
    rows.sort(key=lambda row: sign * row[metric])
    return [{"rank": rank, **row, "best": rank == 1} for rank, row in enumerate(rows, start=1)]


def _finalist_notes(study: Study, ranked: list[dict[str, Any]]) -> Iterator[str]:
    metric, mode = study.goal
    yield (
        f"Rule: the {'highest' if mode == 'max' else 'lowest'} mean {_name(metric)} over runs with "
        "new seeds decides; the run in the search does not count, since it was chosen for its "
        "result. Intervals are Student's t, 95 %. Only these runs are read on test."
    )
    if len(ranked) > 1 and None not in (first := _interval(ranked[0], metric)):
        second = _interval(ranked[1], metric)
        if None not in second and first[0] <= second[1] and second[0] <= first[1]:
            yield (
                f"The intervals of finalists {ranked[0]['finalist']} and {ranked[1]['finalist']} "
                "overlap: which of them is better is not settled."
            )


def _interval(row: dict[str, Any], metric: str) -> tuple[Any, Any]:
    return row[f"{metric}_low"], row[f"{metric}_high"]


def _several(
    results: Results,
) -> Iterator[tuple[Study, object, pd.DataFrame, tuple[Objective, ...]]]:
    """Yield each study and data set with several objectives."""
    for study in results.studies:
        goals = objectives(study.description)
        if not goals:
            continue
        mine = results.trials[results.trials["study"].eq(study.name)]
        for dataset, trials in mine.groupby("dataset", dropna=False, sort=False):
            yield study, dataset, trials.assign(began=trials["started"].min()), goals


def _notes(
    where: str, study: Study, trials: pd.DataFrame, goals: tuple[Objective, ...]
) -> Iterator[str]:
    """Say what the front is of, what it covers, and by which rule one trial is called best."""
    of = comparable(trials, goals)
    names = " and ".join(f"{_name(g.metric)} ({g.mode})" for g in goals)
    yield (
        f"{where}: {int(trials['pareto'].eq(True).sum())} of {len(of)} comparable trials are "
        f"beaten by no other one in {names}."
    )
    worst, best = ({g.metric: g.sign * v for g, v in zip(goals, extreme, strict=True)}
                   for extreme in _extremes(of, goals))  # fmt: skip
    share = coverage_of(of, goals).share
    if len(share):
        yield (
            f"Hypervolume {share[-1]:.1f} % of the box from {_point(worst)} (the worst of each) "
            f"to {_point(best)} (the best of each)."
        )
    called = ", ".join(sorted(called_best(trials))) or "none"
    final = "finalist_of" in trials and trials["finalist_of"].notna().any()
    yield (
        f"Called best: {called}. Rule: {_name(goals[0].metric)} decides, of equal values "
        f"{', then '.join(_name(g.metric) for g in goals[1:])}"
        f"{'; among the finalists, the mean of their new runs' if final else ''}."
    )
    if constraints(study.description):
        outside = trials[trials["feasible"].eq(False)]["trial_id"].tolist()
        bounds = ", ".join(_bound(c) for c in constraints(study.description))
        text = f"beyond it: {', '.join(outside)}" if outside else "no trial is beyond it"
        yield f"Within bounds: {bounds}; {text}."


def _extremes(
    of: pd.DataFrame, goals: tuple[Objective, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = losses(of, goals)
    return (values.max(axis=0), values.min(axis=0)) if len(values) else (values, values)


def _bound(constraint: dict[str, Any]) -> str:
    signs = (("max", "<="), ("min", ">="))
    parts = [f"{_name(constraint['metric'])} {sign} {constraint[key]:g}"
             for key, sign in signs if constraint.get(key) is not None]  # fmt: skip
    return " and ".join(parts)


def _point(values: dict[str, float]) -> str:
    return "(" + ", ".join(f"{_name(m)} {write(m, v)}" for m, v in values.items()) + ")"


def _name(metric: str) -> str:
    return heading(metric)


def _one_study(frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out the study's name where there is one only."""
    alone = len(frame) and frame["study"].nunique() == 1
    return frame.drop(columns="study") if alone else frame


def _in_time(trials: pd.DataFrame) -> pd.DataFrame:
    return trials.sort_values("ended", kind="stable")


def _beaten(point: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    return bool((others <= point).all(axis=1).any())
