"""A trainable of a user's own for tests: instant, deterministic, with a metric of its own."""

from __future__ import annotations

import math

from pydantic import BaseModel, Field


class Quadratic:
    """Scores the better, the nearer `lr` is to 0.01, and a little better every epoch."""

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
        return {"score": score, "seconds": 0.1, "done": self.epoch == p.epochs}

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
