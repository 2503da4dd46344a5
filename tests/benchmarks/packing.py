"""Packing: what `tuning plan --probe` predicts for the quickstart, and what then happens.

python -m tests.benchmarks.packing [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import describe
from tuning.record import read_events

STUDY = "search_spaces/quickstart.yaml"


def tuning(*arguments: str) -> str:
    """Run a command of tuning and return what it prints."""
    command = [sys.executable, "-m", "tuning", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="six trials on a tenth of the images")
    parser.add_argument("--data", default="data", help="folder of the data")
    options = parser.parse_args()
    settings = ["--set", f"dataset.folder={options.data}"]
    if options.quick:
        settings += ["--set", "fixed.train_size=1200", "--set", "search.trials=6"]
    plan = json.loads(tuning("plan", STUDY, "--probe", "--json", *settings))
    with tempfile.TemporaryDirectory() as storage:
        began = time.time()
        output = tuning("run", STUDY, "--storage", storage, *settings)
        events = list(read_events(Path(output.splitlines()[-1])))
    starts = [e["time"] for e in events if e["event"] == "start"]
    ends = [e["time"] for e in events if e["event"] == "end"]
    session = next(e["time"] for e in events if e["event"] == "session")
    reports = [e for e in events if e["event"] == "report"]
    stepping = min(e["time"] - e["metrics"]["train_seconds"] for e in reports)
    wall = max(ends) - min(starts)
    last = {e["trial"]: e["metrics"] for e in reports}
    busy = sum(report["total_seconds"] for report in last.values())
    training = sum(report["train_seconds"] for report in last.values())
    slots = plan["slots"]
    predicted = plan["packings"][0]
    table = Table(title="Packings of the quickstart, measured by the probe")
    for column in ("resources", "slots", "predicted s", "of ten simulations, eight lie in"):
        table.add_column(column, justify="right")
    for packing in plan["packings"]:
        table.add_row(
            json.dumps(packing["resources"]),
            str(packing["slots"]),
            f"{packing['seconds']:.0f}",
            f"{packing['low']:.0f} to {packing['high']:.0f}",
        )
    console = Console(width=110)
    console.print(describe("torch", "ray"))
    console.print(table)
    error = 100 * (predicted["seconds"] / wall - 1)
    console.print(f"recommended: {json.dumps(plan['recommended'])}")
    console.print(f"the quickstart as it is took {wall:.0f} s on {slots} slots; n 1")
    console.print(f"predicted {predicted['seconds']:.0f} s, which is {error:+.0f} %")
    console.print(f"trials' own time over slots and wall time: {100 * busy / slots / wall:.0f} %")
    console.print(f"training alone, likewise: {100 * training / slots / wall:.0f} %")
    console.print(
        f"from the command until Ray is up {session - began:.1f} s, to the first trial's start "
        f"{min(starts) - began:.1f} s, to the first training step at most {stepping - began:.1f} s"
    )


if __name__ == "__main__":
    main()
