"""The end of the cluster's tests; pytest runs the files of a folder by name."""

from __future__ import annotations

import time

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]


def test_ray_down_ends_ray_on_every_host(cluster):
    down = cluster.run("ray", "down", "--yes", cluster.file)
    assert down.returncode == 0, down.stdout + down.stderr
    # The workers' Ray ends by itself when it finds no head.
    deadline = time.monotonic() + 150
    running = list(cluster.site.hosts)
    while running and time.monotonic() < deadline:
        running = [h for h in running if "raylet" in cluster.site.ssh(h, "ps -eo comm").stdout]
        time.sleep(1)
    assert running == []
