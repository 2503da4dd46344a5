from __future__ import annotations

import pytest
import torch
from torch import nn

from tuning.muon import STEPS, Muon, orthogonalize

OPTIONS = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def gradients(model):
    model.zero_grad()
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model(images).square().sum().backward()


@pytest.mark.parametrize("shape", [(64, 576), (27, 64), (64, 27)])
def test_singular_vectors_stay_and_values_come_near_to_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.t() @ orthogonalize(matrix).float() @ right.t()
    on_diagonal = found.diagonal()[values > 0.3 * values.max()]
    assert on_diagonal.min() > 0.6
    assert on_diagonal.max() < 1.3
    assert (found - found.diagonal().diag()).abs().max() < 0.1


def test_kernels_are_stepped_as_by_torchs_muon_and_the_rest_as_by_its_sgd():
    ours, plain = network(), network()
    kernel = plain[0].weight
    matrix = nn.Parameter(kernel.detach().permute(0, 2, 3, 1).reshape(8, -1))
    optimizer = Muon(ours.parameters(), 0.05, **OPTIONS)
    muon = torch.optim.Muon([matrix], 0.05, ns_steps=STEPS, **OPTIONS)
    sgd = torch.optim.SGD([*plain[1].parameters(), *plain[3].parameters()], 0.05, **OPTIONS)
    for _ in range(3):
        # The same gradients for both, since small differences grow.
        gradients(ours)
        for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
            other.grad = mine.grad.clone()
        matrix.grad = kernel.grad.permute(0, 2, 3, 1).reshape(8, -1)
        for each in (optimizer, muon, sgd):
            each.step()
    expected = matrix.detach().view(8, 3, 3, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(ours[0].weight.detach(), expected, rtol=0, atol=0.005)
    for key in ("1.weight", "1.bias", "3.weight", "3.bias"):
        torch.testing.assert_close(ours.state_dict()[key], plain.state_dict()[key])


def test_a_change_of_the_groups_options_counts():
    still = network()
    before = still[0].weight.detach().clone()
    optimizer = Muon(still.parameters(), 0.1, **OPTIONS)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    gradients(still)
    optimizer.step()
    torch.testing.assert_close(still[0].weight.detach(), before)
