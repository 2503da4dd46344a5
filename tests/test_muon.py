from __future__ import annotations

import torch
from torch import nn

from tuning.muon import Muon


def step(network, optimizer):
    optimizer.zero_grad()
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network(images).square().sum().backward()
    optimizer.step()


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def test_a_kernel_moves_alike_in_all_directions_and_the_rest_by_sgd():
    ours, plain = network(), network()
    before = ours[0].weight.detach().clone()
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.0}
    step(ours, Muon(ours.parameters(), 0.1, **options))
    step(plain, torch.optim.SGD(plain.parameters(), 0.1, **options))
    moved = (ours[0].weight.detach() - before).flatten(1)
    # Three iterations bring the singular values near to one, and no nearer.
    values = torch.linalg.svdvals(moved) / 0.1
    assert values.min() > 0.5
    assert values.max() < 1.3
    under_sgd = torch.linalg.svdvals((plain[0].weight.detach() - before).flatten(1))
    assert values.max() / values.min() < under_sgd.max() / under_sgd.min()
    for key in ("1.weight", "1.bias", "3.weight", "3.bias"):
        torch.testing.assert_close(ours.state_dict()[key], plain.state_dict()[key])


def test_a_change_of_the_groups_options_counts():
    still = network()
    before = still[0].weight.detach().clone()
    optimizer = Muon(still.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(still, optimizer)
    torch.testing.assert_close(still[0].weight.detach(), before)
