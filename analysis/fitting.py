"""Fits a table of text into a terminal: what all rows share moves below, the rest is named."""

from __future__ import annotations

import pandas as pd

from analysis.columns import heading

#: Columns that a narrow terminal can do without, the most dispensable first.
DISPENSABLE = (
    "threads",
    "train_images",
    "test_interval",
    "peak_gflops",
    "parameters",
    "co_tenants",
    "unfinished",
    "failed",
    "stopped",
    "completed",
    "wall_seconds",
    "n",
    "gamma",
    "degree",
    "pin_memory",
    "precision",
    "predict_seconds",
    "train_seconds",
    "images_per_second",
    "optimizer",
    "scheduler",
    "searcher",
    "study",
    "status",
)
#: Longer cells, such as a whole configuration, are wrapped on any terminal.
WRAPPED_ABOVE = 36


def fit(cells: pd.DataFrame, width: int) -> tuple[pd.DataFrame, list[str]]:
    """Return the cells that fit into a width in characters, and notes on what was taken out.

    A table that fits comes back as it is. One that does not even without its dispensable columns
    is left to be wrapped.
    """
    notes = []
    if len(cells) > 1 and natural_width(cells) > width:
        shared = [c for c in cells.columns if cells[c].nunique() == 1]
        if shared and len(shared) < len(cells.columns):
            values = ", ".join(f"{heading(str(c))} {cells[c].iloc[0]}" for c in shared)
            notes.append(f"In all rows: {values}.")
            cells = cells.drop(columns=shared)
    left_out = []
    for column in DISPENSABLE:
        if natural_width(cells) <= width:
            break
        if column in cells and len(cells.columns) > 1:
            cells = cells.drop(columns=column)
            left_out.append(heading(column))
    if left_out:
        notes.append(f"Left out for want of width: {', '.join(left_out)}; --format csv has all.")
    return cells, notes


def natural_width(cells: pd.DataFrame) -> int:
    """Return the characters that a table takes, its borders included; long text is wrapped."""
    widths = [max([len(heading(str(c))), *map(len, cells[c])]) for c in cells.columns]
    widths = [min(width, WRAPPED_ABOVE) for width in widths]
    return sum(widths) + 3 * len(widths) + 1
