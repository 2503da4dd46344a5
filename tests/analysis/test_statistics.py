import numpy as np
import pytest
from scipy import stats

from analysis.statistics import (
    geometric_mean,
    mean_difference,
    overlap,
    paired_test,
    ratio_of_geometric_means,
    wilson,
)


@pytest.mark.parametrize(("right", "n"), [(9042, 10_000), (1, 7), (0, 20), (20, 20), (50, 100)])
def test_wilson_agrees_with_scipy(right: int, n: int) -> None:
    expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    low, high = wilson(100 * right / n, n)
    assert [low, high] == pytest.approx([100 * expected.low, 100 * expected.high], abs=1e-9)


def test_wilson_of_a_known_case_by_hand() -> None:
    # 50 of 100: centre (0.5 + z^2/200) / (1 + z^2/100) = 0.5, half width 0.09617 with z = 1.95996.
    low, high = wilson(50.0, 100)
    assert [low, high] == pytest.approx([40.383, 59.617], abs=1e-3)


def test_wilson_of_an_unknown_accuracy_or_size_is_unknown() -> None:
    low, high = wilson([np.nan, 90.0], [100, np.nan])
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_geometric_mean_of_the_reference_speedups() -> None:
    speedups = [3161.05 / 780.54, 5502.84 / 1140.24, 7221.72 / 1432.99]
    interval = geometric_mean(speedups)
    assert interval.estimate == pytest.approx(stats.gmean(speedups))
    assert interval.n == 3
    assert interval.low is not None
    assert interval.high is not None
    assert 4.04 < interval.low < interval.estimate < interval.high < 5.05


def test_one_value_carries_no_interval() -> None:
    assert geometric_mean([4.0]) == (4.0, None, None, 1)


def test_geometric_mean_interval_agrees_with_scipys_bootstrap() -> None:
    values = [1.5, 2.0, 2.5, 3.0, 2.2, 1.9]
    expected = stats.bootstrap(
        (np.log(values),), np.mean, method="percentile", n_resamples=9999, rng=7
    ).confidence_interval
    interval = geometric_mean(values)
    found = [interval.low, interval.high]
    assert found == pytest.approx(list(np.exp(expected)), rel=0.01)


def test_the_bootstrap_heeds_its_seed() -> None:
    values = [1.5, 2.0, 2.5, 3.0]
    assert geometric_mean(values, seed=1) == geometric_mean(values, seed=1)
    assert mean_difference(values, [1.0] * 4) == mean_difference(values, [1.0] * 4)


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [2.0, -1.0], [float("nan")]])
def test_a_geometric_mean_refuses_what_is_not_positive(values: list[float]) -> None:
    with pytest.raises(ValueError, match="positive values"):
        geometric_mean(values)


def test_ratio_of_geometric_means_by_hand() -> None:
    # sqrt(2 * 8) / sqrt(1 * 4) = 4 / 2
    ratio = ratio_of_geometric_means([2.0, 8.0], [1.0, 4.0])
    assert ratio.estimate == pytest.approx(2.0)
    assert ratio.n == 2


def test_mean_difference_is_paired() -> None:
    change = mean_difference([91.0, 81.0, 71.0], [90.0, 80.0, 70.0])
    assert change == (1.0, 1.0, 1.0, 3)


def test_paired_test_is_mcnemars_exact_test() -> None:
    # a alone is right on 9 images, b alone on 2, both on 80, neither on 9.
    a = np.array([True] * 9 + [False] * 2 + [True] * 80 + [False] * 9)
    b = np.array([False] * 9 + [True] * 2 + [True] * 80 + [False] * 9)
    test = paired_test(a, b)
    assert (test.only_a, test.only_b, test.n) == (9, 2, 100)
    # Two-sided: 2 * (C(11,0) + C(11,1) + C(11,2)) / 2^11 = 134 / 2048
    assert test.p_value == pytest.approx(134 / 2048)
    assert not test.significant
    assert test.difference == pytest.approx(7.0)
    assert test.low < 7.0 < test.high


def test_paired_interval_agrees_with_resampling_the_images() -> None:
    draw = np.random.default_rng(3)
    a, b = draw.random(400) < 0.9, draw.random(400) < 0.8
    test = paired_test(a, b)
    images = draw.integers(0, 400, (9999, 400))
    differences = 100 * (a[images].mean(axis=1) - b[images].mean(axis=1))
    assert [test.low, test.high] == pytest.approx(np.percentile(differences, [2.5, 97.5]), abs=0.6)


def test_equal_predictions_are_no_difference() -> None:
    same = np.array([True, False, True])
    test = paired_test(same, same)
    assert test.p_value == 1.0
    assert (test.low, test.difference, test.high) == (0.0, 0.0, 0.0)


def test_paired_test_refuses_arrays_of_different_length() -> None:
    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        paired_test(np.array([True, False]), np.array([True, False, True]))


def test_overlap() -> None:
    assert overlap((1, 2), (2, 3))
    assert not overlap((1, 2), (2.1, 3))
