"""The record of a study: an append-only journal of its trials, and the table made from it.

`record.jsonl` is the one source of truth in a study folder. Ray Tune's own state can be lost by a
kill or a full disk at the wrong moment; a line of the record cannot, because each is written whole,
checksummed and flushed to the disk before the study goes on. `trials.csv` is made from it.

A line is eight hexadecimal digits (the CRC-32 of the rest), a space, and one JSON object:

    session  time, session, host, pid, version     a driver started or resumed the study
    known    time, results                         what the searcher knows from elsewhere
    trial    time, trial, config                   the searcher suggested a configuration
    start    time, trial, session                  a trial began (or went on) on a host
    facts    time, trial, facts                    what does not change within a trial
    report   time, trial, metrics                  one report (per epoch)
    end      time, trial, status, error            completed, stopped or failed

Times are Unix seconds. Nothing here needs Ray or torch, so that `analysis` reads studies without.
"""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD = "record.jsonl"
TABLE = "trials.csv"

#: Columns of `trials.csv` in order. Accuracies are percent of the images of their split, times are
#: seconds, `gflops` are 1e9 floating-point operations (2 per multiply-add) of one forward pass of
#: one image. A column that does not apply to a trial is empty.
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
)

Event = dict[str, Any]


class CorruptRecord(ValueError):
    """A line of the record, other than an unfinished last one, fails its checksum."""


@dataclass
class TrialRecord:
    """All that the record says of one trial, in the order in which it was suggested."""

    trial: str
    config: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)
    status: str = "pending"
    error: str = ""
    started: float | None = None
    ended: float | None = None

    @property
    def finished(self) -> bool:
        return self.status in ("completed", "stopped", "failed")

    def best_report(self) -> dict[str, Any]:
        """Return the report with the highest validation accuracy, the earliest of equal ones."""
        scored = [r for r in self.reports if r.get("val_accuracy") is not None]
        return max(scored, key=lambda r: r["val_accuracy"], default={})

    def row(self) -> dict[str, Any]:
        """Return one row of `trials.csv`; see `COLUMNS` for the units."""
        last = self.reports[-1] if self.reports else {}
        best = self.best_report()
        row = dict.fromkeys(COLUMNS)
        row |= {k: v for k, v in self.config.items() if k != "epochs"}
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
        }
        return row


class Record:
    """The open record of a study, for the one driver that writes it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD
        self._mend()
        self._file = self.path.open("ab", buffering=0)

    def append(self, event: str, **values: Any) -> None:
        """Write one event and flush it to the disk before returning."""
        body = json.dumps({"event": event, **values}, separators=(",", ":"), allow_nan=False)
        data = body.encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(data), data))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _mend(self) -> None:
        """Cut off a last line that a kill left unfinished, so that the next one starts clean."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))


def read_events(folder: Path) -> Iterator[Event]:
    """Yield the events of a study in order; an unfinished last line is passed over.

    Raises:
        FileNotFoundError: the folder holds no record.
        CorruptRecord: a whole line fails its checksum.
    """
    path = folder / RECORD
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        crc, _, body = line.partition(b" ")
        if crc != b"%08x" % zlib.crc32(body):
            raise CorruptRecord(f"{path}: line {number} is damaged (its checksum does not match)")
        yield json.loads(body)


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
            trials[event["trial"]] = TrialRecord(event["trial"], event["config"])
        elif "trial" in event:
            apply(trials[event["trial"]], event)
    return trials


def apply(trial: TrialRecord, event: Event) -> None:
    """Add one event to its trial. A report of an epoch that is already known is passed over."""
    match event["event"]:
        case "start":
            trial.status = "running"
            trial.started = trial.started or event["time"]
        case "facts":
            trial.facts |= event["facts"]
        case "report":
            known = [r.get("epoch") for r in trial.reports]
            if event["metrics"].get("epoch") not in known:
                trial.reports.append(event["metrics"])
        case "end":
            trial.status = event["status"]
            trial.error = event["error"]
            trial.ended = event["time"]


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
    """Replace a file by way of a temporary one, flushed to the disk before the rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
