"""One trial that misbehaves: the others finish, and the table says which and why."""

from __future__ import annotations

import csv
import re

import psutil
import pytest

from tests.faults.harness import Bench, study

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def errors(bench):
    with (bench.folder / "trials.csv").open() as file:
        return {row["trial_id"]: row["error"] for row in csv.DictReader(file)}


def test_nan_exceptions_hangs_and_memory_end_one_trial_each_and_can_be_retried(
    tmp_path, row, address
):
    description = study(8, 2) | {
        "limits": {"trial_seconds": 5, "trial_memory_gib": 2, "free_disk_mib": 0}, "retries": 1,
    }  # fmt: skip
    bench = Bench(tmp_path / "bench", description, 0.01, 0.1, address=address)
    bench.do = (
        "00001:2:raise,00002:2:raise once,00003:2:hang,00004:1:hang in C,00005:2:memory,00006:2:nan"
    )
    row.repetitions = 1
    text = bench.run().finish(1)
    found = errors(bench)
    assert found.pop("00001") == "RuntimeError: the loss came out green"
    assert found.pop("00003") == "TimeoutError: limits.trial_seconds: 5 are over"
    assert found.pop("00004") == "TimeoutError: limits.trial_seconds: 5 are over"
    assert found.pop("00005").startswith("OutOfMemory: ")
    assert found.pop("00006") == "NonFiniteLoss: the training loss is nan at step 7"
    assert set(found.values()) == {""}
    assert "failed trials: 00001, 00003, 00004, 00005, 00006" in text
    assert "--retry-failed" in text
    stack = (bench.folder / "trials" / "00003" / "time_limit.txt").read_text()
    assert "misbehave" in stack
    attempts = [line for line in bench.lines() if line[:3] == ["00001", "2", "begin"]]
    assert len(attempts) == 2

    bench.do = ""
    text = bench.resume("--retry-failed", "--extend", "1").finish()
    assert "9 trials" in text
    assert "3 are finished already" in text
    assert set(errors(bench).values()) == {""}
    assert list(errors(bench)) == [f"{n:05d}" for n in range(9)]
    assert {len(t.reports) for t in bench.trials().values()} == {2}
    row.passed = 1


def test_memory_of_the_host_ends_the_trial_that_took_it(
    tmp_path, row, few_repetitions, monkeypatch
):
    """Ray's memory monitor ends the newest processes first, whichever took the memory."""
    grid = {"space": {"lr": {"grid": [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]}},
            "search": {"algorithm": "grid", "max_concurrent": 2},
            "resources": {"cpu": 0.5}, "retries": 1}  # fmt: skip
    for number in range(few_repetitions):
        row.repetitions += 1
        bench = Bench(tmp_path / str(number), study(epochs=6) | grid, 0.3, 0.1)
        bench.do = "00000:3:memory of the host,00003:2:memory of the host"
        memory = psutil.virtual_memory()
        limit = (memory.total - memory.available + (3 << 30)) / memory.total
        monkeypatch.setenv("RAY_memory_usage_threshold", f"{limit:.4f}")
        bench.run().finish(1)
        found = errors(bench)
        for trial in ("00000", "00003"):
            assert re.fullmatch(
                r"OutOfMemory: Ray ended the trial's process, which held [\d.]+ GB: "
                r"[\d.]+ GiB were in use on its host, above the limit of [\d.]+",
                found.pop(trial),
            )
        assert set(found.values()) == {""}
        others = [t for t in bench.trials().values() if t.status == "completed"]
        assert [len(t.reports) for t in others] == [6] * 4
        row.repeated_epochs += bench.repeated()
        row.passed += 1


def test_budgets_stop_a_study_that_goes_on_when_they_are_raised(tmp_path, row, address):
    bench = Bench(tmp_path / "bench", study(3, 10), 0.3, 0.1, address=address)
    row.repetitions = 1
    text = bench.run("--set", "budget.device_seconds=4").finish(130)
    assert "budget.device_seconds: 4 is spent (raise it with --set budget.device_seconds=N)" in text
    assert f"tuning resume {bench.folder}" in text
    text = bench.resume("--set", "budget.seconds=1").finish(130)
    assert "budget.seconds: 1 is spent" in text
    bench.resume("--set", "budget.seconds=900", "--set", "budget.device_seconds=900").finish()
    assert [len(t.reports) for t in bench.trials().values()] == [10, 10, 10]
    assert bench.repeated() <= 2
    row.repeated_epochs, row.passed = bench.repeated(), 1
