"""Time to accuracy: `search_spaces/fast_fashion.yaml` against the reference's ten epochs on an A30.

Each trial trains on both CPU cores with nothing beside it, one seed after the other; validation
chooses the epoch whose weights are tested.

    python -m tests.benchmarks.recipe [--quick] [--seeds 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import describe

ROOT = Path(__file__).parents[2]


def reference() -> pd.Series:
    """Return the reference's row of ResNet-18 on FashionMNIST on an A30."""
    rows = pd.read_csv(ROOT / "analysis" / "reference" / "hardware.csv")
    chosen = rows.query("dataset == 'fashion_mnist' and model == 'resnet18' and device == 'A30'")
    return chosen.iloc[0]


def main() -> None:
    """Run the study and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one epoch of one seed, 3,000 images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", help="folder of the data sets' files")
    options = parser.parse_args()
    command = [sys.executable, "-m", "tuning", "run", "search_spaces/fast_fashion.yaml"]
    if options.quick:
        options.seeds = 1
        command += ["--set", "fixed.epochs=1", "--set", "fixed.train_size=3000"]
    command += ["--set", f"repeats={options.seeds}"]
    if options.data:
        command += ["--set", f"dataset.folder={options.data}"]
    with tempfile.TemporaryDirectory() as storage:
        done = subprocess.run(
            [*command, "--storage", storage], cwd=ROOT, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        trials = pd.read_csv(Path(done.stdout.splitlines()[-1]) / "trials.csv")
    published = reference()
    table = Table(title=f"fast_fashion.yaml, ResNet-18, {trials['epochs'].max()} epochs")
    for column in ("", "test %", "spread", "train s", "spread", "total s", "spread", "n"):
        table.add_column(column, justify="right" if column else "left")
    cells = []
    for column, digits in (("test_accuracy", 2), ("train_seconds", 0), ("total_seconds", 0)):
        values = list(trials[column])
        cells.append(f"{statistics.median(values):.{digits}f}")
        cells.append(f"{min(values):.{digits}f}-{max(values):.{digits}f}")
    table.add_row("ours, CPU", *cells, str(len(trials)))
    table.add_row(
        "reference, one A30, 64 px, 10 epochs", f"{published.test_accuracy:.2f}", "", "", "",
        f"{published.total_seconds:.0f}", "", "1",
    )  # fmt: skip
    console = Console(width=110)
    console.print(describe("torch"))
    console.print(table)


if __name__ == "__main__":
    main()
