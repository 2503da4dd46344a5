"""The default search against the reference's grid, trained and not replayed, for the same epochs.

    python -m tests.benchmarks.search_real FOLDER [--seeds 3] [--data DIR]

Runs the studies of `tests/benchmarks/real` with the seeds 0, 1, ..., one trial at a time, and
prints what each found: the trial with the best validation accuracy at any of its epochs, among
those that ran to their end, since only those were read on test. What is in FOLDER already is not
run again; a run that was cut off goes on. Accuracies are percent of 1,050 images each. Seconds are
those of the trials, which other work on the machine changes; the epochs are the same everywhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tuning.record import read_trials
from tuning.study_file import load

STUDIES = Path(__file__).parent / "real"


def run(name: str, seed: int, home: Path, data: str) -> Path:
    """Run one study with one seed, or finish it; return its folder."""
    storage = home / f"{name}-{seed}"
    tuning = [sys.executable, "-m", "tuning"]
    begun = sorted(path.parent for path in storage.glob("*/record.jsonl"))
    if not begun:
        settings = ["--set", f"search.seed={seed}", "--set", f"dataset.folder={data}"]
        file = str(STUDIES / f"{name}.yaml")
        subprocess.run([*tuning, "run", file, "--storage", str(storage), *settings], check=False)
    elif not is_whole(begun[0]):
        subprocess.run([*tuning, "resume", str(begun[0])], check=False)
    return next(path.parent for path in storage.glob("*/record.jsonl"))


def is_whole(folder: Path) -> bool:
    """Tell whether a study has spent its budget, or ended."""
    trials, budget = read_trials(folder).values(), load(folder / "study.yaml").budget.epochs
    if budget is None:
        return len(trials) == 16 and all(trial.finished for trial in trials)
    return sum(len(trial.reports) for trial in trials) >= budget


def line(name: str, seed: int, folder: Path) -> str:
    trials = list(read_trials(folder).values())
    ended = [trial for trial in trials if trial.status == "completed"]
    best = max(ended, key=lambda trial: trial.best_report()["val_accuracy"])
    row, c = best.row(), best.config
    seconds = sum(trial.reports[-1]["total_seconds"] for trial in trials if trial.reports)
    return (
        f"{name:9}{seed:>5}{len(trials):>8}{len(ended):>11}"
        f"{sum(len(trial.reports) for trial in trials):>8}{seconds:>9.0f}"
        f"{row['val_accuracy']:>8.2f}{row['test_accuracy']:>8.2f}  "
        f"{c['model']} batch {c['batch_size']} {c['optimizer']} lr {c['lr']:.4g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", default="data", help="the data folder")
    options = parser.parse_args()
    lines = [
        line(name, seed, run(name, seed, options.folder, options.data))
        for seed in range(options.seeds)
        for name in ("grid", "default")
    ]
    print(f"{'search':9}{'seed':>5}{'trials':>8}{'completed':>11}{'epochs':>8}{'seconds':>9}"
          f"{'val %':>8}{'test %':>8}  best")  # fmt: skip
    print("\n".join(lines))


if __name__ == "__main__":
    main()
