"""How each column is called and how its values are written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any, NamedTuple

import pandas as pd


class Column(NamedTuple):
    """A heading, and the digits after the point (None: as many as the number needs)."""

    heading: str
    digits: int | None = None


COLUMNS = {
    "trial_id": Column("trial"),
    "label": Column("model"),
    "device_label": Column("device"),
    "batch_size": Column("batch", 0),
    "epochs": Column("epochs", 0),
    "max_epochs": Column("planned epochs", 0),
    "best_epoch": Column("best epoch", 0),
    "pin_memory": Column("pin memory"),
    "image_size": Column("image px", 0),
    "val_accuracy": Column("val %", 2),
    "test_accuracy": Column("test %", 2),
    "test_interval": Column("test 95 %"),
    "train_seconds": Column("train s", 1),
    "predict_seconds": Column("predict s", 1),
    "total_seconds": Column("total s", 1),
    "wall_seconds": Column("wall s", 1),
    "seconds_to_best": Column("to best s", 1),
    "images_per_second": Column("images/s", 0),
    "gflops": Column("GFLOPs", 4),
    "achieved_gflops": Column("GFLOP/s", 1),
    "peak_gflops": Column("peak GFLOP/s", 0),
    "peak_share": Column("% of peak", 1),
    "threads": Column("threads", 0),
    "co_tenants": Column("co-tenants", 0),
    "parameters": Column("parameters", 0),
    "train_images": Column("train images", 0),
    "test_images": Column("test images", 0),
    "slow_device": Column("baseline"),
    "fast_device": Column("device"),
    "slow_seconds": Column("baseline s", 1),
    "fast_seconds": Column("device s", 1),
    "speedup": Column("speedup", 2),
    "speedup_interval": Column("95 %"),
    "pairs": Column("pairs", 0),
    "slow_trial": Column("baseline trial"),
    "fast_trial": Column("device trial"),
    "epochs_planned": Column("epochs planned", 0),
    "n": Column("n", 0),
    "span": Column("epochs"),
    "weights_from": Column("weights from"),
    "feasible": Column("in bounds"),
    "pareto": Column("front"),
    "finalist_of": Column("finalist of"),
    "answered_from": Column("answered from"),
    "val_interval": Column("val 95 %"),
    "val_loss": Column("val loss", 4),
    "memory_bytes": Column("memory bytes", 0),
    "in_search": Column("in search", 2),
    "ended_seconds": Column("ended s", 1),
    "hypervolume_percent": Column("hypervolume %", 1),
    "rank": Column("rank", 0),
}
_DEFAULT = Column("")
_SUFFIXES = ("_low", "_high", "_spread")


def heading(column: str) -> str:
    """Return the heading of a column: its own, or its name with spaces."""
    return COLUMNS[column].heading if column in COLUMNS else column.replace("_", " ")


def write(column: str, value: Any) -> str:
    """Write one value for a reader; an empty one is an empty string."""
    if empty(value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    digits = COLUMNS.get(column, _DEFAULT).digits
    if digits is not None:
        # Half a second is not 1: short times keep two significant digits.
        short = column.endswith("seconds") and 0 < abs(value) < 1
        return f"{value:.2g}" if short else f"{value:,.{digits}f}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def exact(value: Any) -> str:
    """Write every digit of a value, so that only equal ones read alike."""
    return repr(float(value)) if isinstance(value, float) and not empty(value) else write("", value)


def empty(value: Any) -> bool:
    """Tell whether a cell holds nothing."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def numeric(values: pd.Series[Any]) -> bool:
    """Tell whether a column holds numbers: truth values are words."""
    known = [v for v in values.tolist() if not empty(v)]
    return all(isinstance(v, Real) and not isinstance(v, bool) for v in known)


def readable(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the cells as text and the values they sort by, in the columns a reader sees.

    A spread joins its mean, an interval becomes one column, epochs that fell short say of how many,
    and a column that is empty for every row is left out.
    """
    text: dict[str, list[str]] = {}
    order: dict[str, list[Any]] = {}
    for column in frame.columns:
        if column == "best" or column.endswith(_SUFFIXES):
            continue
        if column == "max_epochs" and "epochs" in frame:
            continue
        cells = [write(column, value) for value in frame[column].tolist()]
        if not any(cells):
            continue
        text[column] = _joined(frame, column, cells)
        order[column] = frame[column].tolist()
        if f"{column}_low" in frame and frame[f"{column}_low"].notna().any():
            name = column.removesuffix("_accuracy") + "_interval"
            text[name] = _intervals(frame, column)
            order[name] = frame[f"{column}_low"].tolist()
    index = frame.index
    return pd.DataFrame(text, index=index, dtype=object), pd.DataFrame(order, index=index)


def _joined(frame: pd.DataFrame, column: str, cells: list[str]) -> list[str]:
    if column == "epochs" and "max_epochs" in frame:
        planned = frame["max_epochs"].tolist()
        return [
            f"{cell} of {write('max_epochs', plan)}"
            if cell and not empty(plan) and write("max_epochs", plan) != cell
            else cell
            for cell, plan in zip(cells, planned, strict=True)
        ]
    if f"{column}_spread" in frame:
        spreads = frame[f"{column}_spread"].tolist()
        return [
            cell if empty(spread) else f"{cell} ± {write(column, spread)}"
            for cell, spread in zip(cells, spreads, strict=True)
        ]
    return cells


def _intervals(frame: pd.DataFrame, column: str) -> list[str]:
    pairs = zip(frame[f"{column}_low"].tolist(), frame[f"{column}_high"].tolist(), strict=True)
    # En dashes set a range: a hyphen would read as a minus sign.
    return ["" if empty(low) else f"{low:.2f}\N{EN DASH}{high:.2f}" for low, high in pairs]


def listed(names: Iterable[str]) -> str:
    """Join the names of columns as in a sentence."""
    names = ["model" if name == "label" else name.replace("_", " ") for name in names]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
