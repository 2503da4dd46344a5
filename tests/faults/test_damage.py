"""A study folder that was damaged or tampered with: mended or refused, never a wrong table."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from tests.conftest import MINIMAL
from tests.faults.harness import Bench, study
from tuning import experiment
from tuning.record import RECORD, Record, read_events
from tuning.searchers import ResumeError
from tuning.study_file import StudyError, dump, validate


class Canary:
    """What it is pickled into creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 4
    path.write_bytes(data)


def delete(path: Path) -> None:
    path.unlink()


DAMAGES = (truncate, empty, flip_a_bit, delete)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, address):
    """A study of five trials whose driver was killed in the second."""
    bench = Bench(tmp_path_factory.mktemp("interrupted"), study(5), 0.3, 0.1, address=address)
    session = bench.run()
    bench.wait(lambda: bench.begun() >= 7, session)
    session.kill()
    bench.wait_for_worker()
    return bench


@pytest.fixture
def bench(tmp_path, interrupted):
    """A copy of that study, which is resumed where it lies."""
    shutil.copytree(interrupted.home, tmp_path / "bench")
    return Bench(tmp_path / "bench", study(5), 0.05, 0.1, address=interrupted.address)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_to_all_but_one_copy_of_the_record(bench, undisturbed, row, damage):
    """Tune's tuner.pkl, experiment and searcher state (never read), record, checkpoint, tables."""
    row.repetitions = 1
    folder = bench.folder
    states = [path for path in (folder / "tune").rglob("*") if path.is_file()]
    for name in ("tuner.pkl", "experiment_state", "search_gen_state"):
        assert any(path.name.startswith(name) for path in states)
    newest = max(folder.glob("trials/*/checkpoint-*.pt"))
    others = [folder / name for name in (RECORD, "trials.csv", "environment.json")]
    if damage is not flip_a_bit:  # which could make another study of it, and that is refused
        others.append(folder / "study.yaml")
    for path in (*states, newest, *others):
        damage(path)
    text = bench.resume().finish()
    assert "record.jsonl: " in text
    assert "taken from record.copy.jsonl" in text
    assert ("the study was taken from record.jsonl" in text) == (damage is not flip_a_bit)
    assert bench.summary() == undisturbed(5)
    assert set(bench.ends().values()) == {1}
    assert newest.with_suffix(".damaged").exists() == (damage is not delete)
    assert bench.repeated() <= 2  # the epoch under way, and that of the damaged checkpoint
    row.repeated_epochs, row.passed = bench.repeated(), 1


@pytest.mark.ray
@pytest.mark.slow
def test_malicious_pickles_and_checkpoints_do_not_run(bench, tmp_path, undisturbed, row):
    row.repetitions = 1
    folder, canary = bench.folder, tmp_path / "canary"
    evil = pickle.dumps(Canary(canary))
    for path in (folder / "tune").rglob("*"):
        if path.is_file():
            path.write_bytes(evil)
    for name in ("tuner.pkl", "searcher-state.pkl", "search_gen_state.pkl", "trainable.pkl"):
        for place in (folder, folder / "tune", folder / "tune" / "session-2"):
            place.mkdir(exist_ok=True)
            (place / name).write_bytes(evil)
    newest = max(folder.glob("trials/*/checkpoint-*.pt"))
    newest.write_bytes(evil)
    trial = newest.parent
    torch.save({"training": Canary(canary)}, trial / "checkpoint-00098.pt")
    np.savez(trial / "predictions.npz", predicted=np.array([Canary(canary)], dtype=object))
    (folder / "trials.csv").write_bytes(evil)
    bench.resume().finish()
    assert bench.summary() == undisturbed(5)
    assert (trial / "checkpoint-00098.damaged").exists()
    assert not canary.exists()
    row.repeated_epochs, row.passed = bench.repeated(), 1


