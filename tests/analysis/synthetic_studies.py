"""Study folders as `tuning run` leaves them, with made-up numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tuning.record import Record, read_trials, write_table

TEST_IMAGES = 14_000
START = 1_790_000_000.0


@dataclass
class Trial:
    """What one trial of a made-up study does."""

    config: dict[str, Any]
    accuracies: list[float] = field(default_factory=lambda: [80.0, 85.0, 88.0, 90.0])
    test_accuracy: float | None = 89.5
    seconds: float = 100.0
    status: str = "completed"
    error: str = ""
    device: str = "cpu"
    device_name: str = "Intel Xeon Gold 6326"
    host: str = "node-1"
    begin: float = 0.0
    gflops: float | None = 0.2961
    threads: int = 2
    store_predictions: bool = False
    seed: int = 0
    finalist_of: str = ""

    @property
    def model(self) -> str:
        return str(self.config.get("model", "resnet18"))


def resnet(model: str = "resnet18", **changes: Any) -> Trial:
    """Return a ResNet trial; hyperparameters go into its configuration, the rest to `Trial`."""
    own = {k: changes.pop(k) for k in list(changes) if k in Trial.__dataclass_fields__}
    config = {
        "model": model,
        "batch_size": 16,
        "optimizer": "adam",
        "lr": 0.001,
        "epochs": 4,
        "pin_memory": True,
        "precision": "fp32",
    }
    return Trial(config | changes, **own)


def svm(kernel: str = "rbf", **changes: Any) -> Trial:
    """Return an SVM trial."""
    own = {k: changes.pop(k) for k in list(changes) if k in Trial.__dataclass_fields__}
    config = {"model": "svm", "kernel": kernel, "C": 10.0, "gamma": "scale"}
    return Trial(config | changes, **({"accuracies": [88.0], "gflops": None} | own))


def write_study(
    folder: Path,
    trials: Iterable[Trial],
    *,
    name: str = "quickstart",
    dataset: str = "fashion_mnist",
    search: str = "",
) -> Path:
    """Write a study folder and return it; `search` is added to that section of its file."""
    folder.mkdir(parents=True)
    record = Record(folder)
    record.append("session", time=START, session=0, host="node-1", pid=1, version="0.1.0")
    for number, trial in enumerate(trials):
        _write_trial(record, folder, f"{number:05}", trial, dataset)
    record.close()
    write_table(folder, read_trials(folder).values())
    (folder / "study.yaml").write_text(_description(name, dataset, search))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    return folder


def quickstart(folder: Path) -> Path:
    """Write a study with a bit of everything: two devices, repeats, stopped, failed, SVMs."""
    cuda = {"device": "cuda", "device_name": "NVIDIA A30"}
    trials = []
    begin = 0.0
    for model, gflops, base in (("resnet18", 0.2961, 90.4), ("resnet50", 0.6673, 89.6)):
        for optimizer, shift in (("sgd", -0.9), ("adam", 0.0)):
            for batch in (16, 32):
                for seed in (0, 1):
                    top = base + shift - 0.2 * (batch == 32) + 0.15 * seed
                    curve = [top - 6.3, top - 3.1, top - 1.0 + 0.2 * seed, top]
                    common = {
                        "optimizer": optimizer,
                        "batch_size": batch,
                        "accuracies": curve,
                        "test_accuracy": top - 0.35,
                        "gflops": gflops,
                        "seed": seed,
                        "begin": begin,
                        "store_predictions": True,
                    }
                    slow = 640.0 * gflops / 0.2961 * (1.0 if batch == 16 else 0.8)
                    ratio = 4.05 if model == "resnet18" else 5.04 + 0.1 * (batch == 32)
                    trials.append(resnet(model, seconds=slow, **common))
                    trials.append(
                        resnet(model, seconds=slow / ratio, host="node-2", **common, **cuda)
                    )
                    begin += 0.55 * slow
    stopped = {"status": "stopped", "test_accuracy": None, **cuda, "host": "node-2"}
    trials += [
        resnet(lr=0.1, accuracies=[31.0], seconds=41.0, begin=900.0, **stopped),
        resnet(lr=0.03, accuracies=[71.5, 74.0], seconds=80.0, begin=1100.0, **stopped),
        resnet(
            lr=1.0,
            accuracies=[],
            test_accuracy=None,
            status="failed",
            error="Traceback (most recent call last):\nFloatingPointError: the loss is nan at "
            "epoch 1, step 37",
            begin=200.0,
        ),
        svm("rbf", accuracies=[90.1], test_accuracy=90.42, seconds=26.5, store_predictions=True),
        svm("poly", accuracies=[87.2], test_accuracy=87.0, seconds=28.4, begin=35.0, degree=3),
    ]
    return write_study(folder, trials)


ENVIRONMENT = {
    "hosts": [
        {
            "host": host,
            "cpu": "Intel Xeon Gold 6326",
            "cpus": 32,
            "memory_bytes": 256 * 2**30,
            "gpus": gpus,
            "fp32_gflops": 166.0,
            "bf16_gflops": 409.0,
        }
        for host, gpus in (("node-1", []), ("node-2", ["NVIDIA A30", "NVIDIA A30"]))
    ],
    "python": "3.11.9",
    "packages": {"ray": "2.60.0", "torch": "2.14.1", "optuna": "5.0.0"},
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
    "data": {
        "fashion_mnist": {
            "sha256": {"train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed27" * 2},
            "split_sha256": "a" * 64,
            "images": 70_000,
            "train": 49_000,
            "val": 7_000,
            "test": 14_000,
        }
    },
}


def _description(name: str, dataset: str, search: str) -> str:
    return f"""\
