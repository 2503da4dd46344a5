"""Record a table for `tuning replay`: every configuration of a grid, one thread each, no Ray.

    python -m tests.benchmarks.record_table FOLDER [--data DIR] [--processes N]

`FOLDER` holds a `study.yaml` with a grid search; its record is written beside it, in the format of
every study folder, with the trainables, seeds and splits that `tuning run` uses. `total_seconds`
are CPU seconds of the trial's one thread, which other work on the machine disturbs less than the
clock's. A run that was cut off goes on with the configurations that it had not finished.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tuning.data import ImageData, load_dataset
from tuning.outcome import NonFiniteLoss
from tuning.parameters import parameters_of
from tuning.record import Record, read_trials
from tuning.resources import Allotment
from tuning.searchers import listed_configs
from tuning.study import Study
from tuning.study_file import load
from tuning.trial import NOT_PARAMETERS, trainable_class

ALLOTMENT = Allotment(1, 0)
#: The data sets of the study, in each process.
DATA: dict[str, ImageData] = {}


def prepare(study: Study) -> None:
    """Load in a process what all its trials need, which no trial's time is to hold."""
    ALLOTMENT.apply()
    DATA.update({name: load_dataset(name, study.dataset) for name in study.datasets()})
    for config in listed_configs(study):
        trainable_class(config["trainable"])


def train(config: dict[str, Any]) -> tuple[list[dict[str, Any]], str, str]:
    """Run a trial to its end; return its reports, its status and its error."""
    started = time.process_time()
    values = {k: v for k, v in config.items() if k not in NOT_PARAMETERS}
    parameters = parameters_of(config["trainable"]).model_validate(values)
    build = trainable_class(config["trainable"])
    training = build(parameters, DATA[config["dataset"]], config["seed"], ALLOTMENT)
    reports: list[dict[str, Any]] = []
    while not (reports and reports[-1]["done"]):
        try:
            report = training.step()
        except NonFiniteLoss as problem:
            return reports, "failed", f"NonFiniteLoss: {problem}"
        report["total_seconds"] = time.process_time() - started
        reports.append({k: round(v, 4) if isinstance(v, float) else v for k, v in report.items()})
    return reports, "completed", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="data", help="the data folder")
    parser.add_argument("--processes", type=int, default=1, help="trials at the same time")
    options = parser.parse_args()
    study = load(options.folder / "study.yaml", [f"dataset.folder={options.data}"])
    record = Record(options.folder)
    finished = {name for name, trial in read_trials(options.folder).items() if trial.finished}
    configs = {f"{number:05d}": config for number, config in enumerate(listed_configs(study))}
    with ProcessPoolExecutor(
        options.processes, get_context("spawn"), initializer=prepare, initargs=(study,)
    ) as pool:
        waiting = {
            name: pool.submit(train, config)
            for name, config in configs.items()
            if name not in finished
        }
        for name, future in waiting.items():
            reports, status, error = future.result()
            record.append("trial", time=time.time(), trial=name, config=configs[name])
            for report in reports:
                record.append("report", time=time.time(), trial=name, metrics=report)
            record.append("end", time=time.time(), trial=name, status=status, error=error)
            shown = reports[-1]["val_accuracy"] if reports else error
            print(name, status, shown, flush=True)


if __name__ == "__main__":
    main()
