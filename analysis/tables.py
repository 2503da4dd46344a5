"""The comparison tables: trials in, one `Table` of numbers each out; see `render` for the text.

Selection, everywhere: the highest validation accuracy of a trial's best epoch chooses, or what else
the study searched by; the test split is read once, for what was chosen, and ties are named. Trials
beyond a bound are never chosen, and where finalists ran again, only they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import Results
from analysis.statistics import wilson

#: Averaged when trials differ only in their seed; each gets a `_spread` (standard deviation).
AVERAGED = (
    "val_accuracy",
    "test_accuracy",
    "val_loss",
    "train_seconds",
    "predict_seconds",
    "total_seconds",
    "images_per_second",
)
#: What must agree, beside the hyperparameters, for trials to be repeats of one another.
IDENTITY = (
    "study",
    "source",
    "status",
    "dataset",
    "model",
    "trainable",
    "device",
    "device_name",
    "threads",
    "train_images",
    "epochs",
    "finalist_of",
    "answered_from",
)
#: Shown beside the status in tables of trials that have them.
MARKS = ("finalist_of", "answered_from")
_DEVICE_GFLOPS_NOTE = (
    "Achieved GFLOP/s = 3 x the forward pass's GFLOPs x images/s (a backward pass costs two "
    "forward ones); the share is of the host's measured matrix-product peak with all its CPUs."
)


@dataclass(frozen=True)
class Table:
    """Numbers with what a reader must know about them.

    `frame` keeps raw values; a column `best` (bool) marks the rows to stand out, and columns that
    end in `_low`, `_high` or `_spread` belong to the column without that ending. `group` names the
    column by which rows are put together.
    """

    key: str
    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    group: str | None = None


def merge_repeats(trials: pd.DataFrame, hyperparameters: Sequence[str]) -> pd.DataFrame:
    """Make one row of trials that differ only in their seed: mean, `_spread` and n.

    The spread is the standard deviation over the seeds (n - 1), empty for a single trial. Trials
    that failed or did not finish stay apart: each is named.
    """
    keys = [c for c in dict.fromkeys([*IDENTITY, *hyperparameters]) if c in trials]
    alone = ~trials["status"].isin(["completed", "stopped"])
    codes = trials.groupby(keys, dropna=False, sort=False).ngroup()
    apart = np.where(alone, -1 - np.arange(len(trials)), codes)
    grouped = trials.groupby(pd.factorize(apart)[0])
    how: dict[str, Any] = dict.fromkeys(trials.columns, "first")
    how |= dict.fromkeys(AVERAGED, "mean")
    how |= {"trial_id": ", ".join, "started": "min", "ended": "max", "co_tenants": "max"}
    if grouped.ngroups == len(trials):
        merged = trials.reset_index(drop=True)
    else:
        merged = grouped.agg(how).reset_index(drop=True)
    spread = grouped[list(AVERAGED)].std().reset_index(drop=True).add_suffix("_spread")
    merged = pd.concat([merged, spread], axis="columns")
    merged["n"] = grouped.size().to_numpy()
    images = merged["test_images"].to_numpy(float, na_value=np.nan)
    low, high = wilson(merged["test_accuracy"].to_numpy(float), images)
    return merged.assign(test_accuracy_low=low, test_accuracy_high=high)


def mark_best(frame: pd.DataFrame, by: Sequence[str]) -> pd.Series[bool]:
    """Mark the completed rows with the highest validation accuracy of each group, ties included.

    A group without any validation accuracy (published tables) is marked by its test accuracy.
    """
    best = pd.Series(data=False, index=frame.index)
    for _, rows in eligible(frame).groupby(list(by), dropna=False, sort=False):
        values = goal_values(rows)
        if values.isna().all():
            values = rows["test_accuracy"]
        best[first_by(rows, values).index] = True
    return best


def eligible(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that may be called best: completed, within all bounds, really run.

    Of a study and data set whose finalists ran again, only these runs.
    """
    done = trials[trials["status"].eq("completed")]
    if "answered_from" in done:
        done = done[done["answered_from"].isna()]
    if "feasible" in done:
        done = done[~done["feasible"].eq(False)]
    if "finalist_of" not in done or done["finalist_of"].isna().all():
        return done
    final = done["finalist_of"].notna()
    keys = [done[c].astype(str) for c in ("study", "dataset")]
    return done[final | ~final.groupby(keys).transform("any")]


def goal_values(trials: pd.DataFrame) -> pd.Series[Any]:
    """Return what chooses among trials, higher being better: the accuracy, or what was searched."""
    if "goal" in trials and trials["goal"].notna().all():
        return trials["goal"].astype(float)
    return trials["val_accuracy"]


def first_by(trials: pd.DataFrame, values: pd.Series[Any]) -> pd.DataFrame:
    """Return the trials with the highest value; of several objectives, the next ones break ties.

    Among equals in the first objective, those that win the next are the ones on the front.
    """
    best = trials[values.eq(values.max())]
    if "pareto" in best and (ahead := best["pareto"].eq(True)).any():
        return best[ahead]
    return best


