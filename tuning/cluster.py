"""The Ray cluster: connecting to it, or starting one on this machine, and what it consists of."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuning import ray_settings
from tuning.resources import Host


class ClusterError(RuntimeError):
    """The Ray cluster cannot be used as asked; the text says why."""


#: Read by Ray's daemon when it starts: whether it starts a process per CPU before there is work.
PRESTART = "RAY_prestart_worker_first_driver"


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine, until the context ends.

    Args:
        address: of the cluster; None for Ray on this machine.

    Raises:
        ClusterError: it cannot be reached or started.
    """
    ray_settings.apply(address)
    # Failed trials are named in our own words, without Tune's pages of traceback.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if address is None:
        # Trials would not wait for those processes but start their own beside them, and all of them
        # would share the CPUs while they import their modules.
        os.environ[PRESTART] = "0"
    try:
        ray.init(
            address=address,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        where = address or "this machine"
        reason = str(error).strip().splitlines()[0]
        raise ClusterError(f"Ray on {where} cannot be used: {reason}") from None
    finally:
        os.environ.pop(PRESTART, None)
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
            node["Resources"],
        )
        for node in alive_nodes()
    ]


def on_each_host(function: Callable[..., Any], **arguments: Any) -> list[tuple[str, Any]]:
    """Run a function once on each host that is up, beside all that runs there.

    Returns:
        The host's name and what the function returned there.

    Raises:
        ClusterError: a host was lost meanwhile, or the function failed.
    """
    task = ray.remote(num_cpus=0)(function)
    nodes = alive_nodes()
    results = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(**arguments)
        for node in nodes
    ]
    try:
        found = ray.get(results)
    except ray.exceptions.RayError as error:
        raise ClusterError(f"a host failed: {str(error).strip().splitlines()[-1]}") from None
    return [(n["NodeManagerHostname"], result) for n, result in zip(nodes, found, strict=True)]


def require_shared(folder: Path) -> None:
    """Refuse a folder that some host of the cluster does not see.

    A file is written here and looked for from every host, since a folder of the same name may be
    another one there.

    Raises:
        ClusterError: naming the hosts.
    """
    if len(alive_nodes()) < 2:
        return
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    probe = folder / f".probe-{secrets.token_hex(8)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise ClusterError(f"{folder}: cannot be written: {error.strerror}") from None
    try:
        blind = [name for name, sees in on_each_host(_sees, path=str(probe)) if not sees]
    finally:
        probe.unlink()
    if blind:
        for path in created:
            path.rmdir()
        raise ClusterError(
            f"{folder}: is not shared by all hosts of the cluster (not seen from: "
            f"{', '.join(blind)}); give --storage a folder on NFS or the like"
        )


def _sees(path: str) -> bool:
    # Listing the folder makes an NFS client look again, rather than answer from its cache.
    return Path(path).name in {other.name for other in Path(path).parent.glob(".probe-*")}
