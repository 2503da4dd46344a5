"""Checkpoints of one trial: written atomically, verified before use, the last two kept.

A checkpoint is one file of `torch.save`, a zip archive in which torch stores the CRC-32 of every
member; that is what tells a damaged one. It is read with `weights_only=True`, so that a file from
outside can hold tensors and plain values but cannot run code.
"""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

KEEP = 2
#: What zipfile and torch raise on damaged files, as found by flipping bits at random.
DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)


def save(folder: Path, step: int, state: dict[str, Any]) -> None:
    """Write a checkpoint, flush it to the disk, and only then remove older ones.

    Args:
        folder: of the trial.
        step: number of reports so far; orders the checkpoints.
        state: tensors and plain values.

    Raises:
        OSError: the disk is full or broken; the earlier checkpoints are as they were.
    """
    import torch

    path = folder / f"checkpoint-{step:05d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        _remove_unfinished(folder)
        # torch's writer hides what the file said, such as a full disk, behind an error of its own.
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
    for old in _newest_first(folder)[KEEP:]:
        old.unlink()


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Return the newest intact checkpoint of a trial, or None.

    Damaged ones are renamed to `.damaged`, so that they are seen and not tried again. What a kill
    left half written is removed.
    """
    import torch

    _remove_unfinished(folder)
    for path in _newest_first(folder):
        try:
            with zipfile.ZipFile(path) as archive:
                intact = archive.testzip() is None
            if intact:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return state
        except DAMAGE:
            pass
        path.rename(path.with_suffix(".damaged"))
    return None


def copy_newest(source: Path, folder: Path) -> None:
    """Put the newest checkpoint of one trial in the place of all those of another.

    Raises:
        OSError: the disk is full or broken.
    """
    for path in _newest_first(source)[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = (folder / path.name).with_suffix(".tmp")
        with path.open("rb") as given, temporary.open("wb") as taken:
            shutil.copyfileobj(given, taken)
            os.fsync(taken.fileno())
        for old in _newest_first(folder):
            old.unlink()
        temporary.replace(folder / path.name)


def remove_all(folder: Path) -> None:
    """Remove the checkpoints of a trial that needs none any more."""
    _remove_unfinished(folder)
    for path in _newest_first(folder):
        path.unlink()


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob("checkpoint-*.tmp"):
        path.unlink()


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)
