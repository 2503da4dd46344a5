"""The training engine: precision, batches, one epoch of training, and evaluation.

The images stay uint8 until a batch is on its device; there they become normalised floats of the
network's size. Nothing in the step waits for the device: losses are looked at every `CHECK_EVERY`
steps, since each look makes a GPU finish its queue.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from tuning.outcome import NonFiniteLoss

CHECK_EVERY = 50
EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Precision:
    """The number format of forward and backward passes.

    Attributes:
        name: what is recorded: fp32, fp16 or bf16.
        dtype: of autocast; None for fp32.
        scaling: whether gradients are scaled (fp16).
        reason: why it is not what was asked for, or empty.
    """

    name: str
    dtype: torch.dtype | None
    scaling: bool = False
    reason: str = ""

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which the network runs."""
        return torch.autocast(device.type, dtype=self.dtype, enabled=self.dtype is not None)


def choose_precision(asked: str, device: torch.device) -> Precision:
    """Return the precision that `fp32`, `amp` or `bf16` means on a device.

    On a CPU without bf16 instructions, bf16 is slower than fp32, so `amp` means fp32 there.
    """
    if asked == "fp32":
        return Precision("fp32", None)
    if asked == "bf16":
        return Precision("bf16", torch.bfloat16)
    if device.type == "cuda":
        return Precision("fp16", torch.float16, scaling=True)
    if _cpu_has_bf16():
        return Precision("bf16", torch.bfloat16)
    return Precision("fp32", None, reason="amp: this CPU has no bf16 instructions")


def _cpu_has_bf16() -> bool:
    found = torch.cpu.get_capabilities()
    return any(found.get(key, False) for key in ("avx512_bf16", "amx_bf16", "arm_bf16", "bf16"))


@dataclass(frozen=True)
class Preparation:
    """Turns uint8 images into what the network takes.

    Attributes:
        size: pixels per side of the network's input.
        mean: of the training images' pixels, in 0 to 1, one number over all channels.
        std: their standard deviation.
    """

    size: int
    mean: float
    std: float

    @classmethod
    def fit(cls, images: Tensor, size: int) -> Preparation:
        """Measure mean and deviation of uint8 training images."""
        counts = np.bincount(images.numpy().reshape(-1), minlength=256)
        values = np.arange(256) / 255
        mean = float(np.average(values, weights=counts))
        std = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
        return cls(size, mean, max(std, 1e-6))

    def __call__(self, images: Tensor) -> Tensor:
        """Return float32 `[N, 3, size, size]` from uint8 `[N, H, W]` or `[N, H, W, 3]`."""
        x = images.permute(0, 3, 1, 2) if images.dim() == 4 else images.unsqueeze(1)
        x = x.float().mul_(1 / (255 * self.std)).sub_(self.mean / self.std)
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False)
        return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a batch of uint8 images, `[N, H, W]` or `[N, H, W, C]`.

    Attributes:
        flip: whether each image is mirrored with probability one half.
        shift: largest shift in pixels, down and to the right; black moves in.
        generator: source of the random numbers.
    """

    flip: bool
    shift: int
    generator: torch.Generator

    def __call__(self, images: Tensor) -> Tensor:
        """Return new images of the same shape."""
        if self.flip:
            chosen = torch.rand(len(images), generator=self.generator) < 0.5
            chosen = chosen.to(images.device).view(-1, *[1] * (images.dim() - 1))
            images = torch.where(chosen, images.flip(2), images)
        return self._shifted(images) if self.shift else images

    def _shifted(self, images: Tensor) -> Tensor:
        count, height, width = images.shape[:3]
        way = torch.randint(2 * self.shift + 1, (2, count, 1), generator=self.generator)
        way = way.to(images.device)
        sides = [0, 0] * (images.dim() - 3) + [self.shift] * 4
        rows = way[0] + torch.arange(height, device=images.device)
        columns = way[1] + torch.arange(width, device=images.device)
        each = torch.arange(count, device=images.device).view(-1, 1, 1)
        return F.pad(images, sides)[each, rows.unsqueeze(2), columns.unsqueeze(1)]


class Batches(Protocol):
    """Batches of a split: uint8 images and int64 labels, on the device, anew at each iteration."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...

    def __len__(self) -> int: ...


