"""The ResNet trainable: one training run, epoch by epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from tuning.data import ImageData, training_subset
from tuning.engines import DeepSpeed, Native, Parallel, Parts, synchronize_batch_norm
from tuning.models import build_resnet, count_gflops, count_parameters
from tuning.muon import Muon
from tuning.parameters import ResNetParameters
from tuning.resources import Allotment
from tuning.training import (
    EVALUATION_BATCH,
    Augmentation,
    Batches,
    LoadedBatches,
    Preparation,
    ResidentBatches,
    as_tensor,
    choose_precision,
    evaluate,
    train_epoch,
)


class ResNetTraining:
    """A ResNet in training; with an engine of several workers, one of them.

    Attributes:
        facts: what does not change: model, device, precision, GFLOPs, parameters, ...
        test_predictions: classes `[n_test]` predicted at the end, uint8; None before.
    """

    def __init__(
        self, parameters: ResNetParameters, data: ImageData, seed: int, allotment: Allotment
    ) -> None:
        self.parameters = p = parameters
        self.data = data
        self.device = torch.device(allotment.device(p.device))
        self.precision = choose_precision(p.precision, self.device)
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.train_indices = training_subset(data, p.train_size, seed)
        self.preparation = Preparation.fit(as_tensor(data.images[self.train_indices]), p.image_size)
        self.network = build_resnet(p.model, p.stem, data.classes).to(self.device)
        self.network.to(memory_format=torch.channels_last)
        self.batches = self._training_batches()
        flip = p.augmentation == "flip"
        self.augment = Augmentation(flip, p.shift, self.generator) if flip or p.shift else None
        self.engine = self._build_engine()
        self.epoch = 0
        self.train_seconds = 0.0
        self.best_accuracy = -1.0
        self.best_weights: dict[str, torch.Tensor] = {}
        self.test_predictions: npt.NDArray[np.uint8] | None = None
        self.facts = {
            "model": p.model,
            "device": self.device.type,
            "precision": self.precision.name,
            "precision_reason": self.precision.reason,
            "gflops": round(count_gflops(p.model, p.stem, data.classes, p.image_size), 6),
            "parameters": count_parameters(self.network),
            "train_images": len(self.train_indices),
            "test_images": len(data.test),
        }

    def step(self) -> dict[str, Any]:
        """Train and validate one epoch; after the last one, test the best epoch's weights.

        Of several workers, the first one validates and tests.

        Returns:
            `epoch`, `train_loss`, `val_loss`, `val_accuracy` (percent), `train_seconds` (of all
            epochs so far), `images_per_second` (likewise), `done`, and after the last epoch
            `test_accuracy` (percent) and `predict_seconds` (of the test split).

        Raises:
            NonFiniteLoss: the training loss is infinite or not a number.
        """
        p = self.parameters
        done = train_epoch(
            self.engine,
            self.batches,
            self.preparation,
            self.precision,
            device=self.device,
            label_smoothing=p.label_smoothing,
            augment=self.augment,
            first_step=self.epoch * len(self.batches),
        )
        self.epoch += 1
        self.train_seconds += done.seconds
        if self.engine.rank > 0:
            return {"epoch": self.epoch, "done": self.epoch >= p.epochs}
        validation = self._evaluate(self.data.val)
        if validation.accuracy > self.best_accuracy:
            self.best_accuracy = validation.accuracy
            self.best_weights = {
                k: v.detach().to("cpu", copy=True) for k, v in self.network.state_dict().items()
            }
        report = {
            "epoch": self.epoch,
            "train_loss": done.loss,
            "val_loss": validation.loss,
            "val_accuracy": validation.accuracy,
            "train_seconds": self.train_seconds,
            "images_per_second": done.images * self.epoch / self.train_seconds,
            "done": self.epoch >= p.epochs,
        }
        if report["done"]:
            report |= self._test()
        return report

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on as if nothing had happened."""
        return {
            "epoch": self.epoch,
            "train_seconds": self.train_seconds,
            "best_accuracy": self.best_accuracy,
            "best_weights": self.best_weights,
            "network": self.network.state_dict(),
            "engine": self.engine.state(),
            "generator": self.generator.get_state(),
            "torch_rng": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self.epoch = state["epoch"]
        self.train_seconds = state["train_seconds"]
        self.best_accuracy = state["best_accuracy"]
        self.best_weights = state["best_weights"]
        self.network.load_state_dict(state["network"])
        self.engine.restore(state["engine"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["torch_rng"])

    def adopt(self, state: dict[str, Any]) -> None:
        """Take over another trial's state; the best epoch to test is one of this trial's own."""
        self.restore(state)
        self.best_accuracy = -1.0
        p = self.parameters
        for group in self.engine.optimizer.param_groups:
            group["weight_decay"] = p.weight_decay
            if self.engine.schedule is None:  # else it sets these two
                group["lr"] = p.lr
                group |= {"momentum": p.momentum} if "momentum" in group else {}

    def _test(self) -> dict[str, Any]:
        self.network.load_state_dict(self.best_weights)
        test = self._evaluate(self.data.test)
        self.test_predictions = test.predicted
        return {"test_accuracy": test.accuracy, "predict_seconds": test.seconds}

    def _evaluate(self, indices: npt.NDArray[np.int64]) -> Any:
        batches = ResidentBatches(
            as_tensor(self.data.images[indices]),
            as_tensor(self.data.labels[indices]),
            EVALUATION_BATCH,
            self.device,
        )
        return evaluate(self.network, batches, self.preparation, self.precision, self.device)

    def _training_batches(self) -> Batches:
        p = self.parameters
        images = as_tensor(self.data.images[self.train_indices])
        labels = as_tensor(self.data.labels[self.train_indices])
        if p.loader == "resident":
            return ResidentBatches(
                images,
                labels,
                p.batch_size,
                self.device,
                generator=self.generator,
                pin_memory=p.pin_memory,
            )
        return LoadedBatches(
            images,
            labels,
            p.batch_size,
            self.device,
            generator=self.generator,
            num_workers=p.num_workers,
            pin_memory=p.pin_memory,
        )

    def _build_engine(self) -> Native:
        """Return the engine, with the optimizer and its schedule."""
        p = self.parameters
        if p.engine != "native" and dist.get_world_size() > 1:
            self.network = synchronize_batch_norm(self.network, self.device)
        optimizer = _build_optimizer(p, self.network)
        schedule: LRScheduler | None = None
        if p.schedule == "onecycle":
            steps = len(self.batches) * p.epochs
            schedule = OneCycleLR(
                optimizer, p.lr, total_steps=steps + 1, pct_start=p.warmup, cycle_momentum=False
            )
        parts = Parts(self.network, optimizer, schedule, self.precision, self.device)
        match p.engine:
            case "native":
                return Native(parts)
            case "ddp":
                return Parallel(parts)
            case "deepspeed":
                return DeepSpeed(parts, stage=p.zero_stage, batch_size=p.batch_size)


def _build_optimizer(p: ResNetParameters, network: nn.Module) -> torch.optim.Optimizer:
    weights = network.parameters()
    match p.optimizer:
        case "sgd":
            return torch.optim.SGD(
                weights,
                p.lr,
                momentum=p.momentum,
                nesterov=p.nesterov,
                weight_decay=p.weight_decay,
                fused=True,
            )
        case "adam":
            return torch.optim.Adam(weights, p.lr, weight_decay=p.weight_decay, fused=True)
        case "adamw":
            return torch.optim.AdamW(weights, p.lr, weight_decay=p.weight_decay, fused=True)
        case "muon":
            return Muon(
                weights,
                p.lr,
                momentum=p.momentum,
                nesterov=p.nesterov,
                weight_decay=p.weight_decay,
            )
