"""Sentences that tests on the data generate, each with its numbers and a verdict.

A difference is `supported` only by a test that rejects chance; claims that people make are checked
rather than repeated (see `claims`); what cannot be judged is said to be so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis.claims import accuracy_across_devices, speedup_grows, svm_slower
from analysis.columns import empty, write
from analysis.effects import hyperparameter_effects
from analysis.load import Results
from analysis.predictions import read_predictions
from analysis.search import choose, configuration
from analysis.statistics import overlap, paired_test, wilson
from analysis.tables import is_svm, mark_best, tuned_networks, varied
from analysis.verdict import Finding, Verdict


def findings(results: Results) -> list[Finding]:
    """Return all findings: what won, whether it won by more than chance, and what to distrust."""
    return [
        *best_configurations(results),
        *networks_against_svms(results),
        *svm_slower(results.trials),
        *speedup_grows(results.trials),
        *accuracy_across_devices(results.trials),
        *hyperparameter_effects(results),
        *spent(results.trials),
        *disturbed(results.trials),
    ]


def best_configurations(results: Results) -> Iterator[Finding]:
    """Compare the chosen configuration of each study and dataset with the next best one."""
    for (study, dataset), trials in results.trials.groupby(["study", "dataset"], sort=False):
        best = choose(trials)
        if best.empty:
            continue
        settings = ["label", *varied(trials, results.hyperparameters)]
        first = best.iloc[0]
        name = f"{dataset} ({study})" if len(results.studies) > 1 else str(dataset)
        chosen = f"On {name}, trial {first['trial_id']} ({configuration(first, settings)})"
        values = ", ".join(_accuracies(first))
        if len(best) > 1:
            others = ", ".join(best["trial_id"].iloc[1:])
            goal = "highest validation accuracy" if empty(first.get("goal")) else "best value"
            tie = f"{chosen} shares the {goal} with {others}: {values}."
            yield Finding(Verdict.NOTED, tie, {"tied": len(best)})
            continue
        goal = "highest validation accuracy"
        if not empty(first.get("finalist_of")):
            goal = "best mean over new seeds among the finalists"
        elif not empty(first.get("goal")):
            goal = "best value of the searched metric"
        text = f"{chosen} has the {goal}{f': {values}' if values else ''}."
        yield Finding(Verdict.NOTED, text)
        # Written out, since an empty setting is not equal to itself.
        written = trials[settings].map(repr)
        same = written.eq(written.loc[[first.name]].iloc[0]).all(axis="columns")
        rest = choose(trials[~same])
        if len(rest):
            yield compare(results, first, rest.iloc[0], "the next best configuration")


def networks_against_svms(results: Results) -> Iterator[Finding]:
    """Compare the best network with the best SVM of each dataset, within one source."""
    trials = results.trials[results.trials["status"].eq("completed")]
    for _, rows in trials.groupby(["source", "dataset"], sort=False):
        networks, svms = rows[tuned_networks(rows)], rows[is_svm(rows)]
        if networks.empty or svms.empty:
            continue
        first = networks[mark_best(networks, ["dataset"])].iloc[0]
        second = svms[mark_best(svms, ["dataset"])].iloc[0]
        yield compare(results, first, second, "the best SVM")


def compare(results: Results, a: pd.Series[Any], b: pd.Series[Any], role: str) -> Finding:
    """Compare two trials on the test split: per image where predictions are stored."""
    pair = (
        f"{a['dataset']}: {a['label']} (trial {a['trial_id']}) against {role}, "
        f"{b['label']} (trial {b['trial_id']})"
    )
    first = read_predictions(results.study(str(a["study"])), str(a["trial_id"]))
    second = read_predictions(results.study(str(b["study"])), str(b["trial_id"]))
    if first and second and first.same_images(second):
        test = paired_test(first.correct, second.correct)
        verdict = Verdict.SUPPORTED if test.significant else Verdict.NOISE
        return Finding(
            verdict,
            f"{pair}: {test.difference:+.2f} points on {test.n:,} test images (95 % "
            f"{test.low:+.2f} to {test.high:+.2f}); right where the other is wrong: "
            f"{test.only_a} against {test.only_b}, McNemar p {_p(test.p_value)}"
            f"{'' if test.significant else ': no difference beyond chance'}.",
            test._asdict(),
        )
    return _compare_intervals(a, b, pair)


def _compare_intervals(a: pd.Series[Any], b: pd.Series[Any], pair: str) -> Finding:
    """Compare by the Wilson intervals of two accuracies, where no predictions are stored."""
    if empty(a["test_accuracy"]) or empty(b["test_accuracy"]):
        return Finding(Verdict.NOTED, f"{pair}: not both have a test accuracy to compare.")
    values = [float(row["test_accuracy"]) for row in (a, b)]
    numbers = {"a": values[0], "b": values[1]}
    difference = f"{pair}: {values[0]:.2f} % and {values[1]:.2f} % test accuracy"
    if empty(a["test_images"]) or empty(b["test_images"]):
        sentence = f"{difference}; how many test images is not recorded, so noise cannot be judged."
        return Finding(Verdict.NOTED, sentence, numbers)
    counts = [float(row["test_images"]) for row in (a, b)]
    low, high = wilson(values, counts)
    inside = overlap((low[0], high[0]), (low[1], high[1]))
    intervals = f"95 % {low[0]:.2f}-{high[0]:.2f} and {low[1]:.2f}-{high[1]:.2f}"
    if inside:
        sentence = f"{difference}; the intervals ({intervals}) overlap: within the noise."
        return Finding(Verdict.NOISE, sentence, numbers)
    sentence = f"{difference}; the intervals ({intervals}) do not overlap."
    return Finding(Verdict.SUPPORTED, sentence, numbers)


def spent(trials: pd.DataFrame) -> Iterator[Finding]:
    """Say what early stopping saved and which trials failed."""
    stopped = trials[trials["status"].eq("stopped") & trials["max_epochs"].notna()]
    if len(stopped):
        ran, planned = int(stopped["epochs"].sum()), int(stopped["max_epochs"].sum())
        yield Finding(
            Verdict.NOTED,
            f"The scheduler stopped {_count(len(stopped))} after {ran:,} of {planned:,} epochs; "
            f"their validation accuracies come from shorter training than those of completed ones.",
            {"stopped": len(stopped), "epochs": ran, "planned": planned},
        )
    failed = trials[trials["status"].eq("failed")]
    if len(failed):
        names = ", ".join(failed["trial_id"])
        yield Finding(
            Verdict.NOTED,
            f"{_count(len(failed)).capitalize()} failed, no result of theirs counts: {names}.",
            {"failed": len(failed)},
        )


def disturbed(trials: pd.DataFrame) -> Iterator[Finding]:
    """Say which times were taken beside other trials, or with differing threads."""
    known = trials[trials["co_tenants"].notna()]
    shared = known[known["co_tenants"].gt(0)]
    if len(shared):
        most = int(shared["co_tenants"].max())
        yield Finding(
            Verdict.NOTED,
            f"{len(shared):,} of {_count(len(known))} overlapped in time with others on the same "
            f"host (up to {most:,} in the course of one): their times include that company and are "
            "no clean benchmark.",
            {"shared": len(shared), "known": len(known)},
        )
    for device, rows in trials.groupby("device_label", sort=False):
        threads = sorted({int(t) for t in rows["threads"].dropna()})
        if len(threads) > 1:
            counts = ", ".join(str(t) for t in threads)
            yield Finding(
                Verdict.NOTED,
                f"Trials on {device} ran with differing threads ({counts}): compare their times "
                "only at equal threads.",
            )


def _accuracies(trial: pd.Series[Any]) -> list[str]:
    names = {"val_accuracy": "validation", "test_accuracy": "test"}
    return [f"{write(c, trial[c])} % {n}" for c, n in names.items() if not empty(trial[c])]


def _count(n: int) -> str:
    return f"{n:,} trial{'' if n == 1 else 's'}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
