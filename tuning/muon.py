"""Muon: an optimizer for the kernels of convolutions, with SGD for all other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

STEPS = 3
"""Newton-Schulz iterations of each step, as in airbench94; torch's default is 5."""


class Muon(torch.optim.Optimizer):
    """Steps each kernel by the nearest orthogonal matrix to its momentum.

    A kernel `[O, C, h, w]` counts as the matrix `[O, h * w * C]`. All its singular directions then
    move alike, where under SGD a few large ones hide the others; a network so learns more from an
    epoch, for three times two matrix products of the kernel's size in each step. Batch norm and
    the last layer are stepped by SGD with the same rate and momentum.

    References:
        Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the
        iterations are those of `torch.optim.Muon`, which takes matrices only.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        momentum: float,
        nesterov: bool,
        weight_decay: float,
    ) -> None:
        """Take over parameters.

        Args:
            parameters: of a network on its device, its kernels in `torch.channels_last`.
            lr: learning rate of all of them.
            momentum: likewise.
            nesterov: likewise.
            weight_decay: likewise; of the kernels decoupled from the gradient.

        Raises:
            RuntimeError: a kernel is laid out otherwise.
        """
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if p.dim() == 4]},
            {"params": [p for p in parameters if p.dim() != 4]},
        ]
        options: dict[str, Any] = {"lr": lr, "momentum": momentum, "nesterov": nesterov}
        options["weight_decay"] = weight_decay
        super().__init__(groups, options)
        kernels, others = (group["params"] for group in self.param_groups)
        # In the kernels' own memory, so that a step of the matrices is one of the kernels.
        self._matrices = [
            nn.Parameter(kernel.detach().permute(0, 2, 3, 1).view(len(kernel), -1))
            for kernel in kernels
        ]
        self._inner = (
            torch.optim.Muon(self._matrices, ns_steps=STEPS, **options),
            torch.optim.SGD(others, fused=True, **options),
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Step all parameters by their gradients, with the options that their groups have now."""
        for kernel, matrix in zip(self.param_groups[0]["params"], self._matrices, strict=True):
            rows = kernel.grad.permute(0, 2, 3, 1)
            matrix.grad = rows.reshape(len(kernel), -1)
        for group, inner in zip(self.param_groups, self._inner, strict=True):
            options = {key: group[key] for key in ("lr", "momentum", "weight_decay")}
            inner.param_groups[0].update(options)
            inner.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers, and the groups' options."""
        return super().state_dict() | {"inner": [inner.state_dict() for inner in self._inner]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "inner"})
        for inner, state in zip(self._inner, state_dict["inner"], strict=True):
            inner.load_state_dict(state)
