"""The Ray cluster: connecting to it, or starting one on this machine, and what it consists of."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from tuning.resources import Host

#: Set before Ray starts, so that its workers have them too.
ENVIRONMENT = {
    # Our callbacks write results; a failed trial has no metric, which Tune would take for a fault.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # Relative paths of a study mean the folder in which it was started.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # The older of Tune's two console outputs is the one that can be silenced.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Trials that ask for no GPU see none; the default of later versions of Ray, said aloud.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}


class ClusterError(RuntimeError):
    """The Ray cluster cannot be used as asked; the text says why."""


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, until the context ends.

    Raises:
        ClusterError: it cannot be reached or started.
    """
    os.environ.update(ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
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
