"""Each searcher and scheduler on a real Ray instance, with a trainable that costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.conftest import ROOT
from tests.test_experiment import folder_of, ray_head, table
from tuning.record import read_events, read_trials

pytestmark = pytest.mark.ray

STUDY = {
    "name": "cheap",
    "dataset": {"name": "none"},
    "trainable": "tests.cheap:Quadratic",
    "code": str(ROOT),
    "space": {"lr": {"loguniform": [1e-5, 1.0]}, "kind": {"choice": ["a", "b"]}},
}
SEARCHES = {
    "tpe": "asha", "gp": "median", "cmaes": "fifo", "nsga2": "asha", "qmc": "median",
    "random": "hyperband",
}  # fmt: skip


@pytest.fixture(scope="module")
def address():
    with ray_head("--num-cpus=2") as address:
        yield address


def outcome(folder):
    """What a search did: each trial's configuration, status and scores."""
    return [
        (trial.config, trial.status, [report["score"] for report in trial.reports])
        for trial in read_trials(Path(folder)).values()
    ]


@pytest.mark.parametrize(("sampler", "scheduler"), SEARCHES.items())
def test_a_search_is_deterministic_and_survives_a_resume(tmp_path, address, sampler, scheduler):
    search = {"algorithm": "optuna", "sampler": sampler, "trials": 12, "seed": 3,
              "metric": "score", "max_concurrent": 1}  # fmt: skip
    study = STUDY | {"search": search, "scheduler": {"type": scheduler}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "tests.search_driver", address, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second, resumed = map(Path, done.stdout.splitlines()[-3:])
    whole = outcome(first)
    assert len(whole) == 12
    assert outcome(second) == whole
    expected = {"completed", "stopped"} if scheduler in ("asha", "median") else {"completed"}
    assert {status for _, status, _ in whole} == expected
    assert sum(event["event"] == "session" for event in read_events(resumed)) == 2
    assert outcome(resumed) == whole
    rows = table(first)
    assert {(row["model"], row["seconds"]) for row in rows} == {("Quadratic", "0.1")}
    assert all(float(row["score"]) < 100 for row in rows)


def test_several_objectives_with_finalists_and_answers_survive_a_resume(tmp_path, address):
    objectives = [{"metric": "score", "mode": "max"}, {"metric": "cost", "mode": "min"}]
    search = {"algorithm": "optuna", "trials": 14, "seed": 3, "max_concurrent": 1,
              "objectives": objectives, "constraints": [{"metric": "cost", "max": 23}],
              "distinct": False, "answer_repeats": True}  # fmt: skip
    space = {"lr": {"choice": [1e-5, 1e-3, 1e-2, 1e-1, 1.0]}, "kind": {"choice": ["a", "b"]}}
    study = STUDY | {"search": search, "space": space, "finalists": {"count": 2, "seeds": 2}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "tests.search_driver", address, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second, resumed, in_finals = map(Path, done.stdout.splitlines()[-4:])
    assert outcome(second) == outcome(first) == outcome(resumed) == outcome(in_finals)
    trials = read_trials(first)
    finals = [trial for trial in trials.values() if trial.finalist_of]
    assert len(trials) == 14 + 2 * 2
    assert {trial.config["lr"] for trial in trials.values()} >= {1e-2, 1e-3}
    assert [(t.config["lr"], t.config["seed"]) for t in finals[:2]] == [(1e-3, 4), (1e-3, 5)]
    assert all(trial.feasible(search["constraints"]) for trial in finals)
    cut = (in_finals / "record.copy.jsonl").read_text().split('"event":"session"')
    assert "finalist_of" in cut[1], "the cut came before the finalists"
    for row in table(first):
        assert bool(row["test_accuracy"]) == bool(row["finalist_of"])
    answered = [trial for trial in trials.values() if trial.answered_from]
    assert answered
    for trial in answered:
        source = trials[trial.answered_from]
        assert (trial.config, trial.reports) == (source.config, source.reports)
        assert not (first / "trials" / trial.trial).exists()
    assert_journal_is(first, trials)
    # Resumed, it was written anew, and reads the same.
    assert_journal_is(resumed, read_trials(resumed))


def assert_journal_is(folder, trials):
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna_journal.log")))
    study = optuna.load_study(study_name=folder.name, storage=storage)
    assert study.metric_names == ["score", "cost"]
    assert [d.name for d in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [t.user_attrs["trial"] for t in study.trials] == list(trials)
    for told, trial in zip(study.trials, trials.values(), strict=True):
        best, last = max(r["score"] for r in trial.reports), trial.reports[-1]
        assert told.state.name == "COMPLETE"
        assert told.values == [best, last["cost"]]
        assert told.params == {key: trial.config[key] for key in ("lr", "kind")}
        assert told.constraints == {"0": last["cost"] - 23}
    assert {t.number for t in study.best_trials} <= {
        n for n, t in enumerate(trials.values()) if t.reports[-1]["cost"] <= 23
    }


def test_the_documented_example_runs_as_its_file_says(tmp_path, tuning_command):
    source = (ROOT / "examples" / "digits_mlp.py").read_text()
    code = source[source.index("class ") :].splitlines()
    assert sum(bool(line.strip()) for line in code) < 30
    example = yaml.safe_load((ROOT / "examples" / "digits_mlp.yaml").read_text())
    file = tmp_path / "digits_mlp.yaml"
    file.write_text(yaml.safe_dump(example | {"code": str(ROOT / "examples")}))
    result = tuning_command("run", file, "--set", "search.trials=4")
    assert result.returncode == 0, result.stderr + result.stdout
    rows = table(folder_of(result))
    assert len(rows) == 4
    assert max(float(row["val_accuracy"]) for row in rows) > 85
