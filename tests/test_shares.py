"""Trials that share GPUs and hosts, on Ray's logical GPUs, CPUs and nodes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT
from tests.test_experiment import folder_of, ray_head, table
from tuning.record import Record, read_events, read_trials
from tuning.resources import request
from tuning.searchers import StudySearcher
from tuning.study_file import validate

HUNGRY = {
    "name": "hungry",
    "dataset": {"name": "none"},
    "trainable": "tests.cheap:Hungry",
    "code": str(ROOT),
    "space": {"needs": {"grid": [0.25, 0.5, 1.0]}},
    "search": {"metric": "score"},
    "resources": {"gpu": 0.25},
    "retries": 0,
}


@pytest.fixture(scope="module")
def address():
    with ray_head("--num-cpus=4", "--num-gpus=1") as address:
        yield address


@pytest.mark.ray
def test_a_trial_out_of_gpu_memory_is_tried_once_more_with_twice_the_share(
    address, tmp_path, tuning_command
):
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(HUNGRY))
    result = tuning_command("run", study, "--address", address)
    assert result.returncode == 1, result.stdout + result.stderr
    again = "ran out of memory with gpu 0.25; it is tried again with gpu 0.5"
    assert [f"trial {name} {again}" in result.stdout for name in ("00000", "00001", "00002")] == [
        False, True, True,
    ]  # fmt: skip
    folder = folder_of(result)
    rows = table(folder)
    assert [(r["status"], r["gpus"], r["out_of_memory_at"]) for r in rows] == [
        ("completed", "0.25", ""),
        ("completed", "0.5", "0.25"),
        ("failed", "0.5", "0.25"),
    ]
    assert rows[2]["error"] == (
        "OutOfMemoryError with gpu 0.5, after 0.25: CUDA out of memory (a stand-in)"
    )
    # The second try went on from the checkpoint of the first.
    assert [r["epoch"] for r in read_trials(folder)["00001"].reports] == [1, 2, 3]
    assert "00001 ran out of memory with 0.25 of a GPU and finished with 0.5" in result.stdout


def test_a_resumed_study_gives_a_trial_the_larger_share_again(tmp_path):
    study = validate(HUNGRY, "hungry.yaml")
    record = Record(tmp_path)
    config = StudySearcher(study, record).suggest("a")
    record.append("enlarge", time=0.0, trial=config["trial"], was=0.25, gpu=0.5)
    resumed = StudySearcher(study, record, read_events(tmp_path)).suggest("b")
    assert resumed["trial"] == config["trial"]
    assert request(study, resumed).gpu == 0.5


@pytest.mark.ray
def test_trials_on_cpus_run_beside_one_on_the_gpu_and_do_not_wait_for_it(
    address, tmp_path, tuning_command
):
    study = tmp_path / "study.yaml"
    space = {"device": {"grid": ["auto", "cpu"]}}
    study.write_text(
        yaml.safe_dump(HUNGRY | {"space": space, "fixed": {"seconds": 3.0}, "repeats": 2,
                                 "resources": {"gpu": 1}})
    )  # fmt: skip
    result = tuning_command("run", study, "--address", address)
    assert result.returncode == 0, result.stdout + result.stderr
    trials = read_trials(folder_of(result)).values()
    on_gpu = [t for t in trials if t.config["device"] == "auto"]
    on_cpu = [t for t in trials if t.config["device"] == "cpu"]
    assert {t.facts["gpus"] for t in on_gpu} == {1}
    assert {t.facts["gpus"] for t in on_cpu} == {0}
    assert not _overlap(*on_gpu)
    assert any(_overlap(a, b) for a in on_gpu for b in on_cpu)


def _overlap(a, b):
    return a.started < b.ended and b.started < a.ended


@pytest.mark.ray
def test_workers_are_packed_or_spread_over_two_nodes():
    """Two nodes of Ray on this machine, four CPUs each; a trial has two workers of one CPU."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.placement_driver"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    nodes = json.loads(result.stdout.splitlines()[-1])
    assert nodes == {"pack": 1, "spread": 2}
