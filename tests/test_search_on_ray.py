"""Each searcher and scheduler on a real Ray instance, with a trainable that costs nothing."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.conftest import NEEDS_BOHB, ROOT
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
    "random": "hyperband", "grid": "fifo", "bohb": "hyperband",
}  # fmt: skip


@pytest.fixture(scope="module")
def address():
    with ray_head("--num-cpus=2") as address:
        yield address


def outcome(folder):
    """What a search did: each trial's configurations, status and scores."""
    return [
        (trial.config, trial.takeovers, trial.status, [r["score"] for r in trial.reports])
        for trial in read_trials(Path(folder)).values()
    ]


def run_to_the_end(folder, address, study):
    """Run a study, and again with an interruption; return the folders that the driver prints."""
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "-m", "tests.search_driver", address, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines() if Path(line).is_dir()]


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [
        pytest.param(sampler, scheduler, marks=NEEDS_BOHB if sampler == "bohb" else ())
        for sampler, scheduler in SEARCHES.items()
    ],
)
def test_a_search_is_deterministic_and_survives_a_resume(tmp_path, address, sampler, scheduler):
    search = {"algorithm": "optuna", "sampler": sampler, "trials": 12, "seed": 3,
              "metric": "score", "max_concurrent": 1}  # fmt: skip
    study = STUDY | {"search": search, "scheduler": {"type": scheduler}}
    if sampler == "bohb":
        del search["sampler"]
        search["algorithm"] = "bohb"
    if sampler == "grid":
        study["search"] = {"metric": "score", "seed": 3, "max_concurrent": 1}
        rates = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0]
        study["space"] = {"lr": {"grid": rates}, "kind": {"grid": ["a", "b"]}}
    first, resumed = run_to_the_end(tmp_path, address, study)
    whole = outcome(first)
    assert len(whole) == 12
    expected = {"completed", "stopped"} if scheduler in ("asha", "median") else {"completed"}
    assert {status for _, _, status, _ in whole} == expected
    assert sum(event["event"] == "session" for event in read_events(resumed)) == 2
    assert outcome(resumed) == whole
    rows = table(first)
    assert {(row["model"], row["seconds"]) for row in rows} == {("Quadratic", "0.1")}
    assert all(float(row["score"]) < 100 for row in rows)


@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_a_population_is_deterministic_and_survives_a_resume(tmp_path, address, scheduler):
    study = STUDY | {
        "trainable": "tests.cheap:Climber",
        "fixed": {"epochs": 6},
        "search": {"algorithm": "random", "trials": 6, "seed": 3, "metric": "score"},
        "scheduler": {"type": scheduler, "mutate": ["lr"], "perturb_epochs": 2},
    }
    first, resumed = run_to_the_end(tmp_path, address, study)
    trials = read_trials(first)
    rounds = [event for event in read_events(first) if event["event"] == "round"]
    assert [event["epoch"] for event in rounds] == [2, 4]
    assert sorted(rounds[0]["scores"]) == sorted(trials)
    for event in rounds:
        worst = sorted(event["scores"], key=event["scores"].get)
        assert sorted(event["trials"]) == sorted(worst[:2])
        for name, taken in event["trials"].items():
            assert taken["donor"] in worst[-2:]
            donor, trial = trials[taken["donor"]], trials[name]
            after = climbed(donor, event["epoch"]) + speed(trial.config_at(event["epoch"] + 1))
            assert climbed(trial, event["epoch"] + 1) == pytest.approx(after)
            assert trial.config_at(event["epoch"])["lr"] != taken["config"]["lr"]
    assert [len(trial.reports) for trial in trials.values()] == [6] * 6
    assert outcome(first) == outcome(resumed)
    assert sum(event["event"] == "session" for event in read_events(resumed)) == 2
    taken = [row["weights_from"] for row in table(first) if row["weights_from"]]
    assert all(" after 2" in text or " after 4" in text for text in taken)


def climbed(trial, epoch):
    return trial.reports[epoch - 1]["score"]


def speed(config):
    return 10 - 2 * abs(math.log10(config["lr"]) + 2)


def test_several_objectives_with_finalists_and_answers_survive_a_resume(tmp_path, address):
    objectives = [{"metric": "score", "mode": "max"}, {"metric": "cost", "mode": "min"}]
    search = {"algorithm": "optuna", "trials": 14, "seed": 3, "max_concurrent": 1,
              "objectives": objectives, "constraints": [{"metric": "cost", "max": 23}],
              "distinct": False, "answer_repeats": True}  # fmt: skip
    space = {"lr": {"choice": [1e-5, 1e-3, 1e-2, 1e-1, 1.0]}, "kind": {"choice": ["a", "b"]}}
    study = STUDY | {"search": search, "space": space, "finalists": {"count": 2, "seeds": 2}}
    first, second, resumed, in_finals = run_to_the_end(tmp_path, address, study)
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


@pytest.mark.parametrize("example", ["digits_mlp", "digits_sgd"])
def test_the_documented_examples_run_as_their_files_say(tmp_path, tuning_command, example):
    source = (ROOT / "examples" / f"{example}.py").read_text()
    trainable = re.split(r"^(?=class |def )", source, flags=re.MULTILINE)[1]
    assert sum(bool(line.strip()) for line in trainable.splitlines()) < 30
    study = yaml.safe_load((ROOT / "examples" / f"{example}.yaml").read_text())
    file = tmp_path / f"{example}.yaml"
    file.write_text(yaml.safe_dump(study | {"code": str(ROOT / "examples")}))
    result = tuning_command("run", file, "--set", "search.trials=4")
    assert result.returncode == 0, result.stderr + result.stdout
    named = study.get("scheduler", {"type": "median"})["type"]
    assert f"search optuna tpe, scheduler {named}" in result.stdout
    rows = table(folder_of(result))
    assert len(rows) == 4
    assert max(float(row["val_accuracy"]) for row in rows) > 85
