"""Engines: how a loss becomes a step of the optimizer, in one process or in several.

`native` is plain PyTorch in one process, `ddp` is torch's DistributedDataParallel, and `deepspeed`
is DeepSpeed's ZeRO, which shards the optimizer's state (stage 1) and the gradients (stage 2). The
last two need an initialised process group: gloo on CPUs, nccl on GPUs.

All of them train the same thing. `batch_size` counts the images of a step over all workers: each
takes its share of one permutation, the loss is the mean over all of them, and batch norm takes its
statistics over all of them too. So the number of workers changes the time and the rounding of a
trial, and nothing else.
"""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from tuning.training import Precision


class Parts(NamedTuple):
    """What an engine trains: the network on its device, and how its weights are stepped."""

    network: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler | None
    precision: Precision
    device: torch.device


class Native:
    """Plain PyTorch in one process.

    Attributes:
        network: what is called in training.
        rank: of this worker, from 0.
        workers: how many there are.
        sharded: whether each worker holds a part of the state that the others lack.
    """

    rank = 0
    workers = 1
    sharded = False

    def __init__(self, parts: Parts) -> None:
        self.network = parts.network
        self.optimizer = parts.optimizer
        self.schedule = parts.schedule
        self.scaler = torch.amp.GradScaler(parts.device.type, enabled=parts.precision.scaling)

    def share(self, batch: Tensor) -> Tensor:
        """Return this worker's part of a batch that all workers drew alike."""
        return batch

    def update(self, loss: Tensor) -> None:
        """Step the optimizer and the schedule, given the loss of this worker's share.

        Gradients are averaged over the workers.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.schedule is not None:
            self.schedule.step()

    def mean(self, losses: Tensor) -> Tensor:
        """Return the mean over the workers of each element."""
        return losses

    def state(self) -> dict[str, Any]:
        """Return the state of this worker's optimizer, schedule and gradient scaler."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict() if self.schedule else {},
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned; the network has its weights already."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])


