"""The record of a study: an append-only journal of its trials, and the table made from it.

`record.jsonl` is the one source of truth in a study folder. Ray Tune's own state can be lost by a
kill or a full disk at the wrong moment; a line of the record cannot, because each is written whole,
checksummed and flushed to the disk before the study goes on. Every line is written a second time to
`record.copy.jsonl`, so that damage to either file is found and mended from the other.
`trials.csv` is made from the record.

A line is eight hexadecimal digits (the CRC-32 of the rest), a space, and one JSON object:

    session  time, session, host, pid, version,    a driver started or resumed the study,
             study, packages, data                 which was this one, on this software and data
    known    time, results                         what the searcher knows from elsewhere
    trial    time, trial, config[, finalist_of]    a configuration was suggested by the searcher,
                                                   or is that of an earlier trial, now a finalist
    answer   time, trial, of                       it is another trial's over again: same results
    start    time, trial, session                  a trial began (or went on) on a host
    facts    time, trial, facts                    what does not change within a trial
    report   time, trial, metrics                  one report (per epoch)
    enlarge  time, trial, was, gpu                 it ran out of its share of a GPU's memory, and
                                                   is tried again with a larger one
    end      time, trial, status, error            completed, stopped or failed
    retry    time, trial                           a failed trial is to begin anew
    round    time, epoch, scores, trials           a population came to an epoch with these scores;
                                                   these trials go on from a donor's weights with
                                                   another configuration

Times are Unix seconds. Nothing here needs Ray or torch, so that `analysis` reads studies without.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD = "record.jsonl"
COPY = "record.copy.jsonl"
TABLE = "trials.csv"

#: Columns of `trials.csv` in order. Accuracies are percent of the images of their split, times are
#: seconds, `gflops` are 1e9 floating-point operations (2 per multiply-add) of one forward pass of
#: one image. `out_of_memory_at` is the share of a GPU that was too small, for a trial that was then
#: tried again with `gpus`. A column that does not apply to a trial is empty.
COLUMNS = (
    "trial_id",
    "status",
    "dataset",
    "model",
    "device",
    "host",
    "seed",
    "batch_size",
    "optimizer",
    "lr",
    "epochs",
    "pin_memory",
    "kernel",
    "C",
    "gamma",
    "degree",
    "val_accuracy",
    "test_accuracy",
    "train_seconds",
    "predict_seconds",
    "total_seconds",
    "images_per_second",
    "gflops",
    "parameters",
    "trainable",
    "best_epoch",
    "max_epochs",
    "val_loss",
    "precision",
    "threads",
    "cpus",
    "gpus",
    "train_images",
    "test_images",
    "started",
    "ended",
    "error",
    "out_of_memory_at",
)

Event = dict[str, Any]


class CorruptRecord(ValueError):
    """Neither the record nor its copy holds a line whole; the text names it."""


@dataclass
class TrialRecord:
    """All that the record says of one trial, in the order in which it was suggested.

    Attributes:
        busy_seconds: wall time that the trial held its resources, up to its last event.
        busy_since: when it began or last reported, while it runs.
        takeovers: under PBT and PB2, by the epoch after which it went on from the weights of
            another trial: that `donor`, and the `config` since then.
        out_of_memory_at: share of a GPU with which it ran out of memory and was tried again.
        gpu_share: share that it got instead.
        finalist_of: the trial of the search whose configuration this one repeats with another seed.
        answered_from: the trial whose results this one took over instead of running.
    """

    trial: str
    config: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    status: str = "pending"
    error: str = ""
    started: float | None = None
    ended: float | None = None
    busy_seconds: float = 0.0
    busy_since: float | None = None
    takeovers: dict[int, dict[str, Any]] = field(default_factory=dict)
    out_of_memory_at: float | None = None
    gpu_share: float | None = None
    finalist_of: str = ""
    answered_from: str = ""

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "stopped", "failed")

    def has_report(self, metrics: Mapping[str, Any]) -> bool:
        """Tell whether the epoch of a report is known already."""
        return metrics.get("epoch") in [r.get("epoch") for r in self.reports]

    def config_at(self, epoch: float) -> dict[str, Any]:
        """Return the configuration with which an epoch was trained."""
        taken = [t["config"] for after, t in self.takeovers.items() if after < epoch]
        return taken[-1] if taken else self.config

    def last_config(self) -> dict[str, Any]:
        """Return the configuration with which the trial ended, or goes on."""
        return self.config_at(math.inf)

    def judged_reports(self) -> list[dict[str, Any]]:
        """Return the reports that tell what the last configuration and weights are worth."""
        last = max(self.takeovers, default=0)
        return [r for r in self.reports if r.get("epoch", 1) > last]

    def best_report(self) -> dict[str, Any]:
        """Return the report with the highest validation accuracy, the earliest of equal ones."""
        scored = [r for r in self.judged_reports() if r.get("val_accuracy") is not None]
        return max(scored, key=lambda r: r["val_accuracy"], default={})

    def best_value(self, metric: str, mode: str) -> float | None:
        """Return a metric at its best epoch (`mode` max or min); None for a failed trial."""
        values: list[float] = [r[metric] for r in self.judged_reports() if metric in r]
        if self.status == "failed" or not values:
            return None
        return max(values) if mode == "max" else min(values)

    def objective_values(self, directions: Mapping[str, str]) -> list[float] | None:
        """Return the value of each objective; None for a trial that failed or lacks one.

        The first objective counts at its best epoch; the others as `row` has them: `val_accuracy`
        and `val_loss` at the best epoch by accuracy, costs of the whole trial.

        Args:
            directions: `max` or `min` by metric, the first objective first.
        """
        (metric, mode), *_ = directions.items()
        row = self.row() | {metric: self.best_value(metric, mode)}
        values = [float(row[name]) for name in directions if row.get(name) is not None]
        return values if len(values) == len(directions) and self.status != "failed" else None

    def violations(self, constraints: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
        """Return by how much the trial exceeds each bound: at most 0 is allowed.

        Args:
            constraints: mappings with `metric` and `max` or `min` or both, as in a study file.

        Returns:
            The excess in the metric's unit by `metric max` or `metric min`; None where the trial
            has not measured it.
        """
        row, found = self.row(), {}
        for constraint in constraints:
            value = row.get(constraint["metric"])
            for side, sign in (("max", 1), ("min", -1)):
                bound = constraint.get(side)
                if bound is not None:
                    key = f"{constraint['metric']} {side}"
                    found[key] = None if value is None else sign * (float(value) - bound)
        return found

    def feasible(self, constraints: Iterable[Mapping[str, Any]]) -> bool | None:
        """Tell whether the trial keeps within all bounds; None while that is not known.

        A completed trial that lacks a measurement does not keep within its bound.
        """
        excesses = self.violations(constraints).values()
        if any(excess is not None and excess > 0 for excess in excesses):
            return False
        unknown = None if self.status != "completed" else False
        return unknown if None in excesses else True

    def row(self) -> dict[str, Any]:
        """Return one row of `trials.csv`; see `COLUMNS` for the units."""
        last = self.reports[-1] if self.reports else {}
        best = self.best_report()
        row = dict.fromkeys(COLUMNS)
        row |= {k: v for k, v in self.last_config().items() if k != "epochs"}
        row |= self.facts
        row |= {k: v for k, v in last.items() if k != "epoch"}
        row |= {
            "trial_id": self.trial,
            "status": self.status,
            "epochs": last.get("epoch"),
            "max_epochs": self.config.get("epochs"),
            "best_epoch": best.get("epoch"),
            "val_accuracy": best.get("val_accuracy"),
            "val_loss": best.get("val_loss"),
            "started": self.started,
            "ended": self.ended,
            "error": self.error,
            "out_of_memory_at": self.out_of_memory_at,
        }
        if self.takeovers:
            taken = (f"{t['donor']} after {epoch}" for epoch, t in self.takeovers.items())
            row["weights_from"] = ", ".join(taken)
        origins = {"finalist_of": self.finalist_of, "answered_from": self.answered_from}
        return row | {key: trial for key, trial in origins.items() if trial}


class Record:
    """The open record of a study, for the one driver that writes it.

    Attributes:
        notes: what was damaged and has been mended, one line each.
        listeners: called with each event that has been written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD
        self.notes: list[str] = []
        self.listeners: list[Callable[[Event], None]] = []
        lines: list[bytes] = []
        if has_record(folder):
            lines, self.notes = _whole_lines(folder)
        data = b"".join(line + b"\n" for line in lines)
        self._files = [_open_mended(folder / name, data) for name in (RECORD, COPY)]

    def append(self, event: str, **values: Any) -> None:
        """Write one event, and its copy, and flush both to the disk before returning.

        Raises:
            OSError: the disk is full or broken; no part of a line is left behind.
        """
        body = json.dumps({"event": event, **values}, separators=(",", ":"), allow_nan=False)
        data = body.encode()
        for file in self._files:
            _append_whole(file, b"%08x %s\n" % (zlib.crc32(data), data))
        for listener in self.listeners:
            listener({"event": event, **values})

    def close(self) -> None:
        for file in self._files:
            file.close()


