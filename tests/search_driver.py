"""Runs a study twice, the second time interrupted, and finishes that: for one process.

`python -m tests.search_driver ADDRESS FOLDER` with `FOLDER/study.yaml`; prints the two folders, and
if the study has finalists those of cut copies of the first, finished as well.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from tuning import ray_settings


def main(address: str, home: Path) -> None:
    # Ray reads what this sets when it is imported.
    ray_settings.apply(address)
    from rich.console import Console

    from tuning import experiment
    from tuning.record import read_trials
    from tuning.study import Budget
    from tuning.study_file import load

    study, console = load(home / "study.yaml"), Console(file=io.StringIO())
    whole = experiment.run(study, home / "whole", address, console)
    half = Budget(epochs=sum(len(t.reports) for t in read_trials(whole.folder).values()) // 2)
    stopped = study.model_copy(update={"budget": half})
    second = experiment.run(stopped, home / "second", address, console)
    experiment.resume(second.folder, address, console, settings=["budget.epochs=null"])
    folders = [whole.folder, second.folder]
    if study.finalists:
        for share in (0.6, 0.95):  # the finalists come last
            folders.append(cut(whole.folder, home / f"cut-{share}", share))
            experiment.resume(folders[-1], address, console)
    print(*folders, sep="\n")


def cut(folder: Path, copy: Path, share: float) -> Path:
    """Copy a study as a kill would have left it: the first part of its record."""
    (copy / "trials").mkdir(parents=True)
    shutil.copy(folder / "study.yaml", copy)
    lines = (folder / "record.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "record.jsonl").write_bytes(b"".join(lines[: int(share * len(lines))]))
    return copy


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
