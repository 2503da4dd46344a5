"""The numbers behind each picture, computed apart from the drawing in `pictures`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.columns import empty, write
from analysis.front import Coverage, called_best, coverage_of
from analysis.load import Results
from analysis.pareto import (
    Objective,
    comparable,
    losses,
    measured,
    non_dominated,
    objectives,
    original,
)
from analysis.predictions import Predictions, read_predictions
from analysis.search import choose
from analysis.tables import varied

Floats = NDArray[np.float64]

#: Lines beyond these are drawn without a name of their own.
NAMED_CURVES = 6
MOST_CURVES = 300
MOST_POINTS = 600
MOST_IMPORTANCE_TRIALS = 300
#: More distinct values than these are ordered numbers to the importance's forest.
MOST_CATEGORIES = 10
#: A value this far below the best accuracy, in points, would squeeze all others together.
ACCURACY_RANGE = 15.0
CLASS_NAMES = {
    "fashion_mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "boot"),
    )
}


class Curve(NamedTuple):
    """Validation accuracy [epochs] in percent over the epochs [epochs] of one trial."""

    name: str
    trial: str
    status: str
    epochs: Floats
    accuracy: Floats


class Point(NamedTuple):
    """One trial: total seconds and accuracy in percent; `front` when none is better in both."""

    name: str
    label: str
    device: str
    seconds: float
    accuracy: float
    front: bool


class Mark(NamedTuple):
    """One trial by its first two objectives; `best` is the one that is called so."""

    name: str
    first: float
    second: float
    front: bool
    feasible: bool
    best: bool


class Front(NamedTuple):
    """Trials by two objectives, and the hypervolume that they covered over time."""

    first: Objective
    second: Objective
    marks: list[Mark]
    coverage: Coverage


class Axis(NamedTuple):
    """One upright axis of parallel coordinates; ticks are (height in 0-1, text)."""

    name: str
    ticks: list[tuple[float, str]]


class Parallel(NamedTuple):
    """Trials as lines: heights [trials, axes] in 0-1 (NaN: does not apply), accuracy [trials]."""

    axes: list[Axis]
    heights: Floats
    accuracy: Floats
    names: list[str]


class Bar(NamedTuple):
    """One bar with its interval; None where there is none."""

    name: str
    value: float
    low: float | None
    high: float | None
    n: int


class Span(NamedTuple):
    """A trial on its host, in seconds since the first start; lanes keep spans from overlapping."""

    name: str
    label: str
    host: str
    status: str
    begin: float
    end: float
    lane: int


class Confusion(NamedTuple):
    """Counts [classes, classes] of test images: actual class by predicted class."""

    name: str
    counts: NDArray[np.int64]
    classes: tuple[str, ...]


def configuration_name(trial: pd.Series[Any], settings: Sequence[str]) -> str:
    """Name a configuration by its model and what varied."""
    parts = [write(s, trial[s]) for s in settings if s != "max_epochs" and not empty(trial[s])]
    return " · ".join([str(trial["label"]), *parts])


def describe(trial: pd.Series[Any], settings: Sequence[str]) -> str:
    """Name a trial by its configuration and its id."""
    return f"{configuration_name(trial, settings)} ({trial['trial_id']})"


def learning_curves(results: Results, trials: pd.DataFrame) -> list[Curve]:
    """Return the curves of these trials, the best first; an SVM's is a single value."""
    if "val_accuracy" not in results.curves:
        return []
    settings = varied(trials, results.hyperparameters)
    ranked = trials[trials["val_accuracy"].notna()].sort_values(
        "val_accuracy", ascending=False, kind="stable"
    )
    by_trial = dict(list(results.curves.groupby(["study", "trial_id"], sort=False)))
    curves = []
    for _, trial in ranked.head(MOST_CURVES).iterrows():
        reports = by_trial.get((trial["study"], trial["trial_id"]))
        if reports is None:
            continue
        epochs = (
            reports["epoch"].to_numpy(float)
            if "epoch" in reports
            else np.full(len(reports), np.nan)
        )
        accuracy = reports["val_accuracy"].to_numpy(float)
        name, status = configuration_name(trial, settings), str(trial["status"])
        curves.append(Curve(name, str(trial["trial_id"]), status, epochs, accuracy))
    return curves


