"""The Ray cluster: connecting to it, or starting one on this machine, and what it consists of."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from tuning import ray_settings
from tuning.resources import Host


class ClusterError(RuntimeError):
    """The Ray cluster cannot be used as asked; the text says why."""


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, until the context ends.

    Raises:
        ClusterError: it cannot be reached or started.
    """
    ray_settings.apply(address)
    # Failed trials are named in our own words, without Tune's pages of traceback.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        ray.init(
            address=address,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = address or "this machine"
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(f"Ray on {where} cannot be used: {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


def alive_nodes() -> list[dict[str, Any]]:
    """Return Ray's description of each host that is up."""
    return [node for node in ray.nodes() if node["Alive"]]


def hosts() -> list[Host]:
    """Return the hosts of the connected cluster, with their logical CPUs and GPUs."""
    return [
        Host(
            node["NodeManagerHostname"],
            node["Resources"].get("CPU", 0),
            node["Resources"].get("GPU", 0),
        )
        for node in alive_nodes()
    ]
