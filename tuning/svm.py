"""The SVM trainable: a fit of a support vector machine, or several on growing subsets."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.svm import SVC

from tuning.data import ImageData, training_subset
from tuning.pairwise import MOST_FEATURES, PairwiseSVC, concurrency
from tuning.parameters import SVMParameters
from tuning.resources import Allotment, ResourceError
from tuning.study import svm_epochs


class SVMTraining:
    """A support vector classifier on the pixels, in 0 to 1.

    Attributes:
        facts: what does not change: model, device, implementation, ...
        test_predictions: classes `[n_test]` predicted at the end, uint8; None before.
    """

    def __init__(
        self, parameters: SVMParameters, data: ImageData, seed: int, allotment: Allotment
    ) -> None:
        self.parameters = parameters
        self.data = data
        self.threads = allotment.threads
        self.train_indices = training_subset(data, parameters.train_size, seed)
        self.implementation = self._choose(parameters.implementation)
        self.test_predictions: npt.NDArray[np.uint8] | None = None
        self.fits = 0
        self.train_seconds = 0.0
        self.seen = 0
        self.facts = {
            "model": "svm",
            "device": "cpu",
            "precision": "fp64",
            "implementation": self.implementation,
            "train_images": len(self.train_indices),
            "test_images": len(data.test),
        }

    def step(self) -> dict[str, Any]:
        """Fit on the next subset and validate; after the fit on all images, test.

        Returns:
            `val_accuracy` (percent), `train_seconds` (of all fits so far), `images_per_second`
            (likewise), `support_vectors`, `done`, and after the last fit `test_accuracy` (percent)
            and `predict_seconds` (of the test split). With several rungs also `epoch`: the size
            of the subset in units of the smallest.
        """
        p = self.parameters
        machine: Any
        if self.implementation == "pairwise":
            machine = PairwiseSVC(p, self.threads)
        else:
            machine = SVC(kernel=p.kernel, C=p.C, gamma=p.gamma, degree=p.degree, coef0=p.coef0)
        epoch = svm_epochs(self.fits + 1)
        indices = self._subset(len(self.train_indices) * epoch // svm_epochs(p.rungs))
        images, labels = self._pixels(indices), self.data.labels[indices]
        started = time.perf_counter()
        machine.fit(images, labels)
        self.train_seconds += time.perf_counter() - started
        self.seen += len(labels)
        self.fits += 1
        report = {
            "val_accuracy": self._accuracy(machine, self.data.val)[0],
            "train_seconds": self.train_seconds,
            "images_per_second": self.seen / self.train_seconds,
            "support_vectors": len(machine.support_),
            "done": self.fits == p.rungs,
        }
        if p.rungs > 1:
            report["epoch"] = epoch
        if report["done"]:
            accuracy, predicted, seconds = self._accuracy(machine, self.data.test)
            self.test_predictions = predicted.astype(np.uint8)
            report |= {"test_accuracy": accuracy, "predict_seconds": seconds}
        return report

    def state(self) -> dict[str, Any]:
        """Return how far the rungs are; a fit is one step, it has no middle to go on from."""
        return {"fits": self.fits, "train_seconds": self.train_seconds, "seen": self.seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.fits, self.train_seconds = state["fits"], state["train_seconds"]
        self.seen = state["seen"]

    def _subset(self, size: int) -> npt.NDArray[np.int64]:
        """Return a stratified subset of the training images; each holds the smaller ones."""
        if size == len(self.train_indices):
            return self.train_indices
        labels = self.data.labels[self.train_indices]
        # The n-th image of each class, over the size of the class: sorted, all classes in step.
        place = np.empty(len(labels))
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            place[members] = (np.arange(len(members)) + 0.5) / len(members)
        order = np.argsort(place, kind="stable")
        return self.train_indices[order[: max(size, len(np.unique(labels)))]]

    def _pixels(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        pixels = self.data.images[indices].reshape(len(indices), -1)
        return pixels if self.implementation == "pairwise" else pixels / 255.0

    def _choose(self, asked: str) -> str:
        """Return `sklearn` or `pairwise`; `auto` is pairwise where it has room."""
        sizes = np.sort(np.bincount(self.data.labels[self.train_indices])).tolist()
        features = self.data.images[0].size
        fits = features <= MOST_FEATURES and concurrency(sizes, self.threads) > 0
        if asked == "pairwise" and not fits:
            raise ResourceError(
                f"implementation: pairwise takes classes of some 10,000 images of at most "
                f"{MOST_FEATURES:,} pixels, not {sizes[-1]:,} of {features:,}; use sklearn"
            )
        return "pairwise" if asked != "sklearn" and fits else "sklearn"

    def _accuracy(
        self, machine: Any, indices: npt.NDArray[np.int64]
    ) -> tuple[float, npt.NDArray[np.int64], float]:
        images = self._pixels(indices)
        started = time.perf_counter()
        predicted = machine.predict(images)
        seconds = time.perf_counter() - started
        return 100 * float(np.mean(predicted == self.data.labels[indices])), predicted, seconds