name: {json.dumps(name)}
dataset: {{name: {dataset}, split: [0.7, 0.1, 0.2], seed: 0, image_size: 64}}
trainable: resnet
space:
  model: {{grid: [resnet18, resnet50]}}
  batch_size: {{choice: [16, 32]}}
  optimizer: {{choice: [sgd, adam]}}
fixed: {{epochs: 4, precision: fp32, pin_memory: true}}
search: {{algorithm: optuna, sampler: tpe, trials: 24, metric: val_accuracy, mode: max,
  seed: 0{search}}}
scheduler: {{type: asha, grace_epochs: 1, reduction_factor: 3}}
resources: {{cpu: 1, gpu: 0.25}}
repeats: 2
"""


def _write_trial(record: Record, folder: Path, name: str, trial: Trial, dataset: str) -> None:
    begin = START + trial.begin
    final = {"finalist_of": trial.finalist_of} if trial.finalist_of else {}
    config = {**trial.config, "seed": trial.seed}
    record.append("trial", time=begin, trial=name, config=config, **final)
    if trial.status == "pending":
        return
    record.append("start", time=begin, trial=name, session=0)
    record.append("facts", time=begin, trial=name, facts=_facts(trial, dataset))
    for metrics in _reports(trial):
        at = begin + metrics["total_seconds"]
        record.append("report", time=at, trial=name, metrics=metrics)
    if trial.status == "running":
        return
    record.append(
        "end", time=begin + trial.seconds, trial=name, status=trial.status, error=trial.error
    )
    if trial.store_predictions and trial.test_accuracy is not None:
        write_predictions(folder / "trials" / name, trial.test_accuracy)


def write_predictions(folder: Path, accuracy: float) -> None:
    """Store predictions of ten classes of that accuracy, wrong ones in the next class.

    Images are equally hard for every trial: the one with the lower accuracy gets a subset right.
    """
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    actual = draw.integers(0, 10, TEST_IMAGES).astype(np.uint8)
    hardness = draw.permutation(TEST_IMAGES)
    wrong = hardness >= round(TEST_IMAGES * accuracy / 100)
    predicted = np.where(wrong, (actual + 1 + hardness % 3) % 10, actual).astype(np.uint8)
    np.savez(folder / "predictions.npz", predicted=predicted, actual=actual)


def _facts(trial: Trial, dataset: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "dataset": dataset,
        "model": trial.model,
        "trainable": "svm" if trial.model == "svm" else "resnet",
        "device": trial.device,
        "device_name": trial.device_name,
        "host": trial.host,
        "threads": trial.threads,
        "cpus": 1,
        "train_images": 49_000,
        "test_images": TEST_IMAGES,
    }
    if trial.gflops is not None:
        facts |= {"gflops": trial.gflops, "parameters": 11_181_642, "gpus": 0.25}
    return facts


def _reports(trial: Trial) -> list[dict[str, Any]]:
    epochs = len(trial.accuracies)
    reports = []
    for epoch, accuracy in enumerate(trial.accuracies, start=1):
        share = epoch / epochs
        report: dict[str, Any] = {
            "val_accuracy": accuracy,
            "train_seconds": 0.9 * trial.seconds * share,
            "total_seconds": trial.seconds * share,
        }
        if trial.model != "svm":
            report |= {
                "epoch": epoch,
                "train_loss": 1.2 - 0.2 * epoch,
                "val_loss": 2 - accuracy / 60,
                "images_per_second": 49_000 * epochs / (0.9 * trial.seconds),
            }
        reports.append(report)
    if trial.test_accuracy is not None and reports:
        reports[-1] |= {
            "test_accuracy": trial.test_accuracy,
            "predict_seconds": 0.04 * trial.seconds,
        }
    return reports
