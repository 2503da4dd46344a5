"""Table E: what each search found, by which rule, and what it spent."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.columns import empty, heading, write
from analysis.load import Results, Study
from analysis.pareto import objectives
from analysis.tables import Table, eligible, first_by, goal_values, varied

RULE = (
    "Rule: the highest validation accuracy of a trial's best epoch, among completed trials, "
    "chooses; the test split is read once, for the chosen one."
)


def choose(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that share the highest validation accuracy, or searched metric: ties stay.

    Where finalists ran again, their mean over the new runs decides: the best one's first run is
    returned, with the means of its accuracies.
    """
    done = eligible(trials)
    done = done[goal_values(done).notna()]
    if "finalist_of" not in done or done["finalist_of"].isna().any() or done.empty:
        return first_by(done, goal_values(done))
    keys = ["study", "dataset", "finalist_of"]
    means = {c: done.groupby(keys)[c].transform("mean") for c in ("val_accuracy", "test_accuracy")}
    deciding = goal_values(done).groupby([done[key] for key in keys]).transform("mean")
    return first_by(done.assign(**means), deciding).drop_duplicates(keys)


def rules(study: Study) -> list[str]:
    """Return the sentences that say how the best trial of a study is chosen."""
    metric, mode = study.goal
    found = [RULE]
    if metric != "val_accuracy":
        high = "highest" if mode == "max" else "lowest"
        found = [RULE.replace("highest validation accuracy", f"{high} {heading(metric)}")]
    others = [heading(goal.metric) for goal in objectives(study.description)[1:]]
    if others:
        found.append(f"Of equal ones, {', then '.join(others)} decides (see the Pareto front).")
    if study.description.get("finalists"):
        found.append("Of finalists, the mean of the runs with new seeds decides.")
    return found


def search(results: Results) -> Table:
    """Return table E, a row per study folder and dataset; published tables searched nothing."""
    rows = []
    notes: list[str] = []
    for study in results.studies:
        if study.source == "reference":
            continue
        notes += [rule for rule in rules(study) if rule not in notes]
        mine = results.trials[results.trials["study"].eq(study.name)]
        for dataset, trials in mine.groupby("dataset", dropna=False, sort=False):
            best = choose(trials)
            rows.append(_row(study, dataset, trials, best, results))
            if len(best) > 1:
                names = ", ".join(best["trial_id"])
                value = write("val_accuracy", best["val_accuracy"].iloc[0])
                notes.append(f"{study.name}, {dataset}: a tie at {value} % between {names}.")
            if best.empty:
                notes.append(
                    f"{study.name}, {dataset}: no completed trial has a validation accuracy, "
                    "so none is chosen."
                )
    return Table("search", "E. Search", pd.DataFrame(rows), tuple(notes) if rows else ())


def _row(
    study: Study, dataset: object, trials: pd.DataFrame, best: pd.DataFrame, results: Results
) -> dict[str, Any]:
    """Sum up one study on one dataset; of a tie the first trial stands in the row."""
    status = trials["status"].value_counts()
    first = best.iloc[0] if len(best) else None
    started, ended = trials["started"].min(), trials["ended"].max()
    settings = ["label", *varied(trials, study.hyperparameters)]
    return {
        "study": study.name,
        "dataset": dataset,
        "searcher": _searcher(study),
        "scheduler": _named(study.description.get("scheduler"), "type"),
        "trials": len(trials),
        "completed": int(status.get("completed", 0)),
        "stopped": int(status.get("stopped", 0)),
        "failed": int(status.get("failed", 0)),
        "unfinished": int(status.get("running", 0) + status.get("pending", 0)),
        "epochs": trials["epochs"].sum(),
        "max_epochs": trials["max_epochs"].sum(),
        "wall_seconds": ended - started,
        "seconds_to_best": None if first is None else _to_best(first, started, results.curves),
        "best_trial": ", ".join(best["trial_id"]) or None,
        "best_configuration": None if first is None else configuration(first, settings),
        "val_accuracy": None if first is None else first["val_accuracy"],
        "test_accuracy": None if first is None else first["test_accuracy"],
    }


def configuration(trial: pd.Series[Any], settings: list[str]) -> str:
    """Write the settings of a trial in one line, those that do not apply left out."""
    names = {"label": "model"}
    return ", ".join(
        f"{names.get(s, s)}={write('', trial[s])}" for s in settings if not empty(trial[s])
    )


def _to_best(best: pd.Series[Any], started: float, curves: pd.DataFrame) -> float | None:
    """Return the seconds from the study's start to the report that turned out best."""
    if empty(best["started"]):
        return None
    mine = curves[curves["study"].eq(best["study"]) & curves["trial_id"].eq(best["trial_id"])]
    if "total_seconds" not in mine or mine.empty:
        return None
    at = mine["epoch"].eq(best["best_epoch"]) if not empty(best["best_epoch"]) else None
    report = mine[at] if at is not None and at.any() else mine.tail(1)
    return float(best["started"] - started + report["total_seconds"].iloc[0])


def _searcher(study: Study) -> str | None:
    search = study.description.get("search")
    if not isinstance(search, dict):
        return None
    algorithm = search.get("algorithm")
    keys = ("algorithm", "sampler") if algorithm == "optuna" else ("algorithm",)
    return " ".join(str(search[k]) for k in keys if search.get(k)) or None


def _named(value: object, key: str) -> str | None:
    if isinstance(value, dict):
        value = value.get(key)
    return str(value) if value else None
