from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests.conftest import MINIMAL
from tuning import checkpoint
from tuning.callbacks import Recorder
from tuning.record import Record, TrialRecord
from tuning.study_file import validate


@pytest.mark.parametrize(
    ("keep", "kept"), [("best", ["00001"]), ("all", ["00000", "00001", "00002"]), ("none", [])]
)
def test_checkpoints_stay_as_asked_and_no_more_than_two(tmp_path, keep, kept):
    study = validate(MINIMAL | {"keep_checkpoints": keep}, "study")
    trials = {name: TrialRecord(name, {"lr": 0.1}) for name in ("00000", "00001", "00002")}
    recorder = Recorder(study, tmp_path, Record(tmp_path), trials)
    for name, accuracy in (("00000", 70.0), ("00001", 90.0), ("00002", 80.0)):
        folder = tmp_path / "trials" / name
        folder.mkdir(parents=True)
        for step in (1, 2, 3):
            checkpoint.save(folder, step, {"weights": torch.zeros(1)})
        trial = SimpleNamespace(config={"trial": name}, last_result={"final": True})
        report = {"epoch": 1, "val_accuracy": accuracy}
        recorder.on_trial_start(0, [], trial)
        recorder.on_trial_result(0, [], trial, {"report": report})
        recorder.on_trial_complete(0, [], trial)
    found = sorted(path.parent.name for path in tmp_path.glob("trials/*/checkpoint-*"))
    assert found == sorted(2 * kept)
    # A driver that goes on with this record knows which trial is the best.
    again = Recorder(study, tmp_path, Record(tmp_path), trials)
    trials["00003"] = TrialRecord("00003", {"lr": 0.1})
    trial = SimpleNamespace(config={"trial": "00003"}, last_result={"final": True})
    again.on_trial_start(0, [], trial)
    again.on_trial_result(0, [], trial, {"report": {"epoch": 1, "val_accuracy": 95.0}})
    again.on_trial_complete(0, [], trial)
    assert len(list(tmp_path.glob("trials/00001/checkpoint-*"))) == (2 if keep == "all" else 0)
