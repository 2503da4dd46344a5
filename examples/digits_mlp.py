"""A trainable of your own; `tuning.trial.Training` says what is expected of it."""

import torch
from torch import nn


class Perceptron:
    def __init__(self, parameters, data, seed, allotment):
        torch.manual_seed(seed)
        self.images = torch.tensor(data.images).flatten(1) / 255
        self.labels, self.train, self.val = map(torch.tensor, (data.labels, data.train, data.val))
        self.network = nn.Sequential(
            nn.Linear(self.images.shape[1], parameters.width),
            nn.ReLU(),
            nn.Linear(parameters.width, data.classes),
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), parameters.lr)
        self.epoch, self.epochs = 0, parameters.epochs

    def step(self):
        for batch in self.train.split(32):
            self.optimizer.zero_grad()
            outputs = self.network(self.images[batch])
            nn.functional.cross_entropy(outputs, self.labels[batch]).backward()
            self.optimizer.step()
        self.epoch += 1
        right = self.network(self.images[self.val]).argmax(1) == self.labels[self.val]
        accuracy = 100 * right.float().mean().item()
        return {"val_accuracy": accuracy, "done": self.epoch == self.epochs}

    def state(self):
        return {"epoch": self.epoch, "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict()}  # fmt: skip

    def restore(self, state):
        self.epoch = state["epoch"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
