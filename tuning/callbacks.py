"""Callbacks of a running study: the record, the trial folders, TensorBoard, and the progress."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback
from ray.tune.experiment import Trial
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tuning import checkpoint
from tuning.event_file import EventFile, charts, hyperparameters
from tuning.record import Record, TrialRecord, apply, apply_round, write_table
from tuning.study import Study
from tuning.trial import read_time_limit

if TYPE_CHECKING:
    from tuning.population import Takeover

#: Least seconds between two writes of `trials.csv`, and how many times as long as one takes, since
#: the table of many trials takes longer; the record itself is written at once.
TABLE_EVERY, TABLE_TIMES = 2.0, 50.0
#: Metrics of a report that TensorBoard shows over epochs, by group.
SCALARS = {
    "accuracy_percent/validation": "val_accuracy",
    "accuracy_percent/test": "test_accuracy",
    "loss/training": "train_loss",
    "loss/validation": "val_loss",
    "seconds/training": "train_seconds",
    "seconds/total": "total_seconds",
    "seconds/prediction_of_test": "predict_seconds",
    "throughput/images_per_second": "images_per_second",
    "memory/bytes": "memory_bytes",
}
#: TensorBoard's page "Custom scalars": what to compare, side by side over all trials.
LAYOUT = {
    "accuracy and time": {
        "validation accuracy, percent": ["accuracy_percent/validation"],
        "training time, seconds": ["seconds/training"],
    },
    "loss and throughput": {
        "loss, training and validation": ["loss/training", "loss/validation"],
        "images per second": ["throughput/images_per_second"],
    },
}
#: Metrics of a row that the HParams dashboard shows.
HPARAM_METRICS = (
    "val_accuracy", "test_accuracy", "train_seconds", "predict_seconds", "total_seconds",
    "images_per_second", "gflops",
)  # fmt: skip


class Recorder(Callback):
    """Writes what trials do: first into the record, then into their folders and `trials.csv`."""

    def __init__(
        self,
        study: Study,
        folder: Path,
        record: Record,
        trials: dict[str, TrialRecord],
        before_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin to write.

        Args:
            study: for its metric.
            folder: of the study.
            record: of the study.
            trials: what the record holds already, by id.
            before_failure: called before a trial whose process was lost is marked as failed; it
                does not return if that is because all of Ray was lost.
        """
        self.before_failure = before_failure
        self.folder = folder
        self.record = record
        self.trials = trials
        self.study = study
        self._best: TrialRecord | None = None
        for trial in trials.values():
            self._best = self._better(trial)
        self.limits = study.limits
        self._writers: dict[str, EventFile] = {}
        self._table_due = 0.0

    def setup(self, **_: Any) -> None:
        trials = self.folder / "trials"
        if not any(trials.glob("events.*")):
            layout = EventFile(trials)
            layout.add_summary(charts(LAYOUT))
            layout.close()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        self._event("start", trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        known = self.trials[_name(trial)]
        if "facts" in result:
            self._event("facts", trial, facts=result["facts"])
        if "enlarge" in result:
            self._event("enlarge", trial, **result["enlarge"])
        if "report" in result and not known.has_report(result["report"]):
            self._event("report", trial, metrics=_finite(result["report"]))
            self._write_report(known)
        self.write_table_if_due()

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        result = trial.last_result
        failure = result.get("failure", "")
        status = "failed" if failure else "completed" if result.get("final") else "stopped"
        self._end(trial, status, failure)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        self.before_failure()
        text = _error_text(trial)
        folder = self.folder / "trials" / _name(trial)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(text + "\n")
        if read_time_limit(folder):
            text = f"TimeoutError: limits.trial_seconds: {self.limits.trial_seconds:g} are over"
        self._end(trial, "failed", _reason(text))

    def write_round(
        self, epoch: int, scores: dict[str, float | None], taken: dict[str, Takeover]
    ) -> None:
        """Carry out a round of a population, and write it into the record.

        The checkpoints come first: a study that is cut off in between plays the round again.
        """
        trials = self.folder / "trials"
        for name, takeover in taken.items():
            checkpoint.copy_newest(trials / takeover.donor, trials / name)
        values = {"epoch": epoch, "scores": scores}
        values |= {"trials": {name: takeover._asdict() for name, takeover in taken.items()}}
        self.record.append("round", time=time.time(), **values)
        apply_round(self.trials, {"event": "round"} | values)

    def write_table_if_due(self) -> None:
        """Write `trials.csv` if the last time is long enough ago."""
        if time.monotonic() > self._table_due:
            self.write_table()

    def write_table(self) -> None:
        """Write `trials.csv` from the record."""
        started = time.monotonic()
        write_table(self.folder, self.trials.values())
        ended = time.monotonic()
        self._table_due = ended + max(TABLE_EVERY, TABLE_TIMES * (ended - started))

    def _end(self, trial: Trial, status: str, error: str) -> None:
        known = self.trials[_name(trial)]
        self._event("end", trial, status=status, error=error)
        writer = self._writers.pop(known.trial, None) or self._writer(known)
        _write_hparams(writer, known)
        writer.close()
        self._remove_checkpoints(known)
        self.write_table_if_due()

    def _remove_checkpoints(self, ended: TrialRecord) -> None:
        """Remove what a finished trial, which is never resumed, would only fill the disk with."""
        before, self._best = self._best, self._better(ended)
        keep = self.study.keep_checkpoints
        for trial in (before, ended):
            if trial and keep != "all" and not (keep == "best" and trial is self._best):
                checkpoint.remove_all(self.folder / "trials" / trial.trial)

    def _better(self, trial: TrialRecord) -> TrialRecord | None:
        """Return the best completed trial so far or this one; the first of equal ones."""
        search, best = self.study.search, self._best
        value = trial.best_value(search.metric, search.mode)
        if trial.status != "completed" or value is None:
            return best
        held = best.best_value(search.metric, search.mode) if best else None
        better = held is None or (value > held if search.mode == "max" else value < held)
        return trial if better else best

    def _event(self, event: str, trial: Trial, **values: Any) -> None:
        values = {"time": time.time(), "trial": _name(trial)} | values
        self.record.append(event, **values)
        apply(self.trials[_name(trial)], {"event": event} | values)

    def _write_report(self, trial: TrialRecord) -> None:
        report = trial.reports[-1]
        folder = self.folder / "trials" / trial.trial
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "result.json").open("a") as file:
            file.write(json.dumps(report) + "\n")
        writer = self._writers.get(trial.trial) or self._writer(trial)
        self._writers[trial.trial] = writer
        for tag, key in SCALARS.items():
            if key in report:
                writer.add_scalar(tag, report[key], report.get("epoch", 1))
        writer.flush()

    def _writer(self, trial: TrialRecord) -> EventFile:
        return EventFile(self.folder / "trials" / trial.trial)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles callbacks into its own state; the record makes that needless.
        return {}


