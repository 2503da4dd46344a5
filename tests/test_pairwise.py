"""Pairwise machines are scikit-learn's, made another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from tuning import pairwise
from tuning.data import ImageData, load_dataset
from tuning.pairwise import PairwiseSVC, concurrency, products
from tuning.parameters import SVMParameters
from tuning.resources import Allotment, ResourceError
from tuning.study import Dataset
from tuning.svm import SVMTraining


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits", Dataset(name="digits"))
    return data.images.reshape(len(data.images), -1), data.labels


@pytest.mark.parametrize("by_bytes", [True, False])
@pytest.mark.parametrize("features", [784, 2000])
def test_products_of_bytes_are_exact(monkeypatch, by_bytes, features):
    monkeypatch.setattr(pairwise, "_multiplies_bytes", lambda: by_bytes)
    generator = np.random.default_rng(0)
    a, b = (generator.integers(-128, 128, (n, features), dtype=np.int8) for n in (30, 70))
    a[0], b[0] = -128, -128
    found = products(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_array_equal(found.numpy(), a.astype(np.int64) @ b.T.astype(np.int64))


@pytest.mark.parametrize("C", [0.1, 10.0, 300.0])
@pytest.mark.parametrize(("kernel", "gamma", "coef0"), [
    ("rbf", "scale", 0.0), ("rbf", 0.2, 0.0), ("poly", "scale", 0.0), ("poly", "auto", 1.0),
    ("linear", "scale", 0.0),
])  # fmt: skip
def test_the_machine_is_scikit_learns(digits, kernel, gamma, coef0, C):  # noqa: N803
    images, labels = digits
    train, test = slice(900), slice(900, None)
    # Labels need not begin at 0, nor be whole classes in step.
    labels = labels * 3 + 5
    stock = SVC(kernel=kernel, C=C, gamma=gamma, coef0=coef0).fit(
        images[train] / 255, labels[train]
    )
    ours = PairwiseSVC(SVMParameters(kernel=kernel, C=C, gamma=gamma, coef0=coef0), threads=2).fit(
        images[train], labels[train]
    )
    equal = ours.predict(images[test]) == stock.predict(images[test] / 255)
    assert equal.mean() > 0.998
    assert len(np.setxor1d(ours.support_, stock.support_)) <= 0.01 * len(stock.support_)


def test_threads_change_nothing(digits):
    images, labels = digits
    one, four = (
        PairwiseSVC(SVMParameters(C=5.0), threads).fit(images, labels) for threads in (1, 4)
    )
    np.testing.assert_array_equal(one._coefficients, four._coefficients)
    np.testing.assert_array_equal(one.predict(images), four.predict(images))


def test_two_classes_are_enough_and_one_is_not(digits):
    images, labels = digits
    some = labels < 2
    machine = PairwiseSVC(SVMParameters(), 1).fit(images[some], labels[some])
    assert (machine.predict(images[some]) == labels[some]).mean() > 0.99
    with pytest.raises(ValueError, match="two classes"):
        machine.fit(images[labels == 3], labels[labels == 3])


def test_fewer_pairs_are_solved_at_a_time_where_memory_is_short():
    assert concurrency([4900] * 10, threads=2) == 2
    assert 1 < concurrency([4900] * 10, threads=32) < 6
    assert concurrency([50_000] * 10, threads=2) == 0


def test_too_large_classes_fall_back_to_scikit_learn_or_are_refused(blobs, monkeypatch):
    monkeypatch.setattr(pairwise, "MEMORY_BYTES", 1000)
    allotment = Allotment(cpus=1, gpus=0)
    run = SVMTraining(SVMParameters(), blobs, 0, allotment)
    assert run.facts["implementation"] == "sklearn"
    assert run.step()["test_accuracy"] == 100
    with pytest.raises(ResourceError, match="implementation: pairwise"):
        SVMTraining(SVMParameters(implementation="pairwise"), blobs, 0, allotment)


def test_coloured_images_are_one_vector_each():
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = generator.integers(0, 60, (120, 9, 9, 3), dtype=np.uint8)
    images[np.arange(120), :, :, labels] += 90
    data = ImageData("colours", images, labels, np.arange(60), np.arange(60, 90),
                     np.arange(90, 120))  # fmt: skip
    run = SVMTraining(SVMParameters(), data, 0, Allotment(cpus=1, gpus=0))
    assert run.facts["implementation"] == "pairwise"
    assert run.step()["test_accuracy"] == 100
