"""The end of the cluster's tests; pytest runs the files of a folder by name."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]


def test_ray_down_ends_ray_on_every_host(cluster):
    down = cluster.run("ray", "down", "--yes", cluster.file)
    assert down.returncode == 0, down.stdout + down.stderr
    for host in cluster.site.hosts:
        assert "raylet" not in cluster.site.ssh(host, "ps -eo comm").stdout
