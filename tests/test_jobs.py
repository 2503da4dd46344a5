"""Jobs and the cluster file, without a cluster; `tests/cluster` sends real ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import MINIMAL, ROOT
from tuning import doctor, launcher, probe
from tuning.jobs import JobError, entrypoint
from tuning.study_file import validate


def words(command, **environment):
    """Return the words of a command as a shell would split them."""
    shell = ["bash", "-c", command.replace("python -m tuning", "printf '%s\\n'")]
    done = subprocess.run(shell, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_job_uses_the_storage_of_the_cluster_and_keeps_data_there():
    command = entrypoint(validate(MINIMAL, "f"), Path("my study.yaml"), ["name=a b"], None)
    code, given, _ = words(command, TUNING_STORAGE="/mnt/my studies")
    assert code == 0
    assert given == [
        "run", "my study.yaml", "--address", "auto", "--storage", "/mnt/my studies",
        "--set", "name=a b", "--set", "dataset.folder=/mnt/my studies/data",
    ]  # fmt: skip


def test_a_job_on_a_cluster_without_storage_says_what_to_do():
    code, _, error = words(entrypoint(validate(MINIMAL, "f"), Path("s.yaml"), [], None))
    assert code != 0
    assert "TUNING_STORAGE: is not set on the head" in error


def test_a_storage_that_is_named_takes_the_place_of_the_clusters():
    command = entrypoint(validate(MINIMAL, "f"), Path("s.yaml"), [], Path("/nfs/x; y"))
    assert words(command)[1][5] == "/nfs/x; y"


def test_data_of_your_own_must_lie_where_the_head_sees_it():
    study = validate(MINIMAL | {"dataset": {"name": "mine", "path": "mine.npz"}}, "f")
    with pytest.raises(JobError, match="must be absolute"):
        entrypoint(study, Path("s.yaml"), [], None)


def test_an_address_without_a_cluster_gets_one_line_and_exit_code_2(write_study, tuning_command):
    result = tuning_command("submit", write_study(), "--address", "http://127.0.0.1:1")
    assert result.returncode == 2
    assert result.stderr.startswith("http://127.0.0.1:1: no cluster answers there")
    assert len(result.stderr.splitlines()) == 1


def test_the_shipped_cluster_file_is_read():
    cluster = launcher.read(ROOT / "cluster.yaml")
    assert cluster.addresses == [cluster.head, *cluster.workers]
    assert len(cluster.workers) == 1
    assert cluster.key.is_absolute()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("provider: {head_ip: a}\nauth: {}", "worker_ips is missing"),
        ("a: [", "is not YAML"),
        ("just text", "is no cluster file"),
    ],
)
def test_a_wrong_cluster_file_is_refused_in_one_line(tmp_path, tuning_command, text, said):
    (tmp_path / "cluster.yaml").write_text(text)
    for command in (["doctor"], ["pull", "/mnt/studies/x"]):
        result = tuning_command(*command)
        assert result.returncode == 2
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_host_is_probed_in_the_environment_in_which_ray_starts_there():
    cluster = launcher.read(ROOT / "cluster.yaml")
    command = doctor._as_started(cluster, cluster.workers[0], "python - x")
    assert "unset OMP_NUM_THREADS" in command
    assert "TUNING_STORAGE=" in command
    assert "ray start" not in command


def test_the_probe_tells_why_a_storage_cannot_be_used(tmp_path, monkeypatch):
    assert probe.storage_error(str(tmp_path)) == ""
    assert probe.storage_error(str(tmp_path / "none")) == "No such file or directory"
    monkeypatch.delenv("TUNING_STORAGE", raising=False)
    assert probe.probe("marker", {})["storage_error"] == "TUNING_STORAGE is not set"
