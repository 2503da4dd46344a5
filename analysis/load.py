"""Study folders and CSV files become one table of trials, with the learning curves beside it.

The record of a study is preferred to its `trials.csv`, so that a stale copy can never give a wrong
table. Everything else in the folder may be missing: what is there is shown, the rest is noted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.errors import AnalysisError
from analysis.pareto import comparable, constraints, losses, non_dominated, objectives
from analysis.prepare import CONTRACT_HYPERPARAMETERS, KNOWN_MEASUREMENTS, prepare
from tuning.record import (
    COLUMNS,
    RECORD,
    TABLE,
    CorruptRecord,
    TrialRecord,
    has_record,
    read_trials,
)

#: What a CSV must have to be read as results: the rest of the contract's columns may be absent.
REQUIRED = ("trial_id", "dataset", "model")


@dataclass(frozen=True)
class Study:
    """What one study folder, or one CSV file, says.

    `trials` has one row per trial in the columns of `tuning.record.COLUMNS` and more; `curves` one
    row per report (times cumulative, in seconds); `hyperparameters` the columns that were set
    rather than measured, the seed aside.
    """

    name: str
    path: Path
    source: str
    trials: pd.DataFrame
    curves: pd.DataFrame
    hyperparameters: tuple[str, ...]
    description: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def goal(self) -> tuple[str, str]:
        """The metric that the study searched by, its first objective, and `max` or `min`."""
        search = self.description.get("search")
        search = search if isinstance(search, dict) else {}
        return str(search.get("metric") or "val_accuracy"), str(search.get("mode") or "max")

    def trial_folder(self, trial: str) -> Path:
        return self.path / "trials" / trial


@dataclass(frozen=True)
class Results:
    """Several studies as one table; (`study`, `trial_id`) names a row."""

    studies: tuple[Study, ...]
    trials: pd.DataFrame
    curves: pd.DataFrame
    hyperparameters: tuple[str, ...]

    def study(self, name: str) -> Study:
        return next(study for study in self.studies if study.name == name)

    def keep(self, trials: pd.DataFrame) -> Results:
        """Return the same results with only these rows of `trials`."""
        return replace(self, trials=trials)


def load(paths: Iterable[Path], *, reference: bool = False) -> Results:
    """Read study folders and CSV files, and the packaged reference tables if asked.

    Raises:
        AnalysisError: a path is no study folder and no CSV in the contract's columns.
    """
    studies = [load_study(path) for path in paths]
    if reference:
        studies += load_reference()
    if not studies:
        raise AnalysisError(
            "there is nothing to show: give study folders or CSV files, or --against reference"
        )
    return combine(studies)


def load_study(path: Path) -> Study:
    """Read one study folder, or one CSV file in the contract's columns."""
    if not path.exists():
        raise AnalysisError(
            f"{path}: no such folder or file; give the study folder that `tuning run` printed last"
        )
    if path.is_file():
        return load_csv(path)
    if has_record(path):
        return load_folder(path)
    if (path / TABLE).exists():
        study = load_csv(path / TABLE)
        note = f"{path} has no {RECORD}: its {TABLE} was read as it stands"
        return replace(study, name=path.name, path=path, source="study", notes=(note,))
    raise AnalysisError(_not_a_study(path))


def load_folder(path: Path) -> Study:
    """Read one study folder from its record."""
    trials = _read_record(path)
    description, notes = _read_description(path)
    environment, more = _read_environment(path)
    configured = dict.fromkeys(key for trial in trials for key in trial.config)
    hyperparameters = tuple(
        "max_epochs" if key == "epochs" else key
        for key in configured
        if key not in ("seed", "dataset", "model", "trainable")
    )
    table = pd.DataFrame([trial.row() for trial in trials])
    dataset = description.get("dataset")
    if isinstance(dataset, dict):
        for column, key in (("dataset", "name"), ("image_size", "image_size")):
            _fill(table, column, dataset.get(key))
    if isinstance(description.get("trainable"), str):
        _fill(table, "trainable", description["trainable"])
    study = Study(
        name=str(description.get("name") or path.resolve().name),
        path=path,
        source="study",
        trials=table,
        curves=_curves(trials),
        hyperparameters=hyperparameters,
        description=description,
        environment=environment,
        notes=(*notes, *more),
    )
    _add_goal(study, trials)
    return replace(study, trials=_mark_front(prepare(table, environment), description))


def _add_goal(study: Study, trials: Sequence[TrialRecord]) -> None:
    """Add what the search goes by, at its best epoch as in the searcher, and who keeps bounds.

    The column `goal` is that metric, higher being better, where it is not the accuracy.
    """
    metric, mode = study.goal
    if metric != "val_accuracy":
        values = pd.to_numeric(pd.Series([t.best_value(metric, mode) for t in trials]))
        study.trials[metric] = values
        study.trials["goal"] = values if mode == "max" else -values
    bounds = constraints(study.description)
    if bounds:
        study.trials["feasible"] = [trial.feasible(bounds) for trial in trials]


def _mark_front(trials: pd.DataFrame, description: dict[str, Any]) -> pd.DataFrame:
    """Add the column `pareto`: on the front of its data set; empty where there is no front."""
    goals = objectives(description)
    if not goals or any(goal.metric not in trials for goal in goals):
        return trials
    trials = trials.assign(pareto=None)
    for _, rows in trials.groupby("dataset", dropna=False, sort=False):
        of = comparable(rows, goals)
        trials.loc[of.index, "pareto"] = non_dominated(losses(of, goals))
    return trials


