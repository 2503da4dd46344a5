"""A trainable of your own: scikit-learn's perceptron on the study's images, 20 lines."""

import pickle

import numpy as np
from sklearn.neural_network import MLPClassifier


class Perceptron:
    def __init__(self, parameters, data, seed, allotment):
        self.mlp = MLPClassifier((parameters.width,), learning_rate_init=parameters.lr,
                                 max_iter=1, random_state=seed)
        self.x, self.y = data.images.reshape(len(data.images), -1) / 255, data.labels
        self.train, self.val, self.epochs = data.train, data.val, parameters.epochs

    def step(self):
        self.mlp.partial_fit(self.x[self.train], self.y[self.train], np.unique(self.y))
        accuracy = 100 * self.mlp.score(self.x[self.val], self.y[self.val])
        done = self.mlp.t_ >= self.epochs * len(self.train)
        return {"val_accuracy": accuracy, "weights": self.mlp.coefs_[0].size, "done": bool(done)}

    def state(self):
        return {"mlp": np.frombuffer(pickle.dumps(self.mlp), np.uint8).copy()}

    def restore(self, state):
        self.mlp = pickle.loads(state["mlp"].tobytes())
