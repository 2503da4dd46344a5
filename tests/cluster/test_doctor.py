"""`tuning doctor` on real hosts, each with one thing that is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]


def examine(cluster, file=None):
    """Return the doctor's lines, without what every raised host has: no real GPU."""
    result = cluster.tuning("doctor", file or cluster.file)
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
