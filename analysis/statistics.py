"""Small statistics on plain arrays: intervals and paired tests, each seeded where it draws.

SciPy is imported inside the functions: it costs more than half a second, and most tables do not
need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 9999


class Interval(NamedTuple):
    """An estimate with its 95 % interval; `low` and `high` are None where n allows none."""

    estimate: float
    low: float | None
    high: float | None
    n: int


class PairedTest(NamedTuple):
    """Two classifiers on the same images: `difference` is a's accuracy minus b's, in points."""

    only_a: int
    only_b: int
    n: int
    p_value: float
    difference: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        return self.p_value < 1 - CONFIDENCE


def wilson(accuracy: ArrayLike, n: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the Wilson 95 % interval of accuracies in percent, each of n images.

    Shapes broadcast; NaN in, NaN out. Wilson (1927); unlike the normal interval it stays inside
    0-100 % and has a width at 100 %. Written out, not SciPy's, so that a column costs one call.
    """
    share = np.asarray(accuracy, float) / 100
    count = np.asarray(n, float)
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    scale = 1 + z**2 / count
    centre = (share + z**2 / (2 * count)) / scale
    half = z / scale * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    # 0 and 100 % are exact bounds that rounding would miss by one unit in the last place.
    low = np.where(share == 0, 0.0, centre - half)
    high = np.where(share == 1, 1.0, centre + half)
    return 100 * low, 100 * high


def geometric_mean(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the geometric mean of positive ratios with its percentile bootstrap 95 % interval.

    One value carries no interval. The resampling is of the values given, so with two or three of
    them the interval is a lower bound of the uncertainty.
    """
    logs = _positive_logs(values)
    estimate = float(np.exp(logs.mean()))
    if len(logs) < 2:
        return Interval(estimate, None, None, len(logs))
    low, high = _bootstrap((logs,), seed=seed, paired=False)
    return Interval(estimate, float(np.exp(low)), float(np.exp(high)), len(logs))


def ratio_of_geometric_means(
    above: Sequence[float], below: Sequence[float], *, seed: int = 0
) -> Interval:
    """Return the ratio of two independent samples' geometric means with its 95 % interval."""
    a, b = _positive_logs(above), _positive_logs(below)
    estimate = float(np.exp(a.mean() - b.mean()))
    n = min(len(a), len(b))
    if n < 2:
        return Interval(estimate, None, None, n)
    low, high = _bootstrap((a, b), seed=seed, paired=False)
    return Interval(estimate, float(np.exp(low)), float(np.exp(high)), n)


def mean_difference(a: Sequence[float], b: Sequence[float], *, seed: int = 0) -> Interval:
    """Return the mean of a - b over pairs with its paired bootstrap 95 % interval."""
    differences = np.asarray(a, float) - np.asarray(b, float)
    if len(differences) == 0:
        raise ValueError("a paired difference needs at least one pair, but got none")
    estimate = float(differences.mean())
    if len(differences) < 2:
        return Interval(estimate, None, None, len(differences))
    low, high = _bootstrap((differences,), seed=seed, paired=False)
    return Interval(estimate, low, high, len(differences))


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent runs with Student's t 95 % interval; one run carries none."""
    array = np.asarray(values, float)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"a mean needs values [n], but got {array.tolist()}")
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, None, None, 1)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(array) - 1) * array.std(ddof=1))
    half /= float(np.sqrt(len(array)))
    return Interval(mean, mean - half, mean + half, len(array))


def paired_test(
    correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_], *, seed: int = 0
) -> PairedTest:
    """Compare two classifiers on the same images: exact McNemar test and paired bootstrap.

    Args:
        correct_a: [n] whether each image was classified rightly by a.
        correct_b: [n] the same by b, images in the same order.
        seed: of the bootstrap.
    """
    if correct_a.shape != correct_b.shape or correct_a.ndim != 1 or not correct_a.size:
        raise ValueError(
            "paired predictions must be two arrays [n] of one length, but got "
            f"{list(correct_a.shape)} and {list(correct_b.shape)}"
        )
    from scipy.stats import binomtest

    n = len(correct_a)
    only_a = int(np.sum(correct_a & ~correct_b))
    only_b = int(np.sum(correct_b & ~correct_a))
    discordant = only_a + only_b
    p_value = binomtest(only_a, discordant).pvalue if discordant else 1.0
    # Resampling images changes only how many of each kind are drawn: one multinomial draw each.
    shares = [only_a / n, only_b / n, (n - discordant) / n]
    draws = np.random.default_rng(seed).multinomial(n, shares, size=RESAMPLES)
    differences = 100 * (draws[:, 0] - draws[:, 1]) / n
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(differences, [tail, 100 - tail])
    return PairedTest(
        only_a, only_b, n, float(p_value), 100 * (only_a - only_b) / n, float(low), float(high)
    )


def overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Tell whether two intervals share a point."""
    return a[0] <= b[1] and b[0] <= a[1]


def _positive_logs(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not (array > 0).all():
        raise ValueError(f"a geometric mean needs positive values [n], but got {array.tolist()}")
    return np.log(array)


def _bootstrap(
    samples: tuple[NDArray[np.float64], ...], *, seed: int, paired: bool
) -> tuple[float, float]:
    """Return the percentile interval of the mean, or of the difference of two means."""
    from scipy.stats import bootstrap

    def statistic(*data: NDArray[np.float64], axis: int = -1) -> Any:
        means = [d.mean(axis=axis) for d in data]
        return means[0] - means[1] if len(means) == 2 else means[0]

    result = bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        paired=paired,
        # SciPy would draw all at once: 9,999 resamples of 10,000 values are 800 MB.
        batch=max(1, 10_000_000 // max(len(s) for s in samples)),
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
