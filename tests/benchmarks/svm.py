"""SVMs on FashionMNIST: scikit-learn-intelex against scikit-learn, side by side.

python -m tests.benchmarks.svm [--images 10000]
"""

from __future__ import annotations

import argparse

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from tuning.data import load_dataset
from tuning.environment import cpu_name
from tuning.parameters import SVMParameters
from tuning.resources import Allotment
from tuning.study import Dataset
from tuning.svm import SVMTraining


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    images = parser.parse_args().images
    data = load_dataset("fashion_mnist", Dataset())
    size = None if images >= len(data.train) else images
    allotment = Allotment(cpus=psutil.cpu_count() or 1, gpus=0)
    table = Table(title=f"SVC on {images} images, prediction of {len(data.test)}; one run each")
    for column in ("", "fit s", "predict s", "ratio", "test %", "equal predictions %"):
        table.add_column(column, justify="right" if column else "left")
    for kernel, c in (("rbf", 10.0), ("poly", 1.0)):
        base, expected = 0.0, np.empty(0)
        for implementation in ("sklearn", "intelex"):
            parameters = SVMParameters(
                kernel=kernel, C=c, implementation=implementation, train_size=size
            )
            run = SVMTraining(parameters, data, 0, allotment)
            report = run.step()
            predicted = run.test_predictions
            seconds = report["train_seconds"] + report["predict_seconds"]
            if implementation == "sklearn":
                base, expected = seconds, predicted
            table.add_row(
                f"{kernel} C={c:g}, {implementation}",
                f"{report['train_seconds']:.1f}",
                f"{report['predict_seconds']:.1f}",
                f"{base / seconds:.1f}",
                f"{report['test_accuracy']:.2f}",
                f"{100 * np.mean(predicted == expected):.2f}",
            )
    console = Console(width=110)
    console.print(f"{cpu_name()}, {psutil.cpu_count()} CPUs")
    console.print(table)


if __name__ == "__main__":
    main()
