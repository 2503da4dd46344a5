from __future__ import annotations

import csv
from pathlib import Path

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


def flip(path, old, new):
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new))


def cut(path):
    path.write_bytes(path.read_bytes()[:300])


DAMAGES = {
    "a flipped bit": lambda path: flip(path, b"90.0", b"99.0"),
    "truncated": cut,
    "truncated between lines": lambda p: p.write_bytes(b"".join(p.open("rb").readlines()[:3])),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": Path.unlink,
    "overwritten": lambda path: path.write_bytes(b"\x00" * 700 + b"\n"),
}


@pytest.mark.parametrize("name", ["record.jsonl", "record.copy.jsonl"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_damage_to_the_record_or_its_copy_is_mended_from_the_other(folder, damage, name):
    whole = (folder / name).read_bytes()
    damage(folder / name)
    assert len(list(read_events(folder))) == 6
    record = Record(folder)
    record.close()
    assert (folder / name).read_bytes() == whole
    gone = name == "record.copy.jsonl" and len(record.notes) == 0
    assert gone or "record" in record.notes[0]


def test_damage_to_both_is_an_error_that_names_the_line(folder):
    for name in ("record.jsonl", "record.copy.jsonl"):
        flip(folder / name, b"90.0", b"99.0")
    with pytest.raises(CorruptRecord, match=r"record\.jsonl: line 4 is damaged"):
        read_trials(folder)


def test_files_that_disagree_are_an_error(folder):
    other = folder / "other"
    other.mkdir()
    record = Record(other)
    record.append("trial", time=1.0, trial="00000", config={"trainable": "svm"})
    record.close()
    (folder / "record.copy.jsonl").write_bytes((other / "record.jsonl").read_bytes())
    with pytest.raises(CorruptRecord, match=r"line 1 is not that of record\.copy\.jsonl"):
        read_trials(folder)


def test_every_cut_of_the_last_line_leaves_whole_events(folder):
    data = (folder / "record.jsonl").read_bytes()
    (folder / "record.copy.jsonl").unlink()
    start = data[:-1].rindex(b"\n") + 1
    for end in range(start, len(data)):
        (folder / "record.jsonl").write_bytes(data[:end])
        assert len(list(read_events(folder))) == 5


def test_a_failed_trial_that_is_retried_begins_anew(folder):
    record = Record(folder)
    record.append("retry", time=10.0, trial="00000")
    record.append("start", time=11.0, trial="00000")
    record.close()
    trial = read_trials(folder)["00000"]
    assert (trial.status, trial.reports, trial.started) == ("running", [], 11.0)
    assert trial.busy_seconds == 7.0


def test_a_report_sent_twice_counts_once(folder):
    record = Record(folder)
    metrics = {"epoch": 3, "val_accuracy": 85.0, "train_seconds": 6.0}
    record.append("report", time=8.0, trial="00000", metrics=metrics)
    record.close()
    assert len(read_trials(folder)["00000"].reports) == 3