def _error_text(trial: Trial) -> str:
    """Return what Tune wrote of a trial's failures, on this host: its storage has it only later."""
    path = Path(trial.error_file) if trial.error_file else None
    return path.read_text() if path and path.is_file() else "its process was lost"


def _reason(text: str) -> str:
    """Return the line of the last failure that says most; Ray ends some with advice."""
    last = text.rpartition("Failure # ")[2]
    lines = [line.strip() for line in last.splitlines() if line.strip()]
    first = next((line for line in lines if "ActorDiedError" in line or "OutOfMemory" in line), "")
    return first or lines[-1]


def _name(trial: Trial) -> str:
    return str(trial.config["trial"])


def _finite(report: dict[str, Any]) -> dict[str, Any]:
    """Leave out metrics that are no finite numbers: JSON has none, and no table wants them."""
    return {k: v for k, v in report.items() if not isinstance(v, float) or math.isfinite(v)}


def _write_hparams(writer: EventFile, trial: TrialRecord) -> None:
    row = trial.row()
    parameters = {
        k: v if isinstance(v, bool | int | float | str) else str(v)
        for k, v in (trial.config | {"status": trial.status}).items()
        if v is not None
    }
    metrics = {f"hparam/{k}": row[k] for k in HPARAM_METRICS if row.get(k) is not None}
    for summary in hyperparameters(trial.trial, parameters, list(metrics)):
        writer.add_summary(summary)
    for tag, value in metrics.items():
        writer.add_scalar(tag, value, 1)


