"""The workers of a trial: processes that train one network together.

Ray Train's TorchTrainer, built inside a Tune function, was tried for this with Ray 2.60 and left:

- It asks for its workers in a placement group of its own, beside the one by which Tune counts the
  trial, which may not be empty. On two CPUs, a trial that held one of them, or a thousandth of
  one, waited for its two workers for 60 s, gave up and asked again, until it was ended. No slot,
  plan or budget would know what such trials hold.
- It reports through a Tune function only (`TuneReportCallback` refuses a class), and its workers
  run ahead of the scheduler. The trials of this package are a class that steps, is reused, and
  finds its own checkpoints.
- It watches itself through the dashboard, without which studies on one machine start Ray.

Here the workers are actors in the further bundles of the trial's own placement group. Tune reserves
them together or not at all, and gives them back together. The trial steps all of them at once; what
fails in one of them is raised in the trial, which ends them all. Workers are new for each trial,
since engines leave traces in a process; they end with the trial's process, whatever ends that.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from tuning.data import ImageData
from tuning.parameters import ResNetParameters
from tuning.process import describe, end_with_parent, limit_memory, memory_bytes
from tuning.resources import Allotment, ResourceError


class Workers:
    """Trains in several processes as if in one; follows `tuning.trial.Training`.

    Attributes:
        facts: of the first worker, with the CPUs, GPUs and hosts of all.
        test_predictions: classes `[n_test]` predicted at the end, uint8; None before.
    """

    def __init__(
        self,
        parameters: ResNetParameters,
        data: ImageData,
        seed: int,
        allotment: Allotment,
        bundles: list[dict[str, float]],
        memory_gib: float | None,
    ) -> None:
        """Start the workers in the placement group of this actor.

        Args:
            parameters: of a ResNet.
            data: that all of them learn from.
            seed: of the trial.
            allotment: of each worker.
            bundles: of the placement group, one for each worker.
            memory_gib: that each worker may allocate; None for no limit.
        """
        self.test_predictions: npt.NDArray[np.uint8] | None = None
        group = ray.util.get_current_placement_group()
        self._actors = [
            ray.remote(Worker)
            .options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, rank),
            )
            .remote(rank, len(bundles), memory_gib)
            for rank, bundle in enumerate(bundles)
        ]
        address = ray.get(self._actors[0].address.remote())
        facts = self._all("begin", address, parameters, ray.put(data), seed, allotment)
        self.facts = facts[0] | {
            "host": ", ".join(dict.fromkeys(worker["host"] for worker in facts)),
            "cpus": sum(worker["cpus"] for worker in facts),
            "gpus": sum(worker["gpus"] for worker in facts),
            "gpu_ids": ",".join(filter(None, (worker["gpu_ids"] for worker in facts))),
            "workers": len(facts),
        }

    def step(self) -> dict[str, Any]:
        """Return the report of the first worker, with the most memory that any of them took."""
        results = self._all("step")
        report: dict[str, Any]
        report, self.test_predictions, _ = results[0]
        return report | {"memory_bytes": max(memory for _, _, memory in results)}

    def state(self) -> dict[str, Any]:
        """Return the first worker's state, with the engine's state of all that hold a part."""
        states: list[dict[str, Any]] = self._all("state")
        return states[0] | {"engine": [s["engine"] for s in states if s]}

    def restore(self, state: dict[str, Any]) -> None:
        """Give every worker the state, and its part of the engine's.

        Raises:
            ResourceError: the state is of another number of workers, among whom it was sharded.
        """
        parts = state["engine"]
        if len(parts) not in (1, len(self._actors)):
            raise ResourceError(
                f"resources.workers: is {len(self._actors)}, but the checkpoint is sharded over "
                f"{len(parts)} workers"
            )
        self._all("restore", ray.put(state))

    def close(self) -> None:
        """End the workers, and give back what they held."""
        for actor in self._actors:
            ray.kill(actor)

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of all workers at once.

        Raises:
            Exception: what the first one to fail raised; the others, which wait for it, are ended.
        """
        try:
            return list(ray.get([getattr(a, method).remote(*arguments) for a in self._actors]))
        except RayTaskError as error:
            self.close()
            raise error.cause from None
        except RayActorError:
            self.close()
            raise


class Worker:
    """One of the processes: an actor that holds a ResNet in training."""

    def __init__(self, rank: int, workers: int, memory_gib: float | None) -> None:
        end_with_parent()
        if memory_gib is not None:
            limit_memory(memory_gib)
        self.rank = rank
        self.workers = workers

    def address(self) -> tuple[str, int]:
        """Return this host's address in the cluster, and a free port."""
        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def begin(
        self,
        address: tuple[str, int],
        parameters: ResNetParameters,
        data: ImageData,
        seed: int,
        allotment: Allotment,
    ) -> dict[str, Any]:
        """Meet the other workers at the address of the first; return the facts of the trial."""
        import torch.distributed as dist

        # DeepSpeed takes its place among the workers from the environment. Each process sees its
        # own devices alone; LOCAL_SIZE stops DeepSpeed from counting NUMA nodes instead.
        os.environ |= {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.workers),
            "LOCAL_RANK": "0",
            "LOCAL_SIZE": "1",
            "MASTER_ADDR": address[0],
            "MASTER_PORT": str(address[1]),
            "GLOO_SOCKET_IFNAME": _interface(ray.util.get_node_ip_address()),
        }
        allotment.apply()
        backend = "nccl" if allotment.device(parameters.device) == "cuda" else "gloo"
        dist.init_process_group(backend)
        from tuning.resnet import ResNetTraining

        self.training = ResNetTraining(parameters, data, seed, allotment)
        return describe(allotment, self.training.device.type) | self.training.facts

    def step(self) -> tuple[dict[str, Any], Any, int]:
        """Return the report, the predicted classes at the end, and the process's memory."""
        report = self.training.step()
        return report, self.training.test_predictions, memory_bytes()

    def state(self) -> dict[str, Any]:
        """Return the first worker's state, or what this one alone holds of the engine's."""
        if self.rank == 0:
            return self.training.state()
        return {"engine": self.training.engine.state()} if self.training.engine.sharded else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a state, and this worker's part of the engine's."""
        parts = state["engine"]
        self.training.restore(state | {"engine": parts[self.rank % len(parts)]})


def _interface(address: str) -> str:
    """Return the network interface with an address; gloo's own choice is what the name leads to."""
    return next(
        name
        for name, found in psutil.net_if_addrs().items()
        if any(item.address == address for item in found)
    )
