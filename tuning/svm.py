"""The SVM trainable: one fit of a support vector machine."""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from tuning.data import ImageData, training_subset
from tuning.parameters import SVMParameters
from tuning.resources import Allotment


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
        self.implementation = choose_implementation(parameters.implementation)
        self.train_indices = training_subset(data, parameters.train_size, seed)
        self.test_predictions: npt.NDArray[np.uint8] | None = None
        if self.implementation == "intelex":
            _limit_intelex_threads(allotment.threads)
        self.facts = {
            "model": "svm",
            "device": "cpu",
            "precision": "fp64",
            "implementation": self.implementation,
            "train_images": len(self.train_indices),
            "test_images": len(data.test),
        }

    def step(self) -> dict[str, Any]:
        """Fit, validate and test.

        Returns:
            `val_accuracy` and `test_accuracy` (percent), `train_seconds` (of the fit),
            `predict_seconds` (of the test split), `images_per_second` (of the fit),
            `support_vectors`, and `done`.
        """
        p = self.parameters
        if self.implementation == "intelex":
            from sklearnex.svm import SVC
        else:
            from sklearn.svm import SVC
        machine = SVC(kernel=p.kernel, C=p.C, gamma=p.gamma, degree=p.degree, coef0=p.coef0)
        images, labels = self._pixels(self.train_indices), self.data.labels[self.train_indices]
        started = time.perf_counter()
        machine.fit(images, labels)
        train_seconds = time.perf_counter() - started
        val_accuracy = self._accuracy(machine, self.data.val)[0]
        test_accuracy, predicted, predict_seconds = self._accuracy(machine, self.data.test)
        self.test_predictions = predicted.astype(np.uint8)
        return {
            "val_accuracy": val_accuracy,
            "test_accuracy": test_accuracy,
            "train_seconds": train_seconds,
            "predict_seconds": predict_seconds,
            "images_per_second": len(labels) / train_seconds,
            "support_vectors": int(machine.n_support_.sum()),
            "done": True,
        }

    def state(self) -> dict[str, Any]:
        """Return nothing: a fit is one step, there is no middle to go on from."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over nothing; see `state`."""

    def _pixels(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        return self.data.images[indices].reshape(len(indices), -1) / 255.0

    def _accuracy(
        self, machine: Any, indices: npt.NDArray[np.int64]
    ) -> tuple[float, npt.NDArray[np.int64], float]:
        images = self._pixels(indices)
        started = time.perf_counter()
        predicted = machine.predict(images)
        seconds = time.perf_counter() - started
        return 100 * float(np.mean(predicted == self.data.labels[indices])), predicted, seconds


def choose_implementation(asked: str) -> str:
    """Return `intelex` or `sklearn`; `auto` is scikit-learn-intelex where it is installed.

    Raises:
        ModuleNotFoundError: `intelex` was asked for and is not installed.
    """
    installed = importlib.util.find_spec("sklearnex") is not None
    if asked == "intelex" and not installed:
        raise ModuleNotFoundError(
            "implementation: intelex needs the package scikit-learn-intelex, which is not installed"
        )
    return "intelex" if asked != "sklearn" and installed else "sklearn"


def _limit_intelex_threads(threads: int) -> None:
    """Set the threads of oneDAL, which takes all of the machine's and ignores BLAS's limits."""
    import daal4py

    daal4py.daalinit(nthreads=threads)
