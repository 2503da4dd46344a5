"""Runs a study twice, cuts a copy of the first short, and finishes that: for one process.

`python -m tests.search_driver ADDRESS FOLDER` with `FOLDER/study.yaml`; prints the folders.
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
    from tuning.study_file import load

    study, console = load(home / "study.yaml"), Console(file=io.StringIO())
    folders = [experiment.run(study, home / name, address, console).folder for name in "ab"]
    # The finalists come last.
    for share in (0.6, 0.95) if study.finalists else (0.6,):
        folders.append(cut(folders[0], home / f"cut-{share}", share))
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