def has_record(folder: Path) -> bool:
    """Tell whether a folder holds a record, or at least the copy of one."""
    return (folder / RECORD).is_file() or (folder / COPY).is_file()


def read_events(folder: Path) -> Iterator[Event]:
    """Yield the events of a study in order; an unfinished last line is passed over.

    Raises:
        FileNotFoundError: the folder holds no record.
        CorruptRecord: some line is whole neither in the record nor in its copy.
    """
    if not has_record(folder):
        raise FileNotFoundError(folder / RECORD)
    for line in _whole_lines(folder)[0]:
        yield json.loads(line.partition(b" ")[2])


def _whole_lines(folder: Path) -> tuple[list[bytes], list[str]]:
    """Return the lines of the record, from the file that holds more of them, and what was wrong.

    A driver killed between the two writes leaves the copy one line behind, which is no damage.
    """
    (lines, damage), (copied, copy_damage) = (_intact(folder / n) for n in (RECORD, COPY))
    shorter = min(len(lines), len(copied))
    if lines[:shorter] != copied[:shorter]:
        first = next(i for i in range(shorter) if lines[i] != copied[i])
        raise CorruptRecord(
            f"{folder / RECORD}: line {first + 1} is not that of {COPY}; one was edited"
        )
    for name, held, wrong in ((RECORD, lines, damage), (COPY, copied, copy_damage)):
        if wrong and len(held) >= max(len(lines), len(copied)):
            raise CorruptRecord(
                f"{folder / name}: {wrong}, and {COPY if name == RECORD else RECORD} "
                "does not hold it either"
            )
    notes = []
    if len(copied) > len(lines):
        wrong = damage or f"ends after {len(lines)} lines"
        notes.append(f"{folder / RECORD}: {wrong}; its {len(copied)} lines were taken from {COPY}")
        lines = copied
    elif copy_damage:
        notes.append(f"{folder / COPY}: {copy_damage}; {RECORD} is whole")
    return lines, notes


