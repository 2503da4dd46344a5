"""Support vector machines for bytes, one against one, by matrix products and scikit-learn's LIBSVM.

A machine for many classes is one machine for each pair of them. LIBSVM evaluates the kernel entry
by entry, which at 784 pixels is nearly all of its time. Here the kernel matrix of each pair is made
whole, by matrix products, and LIBSVM solves the pair with it (`kernel="precomputed"`). The solver,
its tolerance and the votes are scikit-learn's own, so that the machines are the same up to the
rounding of the kernel, which LIBSVM itself keeps in float32.

The products are of whole numbers and exact: pixels are bytes, and CPUs multiply those several times
faster than floats (VNNI, AMX).
"""

from __future__ import annotations

import itertools
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import sklearn
import torch
from sklearn.svm import SVC
from torch import Tensor

from tuning.parameters import SVMParameters

Bytes = npt.NDArray[np.uint8]

#: Bytes that the matrices of all pairs in work may take together.
MEMORY_BYTES = 4 << 30
#: Above this, int32 might not hold a squared distance: 4 x 128^2 x features.
MOST_FEATURES = (1 << 15) - 1
#: Rows of a kernel matrix that are made at a time: they stay in the cache of the CPU meanwhile.
ROWS = 256


class Vectors(NamedTuple):
    """Vectors of bytes, minus 128: distances are the same, and signed bytes multiply faster.

    Attributes:
        signed: int8, `[n, features]`.
        sums: of the unsigned bytes, int32, `[n]`.
        squares: squared lengths of the signed vectors, int32, `[n]`.
    """

    signed: Tensor
    sums: Tensor
    squares: Tensor

    @classmethod
    def of(cls, images: Bytes) -> Vectors:
        """Take uint8 `[n, features]`."""
        signed = (images ^ 0x80).view(np.int8)
        squares = np.einsum("ij,ij->i", signed, signed, dtype=np.int32)
        sums = images.sum(axis=1, dtype=np.int32)
        return cls(torch.from_numpy(signed), torch.from_numpy(sums), torch.from_numpy(squares))

    def __len__(self) -> int:
        return len(self.signed)


class Kernel(NamedTuple):
    """A kernel of bytes that stand for values in 0 to 1.

    Attributes:
        name: `rbf`, exp(-gamma |x - y|^2); `poly`, (gamma x.y + coef0)^degree; or `linear`, x.y.
    """

    name: str
    gamma: float
    degree: int
    coef0: float

    def __call__(self, a: Vectors, rows: slice, b: Vectors) -> Tensor:
        """Return float32 `[rows of a, b]`."""
        found = products(a.signed[rows], b.signed)
        if self.name == "rbf":
            found.mul_(-2).add_(a.squares[rows, None]).add_(b.squares)
            return found.float().mul_(-self.gamma / 255**2).exp_()
        # x.y from (x - 128).(y - 128)
        found.add_(128 * a.sums[rows, None]).add_(128 * b.sums - 128**2 * a.signed.shape[1])
        dots = found.float().mul_(1 / 255**2)
        return dots if self.name == "linear" else dots.mul_(self.gamma).add_(self.coef0).pow_(
            self.degree
        )  # fmt: skip


