"""A trainable of a user's own for tests: instant, deterministic, with a metric of its own."""

from __future__ import annotations

import math
import time

import torch
from pydantic import BaseModel, Field


class Quadratic:
    """Scores the better, the nearer `lr` is to 0.01, and every epoch; costs more at a high `lr`."""

    class Parameters(BaseModel):
        lr: float = Field(gt=0)
        kind: str = "a"
        epochs: int = 6

    def __init__(self, parameters, data, seed, allotment):
        self.parameters, self.epoch = parameters, 0

    def step(self):
        self.epoch += 1
        p = self.parameters
        score = 90 - 5 * (math.log10(p.lr) + 2) ** 2 - (p.kind == "b") - 10 / self.epoch
        cost = self.epoch * (6 + math.log10(p.lr))
        report = {"score": score, "cost": cost, "seconds": 0.1, "done": self.epoch == p.epochs}
        return report | ({"test_accuracy": score} if report["done"] else {})

    def state(self):
        return {"epoch": self.epoch}

    def restore(self, state):
        self.epoch = state["epoch"]


class Hungry:
    """A stand-in for a network that is too large: out of memory in its second epoch below a share.

    No memory is taken and there is no GPU: Ray's logical GPUs give the share.
    """

    class Parameters(BaseModel):
        needs: float = 0
        device: str = "auto"
        epochs: int = 3
        seconds: float = 0

    def __init__(self, parameters, data, seed, allotment):
        self.parameters, self.gpus, self.epoch = parameters, allotment.gpus, 0

    def step(self):
        if self.epoch == 1 and self.gpus < self.parameters.needs:
            raise torch.OutOfMemoryError("CUDA out of memory (a stand-in)")
        time.sleep(self.parameters.seconds)
        self.epoch += 1
        return {"score": 1.0, "done": self.epoch == self.parameters.epochs}

    def state(self):
        return {"epoch": self.epoch}

    def restore(self, state):
        self.epoch = state["epoch"]


class Climber:
    """Climbs every epoch, the faster the nearer `lr` is to 0.01; its state is how high it is."""

    def __init__(self, parameters, data, seed, allotment):
        self.parameters, self.epoch, self.height = parameters, 0, 0.0

    def step(self):
        self.epoch += 1
        self.height += 10 - 2 * abs(math.log10(self.parameters.lr) + 2)
        return {"score": self.height, "seconds": 0.1, "done": self.epoch == self.parameters.epochs}

    def state(self):
        return {"epoch": self.epoch, "height": self.height}

    def restore(self, state):
        self.epoch, self.height = state["epoch"], state["height"]
