"""Claims that people make about such results, checked against the data at hand."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pandas as pd

from analysis.matching import matched_pairs
from analysis.statistics import (
    Interval,
    geometric_mean,
    mean_difference,
    ratio_of_geometric_means,
)
from analysis.tables import is_svm, tuned_networks
from analysis.verdict import Finding, Verdict

#: "Orders of magnitude" is a plural: two of them.
ORDERS = 100.0
ONE_ORDER = 10.0
#: Of 4 against 4 values, 1 order in 70 separates them fully; of 3 against 3, 1 in 20.
FEWEST_PAIRS = 4


def svm_slower(trials: pd.DataFrame) -> Iterator[Finding]:
    """Check "SVM training is orders of magnitude slower than ResNet's", source by source.

    Networks without any recorded hyperparameter (hardware benchmarks of another length) are left
    out; training time is used where all have it, total time otherwise.
    """
    done = trials[trials["status"].eq("completed")]
    is_net = tuned_networks(done) & done["label"].str.startswith("resnet")
    for source, rows in done.groupby("source", sort=False):
        svms, nets = rows[is_svm(rows)], rows[is_net[rows.index]]
        both = pd.concat([svms, nets])
        column = "train_seconds" if both["train_seconds"].notna().all() else "total_seconds"
        svms, nets = svms[svms[column].gt(0)], nets[nets[column].gt(0)]
        shared = [d for d in svms["dataset"].unique() if d in set(nets["dataset"])]
        svms, nets = svms[svms["dataset"].isin(shared)], nets[nets["dataset"].isin(shared)]
        if len(svms) and len(nets):
            yield _svm_slower(str(source), svms, nets, column, shared)


def _svm_slower(
    source: str, svms: pd.DataFrame, nets: pd.DataFrame, column: str, datasets: list[str]
) -> Finding:
    ratio = ratio_of_geometric_means(svms[column].tolist(), nets[column].tolist())
    by_dataset = {
        d: ratio_of_geometric_means(
            svms.loc[svms["dataset"].eq(d), column].tolist(),
            nets.loc[nets["dataset"].eq(d), column].tolist(),
        ).estimate
        for d in datasets
    }
    low, high = (ratio.estimate if b is None else b for b in (ratio.low, ratio.high))
    if low >= ORDERS:
        verdict = Verdict.SUPPORTED
    elif high < ONE_ORDER:
        verdict = Verdict.REFUTED
    else:
        verdict = Verdict.NOT_SUPPORTED
    parts = ", ".join(f"{d} {value:.2f}x" for d, value in by_dataset.items())
    where = "the published tables" if source == "reference" else "these trials"
    return Finding(
        verdict,
        '"SVM training is orders of magnitude slower than ResNet\'s": in '
        f"{where} the SVM takes {_range(svms[column])} s and ResNet {_range(nets[column])} s "
        f"({column.replace('_', ' ')}); ratio of geometric means {_estimate(ratio)} ({parts}), "
        f"largest over smallest {svms[column].max() / nets[column].min():.2f}x.",
        {"ratio": ratio.estimate, "low": ratio.low, "high": ratio.high, **by_dataset},
    )


def speedup_grows(trials: pd.DataFrame) -> Iterator[Finding]:
    """Check "the speedup grows with the model" for each two devices that share two models."""
    pairs = matched_pairs(trials)
    if pairs.empty:
        return
    gflops = trials.groupby("label")["gflops"].max()
    for (slow, fast), rows in pairs.groupby(["slow_device", "fast_device"], sort=False):
        sized = rows.assign(gflops=rows["label"].map(gflops)).dropna(subset="gflops")
        models = sized.sort_values("gflops")["label"].unique()
        if len(models) < 2:
            continue
        speedups = [
            geometric_mean(sized.loc[sized["label"].eq(m), "speedup"].tolist()) for m in models
        ]
        named = zip(models, speedups, strict=True)
        figures = ", ".join(f"{m} {_estimate(s)} (n={s.n})" for m, s in named)
        verdict, why = _growth(speedups)
        yield Finding(
            verdict,
            f'"The speedup grows with the model", {slow} to {fast}: {figures}; {why}.',
            {str(m): s.estimate for m, s in zip(models, speedups, strict=True)},
        )


def _growth(speedups: list[Interval]) -> tuple[Verdict, str]:
    if any(s.n < 2 for s in speedups):
        few = "one pair each" if all(s.n < 2 for s in speedups) else "one pair for some"
        return Verdict.NOT_SUPPORTED, f"{few}, so an order of them cannot be told from chance"
    if any(s.n < FEWEST_PAIRS for s in speedups):
        few = f"fewer than {FEWEST_PAIRS} pairs for some"
        return Verdict.NOT_SUPPORTED, f"{few}, so an order of them cannot be told from chance"
    if any(b.estimate <= a.estimate for a, b in pairwise(speedups)):
        return Verdict.REFUTED, "the order is another one"
    if all((a.high or 0) < (b.low or 0) for a, b in pairwise(speedups)):
        return Verdict.SUPPORTED, "the intervals do not overlap"
    return Verdict.NOISE, "the intervals overlap"


def accuracy_across_devices(trials: pd.DataFrame) -> Iterator[Finding]:
    """Say whether accuracy depends on the device, over the same pairs as the speedup."""
    pairs = matched_pairs(trials)
    if pairs.empty:
        return
    for (slow, fast), rows in pairs.groupby(["slow_device", "fast_device"], sort=False):
        known = rows.dropna(subset=["slow_accuracy", "fast_accuracy"])
        if known.empty:
            continue
        change = mean_difference(known["fast_accuracy"].tolist(), known["slow_accuracy"].tolist())
        inside = change.low is None or change.low <= 0 <= (change.high or 0)
        interval = (
            "one pair, no interval"
            if change.low is None
            else f"95 % {change.low:+.2f} to {change.high:+.2f}"
        )
        yield Finding(
            Verdict.NOISE if inside else Verdict.NOTED,
            f"Test accuracy on {fast} minus {slow}, same configuration: {change.estimate:+.2f} "
            f"points on average ({interval}, n={change.n}).",
            {"difference": change.estimate, "low": change.low, "high": change.high},
        )


def _range(values: pd.Series[float]) -> str:
    low, high = f"{values.min():.1f}", f"{values.max():.1f}"
    return low if low == high else f"{low}-{high}"


def _estimate(value: Interval) -> str:
    if value.low is None or value.high is None:
        return f"{value.estimate:.2f}x"
    return f"{value.estimate:.2f}x [95 % {value.low:.2f}-{value.high:.2f}]"
