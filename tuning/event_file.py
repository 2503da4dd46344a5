"""A TensorBoard event file that is written in the thread of the caller.

tensorboardX's SummaryWriter hands events to a thread through a short queue. A full disk can end
that thread unseen; from then on the queue, and with it the study, waits for ever.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar


class EventFile:
    """One new event file in a folder.

    Its methods raise an OSError that names the folder where the disk takes no more.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._writer = EventsWriter(str(folder / "events"))

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Add one point of a curve."""
        self.add_summary(scalar(tag, value), step)

    def add_summary(self, summary: Any, step: int | None = None) -> None:
        """Add what one of `tensorboardX.summary`'s functions made."""
        with self._named():
            self._writer.write_event(Event(summary=summary, wall_time=time.time(), step=step))

    def flush(self) -> None:
        """Write what was added to the disk."""
        with self._named():
            self._writer.flush()

    def close(self) -> None:
        """Flush and close the file."""
        with self._named():
            self._writer.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = str(self._folder)
            raise
