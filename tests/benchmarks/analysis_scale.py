"""Time and peak memory of `analysis tables` on 2,000 trials with 50 epochs each.

Prints the time of writing the record, then for each format the wall seconds and the peak resident
memory of a fresh process. Limits: 5 s on 2 cores, 1 GB.

    python tests/benchmarks/analysis_scale.py [--trials 2000] [--epochs 50]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECONDS, BYTES = 5.0, 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=50)
    arguments = parser.parse_args()
    versions = f"Python {platform.python_version()}, {os.cpu_count()} CPUs"
    print(f"{arguments.trials} trials x {arguments.epochs} epochs; {versions}")
    with tempfile.TemporaryDirectory() as folder:
        write_record(Path(folder), arguments.trials, arguments.epochs)
        size = (Path(folder) / "record.jsonl").stat().st_size
        print(f"record.jsonl: {size / 1e6:.1f} MB")
        failed = [f for f in ("text", "csv", "json", "latex") if not measure(Path(folder), f)]
    sys.exit(f"over the limit: {', '.join(failed)}" if failed else 0)


def measure(folder: Path, form: str) -> bool:
    """Print time and memory of one run and tell whether both are under their limits."""
    command = [sys.executable, "-m", "analysis", "tables", str(folder), "--format", form]
    begin = time.perf_counter()
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(command, stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"`analysis tables --format {form}` failed")
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"{form:>6}: {seconds:5.2f} s (limit {SECONDS:.0f}), {memory / 1e6:6.0f} MB (limit 1000)")
    return seconds < SECONDS and memory < BYTES


def write_record(folder: Path, trials: int, epochs: int) -> None:
    """Write the record in one go: its own writer flushes every line to the disk."""
    with (folder / "record.jsonl").open("wb") as file:
        for event in events(trials, epochs):
            body = json.dumps(event, separators=(",", ":")).encode()
            file.write(b"%08x %s\n" % (zlib.crc32(body), body))


def events(trials: int, epochs: int) -> Iterator[dict[str, Any]]:
    """Yield the events of a random search over ResNets on two hosts, eight trials at a time."""
    draw = random.Random(0)
    for number in range(trials):
        name, begin = f"{number:05}", 1_790_000_000.0 + 60.0 * (number // 8)
        config = {
            "model": draw.choice(["resnet18", "resnet34", "resnet50"]),
            "batch_size": draw.choice([16, 32, 64, 128]),
            "optimizer": draw.choice(["sgd", "adam"]),
            "lr": 10 ** draw.uniform(-4, -1),
            "epochs": epochs,
            "pin_memory": draw.random() < 0.5,
            "seed": 0,
        }
        cuda = number % 2
        facts = {
            "dataset": "fashion_mnist",
            "model": config["model"],
            "device": "cuda" if cuda else "cpu",
            "device_name": "NVIDIA A30" if cuda else "Intel Xeon Gold 6326",
            "host": f"node-{cuda}",
            "threads": 2,
            "gflops": {"resnet18": 0.2961, "resnet34": 0.5981, "resnet50": 0.6673}[config["model"]],
            "train_images": 49_000,
            "test_images": 14_000,
        }
        yield {"event": "trial", "time": begin, "trial": name, "config": config}
        yield {"event": "start", "time": begin, "trial": name, "session": 0}
        yield {"event": "facts", "time": begin, "trial": name, "facts": facts}
        stopped = draw.random() < 0.2
        last = epochs // 2 if stopped else epochs
        for epoch in range(1, last + 1):
            accuracy = 92 - 30 / epoch + draw.gauss(0, 0.5)
            metrics = {
                "epoch": epoch,
                "train_loss": 2.0 / epoch,
                "val_loss": 2.2 / epoch,
                "val_accuracy": accuracy,
                "train_seconds": 1.1 * epoch,
                "total_seconds": 1.2 * epoch,
                "images_per_second": 49_000 / 1.1,
            }
            if epoch == last and not stopped:
                metrics |= {"test_accuracy": accuracy - 0.4, "predict_seconds": 0.5}
            yield {"event": "report", "time": begin + epoch, "trial": name, "metrics": metrics}
        status = "stopped" if stopped else "completed"
        yield {"event": "end", "time": begin + 60, "trial": name, "status": status, "error": ""}


if __name__ == "__main__":
    main()
