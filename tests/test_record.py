from __future__ import annotations

import csv

import pytest

from tuning.record import (
    COLUMNS,
    CorruptRecord,
    Record,
    read_events,
    read_trials,
    write_table,
)


@pytest.fixture
def folder(tmp_path):
    record = Record(tmp_path)
    record.append("trial", time=1.0, trial="00000", config={"trainable": "resnet", "epochs": 3})
    record.append("start", time=2.0, trial="00000")
    for epoch, accuracy in enumerate((80.0, 90.0, 85.0), start=1):
        metrics = {"epoch": epoch, "val_accuracy": accuracy, "train_seconds": 2.0 * epoch}
        record.append("report", time=2.0 + epoch, trial="00000", metrics=metrics)
    record.append("end", time=9.0, trial="00000", status="completed", error="")
    record.close()
    return tmp_path


def test_a_row_takes_accuracy_from_the_best_epoch_and_time_from_the_last(folder):
    row = read_trials(folder)["00000"].row()
    assert (row["val_accuracy"], row["best_epoch"], row["epochs"]) == (90.0, 2, 3)
    assert (row["train_seconds"], row["started"], row["ended"]) == (6.0, 2.0, 9.0)


def test_the_table_has_every_column_of_the_contract(folder):
    write_table(folder, read_trials(folder).values())
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    assert rows[0]["kernel"] == ""


def test_an_unfinished_last_line_is_passed_over_and_cut_off_on_opening(folder):
    path = folder / "record.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'0badc0de {"event":"end","tri')
    assert len(list(read_events(folder))) == 6
    Record(folder).close()
    assert path.read_bytes() == whole


def test_a_changed_byte_is_an_error_that_names_the_line(folder):
    path = folder / "record.jsonl"
    path.write_bytes(path.read_bytes().replace(b"90.0", b"99.0"))
    with pytest.raises(CorruptRecord, match="line 4 is damaged"):
        read_trials(folder)


def test_a_report_sent_twice_counts_once(folder):
    record = Record(folder)
    metrics = {"epoch": 3, "val_accuracy": 85.0, "train_seconds": 6.0}
    record.append("report", time=8.0, trial="00000", metrics=metrics)
    record.close()
    assert len(read_trials(folder)["00000"].reports) == 3
