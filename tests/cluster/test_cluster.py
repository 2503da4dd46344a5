"""A whole cluster, as a user meets it: up, submit, watch, pull, tables, down."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.request
from collections import Counter

import pytest

from tests.cluster import gated
from tests.cluster.conftest import job_of, study_folder
from tests.conftest import MINIMAL
from tuning.record import read_events, read_trials

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow]

#: Sixteen trials, up to four on each of the four GPUs; Ray's logical GPUs stand in for real ones.
#: Two hosts of two CPUs run eight at once; each process takes most of a GiB.
SIXTEEN = MINIMAL | {
    "name": "sixteen",
    "space": {"lr": {"grid": [n / 200 for n in range(1, 17)]}},
    "fixed": {"epochs": 1, "train_size": 200},
    "resources": {"cpu": 0.5, "gpu": 0.25, "custom": {"accelerator_type:A30": 0.001}},
    # Trials this short would all be run by the processes of the host that is ready first.
    "reuse_actors": False,
}
#: Two at once on each host; none ends before the test has cut one off.
LONG = MINIMAL | {
    "name": "long",
    "dataset": {"name": "none"},
    "trainable": "gated:Gated",
    "code": ".",
    "space": {"lr": {"grid": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}},
    "fixed": {"epochs": 6},
    "search": {"algorithm": "grid"},
    "resources": {"cpu": (os.cpu_count() or 2) / 2, "gpu": 0.25},
}
#: One trial on the CPU at a time, with both CPUs of a host.
TWO_CPUS = MINIMAL | {
    "name": "two-cpus",
    "space": {"kernel": {"grid": ["rbf"]}},
    "trainable": "svm",
    "resources": {"cpu": 2},
}


def test_ray_up_raises_two_hosts_with_two_gpus_each(cluster):
    found = cluster.on_head("print(sorted(ray.cluster_resources().items()))")
    assert "('GPU', 4.0)" in found.stdout
    assert "('accelerator_type:A30', 2.0)" in found.stdout


def test_a_submitted_study_fills_the_gpus_of_both_hosts_and_comes_home(cluster, tmp_path):
    result = cluster.tuning("submit", cluster.write(SIXTEEN), "--address", cluster.address)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{2 * min(8, 2 * os.cpu_count())} at once" in result.stdout
    folder = study_folder(result.stdout)

    pulled = cluster.tuning("pull", folder, "--out", tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    home = tmp_path / folder.name
    assert pulled.stdout.strip() == str(home)
    trials = read_trials(home)
    assert [trial.status for trial in trials.values()] == ["completed"] * 16
    used = Counter((trial.facts["host"], trial.facts["gpu_ids"]) for trial in trials.values())
    assert {host for host, _ in used} == {"node1", "node2"}
    running, most = Counter(), Counter()
    for event in read_events(home):
        if event["event"] in ("start", "end"):
            facts = trials[event["trial"]].facts
            gpu = facts["host"], facts["gpu_ids"]
            running[gpu] += 1 if event["event"] == "start" else -1
            most[gpu] = max(most[gpu], running[gpu])
    assert max(most.values()) <= 4

    environment = json.loads((home / "environment.json").read_text())
    assert sorted(host["host"] for host in environment["hosts"]) == ["node1", "node2"]
    tables = cluster.run("python", "-m", "analysis", "tables", home)
    assert tables.returncode == 0, tables.stderr
    assert "resnet18" in tables.stdout


def test_a_job_without_the_token_is_refused(cluster):
    token = cluster.home / ".ray" / "auth_token"
    hidden = token.rename(token.with_name("hidden"))
    try:
        result = cluster.tuning("submit", cluster.write(SIXTEEN), "--address", cluster.address)
    finally:
        hidden.rename(token)
    assert result.returncode == 2
    assert "refuses jobs without its token" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    job = json.dumps({"entrypoint": "touch /mnt/studies/canary"}).encode()
    kind = {"Content-Type": "application/json"}
    bare = urllib.request.Request(f"{cluster.address}/api/jobs/", data=job, headers=kind)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(bare, timeout=30)
    assert refused.value.code == 401
    assert not (cluster.site.storage / "canary").exists()


def test_trials_compute_with_as_many_threads_as_they_were_given_cpus(cluster):
    result = cluster.tuning("submit", cluster.write(TWO_CPUS), "--address", cluster.address)
    assert result.returncode == 0, result.stdout + result.stderr
    (trial,) = read_trials(cluster.seen_here(study_folder(result.stdout))).values()
    assert (trial.facts["cpus"], trial.facts["threads"]) == (2, 2)


def test_a_folder_that_the_hosts_do_not_share_is_refused_before_anything_runs(cluster):
    study = cluster.write(TWO_CPUS)
    result = cluster.tuning("submit", study, "--address", cluster.address, "--storage", "/tmp/own")
    assert result.returncode == 2, result.stdout
    assert "/tmp/own: is not shared by all hosts of the cluster (not seen from: node2)" in (
        result.stdout
    )
    assert "study folder" not in result.stdout
    assert not (cluster.site.hosts[0].private / "tmp" / "own").exists()


def test_trials_of_a_lost_host_are_finished_on_the_other(cluster):
    """Also: Ctrl-C leaves the job running; `ray up` brings back a host that can be reached."""
    follower = submit_long(cluster)
    lost = cluster.site.hosts[1]
    assert lost.name == gated.LOST
    folder = _wait_for_reports(cluster, lost.name)
    follower.send_signal(signal.SIGINT)
    output, _ = follower.communicate(timeout=60)
    assert follower.returncode == 130, output
    job = job_of(output)
    assert f"follow it with: tuning logs {job} --address {cluster.address}" in output
    lost.cut()
    cluster.seen_here(gated.GATE).touch()
    try:
        result = cluster.tuning("logs", job, "--address", cluster.address)
    finally:
        lost.mend()
    assert result.returncode == 0, result.stdout + result.stderr
    trials = read_trials(folder)
    assert [trial.status for trial in trials.values()] == ["completed"] * 6
    assert [len(trial.reports) for trial in trials.values()] == [6] * 6
    starts = Counter(e["trial"] for e in read_events(folder) if e["event"] == "start")
    moved = [trial for trial, count in starts.items() if count > 1]
    assert moved
    assert all(trials[trial].facts["host"] == "node1" for trial in moved)
    with (folder / "trials.csv").open() as file:
        assert [row["trial_id"] for row in csv.DictReader(file)] == list(trials)
    assert job in cluster.tuning("jobs", "--address", cluster.address).stdout
    up = cluster.run("ray", "up", "--yes", cluster.file)
    assert up.returncode == 0, up.stdout + up.stderr
    cluster.wait_for_nodes(len(cluster.site.hosts))


def submit_long(cluster):
    """Submit the long study together with its trainable, and follow it."""
    cluster.seen_here(gated.GATE).unlink(missing_ok=True)
    shutil.copy(gated.__file__, cluster.folder)
    return cluster.start("tuning", "submit", cluster.write(LONG), "--address", cluster.address)


def _wait_for_reports(cluster, host):
    """Wait until a trial on a host has reported in the middle of the newest long study."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for record in cluster.site.storage.glob("long-*/record.jsonl"):
            for trial in read_trials(record.parent).values():
                if trial.status == "running" and trial.reports and trial.facts["host"] == host:
                    return record.parent
        time.sleep(0.3)
    raise AssertionError(f"no trial reports from {host}")


def test_a_stopped_job_ends_and_says_so(cluster):
    follower = submit_long(cluster)
    job = job_of(follower.stdout.readline())
    stopped = cluster.tuning("stop", job, "--address", cluster.address)
    assert stopped.stdout == f"{job}: STOPPED\n", stopped.stderr
    follower.communicate(timeout=60)
    assert follower.returncode != 0
