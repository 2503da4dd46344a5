"""Several objectives: which trials no other one beats, and how much they cover together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


class Objective(NamedTuple):
    """A metric, which is a column of the trials, and its direction (`max` or `min`)."""

    metric: str
    mode: str

    @property
    def sign(self) -> int:
        return -1 if self.mode == "max" else 1


def objectives(description: Mapping[str, Any]) -> tuple[Objective, ...]:
    """Return the objectives of a study's description, the first one first; none without."""
    search = description.get("search")
    found = search.get("objectives") if isinstance(search, dict) else None
    return tuple(Objective(o["metric"], o["mode"]) for o in found or ())


def constraints(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the constraints of a study's description, as the study file has them."""
    search = description.get("search")
    return (search.get("constraints") if isinstance(search, dict) else None) or []


def losses(trials: pd.DataFrame, goals: Sequence[Objective]) -> NDArray[np.float64]:
    """Return the objectives of trials [n] as [n, objectives], of which less is better."""
    columns = [g.sign * pd.to_numeric(trials[g.metric], errors="coerce") for g in goals]
    return np.column_stack([column.to_numpy(float) for column in columns])


def comparable(trials: pd.DataFrame, goals: Sequence[Objective]) -> pd.DataFrame:
    """Return the trials that may be on the front.

    They completed within all bounds and have all objectives.
    """
    rows = original(trials)
    if "feasible" in rows:
        rows = rows[~rows["feasible"].eq(False)]
    return measured(rows, goals)


def original(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the completed trials of the search, without finalists' runs and answered repeats.

    These repeat a trial of the search, which stands for them.
    """
    rows = trials[trials["status"].eq("completed")]
    for repeats in ("finalist_of", "answered_from"):
        if repeats in rows:
            rows = rows[rows[repeats].isna()]
    return rows


def measured(trials: pd.DataFrame, goals: Sequence[Objective]) -> pd.DataFrame:
    """Return the trials that have all objectives."""
    return trials.dropna(subset=[goal.metric for goal in goals])


def non_dominated(values: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other one beats: as good in each objective and better in one.

    Args:
        values: [n, objectives], less is better.
    """
    points = np.asarray(values, float)
    front: list[int] = []
    # In this order no later point beats an earlier one, so the front so far is enough.
    for i in np.lexsort(points.T[::-1]):
        ahead = points[front]
        beaten = (ahead <= points[i]).all(axis=1) & (ahead < points[i]).any(axis=1)
        if not beaten.any():
            front.append(int(i))
    marked = np.zeros(len(points), dtype=np.bool_)
    marked[front] = True
    return marked


def hypervolume(values: ArrayLike, reference: ArrayLike) -> float:
    """Return the volume between points and a reference point that is as bad as any of them.

    By slicing along one objective after the other (While et al., "A Faster Algorithm for
    Calculating Hypervolume", IEEE Transactions on Evolutionary Computation 10(1), 2006).

    Args:
        values: [n, objectives], less is better; a point beyond the reference adds nothing.
        reference: [objectives].
    """
    points, corner = np.asarray(values, float), np.asarray(reference, float)
    points = points[(points < corner).all(axis=1)]
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    points = points[np.argsort(points[:, -1], kind="stable")]
    ends = [*points[1:, -1], corner[-1]]
    slices = (
        (end - points[i, -1]) * hypervolume(points[: i + 1, :-1], corner[:-1])
        for i, end in enumerate(ends)
        if end > points[i, -1]
    )
    return float(sum(slices))