class Parallel(Native):
    """One of several workers; with torch's DistributedDataParallel.

    References:
        Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training",
        VLDB 2020.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.rank, self.workers = dist.get_rank(), dist.get_world_size()
        self.network = self._wrap(parts.network)

    def _wrap(self, network: nn.Module) -> nn.Module:
        # Running statistics of batch norm are equal on all workers already.
        return DistributedDataParallel(network, broadcast_buffers=False)

    def share(self, batch: Tensor) -> Tensor:
        return batch[self.rank :: self.workers]

    def mean(self, losses: Tensor) -> Tensor:
        summed = losses.clone()
        dist.all_reduce(summed)
        return summed / self.workers


class DeepSpeed(Parallel):
    """One of several workers, with DeepSpeed's ZeRO; the package is imported when one is made.

    References:
        Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
        SC 2020.
    """

    def __init__(self, parts: Parts, *, stage: Literal[0, 1, 2], batch_size: int) -> None:
        """Wrap a network and its optimizer.

        Args:
            parts: ZeRO makes the optimizer step its shard of the network's parameters.
            stage: of ZeRO.
            batch_size: images per step over all workers.

        Raises:
            ModuleNotFoundError: DeepSpeed is not installed.
        """
        self.settings = DeepSpeedSettings.of(
            stage, parts.precision, batch_size, dist.get_world_size()
        )
        super().__init__(parts)

    def _wrap(self, network: nn.Module) -> nn.Module:
        if not torch.cuda.is_available():
            os.environ["DS_ACCELERATOR"] = "cpu"
        # It sends the weights to the other workers as bytes, for which they may not be strided.
        network.to(memory_format=torch.contiguous_format)
        import deepspeed

        # It would compile a C++ kernel for the sums on one host; gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self.engine, self.zero, *_ = deepspeed.initialize(
            model=network,
            optimizer=self.optimizer,
            config=self.settings.model_dump(),
            dist_init_required=False,
        )
        self.sharded = self.settings.zero_optimization.stage > 0
        wrapped: nn.Module = self.engine
        return wrapped

    def update(self, loss: Tensor) -> None:
        self.engine.backward(loss)
        self.engine.step()
        if self.schedule is not None:
            self.schedule.step()

    def state(self) -> dict[str, Any]:
        """Return the state of this worker's shard; ZeRO's master weights are the network's own."""
        return super().state() | {"scaler": self._scaler().state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        if self.sharded:
            self.zero.refresh_fp32_params()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self._scaler().load_state_dict(state["scaler"])

    def _scaler(self) -> torch.amp.GradScaler:
        """Return what scales the gradients: DeepSpeed's own under fp16, else one that does not."""
        own = (
            self.zero.torch_autocast_gradscaler
            if self.sharded
            else self.engine.torch_autocast_z0_gradscaler
        )
        return own or torch.amp.GradScaler(enabled=False)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TorchAutocast(_Section):
    """Precision by torch's own autocast, layer by layer.

    With an empty list of modules, gradients are averaged in fp32.
    """

    enabled: bool
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    lower_precision_safe_modules: list[str] = []


class Switch(_Section):
    """A section of DeepSpeed's that is on or off."""

    enabled: bool = False


class Zero(_Section):
    """What ZeRO shards: nothing, the optimizer's state, or the gradients as well.

    The buckets are numbers of elements; DeepSpeed's own, 5e8, take gigabytes in every worker.
    """

    stage: Literal[0, 1, 2] = 0
    reduce_bucket_size: int = 2**23
    allgather_bucket_size: int = 2**23


class DeepSpeedSettings(_Section):
    """What DeepSpeed is told, checked before it is imported.

    Raises:
        pydantic.ValidationError: for what DeepSpeed would take and then do something else with.
    """

    train_batch_size: int
    train_micro_batch_size_per_gpu: int
    gradient_accumulation_steps: Literal[1] = 1
    torch_autocast: TorchAutocast
    bf16: Switch = Switch()
    fp16: Switch = Switch()
    zero_optimization: Zero = Zero()
    # Left out, it means 1, and every other engine would make larger steps.
    gradient_clipping: float = 0.0
    # Any of torch's optimizers may be sharded; ours are element-wise.
    zero_allow_untested_optimizer: Literal[True] = True
    zero_force_ds_cpu_optimizer: Literal[False] = False
    steps_per_print: int = 2**31

    @model_validator(mode="after")
    def _agrees(self) -> DeepSpeedSettings:
        if self.bf16.enabled and self.fp16.enabled:
            raise ValueError("bf16 and fp16 are both enabled; a network has one of them")
        if self.bf16.enabled or self.fp16.enabled:
            raise ValueError(
                "bf16 or fp16 turn the whole network into 16 bits, in which batch norm's "
                "statistics break; use torch_autocast"
            )
        return self

    @classmethod
    def of(
        cls, stage: Literal[0, 1, 2], precision: Precision, batch_size: int, workers: int
    ) -> DeepSpeedSettings:
        """Return the settings of a trial.

        DeepSpeed wants a batch that its workers share evenly, and only checks that the two numbers
        agree; shares that differ by an image are weighted by the loss.
        """
        each = max(1, batch_size // workers)
        dtype: Literal["float16", "bfloat16"] = (
            "float16" if precision.dtype == torch.float16 else "bfloat16"
        )
        return cls(
            train_batch_size=each * workers,
            train_micro_batch_size_per_gpu=each,
            torch_autocast=TorchAutocast(enabled=precision.dtype is not None, dtype=dtype),
            zero_optimization=Zero(stage=stage),
        )


def synchronize_batch_norm(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with batch norm whose statistics are taken over all workers."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    group = dist.new_group()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = SharedBatchNorm2d
            module.group = group  # type: ignore[assignment]
    return network


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all workers, on CPUs, where torch's SyncBatchNorm is missing.

    Its process group is its own, so that its sums cannot be taken for those of the gradients.
    """

    group: dist.ProcessGroup

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[N, C, H, W]`; the gradient flows through the statistics of all workers."""
        if not self.training:
            return super().forward(x)
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        count = torch.full((1,), x.numel() / x.shape[1], dtype=torch.float64)
        mean, var = mean.double(), var.double()
        # Double precision: the mean's square is subtracted again.
        total: Tensor = _Sum.apply(
            torch.cat([count, count * mean, count * (var + mean**2)]), self.group
        )
        count, (mean, square) = total[0], (total[1:] / total[0]).chunk(2)
        var = square - mean**2
        self._follow(mean.detach(), (var * count / (count - 1)).detach())
        # The mean first: in a channel that hardly varies, the scale is large.
        centred = x.float() - mean.float()[:, None, None]
        scale = self.weight * torch.rsqrt(var.float() + self.eps)
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.float(), self.momentum)
        self.running_var.lerp_(var.float(), self.momentum)


class _Sum(torch.autograd.Function):
    """The sum over all workers; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        summed = values.clone()
        dist.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.clone()
        dist.all_reduce(summed, group=ctx.group)
        return summed, None
