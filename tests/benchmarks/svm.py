"""SVMs on FashionMNIST: ours against stock scikit-learn, and a grid search that stops early.

Ours is `implementation: pairwise`, on all CPUs. Stock SVC has one thread: the stock fits of both
kernels run at the same time, one per CPU.

The grid is `search_spaces/svm_rbf_grid.yaml`: fits on a ninth, a third and all of the images, and
ASHA in between. Its cost is compared with independent fits of all its points.

    python -m tests.benchmarks.svm [--quick] [--images 10000] [--part kernels|grid]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from tests.benchmarks.machine import describe
from tuning.data import load_dataset
from tuning.parameters import SVMParameters
from tuning.record import TrialRecord, read_trials
from tuning.resources import Allotment
from tuning.study import Dataset
from tuning.svm import SVMTraining

KERNELS = {"rbf": 10.0, "poly": 1.0}
GRID = "search_spaces/svm_rbf_grid.yaml"


def fit(kernel: str, implementation: str, images: int | None, folder: str) -> dict[str, Any]:
    """Fit and test one machine; return its report, with the predictions of the test split."""
    parameters = SVMParameters(
        kernel=kernel, C=KERNELS[kernel], implementation=implementation, train_size=images
    )
    data = load_dataset("fashion_mnist", Dataset(folder=folder))
    run = SVMTraining(parameters, data, 0, Allotment(cpus=psutil.cpu_count() or 1, gpus=0))
    return run.step() | {"predictions": run.test_predictions.tolist()}


def fits(cases: list[tuple[str, str]], images: int | None, folder: str) -> list[dict[str, Any]]:
    """Fit several machines at the same time, each in a process of its own."""
    code = "import json, sys; from tests.benchmarks.svm import fit; "
    started = [
        subprocess.Popen(
            [sys.executable, "-c", f"{code} print(json.dumps(fit(*{(*case, images, folder)!r})))"],
            stdout=subprocess.PIPE, text=True,
        )
        for case in cases
    ]  # fmt: skip
    reports = []
    for case, process in zip(cases, started, strict=True):
        reports.append(json.loads(process.communicate()[0]))
        shown = {k: v for k, v in reports[-1].items() if k != "predictions"}
        print(*case, shown, file=sys.stderr, flush=True)
    return reports


def kernels(images: int | None, folder: str) -> Table:
    """Compare both kernels with stock scikit-learn."""
    ours = [fits([(kernel, "pairwise")], images, folder)[0] for kernel in KERNELS]
    stock = fits([(kernel, "sklearn") for kernel in KERNELS], images, folder)
    size = images or "all 49,000"
    table = Table(title=f"SVC on {size} images, prediction of the test split; n 1")
    for column in ("", "fit s", "predict s", "ratio", "test %", "equal predictions %"):
        table.add_column(column, justify="right" if column else "left")
    for kernel, one, other in zip(KERNELS, stock, ours, strict=True):
        expected = np.array(one["predictions"])
        for name, run in (("scikit-learn", one), ("ours", other)):
            table.add_row(
                f"{kernel} C={KERNELS[kernel]:g}, {name}",
                f"{run['train_seconds']:.1f}",
                f"{run['predict_seconds']:.1f}",
                f"{_seconds(one) / _seconds(run):.1f}",
                f"{run['test_accuracy']:.2f}",
                f"{100 * np.mean(np.array(run['predictions']) == expected):.2f}",
            )
    return table


def _seconds(run: dict[str, Any]) -> float:
    return float(run["train_seconds"] + run["predict_seconds"])


def grid(images: int | None, folder: str) -> Table:
    """Compare the grid search that stops early with independent fits of all its points."""
    table = Table(title=f"The grid of {Path(GRID).name} on {images or 'all 49,000'} images; n 1")
    for column in ("", "fits", "seconds of all trials", "share", "best val %", "test %"):
        table.add_column(column, justify="right" if column else "left")
    independent = ["--set", "scheduler.type=fifo", "--set", "fixed.rungs=1"]
    base, *_ = row = search(images, folder, independent)
    table.add_row("independent fits", *cells(row, base))
    table.add_row("rungs and ASHA", *cells(search(images, folder, []), base))
    return table


def search(images: int | None, folder: str, settings: list[str]) -> tuple[float, int, TrialRecord]:
    """Run the grid; return the seconds of all trials, their fits, and the best trial."""
    sizes = [] if images is None else ["--set", f"fixed.train_size={images}"]
    with tempfile.TemporaryDirectory() as storage:
        command = [sys.executable, "-m", "tuning", "run", GRID, "--storage", storage, "--set",
                   f"dataset.folder={folder}", *sizes, *settings]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        trials = read_trials(Path(done.stdout.splitlines()[-1])).values()
    finished = [t for t in trials if t.status == "completed"]
    best = max(finished, key=lambda t: t.best_report()["val_accuracy"])
    seconds = sum(t.reports[-1]["total_seconds"] for t in trials)
    return seconds, sum(len(t.reports) for t in trials), best


def cells(found: tuple[float, int, TrialRecord], base: float) -> list[str]:
    seconds, fits, best = found
    return [
        str(fits),
        f"{seconds:.1f}",
        f"{100 * seconds / base:.0f} %",
        f"{best.best_report()['val_accuracy']:.2f} (C={best.config['C']:g}, "
        f"gamma={best.config['gamma']:g})",
        f"{best.reports[-1]['test_accuracy']:.2f}",
    ]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3,000 images instead of all")
    parser.add_argument("--images", type=int, help="training images (default: all 49,000)")
    parser.add_argument("--part", choices=("kernels", "grid"), help="only this table")
    parser.add_argument("--data", default="data", help="folder of the data")
    options = parser.parse_args()
    images = 3_000 if options.quick else options.images
    console = Console(width=110)
    console.print(describe("scikit-learn", "torch"))
    for part in (kernels, grid):
        if options.part in (None, part.__name__):
            console.print(part(images, options.data))


if __name__ == "__main__":
    main()
