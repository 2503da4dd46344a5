from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tests.conftest import MINIMAL
from tuning.resources import (
    Allotment,
    Host,
    Request,
    ResourceError,
    count_slots,
    larger_share,
    request,
)
from tuning.study_file import validate

A30_NODES = [Host("a", 64, 2), Host("b", 64, 2)]


def test_sixteen_trials_of_a_quarter_fit_on_four_gpus():
    assert count_slots([Request(1, 0.25)], A30_NODES) == 16


@pytest.mark.parametrize(
    ("wanted", "slots"),
    [
        (Request(1, 0.4), 8),  # two on each GPU: a fraction comes from one GPU
        (Request(1, 1), 4),
        (Request(1, 2), 2),
        (Request(32, 0.25), 4),  # bound by the CPUs
        (Request(1, 0), 128),
    ],
)
def test_slots_follow_the_scarcer_resource(wanted, slots):
    assert count_slots([wanted], A30_NODES) == slots


def test_a_request_that_fits_nowhere_is_refused_with_what_there_is():
    with pytest.raises(ResourceError, match=r"asks for 1 CPUs and 4 GPUs.*a: 64 CPUs, 2 GPUs"):
        count_slots([Request(1, 4)], A30_NODES)


def test_custom_resources_choose_the_hosts():
    study = validate(
        MINIMAL | {"resources": {"cpu": 1, "gpu": 0.5, "custom": {"accelerator_type:A30": 0.001}}},
        "f",
    )
    wanted = request(study, {"device": "auto"})
    mixed = [Host("a", 64, 2, {"accelerator_type:A30": 1}), Host("b", 64, 2)]
    assert count_slots([wanted], mixed) == 4
    with pytest.raises(ResourceError, match=r"0\.001 accelerator_type:A30, which no host has"):
        count_slots([wanted], mixed[1:])
    assert request(study, {"device": "cpu"}).custom == ()


def test_trials_that_cannot_use_a_gpu_ask_for_none():
    study = validate(MINIMAL | {"resources": {"cpu": 2, "gpu": 0.25, "cpu_without_gpu": 8}}, "f")
    assert request(study, {"device": "auto"}) == Request(2, 0.25)
    assert request(study, {"device": "cuda"}) == Request(2, 0.25)
    assert request(study, {"device": "cpu"}) == Request(8, 0)
    assert request(study, {"kernel": "rbf"}) == Request(8, 0)
    assert request(study, {"device": "auto"}, gpus_exist=False) == Request(8, 0)


def test_workers_may_be_on_several_hosts_and_slots_count_all_of_them():
    assert count_slots([Request(1, 1, workers=2)], A30_NODES) == 2
    assert count_slots([Request(1, 1, workers=3)], A30_NODES) == 1
    assert Request(1, 1, workers=2).bundles() == [{}, *[{"CPU": 1, "GPU": 1}] * 2]
    with pytest.raises(
        ResourceError,
        match=r"each of a trial's 5 workers asks for 1 CPUs and 1 GPUs, and there is room for 4 .*"
        r"--set resources.workers=N",
    ):
        count_slots([Request(1, 1, workers=5)], A30_NODES)


@pytest.mark.parametrize(
    ("gpu", "larger"), [(0.25, 0.5), (0.4, 0.8), (0.6, 1), (1, None), (0, None)]
)
def test_a_larger_share_of_a_gpu_is_twice_as_much_up_to_all_of_it(gpu, larger):
    assert larger_share(gpu) == larger


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (3.7, 3)])
def test_threads_follow_the_cpus(cpus, threads):
    allotment = Allotment(cpus, 0)
    allotment.apply()
    assert allotment.threads == torch.get_num_threads() == threads


def test_a_trial_without_a_gpu_computes_on_the_cpu():
    assert Allotment(1, 0).device("auto") == "cpu"
    assert Allotment(1, 0.5).device("cpu") == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_trial_cannot_take_more_than_its_share_of_a_gpus_memory():
    code = """
import torch
from tuning.resources import Allotment
Allotment(cpus=1, gpus=0.25).apply()
total = torch.cuda.get_device_properties(0).total_memory
torch.empty(total // 8, dtype=torch.uint8, device="cuda")
try:
    torch.empty(total // 2, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError:
    print("refused")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "refused\n", result.stderr
