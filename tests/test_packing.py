from __future__ import annotations

import json

import pytest

from tests.conftest import MINIMAL
from tuning.measure import Layout, Measured
from tuning.packing import BETWEEN_SECONDS, layouts, segments, simulate
from tuning.parameters import ResNetParameters, SVMParameters
from tuning.study_file import validate

ASHA = {"type": "asha", "grace_epochs": 1, "reduction_factor": 3}


def study(**changes):
    return validate(MINIMAL | {"fixed": {"epochs": 9}} | changes, "study")


def test_a_host_is_divided_into_one_two_four_trials_and_so_on():
    assert layouts(4, 0) == [Layout(1, 4, 0), Layout(2, 2, 0), Layout(4, 1, 0)]
    assert layouts(16, 2)[:2] == [Layout(2, 8, 1), Layout(4, 4, 0.5)]


def test_a_trial_takes_its_training_its_validations_and_one_test(blobs):
    measured = Measured(images_per_second=60, evaluated_per_second=30, images=60, memory_bytes=1)
    config = {"trainable": "resnet"} | ResNetParameters(epochs=2).model_dump()
    # 120 images to train on, 30 to validate, 50 to test.
    assert segments(config, measured, blobs) == [
        (1, pytest.approx(2 + 1)),
        (2, pytest.approx(2 + 1 + 50 / 30)),
    ]


def test_the_rungs_of_an_svm_grow_and_the_last_one_is_tested(blobs):
    measured = Measured(images_per_second=60, evaluated_per_second=30, images=60, memory_bytes=1)
    config = {"trainable": "svm"} | SVMParameters(rungs=3).model_dump()
    found = segments(config, measured, blobs)
    assert [epoch for epoch, _ in found] == [1, 3, 9]
    assert found[0][1] < found[1][1] < found[2][1]


def test_two_slots_share_the_trials_as_they_come_free():
    trials = [[(1, 10.0)], [(1, 4.0)], [(1, 5.0)]]
    (seconds,) = simulate(study(), trials, 2)
    assert seconds == pytest.approx(10 + BETWEEN_SECONDS)
    (alone,) = simulate(study(), trials, 1)
    assert alone == pytest.approx(19 + 3 * BETWEEN_SECONDS)


def test_asha_saves_the_epochs_of_the_trials_that_it_stops():
    trials = [[(epoch, 1.0) for epoch in range(1, 10)] for _ in range(30)]
    (whole,) = simulate(study(), trials, 2)
    stopped = simulate(study(scheduler=ASHA), trials, 2)
    assert stopped == sorted(stopped)
    # At the least every trial runs its first epoch; at the most all run on.
    assert 30 * 1 / 2 < stopped[0] < stopped[-1] < 0.6 * whole


def test_the_probe_measures_packings_and_recommends_resources(write_study, tuning_command):
    path = write_study(
        trainable="svm", space={"C": {"grid": [1, 10]}}, resources={"cpu": 1}
    )  # fmt: skip
    result = tuning_command("plan", path, "--probe", "--json")
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert {p["slots"] for p in plan["packings"]} >= {1, plan["slots"]}
    assert plan["seconds"] == plan["packings"][0]["seconds"] > 0
    best = min(plan["packings"], key=lambda p: p["seconds"])
    assert plan["recommended"] == best["resources"]
    assert all(kind["images_per_second"] > 0 for p in plan["packings"] for kind in p["kinds"])
    assert tuning_command("plan", path, "--probe", "--address", "auto").returncode == 2
