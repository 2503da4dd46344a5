"""Table D: speedups of matched pairs, what was matched, and what was left out and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from analysis.columns import listed
from analysis.load import Results
from analysis.matching import MATCHED, find_pairs
from analysis.statistics import Interval, geometric_mean
from analysis.tables import Table

ALL = "all"
#: More reasons than these are told without the values that differ.
MOST_REASONS = 12


def speedup(results: Results) -> tuple[Table, Table]:
    """Return the speedups per model with their interval, and the pairs that they come from."""
    pairs, rest = find_pairs(results.trials)
    notes = _rest_notes(rest)
    if pairs.empty:
        nothing = ("No matched pair, so no speedup is given.", *notes)
        empty = pd.DataFrame()
        return Table("speedup", "D. Speedup", empty, nothing), Table("pairs", "Pairs", empty)
    summary = pd.DataFrame(
        [
            row
            for (slow, fast), rows in pairs.groupby(["slow_device", "fast_device"], sort=False)
            for row in _summaries(str(slow), str(fast), rows)
        ]
    )
    notes = (*_summary_notes(summary, pairs), *_load_notes(pairs, results.trials), *notes)
    columns = [
        *[c for c in ("dataset", "label") if c in pairs],
        "slow_device",
        "fast_device",
        *[c for c in MATCHED[2:] if c in pairs],
        "basis",
        "slow_seconds",
        "fast_seconds",
        "speedup",
        "slow_trial",
        "fast_trial",
    ]
    return (
        Table("speedup", "D. Speedup", summary, notes),
        Table("pairs", "D. Speedup: the matched pairs", pairs[columns]),
    )


def _summaries(slow: str, fast: str, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a row per model, and one for all models where there are several."""
    groups: list[tuple[str, pd.DataFrame]] = [
        (str(label), part) for label, part in rows.groupby("label", sort=False)
    ]
    if len(groups) > 1:
        groups.append((ALL, rows))
    return [
        {
            "label": label,
            "slow_device": slow,
            "fast_device": fast,
            "pairs": len(part),
            "speedup": interval.estimate,
            "speedup_low": interval.low,
            "speedup_high": interval.high,
            "best": label == ALL,
        }
        for label, part, interval in (
            (label, part, _interval(part["speedup"])) for label, part in groups
        )
    ]


def _interval(speedups: Iterable[float]) -> Interval:
    return geometric_mean([float(s) for s in speedups])


def _summary_notes(summary: pd.DataFrame, pairs: pd.DataFrame) -> tuple[str, ...]:
    matched = [c for c in MATCHED if c in pairs and pairs[c].notna().any()]
    unknown = [c for c in MATCHED[:10] if c not in matched]
    notes = [
        f"Matched on {listed(matched)}; geometric mean with a bootstrap 95 % interval over pairs."
    ]
    if unknown:
        notes.append(f"Recorded on neither side, so taken as equal: {listed(unknown)}.")
    if summary["pairs"].between(2, 5).any():
        notes.append("With fewer than six pairs the interval is a lower bound of the uncertainty.")
    single = summary.loc[summary["pairs"].eq(1), "label"].tolist()
    if single:
        notes.append(f"One pair carries no interval: {', '.join(single)}.")
    if (pairs["basis"] == "total_seconds").any():
        notes.append(
            "Times are total seconds where training time alone is not known on both sides."
        )
    if summary["label"].eq(ALL).any():
        notes.append("The row of all models is the mean over these models, not over any model.")
    return tuple(notes)


def _load_notes(pairs: pd.DataFrame, trials: pd.DataFrame) -> tuple[str, ...]:
    """Say with how many threads, and beside how many others, the paired trials ran."""
    rows = trials.loc[sorted({index for members in pairs["members"] for index in members})]
    notes = []
    for column, meaning in (("threads", "threads"), ("co_tenants", "co-tenants on its host")):
        known = rows[rows[column].notna()]
        parts = [
            f"{device} {_span(values)}"
            for device, values in known.groupby("device_label")[column]
            if len(values)
        ]
        notes.append(
            f"{meaning.capitalize()} per trial: {'; '.join(parts)}."
            if parts
            else f"{meaning.capitalize()} per trial: not recorded."
        )
    return tuple(notes)


def _span(values: pd.Series[Any]) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _rest_notes(rest: pd.DataFrame) -> tuple[str, ...]:
    """Name what was left out, trials of one reason together; of many reasons, without values."""
    column = "reason" if rest["reason"].nunique() <= MOST_REASONS else "kind"
    return tuple(
        f"Left out, {reason}: {', '.join(rows['trial_id'])}."
        for reason, rows in rest.groupby(column, sort=False)
    )
