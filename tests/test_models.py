from __future__ import annotations

import pytest
import torch

from tuning.models import build_resnet, count_gflops, count_parameters


@pytest.mark.parametrize(
    ("model", "size", "gflops"),
    [
        ("resnet18", 64, 0.2961),
        ("resnet34", 64, 0.5981),
        ("resnet50", 64, 0.6673),
        ("resnet18", 28, 0.0685),
    ],
)
def test_gflops_are_those_of_the_reference(model, size, gflops):
    assert round(count_gflops(model, "standard", 10, size), 4) == gflops


def test_the_small_stem_keeps_more_detail_at_almost_the_same_size():
    standard, small = (build_resnet("resnet18", stem, 10) for stem in ("standard", "small"))
    assert count_parameters(standard) - count_parameters(small) == 64 * 3 * (49 - 9)
    with torch.inference_mode():
        image = torch.zeros(1, 3, 28, 28)
        assert standard.conv1(image).shape[-1] == 14
        assert small.conv1(image).shape[-1] == 28
