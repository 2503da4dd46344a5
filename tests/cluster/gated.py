"""A trainable that stops in the middle until one host was cut off; sent along with its study."""

import platform
import time
from pathlib import Path

#: On the storage of the hosts; it appears once the host of this name is cut off.
GATE = Path("/mnt/studies/node2-is-cut-off")
LOST = "node2"


class Gated:
    def __init__(self, parameters, data, seed, allotment):
        self.epoch, self.epochs = 0, parameters.epochs

    def step(self):
        # A host that is cut off from real NFS would write nothing either.
        while self.epoch == self.epochs // 2 and (platform.node() == LOST or not GATE.exists()):
            time.sleep(0.1)
        self.epoch += 1
        return {"val_accuracy": 10.0 * self.epoch, "done": self.epoch == self.epochs}

    def state(self):
        return {"epoch": self.epoch}

    def restore(self, state):
        self.epoch = state["epoch"]