def varied(trials: pd.DataFrame, hyperparameters: Sequence[str]) -> list[str]:
    """Return the hyperparameters that take more than one value, in the order of the contract.

    What differs only between networks and SVMs (the precision) was not varied by anybody.
    """
    machines = is_svm(trials)
    parts = (trials[machines], trials[~machines])
    return [
        h
        for h in hyperparameters
        if h in trials
        and h != "kernel"
        and any(part[h].dropna().astype(str).nunique() > 1 for part in parts)
    ]


def comparison(results: Results, group: str = "dataset") -> Table:
    """Return every configuration side by side, ResNets and SVMs, best validation first."""
    rows = merge_repeats(results.trials, results.hyperparameters)
    settings = [h for h in varied(rows, results.hyperparameters) if h not in ("max_epochs", group)]
    columns = [
        *_where(rows),
        "label",
        *settings,
        *_status(rows),
        "epochs",
        "max_epochs",
        *_with_spread("val_accuracy", "test_accuracy"),
        "train_seconds",
        "predict_seconds",
        "total_seconds",
        "n",
        "trial_id",
        "best",
    ]
    return _table(
        "comparison", "All trials side by side", rows, columns, group, _notes(results, rows)
    )


def hyperparameters(results: Results, group: str = "dataset") -> Table:
    """Return table A: networks with their hyperparameters, test accuracy and time."""
    rows = merge_repeats(results.trials, results.hyperparameters)
    known = tuned_networks(rows)
    extra = [h for h in varied(rows[known], results.hyperparameters) if h not in _TABLE_A]
    columns = [
        *_where(rows[known]),
        *_TABLE_A,
        *extra,
        *_status(rows[known]),
        "val_accuracy",
        "val_accuracy_spread",
        *_TEST,
        *_with_spread("total_seconds"),
        "n",
        "best",
    ]
    return _table("hyperparameters", "A. Hyperparameters", rows[known], columns, group)


def svm(results: Results, group: str = "dataset") -> Table:
    """Return table B: support vector machines with kernel, accuracy, fit and predict time."""
    rows = merge_repeats(results.trials, results.hyperparameters)
    machines = rows[is_svm(rows)]
    columns = [
        *_where(machines),
        "kernel",
        "C",
        "gamma",
        "degree",
        "train_images",
        *_status(machines),
        "val_accuracy",
        "val_accuracy_spread",
        *_TEST,
        *_with_spread("train_seconds", "predict_seconds", "total_seconds"),
        "n",
        "best",
    ]
    return _table("svm", "B. Support vector machines", machines, columns, group)


def hardware(results: Results, group: str = "dataset") -> Table:
    """Return table C: what each device made of each network, in time and in GFLOP/s."""
    rows = merge_repeats(results.trials, results.hyperparameters)
    rows = rows[rows["gflops"].notna() & rows["total_seconds"].notna()]
    achieved = 3 * rows["gflops"] * rows["images_per_second"]
    rows = rows.assign(
        achieved_gflops=achieved, peak_share=100 * achieved / rows["peak_gflops"]
    ).sort_values(["dataset", "gflops", "total_seconds"], ascending=[True, True, False])
    columns = [
        *(["study"] if rows["study"].nunique() > 1 else []),
        "device_label",
        "label",
        "batch_size",
        "optimizer",
        "precision",
        "epochs",
        *_with_spread("total_seconds"),
        *_with_spread("test_accuracy"),
        "gflops",
        *_with_spread("images_per_second"),
        "achieved_gflops",
        "peak_gflops",
        "peak_share",
        "threads",
        "co_tenants",
        "n",
    ]
    notes = (_DEVICE_GFLOPS_NOTE,) if achieved.notna().any() else ()
    return _table("hardware", "C. Hardware", rows, columns, group, notes, sort=False)


def trials(results: Results) -> Table:
    """Return the trials themselves, unmerged, in the contract's columns and what they add."""
    frame = results.trials.drop(columns=["label", "device_label", "goal"], errors="ignore")
    return Table("trials", "Trials", frame)


def tuned_networks(trials: pd.DataFrame) -> pd.Series[bool]:
    """Tell the networks whose hyperparameters are known from SVMs and from bare benchmarks."""
    known = trials[["batch_size", "lr"]].notna().any(axis="columns")
    return known & ~is_svm(trials)


def is_svm(trials: pd.DataFrame) -> pd.Series[bool]:
    """Tell the support vector machines."""
    return trials["model"].eq("svm") | trials["kernel"].notna()


_TABLE_A = ("label", "batch_size", "optimizer", "lr", "epochs", "pin_memory")
_TEST = ("test_accuracy", "test_accuracy_spread", "test_accuracy_low", "test_accuracy_high")


def _where(rows: pd.DataFrame) -> list[str]:
    """Return the columns of the study and the device where they tell rows apart."""
    return [c for c in ("study", "device_label") if rows[c].nunique() > 1]


