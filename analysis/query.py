"""Filter, sort and choose columns, as the command line asks for it."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.errors import AnalysisError
from analysis.tables import Table

_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|!=|==|=|<|>)\s*(.*?)\s*")
_ORDERS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def where(trials: pd.DataFrame, conditions: Iterable[str]) -> pd.DataFrame:
    """Keep the trials that meet all conditions: `model=resnet18,resnet34`, `lr<=0.01`.

    Raises:
        AnalysisError: a condition is not of that form, names no column, or no trial is left.
    """
    for condition in conditions:
        match = _CONDITION.fullmatch(condition)
        if not match:
            raise AnalysisError(
                f"--where {condition!r} must be COLUMN=VALUE (also !=, <, <=, >, >=)"
            )
        column, sign, value = match.groups()
        name = known(column, trials.columns, "--where")
        trials = trials[_meets(trials[name], sign, value, condition)]
        if trials.empty:
            raise AnalysisError(f"--where {condition!r} leaves no trial")
    return trials


def known(column: str, columns: Iterable[Any], option: str) -> str:
    """Return the column that is meant, by its own name or one a table shows it under."""
    names = [str(c) for c in columns]
    aliases = {"trial": "trial_id", "time": "total_seconds", "batch": "batch_size"}
    column = aliases.get(column, column)
    if column in names:
        return column
    near = difflib.get_close_matches(column, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
    raise AnalysisError(f"{option}: no column {column!r}; {hint}")


def sort(tables: Sequence[Table], column: str) -> list[Table]:
    """Sort every table that has the column; a leading minus sorts downwards."""
    name = known(column.removeprefix("-"), _columns(tables), "--sort")
    return [
        replace(
            t,
            frame=t.frame.sort_values(
                name, ascending=not column.startswith("-"), key=_sortable, kind="stable"
            ).reset_index(drop=True),
            group=None,
        )
        if name in t.frame
        else t
        for t in tables
    ]


def choose_columns(tables: Sequence[Table], columns: Sequence[str]) -> list[Table]:
    """Keep these columns, in this order, in every table; one that has none of them is left out."""
    names = [known(c.strip(), _columns(tables), "--columns") for c in columns if c.strip()]
    chosen = []
    for table in tables:
        kept = [n for n in names if n in table.frame]
        if kept:
            # Marks and spreads belong to their column and go with it.
            tail = [f"{n}{end}" for n in kept for end in ("_spread", "_low", "_high")]
            keep = [*kept, *(c for c in table.frame if c in tail or c == "best")]
            group = table.group if table.group in kept else None
            chosen.append(replace(table, frame=table.frame[keep], group=group))
    return chosen


def _columns(tables: Sequence[Table]) -> dict[str, None]:
    return {str(c): None for t in tables for c in t.frame if c != "best"}


def _meets(values: pd.Series[Any], sign: str, text: str, condition: str) -> pd.Series[bool]:
    if sign in _ORDERS:
        try:
            limit = float(text)
        except ValueError as error:
            raise AnalysisError(f"--where {condition!r} must compare with a number") from error
        numbers = pd.to_numeric(values, errors="coerce").astype("Float64")
        meets: pd.Series[bool] = _ORDERS[sign](numbers, limit).fillna(False).astype(bool)
        return meets
    wanted = {_plain(part) for part in text.split(",")}
    equal = values.map(_plain, na_action=None).isin(wanted)
    return ~equal if sign == "!=" else equal


def _plain(value: Any) -> str:
    """Write a cell and an option's value alike: 16, 16.0 and "16" are one value."""
    if value is None or value is pd.NA or value != value:
        return ""
    try:
        return f"{float(value):g}" if not isinstance(value, bool) else str(value).lower()
    except (TypeError, ValueError):
        return str(value).strip().lower()


def _sortable(values: pd.Series[Any]) -> pd.Series[Any]:
    numbers = pd.to_numeric(values, errors="coerce")
    return numbers if numbers.notna().any() else values.astype(str)