class ResidentBatches:
    """Slices of a split that is held whole on the device."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        device: torch.device,
        *,
        generator: torch.Generator | None = None,
        pin_memory: bool = False,
    ) -> None:
        if pin_memory and device.type == "cuda":
            images, labels = images.pin_memory(), labels.pin_memory()
        self.images = images.to(device, non_blocking=True)
        self.labels = labels.to(device, non_blocking=True)
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self) -> int:
        return _steps(len(self.labels), self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.generator is None:
            for start in range(0, len(self.labels), self.batch_size):
                part = slice(start, start + self.batch_size)
                yield self.images[part], self.labels[part]
            return
        order = torch.randperm(len(self.labels), generator=self.generator)
        order = order.to(self.images.device)
        for index in order.split(self.batch_size)[: len(self)]:
            yield self.images[index], self.labels[index]


class LoadedBatches:
    """Shuffled batches through torch's DataLoader, with worker processes and pinned memory."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        device: torch.device,
        *,
        generator: torch.Generator,
        num_workers: int,
        pin_memory: bool,
    ) -> None:
        data = TensorDataset(images, labels)
        self.device = device
        self.steps = _steps(len(labels), batch_size)
        self.loader = DataLoader(
            data,
            batch_size,
            sampler=RandomSampler(data, generator=generator),
            num_workers=num_workers,
            pin_memory=pin_memory and device.type == "cuda",
            persistent_workers=num_workers > 0,
            generator=generator,
        )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for (images, labels), _ in zip(self.loader, range(self.steps), strict=False):
            yield (
                images.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
            )


def _steps(count: int, batch_size: int) -> int:
    """Return the number of batches; a last one of a single image is left out (batch norm)."""
    return count // batch_size + (1 if count % batch_size > 1 else 0)


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """Return a tensor that shares an array's memory, read-only ones of the object store too."""
    with warnings.catch_warnings():
        # torch warns of writes through the tensor; none are made.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


class Engine(Protocol):
    """How a loss becomes a step of the optimizer; `tuning.engines` has those there are."""

    network: nn.Module
    workers: int

    def share(self, batch: Tensor) -> Tensor: ...

    def update(self, loss: Tensor) -> None: ...

    def mean(self, losses: Tensor) -> Tensor: ...


class Epoch(NamedTuple):
    """What one epoch of training was."""

    loss: float
    seconds: float
    images: int


def train_epoch(
    engine: Engine,
    batches: Batches,
    preparation: Preparation,
    precision: Precision,
    *,
    device: torch.device,
    label_smoothing: float = 0.0,
    augment: Augmentation | None = None,
    first_step: int = 0,
) -> Epoch:
    """Train for one pass over the batches.

    Args:
        engine: steps a network that is in and out as `tuning.models.build_resnet` says.
        batches: the training split, the same for all workers.
        preparation: from uint8 to the network's input.
        precision: of the forward and backward pass.
        device: of the network.
        label_smoothing: of the cross-entropy.
        augment: what is done to the images of each batch, alike by all workers, or None.
        first_step: number of optimizer steps before this epoch, to name a failing one.

    Returns:
        Mean training loss, seconds of training alone, and images seen, by all workers.

    Raises:
        NonFiniteLoss: naming the step.
    """
    engine.network.train()
    losses = torch.zeros(len(batches), device=device)
    seen = 0
    _synchronize(device)
    started = time.perf_counter()
    for step, (images, labels) in enumerate(batches):
        count = len(labels)
        if augment is not None:
            images = augment(images)
        images, labels = engine.share(images), engine.share(labels)
        with precision.autocast(device):
            logits = engine.network(preparation(images))
            loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        # Workers whose shares differ by an image count by their images; alone, this is 1.
        loss = loss * (engine.workers * len(labels) / count)
        engine.update(loss)
        losses[step] = loss.detach()
        seen += count
        if step % CHECK_EVERY == CHECK_EVERY - 1:
            _check_finite(losses[: step + 1], first_step)
    losses = engine.mean(losses)
    _check_finite(losses, first_step)
    _synchronize(device)
    return Epoch(float(losses.mean()), time.perf_counter() - started, seen)


def _check_finite(losses: Tensor, first_step: int) -> None:
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLoss(
            f"the training loss is {float(losses[step])} at step {first_step + step + 1}"
        )


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Evaluation(NamedTuple):
    """What a network says of a split: loss, accuracy in percent, classes `[N]`, seconds."""

    loss: float
    accuracy: float
    predicted: npt.NDArray[np.uint8]
    seconds: float


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    batches: Batches,
    preparation: Preparation,
    precision: Precision,
    device: torch.device,
) -> Evaluation:
    """Evaluate a network on unshuffled batches."""
    network.eval()
    _synchronize(device)
    started = time.perf_counter()
    losses, predicted, labels = [], [], []
    for images, target in batches:
        with precision.autocast(device):
            logits = network(preparation(images))
        losses.append(F.cross_entropy(logits.float(), target, reduction="sum"))
        predicted.append(logits.argmax(1))
        labels.append(target)
    classes, target = torch.cat(predicted), torch.cat(labels)
    loss = float(torch.stack(losses).sum()) / len(target)
    accuracy = 100 * float((classes == target).sum()) / len(target)
    found = classes.to("cpu", torch.uint8).numpy()
    return Evaluation(loss, accuracy, found, time.perf_counter() - started)
