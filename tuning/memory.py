"""A host whose memory runs out: Ray ends processes there, and the study goes on.

Ray's memory monitor ends the newest processes of a host that is nearly full, whichever of them
took the memory (docs.ray.io, "Out-Of-Memory Prevention"; the limit is 95 % of the host, or
`RAY_memory_usage_threshold`). Tune 2.60 takes the error for one of its own and ends the whole run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError

#: How Ray's message lists the processes that it thought of ending, and why.
_PROCESS = re.compile(r"Actor\((\w+)\):.*actual memory used=([\d.]+)GB")
_USAGE = re.compile(r"Memory usage (\d+)B exceeded threshold of (\d+)B")


@contextmanager
def want_of_memory_ends_trials() -> Iterator[None]:
    """Let Tune take a process that ended for want of memory as lost, like any other.

    Its trial goes on from the last checkpoint, up to the study's `retries`. One that was ended
    though another held more memory is retried without being counted.
    """
    original = RayActorManager._actor_task_failed

    def task_failed(self: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            tracked = tracked_actor_task._tracked_actor
            actor, _ = self._live_actors_to_ray_actors_resources[tracked]
            exception = lost_process(actor._actor_id.hex(), str(exception))
        original(self, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = task_failed
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = original


def lost_process(actor: str, message: str) -> RayActorError:
    """Return the error of a lost process; `preempted`, if another one held more memory.

    Args:
        actor: Ray's id of the process, hexadecimal.
        message: of Ray's OutOfMemoryError.
    """
    held = {name: float(gigabytes) for name, gigabytes in _PROCESS.findall(message)}
    own = held.get(actor)
    text = "OutOfMemory: Ray ended the trial's process"
    text += f", which held {own:g} GB" if own is not None else ""
    if usage := _USAGE.search(message):
        used, limit = (int(number) / 2**30 for number in usage.groups())
        text += f": {used:.1f} GiB were in use on its host, above the limit of {limit:.1f}"
    return RayActorError(actor, text, preempted=own is not None and own < max(held.values()))
