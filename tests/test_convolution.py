from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from tuning.convolution import Convolution
from tuning.models import build_resnet


@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 2), (1, 1)])
def test_outputs_and_gradients_are_those_of_torch(pixels, size, stride):
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 5, size, stride, size // 2, bias=False).double()
    ours = Convolution.of(plain)
    images = torch.randn(3, 6, pixels, pixels, dtype=torch.float64, requires_grad=True)
    expected, found = plain(images), ours(images)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, (images, plain.weight), direction)
    torch.testing.assert_close(torch.autograd.grad(found, (images, ours.weight), direction), wanted)


def test_autocast_computes_in_bf16_and_the_weights_stay_fp32():
    ours = Convolution.of(nn.Conv2d(8, 8, 3, 1, 1, bias=False))
    with torch.autocast("cpu", torch.bfloat16):
        output = ours(torch.randn(2, 8, 2, 2))
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert ours.weight.grad.dtype == torch.float32


def test_a_resnet_is_torchvisions_to_the_rounding_with_the_same_weights():
    import torchvision.models

    torch.manual_seed(3)
    ours = build_resnet("resnet18", "standard", 10)
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18(weights=None, num_classes=10)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    images, labels = torch.randn(8, 3, 64, 64), torch.arange(8)
    for network in (ours, theirs):
        F.cross_entropy(network(images), labels).backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, msg=name)
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5, msg=name)
