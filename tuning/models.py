"""torchvision's ResNets with ten classes, their size and their cost."""

from __future__ import annotations

import torch
import torchvision.models
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tuning.convolution import Convolution


def build_resnet(model: str, stem: str, classes: int) -> nn.Module:
    """Return a ResNet without pre-trained weights.

    Args:
        model: resnet18, resnet34 or resnet50.
        stem: `standard` is torchvision's 7x7 convolution of stride 2, made for images of 224
            pixels; `small` is a 3x3 one of stride 1, which keeps the detail of 28 pixels. Both
            are followed by the max-pool.
        classes: number of outputs.

    Returns:
        A network from float `[N, 3, H, W]` to logits `[N, classes]`.
    """
    network: nn.Module = getattr(torchvision.models, model)(weights=None, num_classes=classes)
    if stem == "small":
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Conv2d):
                setattr(module, name, Convolution.of(child))
    return network


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count_gflops(model: str, stem: str, classes: int, image_size: int) -> float:
    """Return the cost in GFLOPs of one forward pass of one image.

    Counted by torch's `FlopCounterMode` on the meta device, so nothing is computed: 2 operations
    per multiply-add of convolutions and matrix products; the rest is not counted.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = build_resnet(model, stem, classes).eval()
        network(torch.empty(1, 3, image_size, image_size))
    return float(counter.get_total_flops()) / 1e9
