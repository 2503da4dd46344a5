from __future__ import annotations

import pandas as pd

from analysis.fitting import fit, natural_width

CELLS = pd.DataFrame(
    {
        "dataset": ["fashion_mnist"] * 2,
        "label": ["resnet18", "svm rbf"],
        "threads": ["1", "2"],
        "val_accuracy": ["87.70", "86.73"],
    }
)


def test_a_table_that_fits_stays_as_it_is() -> None:
    cells, notes = fit(CELLS, 200)
    assert cells is CELLS
    assert notes == []


def test_what_all_rows_share_moves_into_a_note_first() -> None:
    cells, notes = fit(CELLS, natural_width(CELLS) - 1)
    assert list(cells) == ["label", "threads", "val_accuracy"]
    assert notes == ["In all rows: dataset fashion_mnist."]


def test_dispensable_columns_go_next_and_are_named() -> None:
    cells, notes = fit(CELLS, 22)
    assert list(cells) == ["label", "val_accuracy"]
    assert notes[1] == "Left out for want of width: threads; --format csv has all."
    assert natural_width(cells) <= 22
