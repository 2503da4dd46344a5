"""Whole studies, run as a user runs them, on a real Ray instance and real data."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.conftest import MINIMAL
from tuning.record import COLUMNS, read_events, read_trials

pytestmark = pytest.mark.ray

BOTH = MINIMAL | {
    "trainable": None,
    "space": {
        "trainable": {
            "branch": {
                "resnet": {"lr": {"loguniform": [0.005, 0.05]}, "batch_size": {"choice": [32, 64]}},
                "svm": {"kernel": {"choice": ["rbf", "poly"]}, "C": {"loguniform": [0.1, 10]}},
            }
        }
    },
    "fixed": {"epochs": 3, "train_size": 320},
    "search": {"algorithm": "optuna", "trials": 6, "seed": 1},
    "scheduler": {"type": "asha"},
}
SIX = MINIMAL | {
    "space": {"lr": {"loguniform": [0.005, 0.05]}},
    "fixed": {"epochs": 3, "batch_size": 64, "train_size": 320},
    "search": {"algorithm": "optuna", "trials": 6},
}


def table(folder):
    with (Path(folder) / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def folder_of(result):
    """The study folder is the last line of the output."""
    return Path(result.stdout.strip().splitlines()[-1])


def start(study, folder, *arguments):
    """Start `tuning` in the background."""
    command = [sys.executable, "-m", "tuning", "run", str(study), "--storage", str(folder)]
    return subprocess.Popen(
        [*command, *arguments], cwd=folder.parent, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for_finished(storage, count):
    """Wait until a running study has this many finished trials; return its folder."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for record in storage.glob("*/record.jsonl"):
            if sum(t.finished for t in read_trials(record.parent).values()) >= count:
                return record.parent
        time.sleep(0.2)
    raise AssertionError("the study did not get that far")


