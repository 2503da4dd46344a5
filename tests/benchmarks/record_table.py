"""Record a table for `tuning replay`: every configuration of a grid, in one process, no Ray.

    python -m tests.benchmarks.record_table FOLDER [--data DIR]

`FOLDER` holds a `study.yaml` with a grid search; its record is written beside it, in the format of
every study folder, with the trainables, seeds and splits that `tuning run` uses. A run that was
cut off goes on with the next configuration.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tuning.data import load_dataset
from tuning.parameters import parameters_of
from tuning.record import Record, read_trials
from tuning.resources import Allotment
from tuning.searchers import listed_configs
from tuning.study_file import load
from tuning.training import NonFiniteLoss
from tuning.trial import NOT_PARAMETERS, trainable_class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="data", help="the data folder")
    options = parser.parse_args()
    study = load(options.folder / "study.yaml", [f"dataset.folder={options.data}"])
    data = {name: load_dataset(name, study.dataset) for name in study.datasets()}
    record = Record(options.folder)
    known = read_trials(options.folder)
    allotment = Allotment(1, 0)
    allotment.apply()
    for number, config in enumerate(listed_configs(study)):
        name = f"{number:05d}"
        if name in known and known[name].finished:
            continue
        if name not in known:
            record.append("trial", time=time.time(), trial=name, config=config)
        started = time.perf_counter()
        values = {k: v for k, v in config.items() if k not in NOT_PARAMETERS}
        parameters = parameters_of(config["trainable"]).model_validate(values)
        build = trainable_class(config["trainable"])
        training = build(parameters, data[config["dataset"]], config["seed"], allotment)
        status, error, done = "completed", "", False
        while not done:
            try:
                report = training.step()
            except NonFiniteLoss as problem:
                status, error = "failed", f"NonFiniteLoss: {problem}"
                break
            done = report["done"]
            report["total_seconds"] = time.perf_counter() - started
            report = {k: round(v, 4) if isinstance(v, float) else v for k, v in report.items()}
            record.append("report", time=time.time(), trial=name, metrics=report)
        record.append("end", time=time.time(), trial=name, status=status, error=error)
        print(name, config, status, report.get("val_accuracy"), flush=True)


if __name__ == "__main__":
    main()
