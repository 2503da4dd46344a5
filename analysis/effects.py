"""Effects of single hyperparameters, from trials that differ in nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import pandas as pd

from analysis.columns import exact, heading
from analysis.load import Results
from analysis.statistics import CONFIDENCE, mean_difference
from analysis.tables import merge_repeats, varied
from analysis.verdict import Finding, Verdict

#: A hyperparameter of more values was sampled, not compared.
MOST_VALUES = 4
MOST_FINDINGS = 8


class Effect(NamedTuple):
    """Accuracies [pairs] in percent of two values of one hyperparameter, all else equal."""

    name: str
    a: str
    b: str
    accuracies_a: list[float]
    accuracies_b: list[float]


def hyperparameter_effects(results: Results) -> list[Finding]:
    """Return a finding for each two values of a hyperparameter with matched trials.

    The test is the exact Wilcoxon signed-rank test, corrected for the number of effects tested
    (Bonferroni): it cannot reject with fewer than six pairs, so few pairs are never "supported".
    """
    effects = list(find_effects(results))
    found = [_finding(effect, len(effects)) for effect in effects]
    order = list(Verdict)
    # A large space has many pairs of values: those that the data decides come first.
    return sorted(found, key=lambda f: order.index(f.verdict))[:MOST_FINDINGS]


def find_effects(results: Results) -> Iterator[Effect]:
    """Yield the matched accuracies of every two values, validation where there is any.

    Pairs never mix sources or devices. The model is one of the hyperparameters here.
    """
    rows = merge_repeats(results.trials, results.hyperparameters)
    rows = rows[rows["status"].eq("completed")]
    column = "val_accuracy" if rows["val_accuracy"].notna().any() else "test_accuracy"
    rows = rows[rows[column].notna()]
    settings = ["label", *varied(rows, results.hyperparameters)]
    fixed = ["study", "dataset", "device_label", "epochs"]
    text = pd.DataFrame({c: [exact(v) for v in rows[c]] for c in [*settings, *fixed]})
    text["accuracy"] = rows[column].to_numpy(float)
    for name in settings:
        values = sorted(v for v in text[name].unique() if v)
        if not 2 <= len(values) <= MOST_VALUES:
            continue
        others = [c for c in (*settings, *fixed) if c != name]
        wide = text.pivot_table(index=others, columns=name, values="accuracy", aggfunc="mean")
        for a, b in combinations(values, 2):
            both = wide[[a, b]].dropna()
            if len(both):
                yield Effect(name, a, b, both[a].tolist(), both[b].tolist())


def _finding(effect: Effect, tests: int) -> Finding:
    from scipy.stats import wilcoxon

    change = mean_difference(effect.accuracies_b, effect.accuracies_a)
    # Equal pairs say nothing of the direction, and Wilcoxon's test of none of them is undefined.
    equal = effect.accuracies_a == effect.accuracies_b
    p = 1.0 if equal else float(wilcoxon(effect.accuracies_b, effect.accuracies_a).pvalue)
    p = min(1.0, p * tests)
    head = (
        f"{heading(effect.name)} {effect.b} against {effect.a}, all else equal: "
        f"{change.estimate:+.2f} points of accuracy over {change.n} "
        f"pair{'' if change.n == 1 else 's'}"
    )
    numbers = {"difference": change.estimate, "n": change.n, "p": p}
    if change.low is None or change.high is None:
        return Finding(Verdict.NOT_SUPPORTED, f"{head}; one pair carries no interval.", numbers)
    head = f"{head} (95 % {change.low:+.2f} to {change.high:+.2f}, corrected p = {p:.2g})"
    if p < 1 - CONFIDENCE:
        return Finding(Verdict.SUPPORTED, f"{head}.", numbers)
    if change.low <= 0 <= change.high:
        return Finding(Verdict.NOISE, f"{head}: within the noise.", numbers)
    return Finding(Verdict.NOT_SUPPORTED, f"{head}: too few pairs to decide.", numbers)
