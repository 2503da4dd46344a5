"""The study as an Optuna journal, which optuna-dashboard opens while the study runs.

`optuna_journal.log` is made from the record and never read back: each session writes it anew and
then follows the record. Written again, it begins as it did before, so that a dashboard that is open
reads on. A journal that cannot be written ends; the study goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuning.record import (
    Event,
    TrialRecord,
    answer,
    apply,
    apply_round,
    suggested,
    write_atomically,
)
from tuning.samplers import Encoder, optuna_directions
from tuning.space import Config
from tuning.study import Study

JOURNAL = "optuna_journal.log"
#: A list, as optuna-dashboard shows it; Optuna itself reads that as well as constraints by name.
CONSTRAINTS = "constraints"
#: How Optuna calls the ends of trials; a stopped one is compared by what it reached.
STATES = {
    "completed": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Journal:
    """Writes what the record holds, and every event that follows, for Optuna's dashboard."""

    def __init__(self, study: Study, folder: Path, events: Iterable[Event]) -> None:
        """Write the journal anew from the record's events so far."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = study
        self._space = study.full_space()
        self._file = _JournalFile(folder / JOURNAL)
        self._storage = JournalStorage(self._file)
        self._id = self._storage.create_new_study(optuna_directions(study), folder.name)
        names: Any = list(study.search.directions())
        self._storage.set_study_system_attr(self._id, "study:metric_names", names)
        self._trials: dict[str, TrialRecord] = {}
        self._numbers: dict[str, int] = {}
        for event in events:
            self._take(event)
        self._file.open()

    def take(self, event: Event) -> None:
        """Add one event of the record."""
        self._take(event)

    def close(self) -> None:
        """Write no more."""
        self._file.path = None

    def _take(self, event: Event) -> None:
        self._file.now = event["time"]
        if event["event"] == "known":
            for result in event["results"]:
                self._add_known(result)
        elif event["event"] == "round":
            apply_round(self._trials, event)
        elif event["event"] == "trial":
            self._trials[event["trial"]] = suggested(event)
            self._create(event["trial"])
        elif "trial" in event:
            trial = self._trials[event["trial"]]
            before = len(trial.reports)
            if event["event"] == "answer":
                answer(trial, self._trials[event["of"]], event["time"])
            else:
                apply(trial, event)
            self._follow(event, trial, new_reports=trial.reports[before:])

    def _follow(self, event: Event, trial: TrialRecord, new_reports: list[dict[str, Any]]) -> None:
        number = self._numbers[trial.trial]
        for report in new_reports:
            value = report.get(self.study.search.metric)
            # Optuna knows values of epochs only where there is one objective.
            if value is not None and not self.study.search.objectives:
                step = int(report.get("epoch", 1))
                self._storage.set_trial_intermediate_value(number, step, value)
        match event["event"]:
            case "start" if self._state(number) == TrialState.WAITING:
                self._storage.set_trial_state_values(number, TrialState.RUNNING)
            case "facts":
                for key, fact in event["facts"].items():
                    self._storage.set_trial_user_attr(number, key, fact)
            case "end" | "answer":
                self._end(number, trial)
            case "retry":
                # To Optuna a trial that has ended is over; its second try is another one.
                self._create(trial.trial)

    def _end(self, number: int, trial: TrialRecord) -> None:
        values = trial.objective_values(self.study.search.directions())
        excesses = trial.violations(self.study.search.bounds()).values()
        if excesses and None not in excesses:
            self._storage.set_trial_system_attr(number, CONSTRAINTS, list(excesses))
        last = trial.reports[-1] if trial.reports else {}
        notes = {"answered_from": trial.answered_from, "error": trial.error}
        for key, value in (last | {k: v for k, v in notes.items() if v}).items():
            self._storage.set_trial_user_attr(number, key, value)
        state = STATES[trial.status] if values else TrialState.FAIL
        self._storage.set_trial_state_values(number, state, values)

    def _create(self, trial: str) -> None:
        record = self._trials[trial]
        attributes = {"trial": trial, "seed": record.config.get("seed")}
        if record.finalist_of:
            attributes["finalist_of"] = record.finalist_of
        template = self._template(record.config, TrialState.WAITING, attributes)
        self._numbers[trial] = self._storage.create_new_trial(self._id, template)

    def _add_known(self, result: dict[str, Any]) -> None:
        value = result["value"]
        template = self._template(
            result["values"],
            TrialState.COMPLETE,
            {"source": result["source"]},
            values=value if isinstance(value, list) else [value],
            system_attrs={CONSTRAINTS: list(result.get("violations", {}).values())},
        )
        self._storage.create_new_trial(self._id, template)

    def _template(
        self, config: Config, state: TrialState, attributes: dict[str, Any], **known: Any
    ) -> FrozenTrial:
        try:
            encoded = Encoder(self._space, config)
        except ValueError:
            # The space has changed, and the study goes on with --allow-changed.
            return create_trial(state=state, user_attrs=attributes | {"config": config}, **known)
        return create_trial(
            state=state,
            params=encoded.params,
            distributions=encoded.distributions,
            user_attrs=attributes,
            **known,
        )

    def _state(self, number: int) -> TrialState:
        return self._storage.get_trial(number).state


class _JournalFile(BaseJournalBackend):
    """The lines of a journal, in memory and in a file that nobody else writes.

    Optuna's own file backend takes a lock, which a killed driver would leave behind.

    Attributes:
        path: of the file; None when it is not written any more.
        now: the time of the event that is being written, Unix seconds.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path
        self.now = 0.0
        self._logs: list[dict[str, Any]] = []
        self._opened = False

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        stamp = datetime.fromtimestamp(self.now, UTC).isoformat(timespec="microseconds")
        for log in logs:
            log |= {key: stamp for key in ("datetime_start", "datetime_complete") if log.get(key)}
        self._logs += logs
        if self._opened and self.path is not None:
            try:
                with self.path.open("ab") as file:
                    file.write(_lines(logs))
            except OSError:
                self.path = None

    def open(self) -> None:
        """Write the file anew with the lines so far; from now on it follows."""
        self._opened = True
        if self.path is not None:
            try:
                write_atomically(self.path, _lines(self._logs))
            except OSError:
                self.path = None


def _lines(logs: list[dict[str, Any]]) -> bytes:
    # Without the id of this process, a journal that is written anew is the same, byte for byte.
    texts = (json.dumps(log | {"worker_id": "study"}, separators=(",", ":")) for log in logs)
    return "".join(f"{text}\n" for text in texts).encode()