def _status(rows: pd.DataFrame) -> list[str]:
    """Return the status' column where not all completed, and the marks that some trial has."""
    marks = [mark for mark in MARKS if mark in rows and rows[mark].notna().any()]
    if "feasible" in rows and rows["feasible"].eq(False).any():
        marks.insert(0, "feasible")
    return (["status"] if rows["status"].ne("completed").any() else []) + marks


def _with_spread(*columns: str) -> list[str]:
    return [name for column in columns for name in (column, f"{column}_spread")]


def _table(
    key: str,
    title: str,
    rows: pd.DataFrame,
    columns: Sequence[str],
    group: str,
    notes: tuple[str, ...] = (),
    *,
    sort: bool = True,
) -> Table:
    """Order rows within their group, best first, mark the best and keep the given columns."""
    if group not in rows:
        raise KeyError(group)
    by = list(dict.fromkeys([group, "dataset", "source"]))
    rows = rows.assign(best=mark_best(rows, by))
    if sort:
        rows = rows.sort_values(
            [group, "val_accuracy", "test_accuracy"],
            ascending=[True, False, False],
            kind="stable",
            key=_comparable,
        )
    if rows.get("n", pd.Series([1])).max() == 1:
        columns = [c for c in columns if c != "n"]
    names = dict.fromkeys([group, "dataset", *columns])
    if "best" in columns and rows["best"].any():
        notes = (*notes, _rule(rows, group))
    return Table(key, title, rows[list(names)].reset_index(drop=True), notes, group)


def _comparable(values: pd.Series[Any]) -> pd.Series[Any]:
    """Make words of a column that mixes them with numbers (gamma: "scale" and 0.1)."""
    return values.map(str, na_action="ignore") if values.dtype == object else values


def _rule(rows: pd.DataFrame, group: str) -> str:
    best = rows[rows["best"]]
    per = "dataset" if group == "dataset" else f"{group} and dataset"
    by_test = best["val_accuracy"].isna()
    if by_test.all():
        return f"Best per {per} stands out, by test accuracy: no validation accuracy is known."
    metric = "validation accuracy"
    if "goal" in best and best["goal"].notna().any():
        metric = "searched metric"
    rule = f"Best per {per} stands out, chosen by the {metric} of its best epoch"
    if "finalist_of" in best and best["finalist_of"].notna().any():
        rule += " (finalists: mean of the new runs)"
    return f"{rule} (published rows by test accuracy)." if by_test.any() else f"{rule}."


def _notes(results: Results, rows: pd.DataFrame) -> tuple[str, ...]:
    notes = [note for study in results.studies for note in study.notes]
    failed = rows[rows["status"].eq("failed")]
    notes += [
        f"{study} trial {trial} failed: {_first_line(error)}"
        for study, trial, error in zip(
            failed["study"], failed["trial_id"], failed["error"], strict=True
        )
    ]
    notes += _larger_shares(rows)
    for status, meaning in (
        ("stopped", "stopped early by the scheduler: no test accuracy, fewer epochs"),
        ("running", "did not finish: `tuning resume` goes on with them"),
        ("pending", "never began: `tuning resume` goes on with them"),
    ):
        count = int(results.trials["status"].eq(status).sum())
        if count:
            notes.append(f"{count} trial{'s' if count > 1 else ''} {meaning}.")
    notes += _mark_notes(results.trials)
    if rows["n"].max() > 1:
        notes.append("Rows of n trials that differ only in their seed: mean ± standard deviation.")
    return tuple(notes)


def _larger_shares(rows: pd.DataFrame) -> list[str]:
    """Name the trials that needed more of a GPU than they were given at first."""
    if "out_of_memory_at" not in rows or "gpus" not in rows:
        return []
    found = rows[rows["out_of_memory_at"].notna() & rows["status"].eq("completed")]
    return [
        f"{study} trial {trial} ran out of memory with {was:g} of a GPU and finished with {now:g}."
        for study, trial, was, now in zip(
            found["study"], found["trial_id"], found["out_of_memory_at"], found["gpus"], strict=True
        )
    ]


def _mark_notes(trials: pd.DataFrame) -> Iterator[str]:
    if "feasible" in trials and trials["feasible"].eq(False).any():
        outside = trials[trials["feasible"].eq(False)]["trial_id"].tolist()
        yield f"Beyond a bound of the study, so never called best: {', '.join(outside)}."
    if "finalist_of" in trials and trials["finalist_of"].notna().any():
        yield "Only the finalists' runs are read on test; the others have no test accuracy."
    if "answered_from" in trials and trials["answered_from"].notna().any():
        rows = trials[trials["answered_from"].notna()]
        pairs = zip(rows["trial_id"], rows["answered_from"], strict=True)
        listed = ", ".join(f"{trial} ({source}'s)" for trial, source in pairs)
        yield f"Answered from the record instead of run again: {listed}."


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # A Python traceback says what happened in its last line.
    text = lines[-1] if lines else "no reason recorded"
    return text if len(text) <= 160 else f"{text[:157]}..."
