from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tuning import training
from tuning.outcome import NonFiniteLoss
from tuning.parameters import ResNetParameters
from tuning.resnet import ResNetTraining
from tuning.resources import Allotment
from tuning.training import (
    Augmentation,
    Preparation,
    ResidentBatches,
    choose_precision,
)

CPU = torch.device("cpu")
ONE = Allotment(cpus=1, gpus=0)


def begin(blobs, **parameters):
    values = {"batch_size": 30, "epochs": 3, "lr": 0.01, "precision": "fp32"} | parameters
    ONE.apply()
    return ResNetTraining(ResNetParameters(**values), blobs, 0, ONE)


def without_times(report):
    return {k: v for k, v in report.items() if "second" not in k}


def test_a_network_learns_and_is_tested_once_at_the_end(blobs):
    run = begin(blobs, schedule="onecycle", lr=0.05)
    reports = [run.step() for _ in range(3)]
    assert [r["epoch"] for r in reports] == [1, 2, 3]
    assert ["test_accuracy" in r for r in reports] == [False, False, True]
    assert reports[-1]["done"]
    assert reports[-1]["test_accuracy"] > 90
    assert run.test_predictions.shape == (50,)
    actual = blobs.labels[blobs.test]
    assert reports[-1]["test_accuracy"] == 100 * np.mean(run.test_predictions == actual)


def test_the_weights_of_the_best_validation_epoch_are_tested(blobs):
    run = begin(blobs, epochs=4, lr=0.3)
    reports = [run.step() for _ in range(4)]
    best = max(reports, key=lambda r: r["val_accuracy"])
    # The network now holds the weights that were tested.
    again = run._evaluate(blobs.val)
    assert again.accuracy == pytest.approx(best["val_accuracy"])


def test_the_same_seed_gives_the_same_losses(blobs):
    first, second = (begin(blobs, augmentation="flip").step() for _ in range(2))
    assert without_times(first) == without_times(second)


@pytest.mark.parametrize("channels", [(), (3,)])
def test_images_are_shifted_by_whole_pixels_and_black_moves_in(channels):
    images = torch.randint(1, 256, (64, 6, 6, *channels), dtype=torch.uint8)
    found = Augmentation(False, 2, torch.Generator().manual_seed(0))(images)
    assert found.shape == images.shape
    ways = set()
    for before, after in zip(images, found, strict=True):
        # In the middle no shift of two pixels reaches the border.
        ways |= {
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if torch.equal(after[2:4, 2:4], before[2 + down : 4 + down, 2 + right : 4 + right])
        }
        assert (after == 0).any() or torch.equal(before, after)
    assert len(ways) > 15


@pytest.mark.parametrize("loader", ["resident", "dataloader"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
def test_a_resumed_trial_goes_on_as_if_nothing_had_happened(blobs, loader, optimizer):
    settings = {"schedule": "onecycle", "loader": loader, "optimizer": optimizer}
    settings |= {"augmentation": "flip", "shift": 2}
    whole = begin(blobs, **settings)
    expected = [whole.step() for _ in range(3)]
    begun = begin(blobs, **settings)
    begun.step()
    state = copy.deepcopy(begun.state())
    resumed = begin(blobs, **settings)
    resumed.restore(state)
    for report in expected[1:]:
        assert without_times(resumed.step()) == without_times(report)


def test_a_non_finite_loss_names_its_step(blobs):
    run = begin(blobs, lr=1e30, batch_size=10)
    with pytest.raises(NonFiniteLoss, match=r"the training loss is (nan|inf) at step \d+"):
        for _ in range(3):
            run.step()


def test_workers_of_the_dataloader_give_what_the_main_process_gives(blobs):
    none = begin(blobs, loader="dataloader").step()
    some = begin(blobs, loader="dataloader", num_workers=2).step()
    assert some["train_loss"] == pytest.approx(none["train_loss"])


def test_amp_is_bf16_only_on_a_cpu_that_has_it(monkeypatch):
    monkeypatch.setattr(training, "_cpu_has_bf16", lambda: True)
    assert choose_precision("amp", CPU).name == "bf16"
    monkeypatch.setattr(training, "_cpu_has_bf16", lambda: False)
    slow = choose_precision("amp", CPU)
    assert (slow.name, slow.reason) == ("fp32", "amp: this CPU has no bf16 instructions")
    assert choose_precision("bf16", CPU).name == "bf16"


def test_amp_on_cuda_is_fp16_with_gradient_scaling():
    chosen = choose_precision("amp", torch.device("cuda"))
    assert (chosen.name, chosen.scaling) == ("fp16", True)


def test_images_are_normalised_upsampled_and_repeated_to_three_channels(blobs):
    images = torch.from_numpy(blobs.images)
    ready = Preparation.fit(images, 56)(images[:4])
    assert ready.shape == (4, 3, 56, 56)
    assert torch.equal(ready[:, 0], ready[:, 2])
    same = Preparation.fit(images, 28)(images)
    assert abs(float(same.mean())) < 1e-4
    assert float(same.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("count", "steps"), [(10, 3), (9, 2), (8, 2)])
def test_a_last_batch_of_one_image_is_left_out(count, steps):
    images, labels = torch.zeros(count, 2, 2, dtype=torch.uint8), torch.zeros(count)
    batches = ResidentBatches(images, labels, 4, CPU, generator=torch.Generator())
    assert len(batches) == len(list(batches)) == steps


@pytest.mark.gpu
def test_a_trial_that_takes_over_weights_keeps_its_own_parameters(blobs):
    donor, taker = begin(blobs, lr=0.05), begin(blobs, lr=0.002, momentum=0.5)
    donor.step()
    taker.adopt(donor.state())
    (group,) = taker.engine.optimizer.param_groups
    assert (group["lr"], group["momentum"]) == (0.002, 0.5)
    for name, weights in donor.network.state_dict().items():
        assert torch.equal(weights, taker.network.state_dict()[name])
    report = taker.step()
    assert report["epoch"] == 2
    assert taker.best_accuracy == report["val_accuracy"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_network_learns_on_a_gpu(blobs):
    parameters = ResNetParameters(batch_size=30, epochs=3, lr=0.05, schedule="onecycle")
    run = ResNetTraining(parameters, blobs, 0, Allotment(cpus=1, gpus=1))
    reports = [run.step() for _ in range(3)]
    assert run.facts["device"] == "cuda"
    assert run.facts["precision"] == "fp16"
    assert reports[-1]["test_accuracy"] > 90