class Progress(Callback):
    """A live table of the study on a terminal, or a line per finished trial elsewhere."""

    def __init__(
        self,
        study: Study,
        console: Console,
        trials: dict[str, TrialRecord],
        total: int,
        slots: int,
    ) -> None:
        self.study = study
        self.console = console
        self.trials = trials
        self.total = total
        self.slots = slots
        self.started = time.time()
        self.finished_before = sum(t.finished for t in trials.values())
        search = study.search
        self._measured = dict.fromkeys(
            [*search.directions(), *(constraint.metric for constraint in search.constraints)]
        )
        self._live: Live | None = None
        self._refreshed = 0.0

    def setup(self, **_: Any) -> None:
        # The finalists' runs follow the search's in the same table.
        if self.console.is_terminal and self._live is None:
            self._live = Live(self.table(), console=self.console, auto_refresh=False)
            self._live.start()

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        if self._live and time.monotonic() - self._refreshed > 0.5:
            self._live.update(self.table(), refresh=True)
            self._refreshed = time.monotonic()

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **_: Any
    ) -> None:
        self._line(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        self._line(trial)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        text = f"trial {_name(trial)} lost its process or raised an error; it is tried again"
        if share := trial.last_result.get("enlarge"):
            ran_out = f"trial {_name(trial)} ran out of memory with gpu {share['was']:g}"
            text = f"{ran_out}; it is tried again with gpu {share['gpu']:g}"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Draw the last state and give the terminal back."""
        if self._live:
            self._live.update(self.table(), refresh=True)
            self._live.stop()
            self._live = None

    def table(self) -> Table:
        """Return the state of the study: counts, best so far, and the running trials."""
        counts = {s: 0 for s in ("running", "completed", "stopped", "failed")}
        for trial in list(self.trials.values()):
            counts[trial.status] = counts.get(trial.status, 0) + 1
        summary = "  ".join(f"{n} {s}" for s, n in counts.items() if n)
        title = f"{self.study.name}: {summary or 'starting'} of {self.total}  {self._time_left()}"
        table = Table(title=title, caption=self._best_line(), title_justify="left")
        for column in ("trial", "configuration", "epoch", "validation", "seconds"):
            table.add_column(column, justify="left" if column == "configuration" else "right")
        for trial in list(self.trials.values()):
            if trial.status == "running":
                last = trial.reports[-1] if trial.reports else {}
                table.add_row(
                    trial.trial,
                    short(trial.config),
                    f"{last.get('epoch', '-')}",
                    _number(last.get(self.study.search.metric)),
                    f"{time.time() - (trial.started or time.time()):.0f}",
                )
        return table

    def _line(self, trial: Trial) -> None:
        known = self.trials[_name(trial)]
        row = known.row()
        done = sum(t.finished for t in self.trials.values())
        metric = self.study.search.metric
        text = (
            f"[{done}/{self.total}] trial {known.trial} {known.status}: {short(known.config)}; "
            f"{metric} {_number(known.best_report().get(metric))}"
            f", {_number(row['total_seconds'])} s"
        )
        others = [m for m in self._measured if m not in (metric, "total_seconds")]
        text += "".join(f", {m} {_number(row.get(m))}" for m in others)
        text += "; beyond a bound" if known.feasible(self.study.search.bounds()) is False else ""
        text += f"; finalist {known.finalist_of}" if known.finalist_of else ""
        text += f"; {known.error}" if known.error else ""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _best_line(self) -> str:
        metric, mode = self.study.search.metric, self.study.search.mode
        found = [
            (report[metric], trial)
            for trial in list(self.trials.values())
            for report in trial.reports
            if metric in report
            and trial.status != "failed"
            and trial.feasible(self.study.search.bounds()) is not False
        ]
        if not found:
            return "no result yet"
        choose = max if mode == "max" else min
        value, trial = choose(found, key=lambda pair: pair[0])
        where = f"trial {trial.trial}: {short(trial.config)}"
        return f"best so far: {metric} {_number(value)} in {where}"

    def _time_left(self) -> str:
        done = sum(t.finished for t in self.trials.values()) - self.finished_before
        elapsed = time.time() - self.started
        if done < 1:
            return f"{_duration(elapsed)} gone"
        left = elapsed / done * (self.total - self.finished_before - done)
        return f"{_duration(elapsed)} gone, about {_duration(left)} left"

    def __getstate__(self) -> dict[str, Any]:
        return {}


def short(config: dict[str, Any]) -> str:
    """Return the parameters that tell most of a configuration, in one line."""
    keys = ("dataset", "model", "kernel", "C", "gamma", "batch_size", "optimizer", "lr", "seed")
    values = {"model": config["trainable"]} | config
    parts = [str(values[k]) if k in ("dataset", "model", "kernel", "optimizer") else
             f"{k}={_number(values[k])}" for k in keys if k in values]  # fmt: skip
    return " ".join(parts)


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
