from __future__ import annotations

import logging
import math
import subprocess
import sys

import numpy as np
import pytest
import yaml

from tests.conftest import MINIMAL, NEEDS_BOHB, ROOT
from tuning.outcome import Outcome
from tuning.record import Record, read_events
from tuning.searchers import StudySearcher, strategy
from tuning.study_file import StudyError, dump, validate

pytestmark = NEEDS_BOHB

SPACE = {
    "lr": {"loguniform": [1e-5, 1]},
    "momentum": {"uniform": [0, 0.9]},
    "weight_decay": {"quniform": [0, 0.1, 0.01]},
    "batch_size": {"logint": [16, 256]},
    "optimizer": {"choice": ["sgd", "adam"]},
    "model": {"choice": ["resnet18"]},
}
BRANCHED = {
    "trainable": {
        "branch": {
            "resnet": {"lr": {"loguniform": [1e-5, 1]}, "epochs": {"choice": [2, 4]}},
            "svm": {"C": {"loguniform": [0.01, 100]}, "kernel": {"ordinal": ["rbf", "poly"]}},
        }
    }
}
SEARCH = {"algorithm": "bohb", "trials": 60, "seed": 3}


def study_of(space=SPACE, search=None, **changes):
    study = {key: value for key, value in MINIMAL.items() if key != "trainable"}
    if "trainable" not in space:
        study |= {"trainable": "resnet", "fixed": {"epochs": 3}}
    return validate(study | {"space": space, "search": SEARCH | (search or {})} | changes, "f")


def score(config, epoch):
    """The best network has a learning rate of 0.01; the best SVM, C = 1, is better."""
    if config["trainable"] == "svm":
        return 90 - 5 * abs(math.log10(config["C"]))
    best = 80 - 10 * abs(math.log10(config["lr"]) + 2) - (config["optimizer"] == "adam")
    return best - 30 / epoch


def drive(searcher, count):
    """Play Ray Tune with one slot; a network that is bad after its first epoch is stopped."""
    configs = []
    for number in range(count):
        config = searcher.suggest(f"tune-{number}")
        if not isinstance(config, dict):
            break
        configs.append(config)
        name = config["trial"]
        for epoch in range(1, (config.get("epochs") or 1) + 1):
            metrics = {"epoch": epoch, "val_accuracy": score(config, epoch)}
            searcher.trials[name].reports.append(metrics)
            searcher.record.append("report", time=0.0, trial=name, metrics=metrics)
            if config["trainable"] == "resnet" and metrics["val_accuracy"] < 35:
                break
        searcher.on_trial_complete(f"tune-{number}", metrics)
        searcher.record.append("end", time=0.0, trial=name, status="completed", error="")
    return configs


@pytest.mark.parametrize("space", [SPACE, BRANCHED], ids=["flat", "branched"])
def test_bohb_is_deterministic_and_survives_a_resume(tmp_path, space):
    for name in ("a", "b", "cut", "other"):
        (tmp_path / name).mkdir()
    study = study_of(space)
    np.random.seed(1)  # noqa: NPY002
    outside = np.random.get_state()  # noqa: NPY002
    expected = drive(StudySearcher(study, Record(tmp_path / "a")), 60)
    np.testing.assert_equal(np.random.get_state(), outside)  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    assert drive(StudySearcher(study, Record(tmp_path / "b")), 60) == expected
    first = drive(StudySearcher(study, Record(tmp_path / "cut")), 41)
    resumed = StudySearcher(study, Record(tmp_path / "cut"), list(read_events(tmp_path / "cut")))
    assert first + drive(resumed, 60) == expected
    other = study_of(space, {"seed": 4})
    assert drive(StudySearcher(other, Record(tmp_path / "other")), 60) != expected


def watch(searcher):
    """Note of each pick whether the model made it."""
    picks, get_config = [], searcher.strategy._model.get_config

    def noted(budget):
        config, info = get_config(budget)
        picks.append(info["model_based_pick"])
        return config, info

    searcher.strategy._model.get_config = noted
    return picks


def test_most_picks_after_enough_results_are_the_models_and_near_the_best(tmp_path, caplog):
    searcher = StudySearcher(study_of(), Record(tmp_path))
    picks = watch(searcher)
    with caplog.at_level(logging.WARNING):
        configs = drive(searcher, 60)
    assert not caplog.records
    assert not any(picks[:12])
    assert 1 / 2 < np.mean(picks[20:]) < 0.85
    assert max(searcher.strategy._model.kde_models) == 1
    distances = [abs(math.log10(config["lr"]) + 2) for config in configs]
    picked = [d for d, by_model in zip(distances, picks, strict=True) if by_model]
    assert np.median(picked[-20:]) < np.median(distances[:12]) / 2


def test_the_model_knows_both_ends_of_a_branched_space(tmp_path):
    searcher = StudySearcher(study_of(BRANCHED), Record(tmp_path))
    picks = watch(searcher)
    configs = drive(searcher, 60)
    assert np.mean(picks[30:]) > 1 / 2
    picked = [c for c, by_model in zip(configs, picks, strict=True) if by_model]
    svms = [c for c in picked if c["trainable"] == "svm"]
    assert len(svms) > 0.8 * len(picked)
    assert np.median([abs(math.log10(c["C"])) for c in svms[-15:]]) < 0.5


