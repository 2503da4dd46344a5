"""Whole clusters on real hosts; see `tests.cluster.hosts`."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]


def test_ray_up_raises_two_hosts_with_two_gpus_each(cluster):
    found = cluster.on_head("print(sorted(ray.cluster_resources().items()))")
    print(found.stdout)
    assert "('GPU', 4.0)" in found.stdout
    assert "('accelerator_type:A30', 2.0)" in found.stdout