def _intact(path: Path) -> tuple[list[bytes], str]:
    """Return the lines before the first damaged one, and what is wrong there, or nothing."""
    if not path.is_file():
        return [], ""
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        crc, _, body = line.partition(b" ")
        if crc != b"%08x" % zlib.crc32(body):
            return lines[: number - 1], f"line {number} is damaged (its checksum does not match)"
    return lines, ""


def _open_mended(path: Path, data: bytes) -> io.FileIO:
    """Open a file for appending after these bytes, which replace what else it may hold."""
    if not path.is_file() or path.read_bytes() != data:
        write_atomically(path, data)
    return io.FileIO(path, "ab")


def _append_whole(file: io.FileIO, line: bytes) -> None:
    """Append and flush a line; a disk that takes only a part of it gets none of it."""
    end = file.seek(0, os.SEEK_END)
    try:
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))
        os.fsync(file.fileno())
    except OSError as error:
        file.truncate(end)
        error.filename = str(file.name)
        raise


def read_trials(folder: Path) -> dict[str, TrialRecord]:
    """Return the trials of a study by their id, in the order in which they were suggested.

    Raises:
        FileNotFoundError, CorruptRecord: see `read_events`.
    """
    return collect(read_events(folder))


def collect(events: Iterable[Event]) -> dict[str, TrialRecord]:
    """Gather events into one `TrialRecord` per trial."""
    trials: dict[str, TrialRecord] = {}
    for event in events:
        if event["event"] == "trial":
            trials[event["trial"]] = suggested(event)
        elif event["event"] == "answer":
            answer(trials[event["trial"]], trials[event["of"]], event["time"])
        elif "trial" in event:
            apply(trials[event["trial"]], event)
        elif event["event"] == "round":
            apply_round(trials, event)
    return trials


def suggested(event: Event) -> TrialRecord:
    """Return the trial that a `trial` event begins."""
    finalist_of = event.get("finalist_of", "")
    return TrialRecord(event["trial"], event["config"], finalist_of=finalist_of)


def answer(trial: TrialRecord, source: TrialRecord, now: float) -> None:
    """Give a trial the results of an equal one; it took no time of its own."""
    trial.facts, trial.reports = dict(source.facts), list(source.reports)
    trial.status, trial.answered_from = source.status, source.trial
    trial.ended = now


def apply_round(trials: Mapping[str, TrialRecord], event: Event) -> None:
    """Add a round of a population to the trials that went on from another's weights in it."""
    for name, taken in event["trials"].items():
        trials[name].takeovers[event["epoch"]] = taken


def apply(trial: TrialRecord, event: Event) -> None:
    """Add one event to its trial. A report of an epoch that is already known is passed over."""
    match event["event"]:
        case "start":
            trial.status = "running"
            trial.started = trial.started or event["time"]
            trial.busy_since = event["time"]
        case "facts":
            trial.facts |= event["facts"]
        case "report":
            if not trial.has_report(event["metrics"]):
                trial.reports.append(event["metrics"])
            _count_time(trial, event["time"])
        case "end":
            trial.status = event["status"]
            trial.error = event["error"]
            trial.ended = event["time"]
            _count_time(trial, event["time"])
            trial.busy_since = None
        case "enlarge":
            trial.out_of_memory_at, trial.gpu_share = event["was"], event["gpu"]
        case "retry":
            trial.status, trial.error = "pending", ""
            trial.out_of_memory_at = trial.gpu_share = None
            trial.reports, trial.facts, trial.takeovers = [], {}, {}
            trial.started = trial.ended = None


def _count_time(trial: TrialRecord, now: float) -> None:
    if trial.busy_since is not None:
        trial.busy_seconds += max(0.0, now - trial.busy_since)
        trial.busy_since = now


def write_table(folder: Path, trials: Iterable[TrialRecord]) -> None:
    """Write `trials.csv` anew, atomically: a reader sees the old table or the new one."""
    rows = [trial.row() for trial in trials]
    others = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *others], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / TABLE, text.getvalue().encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write one JSON document atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file by way of a temporary one, flushed to the disk before the rename.

    Raises:
        OSError: the disk is full or broken; the file is as it was.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = str(path)
        raise
