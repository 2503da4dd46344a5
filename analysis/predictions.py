"""The predictions that a completed trial stored for the images of the test split."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.load import Study


@dataclass(frozen=True)
class Predictions:
    """Classes of the test images, [n] each, in the order of the split."""

    predicted: NDArray[Any]
    actual: NDArray[Any]

    @property
    def correct(self) -> NDArray[np.bool_]:
        return np.asarray(self.predicted == self.actual, dtype=np.bool_)

    def same_images(self, other: Predictions) -> bool:
        """Tell whether both were made on one split: the same labels in the same order."""
        return np.array_equal(self.actual, other.actual)


def read_predictions(study: Study, trial: str) -> Predictions | None:
    """Return a trial's predictions, or None where there are none that can be read."""
    path = study.trial_folder(trial) / "predictions.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            predicted, actual = arrays["predicted"], arrays["actual"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    if predicted.shape != actual.shape or predicted.ndim != 1 or not predicted.size:
        return None
    return Predictions(predicted, actual)