def accuracy_against_time(results: Results, trials: pd.DataFrame) -> tuple[str, list[Point]]:
    """Return which accuracy is meant, and a point per trial that has a time.

    The front holds the completed trials that no other one beats in both time and accuracy.
    """
    done = trials[trials["status"].eq("completed") & trials["total_seconds"].gt(0)]
    column = "val_accuracy" if done["val_accuracy"].notna().any() else "test_accuracy"
    done = done[done[column].notna()].sort_values(column, ascending=False).head(MOST_POINTS)
    settings = varied(trials, results.hyperparameters)
    goals = (Objective("total_seconds", "min"), Objective(column, "max"))
    front = non_dominated(losses(done, goals))
    points = [
        Point(
            describe(trial, settings),
            str(trial["label"]),
            str(trial["device_label"] or "unknown device"),
            float(trial["total_seconds"]),
            float(trial[column]),
            bool(ahead),
        )
        for (_, trial), ahead in zip(done.iterrows(), front, strict=True)
    ]
    return column, points


def pareto_front(results: Results, trials: pd.DataFrame) -> Front | None:
    """Return the trials of one study by its first two objectives, or None without several."""
    studies = [results.study(str(name)) for name in trials["study"].unique()]
    study = next((s for s in studies if objectives(s.description)), None)
    if study is None:
        return None
    goals = objectives(study.description)
    rows = original(trials[trials["study"].eq(study.name)])
    rows = measured(rows, goals).head(MOST_POINTS)
    if rows.empty:
        return None
    settings = varied(rows, results.hyperparameters)
    chosen = called_best(trials[trials["study"].eq(study.name)])
    if "feasible" not in rows:
        rows = rows.assign(feasible=True)
    flags = zip(rows["pareto"].eq(True), ~rows["feasible"].eq(False), strict=True)
    marks = [
        Mark(
            describe(trial, settings),
            float(trial[goals[0].metric]),
            float(trial[goals[1].metric]),
            bool(ahead),
            bool(within),
            trial["trial_id"] in chosen,
        )
        for (_, trial), (ahead, within) in zip(rows.iterrows(), flags, strict=True)
    ]
    own = rows.assign(began=trials["started"].min())
    return Front(goals[0], goals[1], marks, coverage_of(comparable(own, goals), goals))


def parallel_coordinates(results: Results, trials: pd.DataFrame) -> Parallel | None:
    """Return one axis per varied hyperparameter and one for the accuracy, or None for too few."""
    done = trials[trials["val_accuracy"].notna()]
    done = done.sort_values("val_accuracy", ascending=False).head(MOST_POINTS)
    settings = varied(done, results.hyperparameters)
    names = varied(done, ["label", *results.hyperparameters])[:7]
    if len(done) < 2 or not names:
        return None
    columns = [_axis(name, done[name].tolist()) for name in names]
    accuracy = done["val_accuracy"].to_numpy(float)
    columns.append(_numeric_axis("val_accuracy", accuracy, log=False))
    return Parallel(
        [axis for axis, _ in columns],
        np.column_stack([heights for _, heights in columns]),
        accuracy,
        [describe(trial, settings) for _, trial in done.iterrows()],
    )


def importance(results: Results, trials: pd.DataFrame) -> list[Bar]:
    """Return Optuna's importance of each varied hyperparameter for the validation accuracy.

    Optuna is imported here: only the report asks for it, and it may not be installed.

    Raises:
        ImportError: Optuna, or scikit-learn that its evaluator needs, is not installed.
    """
    done = trials[trials["val_accuracy"].notna()]
    # Forests of more trials take minutes and say the same.
    done = done.sample(min(len(done), MOST_IMPORTANCE_TRIALS), random_state=0)
    settings = varied(done, ["label", *results.hyperparameters])
    if len(done) < 4 or not settings or done["val_accuracy"].nunique() < 2:
        return []
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranks = {name: _ranks(done[name]) for name in settings}
    spaces: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.CategoricalDistribution(sorted(set(values)))
        if len(set(values)) <= MOST_CATEGORIES
        else optuna.distributions.IntDistribution(0, max(values))
        for name, values in ranks.items()
    }
    study = optuna.create_study(direction="maximize")
    for row, value in enumerate(done["val_accuracy"].tolist()):
        params = {name: values[row] for name, values in ranks.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=value))
    evaluator = FanovaImportanceEvaluator(n_trees=32, seed=0)
    found = get_param_importances(study, evaluator=evaluator)
    return [Bar(name, float(value), None, None, len(done)) for name, value in found.items()]


