"""One contract for all engines: same seed, same data, same losses, and the same after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from pydantic import ValidationError

from tests.conftest import MINIMAL
from tests.test_experiment import folder_of, ray_head, start, table
from tuning.engines import DeepSpeedSettings
from tuning.record import read_events, read_trials
from tuning.training import Precision

#: Single precision, so that only the order of sums differs, and a network whose batch norms see
#: enough values each: with 32 images, one pixel each in the last layers, the memory format of the
#: weights alone changed the losses by 3 % after six steps. 203 images leave an uneven last batch.
STUDY = MINIMAL | {
    "name": "engines",
    "fixed": {
        "epochs": 3, "train_size": 203, "batch_size": 64, "stem": "small", "lr": 0.0002,
        "precision": "fp32",
    },
}  # fmt: skip
ENGINES = {"ddp": {}, "deepspeed": {"zero_stage": {"grid": [0, 1]}}}
#: With one worker, six digits were equal. With two, sums have another order, and rounding grows: at
#: a rate of 0.002, a change of the initial weights by 1e-7 alone moved the loss of one process by
#: 7.5 % after three epochs, and two workers were 10 % off. At 0.0002 that change moved it by 0.4 %
#: and two workers were 0.2 % off, while gradients added instead of averaged, as with twice the
#: rate, would be several percent off.
ALONE, TOGETHER = 1e-3, 0.01


def losses(folder):
    """The training losses of each trial by engine and stage of ZeRO."""
    trials = read_trials(folder).values()
    assert {trial.status for trial in trials} == {"completed"}
    return {
        (trial.config["engine"], trial.config["zero_stage"]): [
            report["train_loss"] for report in trial.reports
        ]
        for trial in trials
    }


@pytest.fixture(scope="module")
def address():
    with ray_head("--num-cpus=2") as address:
        yield address


@pytest.fixture(scope="module")
def alone(address, tmp_path_factory):
    """The study folder of all engines with one worker each."""
    home = tmp_path_factory.mktemp("alone")
    study = home / "study.yaml"
    study.write_text(
        yaml.safe_dump(STUDY | {"space": {"engine": {"branch": {"native": {}} | ENGINES}}})
    )
    process = start(study, home / "results", "--address", address)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    return folder_of(subprocess.CompletedProcess((), 0, output))


@pytest.mark.ray
@pytest.mark.slow
def test_all_engines_make_the_same_losses_with_one_worker(alone):
    found = losses(alone)
    native = found[("native", 0)]
    assert len(found) == 4
    assert native[-1] < native[0] < 2.5
    for name, curve in found.items():
        assert curve == pytest.approx(native, rel=ALONE), name


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_make_the_same_losses_even_if_the_study_is_killed_between(
    alone, address, tmp_path, tuning_command
):
    study = tmp_path / "study.yaml"
    branches = {"ddp": {}, "deepspeed": {"zero_stage": 2}}
    space = {"engine": {"branch": branches}}
    study.write_text(yaml.safe_dump(STUDY | {"space": space, "resources": {"workers": 2}}))
    process = start(study, tmp_path / "results", "--address", address)
    folder = None
    # Both trials in turn: each is interrupted after its first epoch.
    for name in ("00000", "00001"):
        folder = _wait_for_report(tmp_path / "results", name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = subprocess.Popen(
            [sys.executable, "-m", "tuning", "resume", str(folder), "--address", address],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    native = losses(alone)[("native", 0)]
    for name, curve in losses(folder).items():
        assert curve == pytest.approx(native, rel=TOGETHER), name
    # An epoch may be reported again from its checkpoint; none was trained again.
    seconds = {}
    for event in read_events(folder):
        if event["event"] == "report":
            epoch = event["trial"], event["metrics"]["epoch"]
            assert (
                seconds.setdefault(epoch, event["metrics"]["train_seconds"])
                == (event["metrics"]["train_seconds"])
            )
    sessions = [event for event in read_events(folder) if event["event"] == "session"]
    assert len(sessions) == 3
    for row in table(folder):
        assert (row["workers"], row["threads"], float(row["cpus"])) == ("2", "1", 2)


def _wait_for_report(storage, name):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for record in storage.glob("*/record.jsonl"):
            trial = read_trials(record.parent).get(name)
            if trial is not None and trial.reports:
                return record.parent
        time.sleep(0.1)
    raise AssertionError(f"trial {name} did not report")


def test_native_trials_do_not_import_deepspeed():
    code = "import sys, tuning.resnet, tuning.trial; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_settings_of_deepspeed_use_autocast_and_do_not_clip():
    half = Precision("bf16", torch.bfloat16)
    settings = DeepSpeedSettings.of(2, half, batch_size=33, workers=2).model_dump()
    assert settings["torch_autocast"] == {
        "enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": [],
    }  # fmt: skip
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["gradient_clipping"] == 0
    assert settings["train_batch_size"] == 2 * settings["train_micro_batch_size_per_gpu"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bf16": {"enabled": True}}, "use torch_autocast"),
        ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, "both enabled"),
        ({"zero_optimization": {"stage": 3}}, "0, 1 or 2"),
        ({"optimizer": {}}, "Extra inputs"),
    ],
)
def test_settings_that_deepspeed_would_misread_are_refused(changes, reason):
    right = DeepSpeedSettings.of(0, Precision("fp32", None), 32, 2).model_dump()
    with pytest.raises(ValidationError, match=reason):
        DeepSpeedSettings.model_validate(right | changes)
