from __future__ import annotations

import numpy as np
import pytest

from tuning.data import load_dataset
from tuning.parameters import SVMParameters
from tuning.resources import Allotment
from tuning.study import Dataset
from tuning.svm import SVMTraining


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", Dataset(name="digits"))


def fit(digits, **parameters):
    run = SVMTraining(SVMParameters(**parameters), digits, 0, Allotment(cpus=1, gpus=0))
    return run, run.step()


@pytest.mark.parametrize("kernel", ["rbf", "poly", "linear"])
def test_both_implementations_predict_the_same(digits, kernel):
    ours, fast = fit(digits, kernel=kernel, implementation="pairwise")
    stock, slow = fit(digits, kernel=kernel, implementation="sklearn")
    assert fast["test_accuracy"] == pytest.approx(slow["test_accuracy"], abs=0.6)
    assert np.mean(ours.test_predictions == stock.test_predictions) > 0.99
    assert fast["test_accuracy"] > 95


def test_fit_and_prediction_are_timed_apart_and_the_trial_is_done(digits):
    run, report = fit(digits, C=10.0, train_size=300)
    assert run.facts["train_images"] == 300
    assert report["train_seconds"] > 0
    assert report["predict_seconds"] > 0
    assert report["done"]
    assert "epoch" not in report


def test_rungs_fit_a_ninth_a_third_and_all_and_end_in_the_result_of_a_single_fit(digits):
    run = SVMTraining(SVMParameters(rungs=3, C=5.0), digits, 0, Allotment(cpus=1, gpus=0))
    first = run.step()
    assert (first["epoch"], first["done"], "test_accuracy" in first) == (1, False, False)
    # Another process goes on where this one was.
    other = SVMTraining(SVMParameters(rungs=3, C=5.0), digits, 0, Allotment(cpus=1, gpus=0))
    other.restore(run.state())
    second, last = other.step(), other.step()
    assert [report["epoch"] for report in (first, second, last)] == [1, 3, 9]
    assert first["val_accuracy"] < last["val_accuracy"]
    _, single = fit(digits, C=5.0)
    for key in ("val_accuracy", "test_accuracy", "support_vectors"):
        assert last[key] == single[key]


def test_a_rung_has_every_class_in_proportion_and_holds_the_smaller_one(digits):
    run, _ = fit(digits, rungs=3)
    small, large = run._subset(140), run._subset(420)
    assert set(small) < set(large)
    counts = np.bincount(digits.labels[small], minlength=10)
    assert counts.min() >= 12
    assert counts.max() <= 16