def test_results_are_learned_by_the_share_of_a_trials_own_epochs():
    bohb = strategy(study_of(BRANCHED, {"trials": 30}))
    while {c["trainable"] for c in bohb._configs.values()} != {"resnet", "svm"}:
        bohb.ask(f"{len(bohb._configs):05d}")
    network = next(n for n, c in bohb._configs.items() if c["trainable"] == "resnet")
    svm = next(n for n, c in bohb._configs.items() if c["trainable"] == "svm")
    epochs = bohb._configs[network]["epochs"]
    for epoch, value in ((1, 50.0), (1, 99.0), (epochs, 40.0)):
        bohb.report(network, epoch, value)
    bohb.report(svm, 1, 60.0)
    assert bohb._model.losses == {1 / epochs: [-50.0], 1.0: [-50.0, -60.0]}
    other = bohb.ask("other")
    assert other is not None
    bohb.tell("other", Outcome(None))
    assert bohb._model.losses == {1 / epochs: [-50.0, math.inf], 1.0: [-50.0, -60.0, math.inf]}


def test_values_are_plain_and_in_their_domains():
    bohb = strategy(study_of())
    for number in range(60):
        config = bohb.ask(f"{number:05d}")
        assert {type(value) for value in config.values()} <= {str, int, float, bool, type(None)}
        assert 1e-5 <= config["lr"] <= 1
        assert type(config["batch_size"]) is int
        assert 16 <= config["batch_size"] <= 256
        assert config["weight_decay"] * 100 == pytest.approx(round(config["weight_decay"] * 100))
        for epoch in (1, 2, 3):
            bohb.report(f"{number:05d}", epoch, score(config, epoch))
    assert bohb.ask("00060") is None


def test_points_come_first_and_no_configuration_twice_while_another_is_left():
    few = {"lr": {"ordinal": [0.001, 0.01, 0.1]}, "batch_size": {"choice": [16, 32]}}
    points = [{"values": {"lr": 0.1}}, {"values": {"lr": 0.01, "batch_size": 32}}]
    bohb = strategy(study_of(few, {"points": points}))
    found = [bohb.ask(f"{number:05d}") for number in range(7)]
    assert found[0]["lr"] == 0.1
    assert (found[1]["lr"], found[1]["batch_size"]) == (0.01, 32)
    assert len({(config["lr"], config["batch_size"]) for config in found[:6]}) == 6


def test_a_space_with_nothing_to_choose_repeats_what_there_is():
    bohb = strategy(study_of({"lr": 0.1}))
    for number in range(4):
        bohb.report(f"{number:05d}", 1, score(bohb.ask(f"{number:05d}"), 1))


def test_a_changed_space_goes_on_with_what_the_record_has_of_it(tmp_path):
    drive(StudySearcher(study_of(), Record(tmp_path)), 20)
    events = list(read_events(tmp_path))
    narrow = study_of(SPACE | {"lr": {"loguniform": [1e-3, 1]}})
    searcher = StudySearcher(narrow, Record(tmp_path), events, allow_changed=True)
    inside = sum(trial.config["lr"] >= 1e-3 for trial in searcher.trials.values())
    assert 0 < len(searcher.strategy._model.losses[1 / 3]) == inside < 20
    assert all(config["lr"] >= 1e-3 for config in drive(searcher, 5))


@pytest.mark.parametrize(("changes", "scheduler"), [
    ({}, "hyperband"),
    ({"scheduler": {"type": "asha"}}, "asha"),
    ({"scheduler": {"type": "fifo"}}, "fifo"),
    ({"fixed": {"epochs": 1}}, "fifo"),
], ids=str)  # fmt: skip
def test_the_scheduler_is_hyperband_unless_another_one_is_named(changes, scheduler):
    study = study_of(**changes)
    assert (study.scheduler.type, study.scheduler.reduction_factor) == (scheduler, 3)
    assert validate(yaml.safe_load(dump(study)), "f") == study
    assert study.describe_search() == f"search bohb, scheduler {scheduler}"


TWO = [{"metric": "val_accuracy", "mode": "max"}, {"metric": "gflops", "mode": "min"}]


@pytest.mark.parametrize(("changes", "line"), [
    ({"search": {"trials": None}}, "search.trials: is needed by `algorithm: bohb`"),
    ({"repeats": 2}, "repeats: is for grid and random searches; bohb runs each once"),
    ({"search": {"objectives": TWO}}, "search.objectives: bohb searches by one metric without"),
    ({"search": {"constraints": [{"metric": "gflops", "max": 1}]}},
     "search.constraints: bohb searches by one metric without bounds; use `algorithm: optuna`"),
    ({"search": {"points": [{"values": {"lr": 0.1}, "result": 80.0}]}},
     "search.points: gives results, which is for `algorithm: optuna`; bohb learns from"),
    ({"search": {"warm_start": ["results/x"]}}, "search.warm_start: gives results, which is for"),
    ({"scheduler": {"type": "pbt", "mutate": ["lr"]}},
     "search.algorithm: bohb learns what a configuration is worth, but pbt changes it"),
    ({"scheduler": {"type": "pb2", "mutate": ["lr"]}},
     "search.algorithm: bohb learns what a configuration is worth, but pb2 changes it"),
    ({"space": {"lr": {"grid": [0.1, 1.0]}}},
     "space.lr: `grid` has no meaning under `search.algorithm: bohb`"),
])  # fmt: skip
def test_what_does_not_go_with_bohb_is_explained(changes, line):
    with pytest.raises(StudyError) as refused:
        study_of(**changes)
    assert len(refused.value.lines) == 1
    assert refused.value.lines[0].startswith(f"f: {line}")


@pytest.mark.parametrize("command", ["check", "run"])
def test_without_its_packages_one_line_says_what_to_install(write_study, command):
    file = write_study(space=SPACE, search=SEARCH)
    code = (
        "import sys; sys.modules['hpbandster'] = None; from tuning.cli import main; "
        f"sys.argv = ['tuning', {command!r}, {str(file)!r}]; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    needs = "search.algorithm: bohb needs hpbandster; pip install -e '.[bohb]'"
    assert done.stderr.splitlines() == [f"{file}: {needs}"]
