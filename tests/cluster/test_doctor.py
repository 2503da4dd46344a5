"""`tuning doctor` on real hosts, each with one thing that is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import MINIMAL
from tuning.data import FILES

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]


def examine(cluster, file=None, *options):
    """Return the doctor's lines, without what every raised host has: no real GPU."""
    result = cluster.tuning("doctor", file or cluster.file, *options)
    lines = result.stdout.splitlines()
    failed = [
        (line.removeprefix("FAIL  "), remedy.strip())
        for line, remedy in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("FAIL") and "nvidia-smi" not in line
    ]
    assert all(remedy.startswith("remedy: ") for _, remedy in failed)
    return lines, [text for text, _ in failed]


def changed(cluster, old, new):
    """Write a cluster file with one thing replaced."""
    path = cluster.folder / "changed.yaml"
    text = cluster.file.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_sound_cluster_has_no_findings_but_the_missing_gpus(cluster):
    lines, failed = examine(cluster)
    assert failed == []
    worker = cluster.site.hosts[1].address
    assert f"ok    {worker}: joined, with 2 CPUs and 2 GPUs" in lines
    assert f"ok    {worker}: the head reaches it by SSH" in lines
    assert f"FAIL  {worker}: 2 GPUs are declared, but nvidia-smi names 0" in lines


def test_a_wrong_key_is_found(cluster):
    other = cluster.folder / "other_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    _, failed = examine(cluster, changed(cluster, str(cluster.site.key), str(other)))
    assert len(failed) == 2
    assert all("SSH as root fails" in text and "Permission denied" in text for text in failed)


def test_a_missing_token_is_found_here_and_on_a_host(cluster):
    for home, expected in (
        (cluster.home, "token: there is none in ~/.ray/auth_token here"),
        (cluster.site.hosts[1].home, f"{cluster.site.hosts[1].address}: has no token"),
    ):
        token = home / ".ray" / "auth_token"
        hidden = token.rename(token.with_name("hidden"))
        try:
            _, failed = examine(cluster)
        finally:
            hidden.rename(token)
        assert expected in failed


def test_another_version_of_ray_is_found(cluster):
    host = cluster.site.hosts[1]
    package = host.home / "tunelab" / "ray-2.59.0.dist-info"
    package.mkdir()
    try:
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.59.0\n")
        _, failed = examine(cluster)
    finally:
        (package / "METADATA").unlink()
        package.rmdir()
    (text,) = failed
    assert text.startswith(f"{host.address}: versions differ: ray 2.59.0 (here 2.")


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        ("/mnt/elsewhere", "storage /mnt/elsewhere cannot be used: No such file or directory"),
        ("/tmp", "storage /tmp is another folder than the head's"),
    ],
)
def test_storage_that_is_missing_or_not_shared_is_found(cluster, storage, expected):
    file = changed(cluster, "TUNING_STORAGE=/mnt/studies", f"TUNING_STORAGE={storage}")
    _, failed = examine(cluster, file)
    assert f"{cluster.site.hosts[1].address}: {expected}" in failed


def test_data_that_a_study_wants_are_looked_for_on_every_host(cluster):
    study = cluster.write(MINIMAL | {"name": "wants-mnist", "dataset": {"name": "mnist"}})
    expected = [f"{host.address}: the files of mnist are not there" for host in cluster.site.hosts]
    assert examine(cluster, cluster.file, "--study", study)[1] == expected
    place = cluster.site.storage / "data" / "mnist"
    place.mkdir(parents=True)
    try:
        for name in FILES:
            (place / f"{name}.gz").touch()
        assert examine(cluster, cluster.file, "--study", study)[1] == []
    finally:
        shutil.rmtree(place)


def test_a_running_cluster_is_examined_from_its_head(cluster):
    head = cluster.site.hosts[0]
    start = ". ~/.bashrc; cd ~/tunelab; export RAY_AUTH_MODE=token TUNING_STORAGE=/mnt/studies;"
    command = f"{start} {sys.executable} -m tuning doctor --address auto"
    result = cluster.site.ssh(head, command)
    assert result.returncode == 2, result.stderr
    lines = result.stdout.splitlines()
    assert "ok    auto: accepts this driver; 2 hosts" in lines
    for name in ("node1", "node2"):
        assert f"ok    {name}: joined, with {os.cpu_count()} CPUs and 2 GPUs" in lines
        assert f"ok    {name}: storage /mnt/studies is shared and writable" in lines
    failed = [line for line in lines if line.startswith("FAIL")]
    assert all("nvidia-smi names 0" in line for line in failed)
    token = head.home / ".ray" / "auth_token"
    hidden = token.rename(token.with_name("hidden"))
    try:
        result = cluster.site.ssh(head, command)
    finally:
        hidden.rename(token)
    assert result.returncode == 2
    assert "FAIL  token: there is none in ~/.ray/auth_token here" in result.stdout
    assert "Traceback" not in result.stderr
    assert "Ray on auto cannot be used: " in result.stderr.splitlines()[-1]


def test_a_file_that_ray_refuses_is_found(cluster):
    _, failed = examine(
        cluster, changed(cluster, "cluster_name:", "initial_workers: 1\ncluster_name:")
    )
    assert any("Ray refuses it" in text and "initial_workers" in text for text in failed)


def test_a_worker_that_did_not_join_is_found(cluster):
    """The last of these tests: it stops Ray on a host."""
    host = cluster.site.hosts[1]
    stopped = cluster.site.ssh(host, f"{sys.prefix}/bin/ray stop")
    assert stopped.returncode == 0, stopped.stderr
    expected, failed = f"{host.address}: has not joined the cluster", []
    for _ in range(4):  # the head may need some seconds to miss it
        if expected not in failed:
            _, failed = examine(cluster)
    assert expected in failed
