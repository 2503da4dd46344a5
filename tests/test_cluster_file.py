"""The shipped cluster.yaml, without a cluster; `tests/cluster` starts it on real hosts."""

from __future__ import annotations

import pytest
import yaml

from tests.conftest import ROOT

FILE = ROOT / "cluster.yaml"
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture
def config():
    return yaml.safe_load(FILE.read_text())


def test_ray_accepts_it_and_starts_every_worker(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    (node_type,) = prepared["available_node_types"].values()
    assert node_type["min_workers"] == len(config["provider"]["worker_ips"]) == 1


def test_what_it_sends_to_the_hosts_exists(config):
    sent = [source for source in config["file_mounts"].values() if not source.startswith("~")]
    assert sent
    assert all((ROOT / source).exists() for source in sent)


@pytest.mark.parametrize("commands", STARTS)
def test_every_host_demands_the_token_and_lets_trials_choose_their_threads(config, commands):
    (start,) = (c for c in config[commands] if "ray start" in c)
    before, after = start.split("ray start")
    assert "unset OMP_NUM_THREADS" in before
    assert "RAY_AUTH_MODE=token" in before
    assert "TUNING_STORAGE=/" in before
    assert "--num-gpus=2" in after
    assert "accelerator_type:A30" in after


def test_the_jobs_port_is_reached_through_ssh_only(config):
    (start,) = (c for c in config["head_start_ray_commands"] if "ray start" in c)
    assert "--dashboard-host=127.0.0.1" in start
    assert "RAY_enable_autoscaler_v2=0" in start
