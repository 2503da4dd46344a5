"""What a study costs beyond its trials' own work: 200 trials of one second each, on two slots.

The study goes the whole way of `tuning run`: Ray is started, the record is written, each trial has
its folder, its checkpoint and its TensorBoard events. The seconds over the minimum are counted to
the last trial's end, from the moment at which Ray is up (trials' processes then import torch), and
from the first trial's start.

    python -m tests.benchmarks.overhead [--quick]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import describe
from tuning.record import Event, read_events

SLOTS = 2


class Sleep:
    """A trainable that does nothing for a while."""

    class Parameters(BaseModel):
        x: float
        seconds: float

    def __init__(self, parameters: Any, data: Any, seed: int, allotment: Any) -> None:
        self.parameters = parameters

    def step(self) -> dict[str, Any]:
        time.sleep(self.parameters.seconds)
        return {"score": self.parameters.x, "done": True}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on."""


def study(trials: int, seconds: float) -> dict[str, Any]:
    """Return a study of trials that sleep."""
    return {
        "name": "sleep",
        "dataset": {"name": "none"},
        "trainable": "tests.benchmarks.overhead:Sleep",
        "space": {"x": {"uniform": [0.0, 1.0]}},
        "fixed": {"seconds": seconds},
        "search": {
            "algorithm": "random", "trials": trials, "metric": "score", "mode": "max",
            "max_concurrent": SLOTS,
        },
        "resources": {"cpu": (os.cpu_count() or 1) / SLOTS},
    }  # fmt: skip


def run_study(description: dict[str, Any], storage: Path) -> tuple[list[Event], float]:
    """Run a study as a user does.

    Returns:
        Its events, and the Unix time at which the command was given.
    """
    path = storage / "study.yaml"
    path.write_text(yaml.safe_dump(description))
    command = [sys.executable, "-m", "tuning", "run", str(path), "--storage", str(storage)]
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return list(read_events(Path(done.stdout.splitlines()[-1]))), began


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 trials instead of 200")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    trials = 20 if options.quick else 200
    minimum = trials / SLOTS
    start_ups, walls, runs = [], [], []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            events, began = run_study(study(trials, 1.0), Path(folder))
        ray_up = next(e["time"] for e in events if e["event"] == "session")
        first = next(e["time"] for e in events if e["event"] == "start")
        start_ups.append((ray_up - began, first - ray_up))
        last = max(e["time"] for e in events if e["event"] == "end")
        walls.append(last - ray_up)
        runs.append(last - first)
    table = Table(title=f"{trials} trials of one second on {SLOTS} slots; n {options.repeats}")
    for column in ("", "s", "spread"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in {
        "from the command until Ray is up": [s[0] for s in start_ups],
        "from there to the first trial": [s[1] for s in start_ups],
        "from Ray being up to the last trial's end": walls,
        "from the first trial's start to the last trial's end": runs,
    }.items():
        spread = f"{min(values):.1f}-{max(values):.1f}"
        table.add_row(name, f"{statistics.median(values):.1f}", spread)
    table.add_row("the least possible", f"{minimum:.1f}", "")
    for name, values in {"from Ray being up": walls, "from the first trial": runs}.items():
        over = 100 * (statistics.median(values) / minimum - 1)
        table.add_row(f"longer than that, {name}", f"{over:.1f} %", "")
    console = Console(width=110)
    console.print(describe())
    console.print(table)


if __name__ == "__main__":
    main()