@pytest.fixture
def folder(tmp_path):
    """The folder of a study that was interrupted after one trial, made without Ray."""
    place = tmp_path / "small-1"
    (place / "trials" / "00000").mkdir(parents=True)
    description = validate(MINIMAL | {"limits": {"free_disk_mib": 0}}, "f")
    (place / "study.yaml").write_text(dump(description))
    data = experiment._load_data(description)
    record = Record(place)
    identity = experiment._identity(description, data)
    record.append("session", time=1.0, session=1, host="h", pid=1, version="0", **identity)
    record.append("trial", time=2.0, trial="00000", config={"trainable": "resnet"})
    record.append("end", time=3.0, trial="00000", status="completed", error="")
    record.close()
    return place


def refusal(folder, **options):
    with pytest.raises((ResumeError, StudyError, ValueError)) as refused:
        experiment.resume(folder, None, Console(quiet=True), **options)
    return str(refused.value)


def change_study(folder, **changes):
    raw = yaml.safe_load((folder / "study.yaml").read_text())
    (folder / "study.yaml").write_text(yaml.safe_dump(raw | changes))


def change_session(folder, part, key, value):
    events = list(read_events(folder))
    for path in folder.glob("record*"):
        path.unlink()
    events[0][part][key] = value
    record = Record(folder)
    for event in events:
        record.append(event.pop("event"), **event)
    record.close()


def test_a_changed_space_is_refused_by_name(folder):
    change_study(folder, space={"lr": {"grid": [0.1, 0.02]}})
    assert "study.space.lr.grid: was [0.1, 0.01], is [0.1, 0.02]" in refusal(folder)
    assert refusal(folder).endswith("go on with --allow-changed")


def test_a_changed_package_is_refused_by_name(folder):
    change_session(folder, "packages", "optuna", "4.0.0")
    assert "packages.optuna: was 4.0.0, is 5" in refusal(folder)


def test_changed_data_are_refused_by_name(folder):
    digits = next(read_events(folder))["data"]["digits"]
    change_session(folder, "data", "digits", digits | {"split_sha256": "0" * 64})
    assert "data.digits.split_sha256: was 0000" in refusal(folder)


def test_limits_and_budgets_may_change(folder):
    changed = experiment._study_of(folder, {}, ["budget.seconds=5", "limits.trial_seconds=7"],
                                   Console(quiet=True))  # fmt: skip
    data = experiment._load_data(changed)
    last = next(read_events(folder))
    experiment._refuse_changes(folder, last, experiment._identity(changed, data))
    assert (changed.budget.seconds, changed.limits.trial_seconds) == (5, 7)


def test_a_record_that_was_lost_is_refused_not_begun_anew(folder):
    for path in folder.glob("record*"):
        path.write_bytes(b"")
    assert "does not know trial 00000, whose folder is there" in refusal(folder)
    for path in folder.glob("record*"):
        path.unlink()
    assert "is missing or cut short" in refusal(folder)


def test_a_record_damaged_in_both_copies_is_refused_with_its_line(folder):
    for path in folder.glob("record*"):
        path.write_bytes(path.read_bytes().replace(b'"completed"', b'"complete?"'))
    assert "record.jsonl: line 3 is damaged" in refusal(folder)
    assert len(refusal(folder).splitlines()) == 1


def test_a_grid_cannot_be_extended(folder):
    assert "--extend: a grid search has tried every combination" in refusal(folder, extend=2)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_to_a_data_file(tmp_path, folder, row, damage):
    row.repetitions = 1
    path = tmp_path / "own.npz"
    np.savez(path, images=np.zeros((40, 28, 28), np.uint8), labels=np.arange(40) % 2)
    own = {"name": "own", "path": str(path), "seed": 0, "folder": "data",
           "image_size": 28, "split": [0.6, 0.2, 0.2]}  # fmt: skip
    change_study(folder, dataset=own)
    damage(path)
    text = refusal(folder)
    assert "own.npz: " in text
    assert len(text.splitlines()) == 1
    row.passed = 1


def test_a_session_names_study_packages_and_data(folder):
    session = json.loads((folder / RECORD).read_bytes().splitlines()[0].partition(b" ")[2])
    assert session["study"]["space"] == {"lr": {"grid": [0.1, 0.01]}}
    assert {"ray", "torch", "optuna"} <= set(session["packages"])
    assert session["data"]["digits"]["split_sha256"]