@contextmanager
def ray_head(*arguments):
    """A Ray head of its own with logical resources, ended without touching any other Ray."""
    ray = str(Path(sys.executable).with_name("ray"))
    port = 26379 + os.getpid() % 1000
    command = [ray, "start", "--head", "--block", f"--port={port}", "--include-dashboard=false",
               "--disable-usage-stats", *arguments]  # fmt: skip
    # Sockets need short paths.
    environment = os.environ | {"RAY_TMPDIR": tempfile.mkdtemp()}
    head = subprocess.Popen(
        command, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < deadline:
            time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study of ResNets and SVMs, and what the command printed."""
    home = tmp_path_factory.mktemp("both")
    (home / "study.yaml").write_text(yaml.safe_dump(BOTH))
    process = start(home / "study.yaml", home / "results")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return Path(output.strip().splitlines()[-1]), output


def test_a_study_ends_in_a_table_with_every_column_of_the_contract(finished):
    rows = table(finished[0])
    assert list(rows[0])[: len(COLUMNS)] == list(COLUMNS)
    assert [row["trial_id"] for row in rows] == [f"{n:05d}" for n in range(6)]
    assert {row["model"] for row in rows} == {"resnet18", "svm"}
    for row in rows:
        resnet = row["model"] == "resnet18"
        assert (row["gflops"] == "0.068481") == resnet
        assert (row["kernel"] == "") == resnet
        assert row["threads"] == "1"
        if row["status"] == "completed":
            assert 0 <= float(row["test_accuracy"]) <= 100
            assert float(row["total_seconds"]) > float(row["train_seconds"]) > 0
            assert row["epochs"] == ("3" if resnet else "")
        else:
            assert row["status"] == "stopped"
            assert row["test_accuracy"] == ""
            assert int(row["epochs"]) < 3


def test_the_tables_are_printed_with_both_models(finished):
    assert "resnet18" in finished[1]
    assert "svm" in finished[1]


def test_the_folder_tells_on_what_and_how_the_study_ran(finished):
    folder, _ = finished
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["hosts"][0]["cpus"] == os.cpu_count()
    assert environment["hosts"][0]["fp32_gflops"] > 0
    assert environment["packages"]["ray"]
    assert environment["data"]["digits"]["train"] == 1258
    assert yaml.safe_load((folder / "study.yaml").read_text())["search"]["sampler"] == "tpe"
    assert list((folder / "tune").rglob("experiment_state-*.json"))


def test_each_trial_has_its_reports_and_predictions_and_only_the_best_its_weights(finished):
    folder, _ = finished
    trials = read_trials(folder)
    completed = [trial for trial in trials.values() if trial.status == "completed"]
    best = max(completed, key=lambda trial: trial.row()["val_accuracy"])
    for name, trial in trials.items():
        own = folder / "trials" / name
        lines = [json.loads(line) for line in (own / "result.json").read_text().splitlines()]
        assert lines == trial.reports
        checkpoints = list(own.glob("checkpoint-*"))
        assert len(checkpoints) == (min(2, len(trial.reports)) if trial is best else 0)
        if trial.status == "completed":
            arrays = np.load(own / "predictions.npz")
            accuracy = 100 * np.mean(arrays["predicted"] == arrays["actual"])
            assert accuracy == pytest.approx(trial.row()["test_accuracy"])


def test_tensorboard_reads_curves_and_hyperparameters_with_final_metrics(finished):
    folder, _ = finished
    for name, trial in read_trials(folder).items():
        events = EventAccumulator(str(folder / "trials" / name)).Reload()
        curve = events.Scalars("accuracy_percent/validation")
        assert [e.value for e in curve] == pytest.approx([r["val_accuracy"] for r in trial.reports])
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        plugin = plugin_data_pb2.HParamsPluginData.FromString(content)
        assert "seed" in plugin.session_start_info.hparams
        assert events.Scalars("hparam/val_accuracy")[0].value == pytest.approx(
            trial.row()["val_accuracy"]
        )


def test_tensorboard_serves_scalars_hyperparameters_and_the_layout(finished):
    folder, _ = finished
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tuning", "tensorboard", str(folder), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def get(path, **query):
        url = f"http://127.0.0.1:{port}/data/plugin/{path}?{urllib.parse.urlencode(query)}"
        return json.loads(urllib.request.urlopen(url, timeout=10).read())

    trials = read_trials(folder)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                tags = get("scalars/tags")
                if set(trials) <= set(tags):
                    break
            assert time.monotonic() < deadline, "TensorBoard does not show all trials"
            time.sleep(0.5)
        for name, trial in trials.items():
            curve = get("scalars/scalars", run=name, tag="accuracy_percent/validation")
            expected = {r.get("epoch", 1): r["val_accuracy"] for r in trial.reports}
            assert {step: value for _, step, value in curve} == pytest.approx(expected)
        request = json.dumps(
            {"allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN"], "startIndex": 0,
             "sliceSize": 100, "colParams": [{"metric": {"tag": "hparam/val_accuracy"}}]}
        )  # fmt: skip
        final = {
            group["name"]: value["value"]
            for group in get("hparams/session_groups", request=request)["sessionGroups"]
            for value in group["metricValues"]
            if value["name"]["tag"] == "hparam/val_accuracy"
        }
        assert final == pytest.approx({n: t.row()["val_accuracy"] for n, t in trials.items()})
        titles = [c["title"] for c in get("custom_scalars/layout")["category"]]
        assert titles == ["accuracy and time", "loss and throughput"]
    finally:
        server.terminate()
        server.wait()


def test_resuming_a_finished_study_repeats_nothing(finished, tuning_command):
    folder, _ = finished
    before = len([e for e in read_events(folder) if e["event"] == "start"])
    result = tuning_command("resume", folder)
    assert result.returncode == 0, result.stderr
    assert len([e for e in read_events(folder) if e["event"] == "start"]) == before
    assert folder_of(result) == folder


def test_fresh_and_reused_actors_give_the_same_trials_and_accuracies(tmp_path, tuning_command):
    study = tmp_path / "study.yaml"
    grid = {"branch": {"resnet": {"lr": {"grid": [0.02, 0.01]}, "epochs": 2}, "svm": {}}}
    study.write_text(
        yaml.safe_dump(
            MINIMAL | {"trainable": None, "space": {"trainable": grid}, "repeats": 2,
                       "fixed": {"train_size": 320}}
        )
    )  # fmt: skip
    columns = ("trial_id", "status", "model", "lr", "seed", "val_accuracy", "test_accuracy")
    tables = []
    for reuse in ("true", "false"):
        result = tuning_command("run", study, "--set", f"reuse_actors={reuse}")
        assert result.returncode == 0, result.stderr + result.stdout
        rows = table(folder_of(result))
        tables.append([[row[c] for c in columns] for row in rows])
    assert tables[0] == tables[1]
    assert len(tables[0]) == 6


def test_a_killed_study_is_finished_without_repeating_finished_trials(tmp_path, tuning_command):
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(SIX))
    process = start(study, tmp_path / "results")
    folder = wait_for_finished(tmp_path / "results", 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {n: t for n, t in read_trials(folder).items() if t.finished}
    result = tuning_command("resume", folder)
    assert result.returncode == 0, result.stderr + result.stdout
    after = read_trials(folder)
    assert list(after) == [f"{n:05d}" for n in range(6)]
    assert all(trial.status == "completed" for trial in after.values())
    second = [e for e in read_events(folder) if e["event"] in ("session", "start")]
    sessions = [i for i, e in enumerate(second) if e["event"] == "session"]
    started_again = {e["trial"] for e in second[sessions[1] + 1 :]}
    assert not started_again & set(finished)
    for name, trial in finished.items():
        assert after[name].row() == trial.row()
    assert [len(trial.reports) for trial in after.values()] == [3] * 6
    assert len(table(folder)) == 6


def test_ctrl_c_says_how_to_resume_and_exits_with_130(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(SIX))
    process = start(study, tmp_path / "results")
    folder = wait_for_finished(tmp_path / "results", 1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert f"tuning resume {folder}" in output
    assert "Traceback" not in output


def test_a_trial_that_diverges_fails_alone_and_is_named(tmp_path, tuning_command):
    study = tmp_path / "study.yaml"
    study.write_text(
        yaml.safe_dump(MINIMAL | {"space": {"lr": {"grid": [0.01, 1e30]}},
                                  "fixed": {"epochs": 2, "train_size": 320, "batch_size": 32}})
    )  # fmt: skip
    result = tuning_command("run", study)
    assert result.returncode == 1, result.stderr + result.stdout
    good, bad = table(folder_of(result))
    assert (good["status"], bad["status"]) == ("completed", "failed")
    assert "NonFiniteLoss: the training loss is" in bad["error"]
    assert "failed trials: 00001" in result.stdout


def test_fractions_of_logical_gpus_bound_how_many_trials_run_at_once(tmp_path, tuning_command):
    """Ray's logical GPUs stand in for real ones; the trials compute on the CPU."""
    study = tmp_path / "study.yaml"
    space = {"lr": {"grid": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}}
    study.write_text(
        yaml.safe_dump(MINIMAL | {"space": space, "resources": {"cpu": 0.5, "gpu": 0.5},
                                  "fixed": {"epochs": 12, "train_size": 320}})
    )  # fmt: skip
    with ray_head("--num-cpus=8", "--num-gpus=2") as address:
        result = tuning_command("run", study, "--address", address)
    assert result.returncode == 0, result.stderr + result.stdout
    assert "4 at once" in result.stdout
    folder = folder_of(result)
    running, most = {}, {}
    facts = {n: t.facts for n, t in read_trials(folder).items()}
    assert {f["gpu_ids"] for f in facts.values()} == {"0", "1"}
    for event in read_events(folder):
        if event["event"] == "start":
            running[event["trial"]] = facts[event["trial"]]["gpu_ids"]
        elif event["event"] == "end":
            running.pop(event["trial"])
        for gpu in ("0", "1"):
            most[gpu] = max(most.get(gpu, 0), list(running.values()).count(gpu))
    assert most == {"0": 2, "1": 2}


def test_two_drivers_cannot_run_one_study(tmp_path, tuning_command):
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(SIX))
    process = start(study, tmp_path / "results")
    try:
        folder = wait_for_finished(tmp_path / "results", 1)
        second = tuning_command("resume", folder)
    finally:
        process.kill()
        process.wait()
    assert second.returncode == 2
    assert second.stderr.strip().endswith("is being run by another process")
