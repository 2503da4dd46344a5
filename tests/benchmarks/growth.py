"""Growth: the driver's memory and the time per trial as a study has more and more trials.

One study of 1,000 trials that take no time, on two slots, through `tuning run`. The driver's
resident memory is read when the 100th, 300th and 1,000th trial ends; the time per trial is that of
the 50 trials before.

    python -m tests.benchmarks.growth [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import describe
from tests.benchmarks.overhead import study
from tuning.record import read_events

WINDOW = 50


def measure(trials: int) -> tuple[list[float], list[tuple[float, int]], int]:
    """Run the study.

    Returns:
        Times at which trials ended; times and the driver's resident bytes; and the most
        checkpoints that a trial's folder held at the end.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yaml"
        path.write_text(yaml.safe_dump(study(trials, 0.0)))
        command = [sys.executable, "-m", "tuning", "run", str(path), "--storage", folder]
        with (Path(folder) / "output").open("w+") as output:
            driver = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            memory = []
            while driver.poll() is None:
                memory.append((time.time(), psutil.Process(driver.pid).memory_info().rss))
                time.sleep(0.2)
            output.seek(0)
            text = output.read()
        if driver.returncode:
            raise RuntimeError(text)
        own = Path(text.splitlines()[-1])
        ends = [e["time"] for e in read_events(own) if e["event"] == "end"]
        kept = max(len(list(t.glob("checkpoint-*"))) for t in (own / "trials").iterdir())
        return ends, memory, kept


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 200 trials instead of 1,000")
    counts = [60, 100, 200] if parser.parse_args().quick else [100, 300, 1000]
    ends, memory, kept = measure(counts[-1])
    table = Table(title="Instant trials on 2 slots; n 1")
    for column in ("trials", "ms per trial", "slowest of 50", "driver MiB"):
        table.add_column(column, justify="right")
    for count in counts:
        last = ends[count - WINDOW - 1 : count]
        gaps = [after - before for before, after in itertools.pairwise(last)]
        held = max((bytes_ for at, bytes_ in memory if at <= ends[count - 1]), default=0)
        table.add_row(
            str(count),
            f"{1000 * (last[-1] - last[0]) / WINDOW:.0f}",
            f"{1000 * max(gaps):.0f}",
            f"{held / 2**20:.0f}",
        )
    console = Console(width=110)
    console.print(describe("ray"))
    console.print(table)
    console.print(f"most checkpoints in a trial's folder at the end: {kept}")


if __name__ == "__main__":
    main()