def products(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner products of int8 `[n, features]` and `[m, features]`: int32 `[n, m]`.

    They are exact, also on a CPU without instructions for bytes, by way of floats that hold them.
    """
    if _multiplies_bytes():
        return torch._int_mm(a, b.T)
    floats = torch.float32 if 128**2 * a.shape[1] <= 1 << 24 else torch.float64
    return (a.to(floats) @ b.to(floats).T).int()


def _multiplies_bytes() -> bool:
    found = torch.cpu.get_capabilities()
    return any(found.get(key, False) for key in ("avx512_vnni", "avx_vnni", "amx_int8"))


class Machine(NamedTuple):
    """What LIBSVM found for a pair: positive decisions are for the second class."""

    support: npt.NDArray[np.int64]
    coefficients: npt.NDArray[np.float64]
    intercept: float


class PairwiseSVC:
    """A support vector classifier of uint8 vectors that stand for values in 0 to 1.

    Attributes:
        classes: found in the labels, in order.
        kernel: with the number that `gamma` came to.
        support_: indices of the training images that any pair rests on.
    """

    def __init__(self, parameters: SVMParameters, threads: int) -> None:
        """Take what to fit, and the number of pairs solved at a time."""
        self.parameters = parameters
        self.threads = threads

    def fit(self, images: Bytes, labels: npt.NDArray[Any]) -> PairwiseSVC:
        """Fit to uint8 `[n, features]` and their classes `[n]`.

        Raises:
            ValueError: there are less than two classes.
        """
        self.classes = np.unique(labels)
        if len(self.classes) < 2:
            raise ValueError(f"an SVM needs two classes, and there is only {self.classes[0]}")
        p = self.parameters
        self.kernel = Kernel(p.kernel, _gamma(p.gamma, images), p.degree, p.coef0)
        members = [np.flatnonzero(labels == c) for c in self.classes]
        groups = [Vectors.of(images[found]) for found in members]
        sizes = sorted(map(len, members))
        workers = concurrency(sizes, self.threads)
        buffers: queue.SimpleQueue[npt.NDArray[np.float64]] = queue.SimpleQueue()
        for _ in range(workers):
            buffers.put(np.empty((sizes[-1] + sizes[-2]) ** 2))
        pairs = list(itertools.combinations(range(len(groups)), 2))

        def solve(pair: tuple[int, int]) -> Machine:
            buffer = buffers.get()
            try:
                first, second = pair
                return self._solve(buffer, groups[first], groups[second], own[first], own[second])
            finally:
                buffers.put(buffer)

        with _pool(workers) as pool:
            own = list(pool.map(self._among, groups))
            machines = list(pool.map(solve, pairs))
        self._keep(images, members, pairs, machines)
        return self

    def predict(self, images: Bytes) -> npt.NDArray[Any]:
        """Return the class of each of uint8 `[n, features]`, by the votes of the pairs."""
        vectors = Vectors.of(images)
        starts = range(0, len(vectors), ROWS)
        with _pool(self.threads) as pool:
            return np.concatenate(list(pool.map(lambda start: self._vote(vectors, start), starts)))

    def _among(self, group: Vectors) -> Tensor:
        """Return the kernel matrix of one class, which all of its pairs need."""
        found = torch.empty(len(group), len(group))
        for start in range(0, len(group), ROWS):
            rows = slice(start, start + ROWS)
            found[rows] = self.kernel(group, rows, group)
        return found

    def _solve(
        self, buffer: npt.NDArray[np.float64], a: Vectors, b: Vectors, own_a: Tensor, own_b: Tensor
    ) -> Machine:
        size = len(a) + len(b)
        matrix = buffer[: size**2].reshape(size, size)
        view = torch.from_numpy(matrix)
        view[: len(a), : len(a)] = own_a
        view[len(a) :, len(a) :] = own_b
        for start in range(0, len(a), ROWS):
            rows = slice(start, start + ROWS)
            between = self.kernel(a, rows, b)
            view[: len(a)][rows, len(a) :] = between
            view[len(a) :, : len(a)][:, rows] = between.T
        machine = SVC(kernel="precomputed", C=self.parameters.C)
        with sklearn.config_context(assume_finite=True):
            machine.fit(matrix, np.repeat([0, 1], [len(a), len(b)]))
        return Machine(machine.support_, machine.dual_coef_[0], float(machine.intercept_[0]))

    def _keep(
        self,
        images: Bytes,
        members: list[npt.NDArray[np.int64]],
        pairs: list[tuple[int, int]],
        machines: list[Machine],
    ) -> None:
        """Keep each support vector once, with its coefficient in every pair: `[vectors, pairs]`."""
        coefficients = np.zeros((len(images), len(pairs)))
        for column, ((first, second), machine) in enumerate(zip(pairs, machines, strict=True)):
            both = np.concatenate([members[first], members[second]])
            coefficients[both[machine.support], column] = machine.coefficients
        self.support_ = used = np.flatnonzero(coefficients.any(axis=1))
        self._support = Vectors.of(images[used])
        self._coefficients = torch.from_numpy(coefficients[used])
        self._intercepts = torch.tensor([m.intercept for m in machines], dtype=torch.float64)
        self._pairs = np.array(pairs)

    def _vote(self, vectors: Vectors, start: int) -> npt.NDArray[Any]:
        found = self.kernel(vectors, slice(start, start + ROWS), self._support)
        decisions = (found.double() @ self._coefficients + self._intercepts).numpy()
        chosen = np.where(decisions >= 0, self._pairs[:, 1], self._pairs[:, 0])
        votes = (chosen[:, :, None] == np.arange(len(self.classes))).sum(axis=1)
        return np.asarray(self.classes[votes.argmax(axis=1)])


def concurrency(sizes: list[int], threads: int) -> int:
    """Return how many pairs can be solved at a time; 0 where memory lacks for one.

    Args:
        sizes: of the classes, ascending.
        threads: the most.
    """
    shared = 4 * sum(size**2 for size in sizes)
    each = 8 * (sizes[-1] + sizes[-2]) ** 2
    return min(threads, max(0, MEMORY_BYTES - shared) // each)


def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads of which each computes alone: torch's own would be as many again in each."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def _gamma(asked: float | str, images: Bytes) -> float:
    """Return what scikit-learn's `scale` and `auto` mean for values in 0 to 1."""
    features: int = images.shape[1]
    if asked == "auto":
        return 1 / features
    if asked == "scale":
        variance = float(np.var(images, dtype=np.float64)) / 255**2
        return 1 / (features * variance) if variance else 1.0
    return float(asked)