def _ranks(values: pd.Series[Any]) -> list[int]:
    """Number the distinct values in order; what does not apply to a trial is a value of its own."""
    known = {v for v in values.tolist() if not empty(v)}
    order = sorted(known, key=lambda v: (isinstance(v, str), v))
    place = {v: i + 1 for i, v in enumerate(order)}
    return [0 if empty(v) else place[v] for v in values.tolist()]


def timeline(trials: pd.DataFrame) -> list[Span]:
    """Return when each trial ran on its host; one that did not end lasts to the last known time."""
    known = trials[trials["started"].notna() & trials["host"].notna()].sort_values("started")
    if known.empty:
        return []
    zero = known["started"].min()
    last = np.nanmax([known["ended"].max(), known["started"].max()])
    lanes: dict[str, list[float]] = {}
    spans = []
    for _, trial in known.iterrows():
        begin = float(trial["started"] - zero)
        end = float((trial["ended"] if not empty(trial["ended"]) else last) - zero)
        free = lanes.setdefault(str(trial["host"]), [])
        lane = next((i for i, until in enumerate(free) if until <= begin), len(free))
        free[lane : lane + 1] = [end]
        spans.append(
            Span(
                str(trial["trial_id"]),
                str(trial["label"]),
                str(trial["host"]),
                str(trial["status"]),
                begin,
                end,
                lane,
            )
        )
    return spans


def confusion(results: Results, trials: pd.DataFrame) -> Confusion | None:
    """Return the confusion matrix of the chosen trial, where its predictions are stored."""
    for _, trial in choose(trials).iterrows():
        study = results.study(str(trial["study"]))
        predictions = read_predictions(study, str(trial["trial_id"]))
        if predictions is not None:
            settings = varied(trials, results.hyperparameters)
            names = CLASS_NAMES.get(str(trial["dataset"]))
            return count_confusion(describe(trial, settings), predictions, names)
    return None


def count_confusion(
    name: str, predictions: Predictions, names: tuple[str, ...] | None = None
) -> Confusion:
    """Count test images by actual and predicted class."""
    actual = predictions.actual.astype(np.int64)
    predicted = predictions.predicted.astype(np.int64)
    classes = int(max(actual.max(), predicted.max())) + 1
    counts = np.bincount(actual * classes + predicted, minlength=classes**2)
    labels = names if names and len(names) == classes else tuple(map(str, range(classes)))
    return Confusion(name, counts.reshape(classes, classes).astype(np.int64), labels)


def _axis(name: str, values: list[Any]) -> tuple[Axis, Floats]:
    """Scale one hyperparameter to 0-1: numbers by value, or by magnitude, words evenly."""
    known = [v for v in values if not empty(v)]
    numeric = all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in known)
    distinct = sorted(set(known), key=lambda v: (str(type(v)), v) if not numeric else ("", v))
    if numeric and len(distinct) > 6:
        numbers = np.array([np.nan if empty(v) else float(v) for v in values])
        return _numeric_axis(name, numbers, log=min(known) > 0 and max(known) > 50 * min(known))
    step = 1 / max(len(distinct) - 1, 1)
    place = {write("", v): i * step for i, v in enumerate(distinct)}
    heights = [np.nan if empty(v) else place[write("", v)] for v in values]
    return Axis(name, [(h, text) for text, h in place.items()]), np.array(heights, float)


def _numeric_axis(name: str, values: Floats, *, log: bool) -> tuple[Axis, Floats]:
    scaled = np.log(values) if log else values
    low, high = float(np.nanmin(scaled)), float(np.nanmax(scaled))
    if name == "val_accuracy":
        low = max(low, high - ACCURACY_RANGE)
    heights = np.clip((scaled - low) / ((high - low) or 1.0), 0, 1)
    ticks = []
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        ticks.append((share, f"{np.exp(value) if log else value:.3g}"))
    return Axis(name, ticks), heights
