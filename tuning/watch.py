"""The watch over Ray itself: notices within seconds that it was lost.

A driver whose GCS or raylet was killed is ended by Ray after 10 to 60 seconds, with pages of log
and no word on how to go on. A study loses nothing then, since its record is on the disk; so this
watch ends the driver first, with one clear line.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable

import ray

#: The exit code of a study that can be resumed.
INTERRUPTED = 130
#: Seconds for which a server must be silent; a busy one may miss a second.
GRACE = 5.0


class RayWatch:
    """Watches the GCS and this host's raylet from a thread of its own, until stopped.

    The first to find one of them lost calls `on_lost` with its name and address.
    """

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self._on_lost = on_lost
        self._servers = _servers()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> RayWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()

    def check(self) -> None:
        """Look once, and call `on_lost` if a server is gone."""
        lost = self._silent()
        if lost:
            self._on_lost(lost)

    def _watch(self) -> None:
        heard = time.monotonic()
        while not self._stopped.wait(1.0):
            lost = self._silent()
            if not lost:
                heard = time.monotonic()
            elif time.monotonic() - heard > GRACE:
                self._on_lost(lost)

    def _silent(self) -> str:
        """Return the name of a server that refuses connections, or nothing."""
        for name, address in self._servers.items():
            try:
                socket.create_connection(address, timeout=2).close()
            except OSError:
                return f"{name} at {address[0]}:{address[1]}"
        return ""


def _servers() -> dict[str, tuple[str, int]]:
    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    servers = {"Ray's GCS": (host.strip("[]"), int(port))}
    for node in ray.nodes():
        if node["NodeID"] == context.get_node_id():
            address = (node["NodeManagerAddress"], int(node["NodeManagerPort"]))
            servers["this host's raylet"] = address
    return servers