def load_csv(path: Path, *, source: str = "csv") -> Study:
    """Read results that were not made here: a CSV in the contract's columns, more allowed."""
    try:
        table = pd.read_csv(path, dtype={"trial_id": str, "error": str}, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise AnalysisError(f"{path}: not a CSV of trials ({reason})") from error
    missing = [column for column in REQUIRED if column not in table]
    if missing:
        raise AnalysisError(
            f"{path}: not a CSV of trials: the column {', '.join(missing)} is missing; the "
            f"contract's columns are {', '.join(COLUMNS[:6])}, ..."
        )
    if table.empty:
        raise AnalysisError(f"{path}: the CSV holds no trial; is it the right file?")
    if "status" not in table:
        table["status"] = "completed"
    known = (*COLUMNS, *KNOWN_MEASUREMENTS, *CONTRACT_HYPERPARAMETERS)
    extra = [str(column) for column in table if column not in known]
    return Study(
        name=path.stem,
        path=path,
        source=source,
        trials=prepare(table, {}),
        curves=pd.DataFrame({"trial_id": [], "epoch": []}),
        hyperparameters=(*(c for c in CONTRACT_HYPERPARAMETERS if c in table), *extra),
    )


def load_reference() -> list[Study]:
    """Return the published tables that studies are compared with, as one study each."""
    with resources.as_file(resources.files("analysis") / "reference") as folder:
        return [
            replace(load_csv(path, source="reference"), name=f"reference {path.stem}")
            for path in sorted(folder.glob("*.csv"))
        ]


def combine(studies: Sequence[Study]) -> Results:
    """Put studies under one another; those that share a name are told apart by their folder."""
    counts = Counter(study.name for study in studies)
    seen: Counter[str] = Counter()
    named = []
    for study in studies:
        name = study.name
        if counts[name] > 1:
            name = f"{name} ({study.path.resolve().name})"
        seen[name] += 1
        if seen[name] > 1:
            name = f"{name} #{seen[name]}"
        trials = study.trials.assign(study=name, source=study.source)
        curves = study.curves.assign(study=name)
        named.append(replace(study, name=name, trials=trials, curves=curves))
    # Columns that are wholly empty in one study would make pandas guess the dtype of the whole.
    trials = pd.concat([s.trials.dropna(axis="columns", how="all") for s in named])
    trials = trials.reindex(columns=list(dict.fromkeys(c for s in named for c in s.trials)))
    return Results(
        studies=tuple(named),
        trials=prepare(trials.reset_index(drop=True), None),
        curves=pd.concat([s.curves for s in named if len(s.curves)] or [named[0].curves]),
        hyperparameters=tuple(dict.fromkeys(h for s in named for h in s.hyperparameters)),
    )


def _read_record(path: Path) -> list[TrialRecord]:
    try:
        trials = list(read_trials(path).values())
    except CorruptRecord as error:
        raise AnalysisError(
            f"{error}; restore the file from a copy, or cut it before that line"
        ) from error
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise AnalysisError(
            f"{path / RECORD}: not the record of a study ({type(error).__name__}: {error})"
        ) from error
    if not trials:
        raise AnalysisError(
            f"{path}: the study holds no trial yet; run it, or finish it with `tuning resume`"
        )
    return trials


def _read_description(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    import yaml

    file = path / "study.yaml"
    try:
        description = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        return {}, (f"{path} has no study.yaml: what was searched is not known",)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        return {}, (f"{file} cannot be read: {' '.join(str(error).split())}",)
    return (description, ()) if isinstance(description, dict) else ({}, (f"{file} is no mapping",))


def _read_environment(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    file = path / "environment.json"
    try:
        environment = json.loads(file.read_text())
    except FileNotFoundError:
        return {}, (f"{path} has no environment.json: hosts and versions are not known",)
    except ValueError as error:
        return {}, (f"{file} cannot be read: {error}",)
    return (environment, ()) if isinstance(environment, dict) else ({}, (f"{file} is no object",))


def _curves(trials: Iterable[TrialRecord]) -> pd.DataFrame:
    """Return a row per report; in a population also what the epoch was trained with.

    There `weights_from` names the donor in the first epoch after a trial took over its weights.
    """
    trials = list(trials)
    changed = dict.fromkeys(
        key
        for trial in trials
        for taken in trial.takeovers.values()
        for key, value in taken["config"].items()
        if value != trial.config.get(key)
    )
    rows = []
    for trial in trials:
        last = 0
        for report in trial.reports:
            row = {"trial_id": trial.trial, **report}
            if changed:
                config = trial.config_at(report.get("epoch", 1))
                row |= {key: config.get(key) for key in changed}
                row["weights_from"] = trial.takeovers.get(last, {}).get("donor")
            last = report.get("epoch", 1)
            rows.append(row)
    return pd.DataFrame(rows) if rows else pd.DataFrame({"trial_id": [], "epoch": []})


def _fill(table: pd.DataFrame, column: str, value: Any) -> None:
    """Set the empty cells of a column to what holds for the whole study."""
    if value is None or isinstance(value, list | dict):
        return
    if column not in table:
        table[column] = value
    else:
        empty = table[column].isna()
        table[column] = table[column].astype(object)
        table.loc[empty, column] = value


def _not_a_study(path: Path) -> str:
    below = sorted(p.parent.name for p in path.glob(f"*/{RECORD}"))
    if below:
        return f"{path}: not a study folder, but it holds some: {', '.join(below[:5])}; give those"
    what = "an empty folder" if not any(path.iterdir()) else "not a study folder"
    return f"{path}: {what}: it has no {RECORD}; give the folder that `tuning run` printed last"
