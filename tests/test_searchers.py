from __future__ import annotations

import shutil

import optuna
import pytest

from tests.conftest import MINIMAL
from tuning.outcome import Outcome
from tuning.record import Record, read_events, read_trials
from tuning.searchers import (
    ResumeError,
    StudySearcher,
    WarmStartError,
    known_results,
    strategy,
)
from tuning.study_file import StudyError, dump, validate

SAMPLED = MINIMAL | {
    "space": {"lr": {"loguniform": [0.001, 1]}, "batch_size": {"choice": [16, 32]}},
    "search": {"algorithm": "optuna", "trials": 20, "seed": 3},
}


def value(config):
    return 100 - 50 * abs(config["lr"] - 0.05) - config["batch_size"] / 32


def test_tpe_through_us_suggests_what_plain_optuna_suggests():
    ours = strategy(validate(SAMPLED, "f"))
    plain = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=3))
    for number in range(20):
        config = ours.ask(f"{number:05d}")
        trial = plain.ask()
        expected = {
            "lr": trial.suggest_float("lr", 0.001, 1, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [16, 32]),
        }
        assert {key: config[key] for key in expected} == expected
        ours.tell(f"{number:05d}", Outcome(value(config)))
        plain.tell(trial, value(config))


def test_tpe_is_told_of_stopped_trials_as_by_a_pruner_of_optuna():
    ours = strategy(validate(SAMPLED, "f"))
    plain = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=3))
    for number in range(20):
        name, stopped = f"{number:05d}", number % 3 > 0
        config = ours.ask(name)
        trial = plain.ask()
        expected = {
            "lr": trial.suggest_float("lr", 0.001, 1, log=True),
            "batch_size": trial.suggest_categorical("batch_size", [16, 32]),
        }
        assert {key: config[key] for key in expected} == expected
        reached = value(config) * (0.5 if stopped else 1)
        ours.report(name, 1, reached)
        trial.report(reached, 1)
        ours.tell(name, Outcome(reached, stopped=stopped))
        state = optuna.trial.TrialState.PRUNED if stopped else None
        plain.tell(trial, None if stopped else reached, state=state)


def drive(searcher, count, recorded=True):
    """Play Ray Tune with one slot: suggest, report, complete; return the configurations."""
    configs = []
    for number in range(count):
        config = searcher.suggest(f"tune-{len(searcher.trials)}-{number}")
        if not isinstance(config, dict):
            break
        configs.append(config)
        name, metrics = config["trial"], {"epoch": 1, "val_accuracy": value(config)}
        searcher.trials[name].reports.append(metrics)
        if recorded:
            searcher.record.append("report", time=0.0, trial=name, metrics=metrics)
        searcher.on_trial_complete(
            f"tune-{len(searcher.trials) - 1}-{number}", metrics | {"final": True}
        )
        if recorded:
            searcher.record.append("end", time=0.0, trial=name, status="completed", error="")
    return configs


@pytest.mark.parametrize("changes", [SAMPLED, SAMPLED | {"search": {
    "algorithm": "random", "trials": 20}}], ids=["tpe", "random"])  # fmt: skip
def test_a_resumed_search_suggests_what_an_uninterrupted_one_does(tmp_path, changes):
    study = validate(changes, "f")
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    expected = drive(StudySearcher(study, Record(tmp_path / "whole")), 30)
    assert len(expected) == 20
    first = drive(StudySearcher(study, Record(tmp_path / "cut")), 13)
    resumed = StudySearcher(study, Record(tmp_path / "cut"), list(read_events(tmp_path / "cut")))
    rest = drive(resumed, 30)
    assert first + rest == expected


def test_unfinished_trials_go_first_after_a_resume(tmp_path):
    study = validate(SAMPLED, "f")
    before = StudySearcher(study, Record(tmp_path))
    begun = [before.suggest("a"), before.suggest("b")]
    before.on_trial_complete("a", {"val_accuracy": 1.0})
    before.record.append("end", time=0.0, trial="00000", status="completed", error="")
    after = StudySearcher(study, Record(tmp_path), list(read_events(tmp_path)))
    assert after.suggest("c") == begun[1]
    assert after.suggest("d")["trial"] == "00002"
    assert list(read_trials(tmp_path)) == ["00000", "00001", "00002"]


def test_a_changed_space_is_refused_on_resume(tmp_path):
    drive(StudySearcher(validate(SAMPLED, "f"), Record(tmp_path)), 3)
    changed = validate(SAMPLED | {"space": {"lr": {"loguniform": [0.01, 1]}}}, "f")
    with pytest.raises(ResumeError, match="trial 00000: the searcher proposes"):
        StudySearcher(changed, Record(tmp_path), list(read_events(tmp_path)))


def test_a_changed_space_goes_on_with_what_the_record_has_if_that_is_allowed(tmp_path):
    known = drive(StudySearcher(validate(SAMPLED, "f"), Record(tmp_path)), 4)
    space = {"lr": {"loguniform": [0.001, 2]}, "batch_size": {"choice": [16, 32]}}
    changed = validate(SAMPLED | {"space": space}, "f")
    events = list(read_events(tmp_path))
    searcher = StudySearcher(changed, Record(tmp_path), events, allow_changed=True)
    told = searcher.strategy._optuna.trials
    assert [t.params["lr"] for t in told] == [c["lr"] for c in known]
    assert [t.value for t in told] == [value(c) for c in known]
    assert searcher.suggest("a")["trial"] == "00004"


def test_a_recorded_value_outside_of_a_changed_space_is_not_told_to_optuna(tmp_path):
    drive(StudySearcher(validate(SAMPLED, "f"), Record(tmp_path)), 4)
    space = {"lr": {"loguniform": [1e-9, 1e-8]}, "batch_size": {"choice": [16, 32]}}
    changed = validate(SAMPLED | {"space": space}, "f")
    events = list(read_events(tmp_path))
    searcher = StudySearcher(changed, Record(tmp_path), events, allow_changed=True)
    assert [t.value for t in searcher.strategy._optuna.trials] == [None] * 4


def test_a_changed_grid_runs_only_what_the_record_lacks(tmp_path):
    grid = MINIMAL | {"space": {"lr": {"grid": [0.1, 0.2]}}}
    known = drive(StudySearcher(validate(grid, "f"), Record(tmp_path)), 3)
    changed = validate(MINIMAL | {"space": {"lr": {"grid": [0.3, 0.2, 0.1]}}}, "f")
    events = list(read_events(tmp_path))
    searcher = StudySearcher(changed, Record(tmp_path), events, allow_changed=True)
    assert [c["lr"] for c in known] == [0.1, 0.2]
    assert [c["lr"] for c in drive(searcher, 3)] == [0.3]


def test_a_retried_trial_reaches_optuna_when_it_succeeds_and_again_on_replay(tmp_path):
    study = validate(SAMPLED, "f")
    first = StudySearcher(study, Record(tmp_path))
    first.suggest("a")
    first.on_trial_complete("a", error=True)
    first.record.append("end", time=0.0, trial="00000", status="failed", error="x")
    first.record.append("retry", time=0.0, trial="00000")
    second = StudySearcher(study, Record(tmp_path), list(read_events(tmp_path)))
    assert second.suggest("b")["trial"] == "00000"
    metrics = {"epoch": 1, "val_accuracy": 70.0}
    second.record.append("report", time=0.0, trial="00000", metrics=metrics)
    second.trials["00000"].reports.append(metrics)
    second.on_trial_complete("b", metrics)
    second.record.append("end", time=0.0, trial="00000", status="completed", error="")
    third = StudySearcher(study, Record(tmp_path), list(read_events(tmp_path)))
    for searcher in (second, third):
        assert [t.value for t in searcher.strategy._optuna.trials] == [None, 70.0]
    assert second.suggest("c") == third.suggest("c")


def test_an_extended_search_suggests_what_a_longer_one_would_have(tmp_path):
    (tmp_path / "short").mkdir()
    (tmp_path / "long").mkdir()
    short = validate(SAMPLED | {"search": SAMPLED["search"] | {"trials": 12}}, "f")
    first = drive(StudySearcher(short, Record(tmp_path / "short")), 30)
    events = list(read_events(tmp_path / "short"))
    rest = drive(StudySearcher(validate(SAMPLED, "f"), Record(tmp_path / "short"), events), 30)
    whole = drive(StudySearcher(validate(SAMPLED, "f"), Record(tmp_path / "long")), 30)
    assert first + rest == whole


def test_a_failed_trial_never_reaches_optuna_as_a_value(tmp_path):
    searcher = StudySearcher(validate(SAMPLED, "f"), Record(tmp_path))
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"failure": "NonFiniteLoss", "done": True})
    states = [trial.state for trial in searcher.strategy._optuna.trials]
    assert states == [optuna.trial.TrialState.FAIL]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2", "qmc", "random"])
def test_each_sampler_is_deterministic_and_survives_a_resume(tmp_path, sampler):
    search = {"algorithm": "optuna", "sampler": sampler, "trials": 16, "seed": 5}
    study = validate(SAMPLED | {"search": search}, "f")
    for name in ("a", "b", "cut"):
        (tmp_path / name).mkdir()
    expected = drive(StudySearcher(study, Record(tmp_path / "a")), 16)
    assert drive(StudySearcher(study, Record(tmp_path / "b")), 16) == expected
    first = drive(StudySearcher(study, Record(tmp_path / "cut")), 13)
    resumed = StudySearcher(study, Record(tmp_path / "cut"), list(read_events(tmp_path / "cut")))
    assert first + drive(resumed, 16) == expected
    other = validate(SAMPLED | {"search": search | {"seed": 6}}, "f")
    (tmp_path / "other").mkdir()
    assert drive(StudySearcher(other, Record(tmp_path / "other")), 16) != expected


FEW = {"lr": {"ordinal": [0.001, 0.01, 0.1]}, "batch_size": {"choice": [16, 32]}}


def test_no_configuration_is_tried_twice_while_another_is_left():
    strategies = strategy(validate(SAMPLED | {"space": FEW}, "f"))
    found = []
    for number in range(6):
        config = strategies.ask(f"{number:05d}")
        found.append((config["lr"], config["batch_size"]))
        strategies.tell(f"{number:05d}", Outcome(value(config)))
    assert len(set(found)) == 6
    assert strategies.ask("00006") is not None


def test_starting_points_come_first_and_known_results_are_not_run():
    points = [
        {"values": {"lr": 0.1, "batch_size": 16}, "result": 70.0},
        {"values": {"lr": 0.01}},
    ]
    study = SAMPLED | {"space": FEW, "search": SAMPLED["search"] | {"points": points}}
    searcher = strategy(validate(study, "f"))
    searcher.learn(points[0]["values"], 70.0)
    found = [searcher.ask(f"{n:05d}") for n in range(5)]
    assert found[0]["lr"] == 0.01
    assert (0.1, 16) not in {(c["lr"], c["batch_size"]) for c in found}


@pytest.mark.parametrize(("values", "message"), [
    ({"lr": 0.5}, r"search\.points\.0\.lr: got 0\.5; no domain of `space` has it"),
    ({"lrr": 0.1}, r"search\.points\.0\.lrr: got 0\.1; `space` has no such key"),
])  # fmt: skip
def test_a_point_outside_of_the_space_is_refused(values, message):
    search = SAMPLED["search"] | {"points": [{"values": values}]}
    with pytest.raises(StudyError, match=message):
        validate(SAMPLED | {"space": FEW, "search": search}, "f")


def earlier_study(folder):
    folder.mkdir()
    study = validate(SAMPLED, "f")
    (folder / "study.yaml").write_text(dump(study))
    return drive(StudySearcher(study, Record(folder)), 12)


def test_trials_of_an_earlier_study_enter_the_searcher_and_outlive_its_folder(tmp_path):
    configs = earlier_study(tmp_path / "earlier")
    (tmp_path / "new").mkdir()
    warm = SAMPLED["search"] | {"warm_start": [str(tmp_path / "earlier")], "seed": 9}
    study = validate(SAMPLED | {"search": warm}, "f")
    record = Record(tmp_path / "new")
    searcher = StudySearcher(study, record)
    known = searcher.strategy._optuna.trials
    assert [t.params["lr"] for t in known] == [c["lr"] for c in configs]
    assert [t.value for t in known] == [value(c) for c in configs]
    first = drive(searcher, 3)
    shutil.rmtree(tmp_path / "earlier")
    resumed = StudySearcher(study, record, list(read_events(tmp_path / "new")))
    assert len(resumed.strategy._optuna.trials) == 12 + 3
    assert [t.config["lr"] for t in resumed.trials.values()] == [c["lr"] for c in first]


@pytest.mark.parametrize(("changes", "message"), [
    ({"space": {"batch_size": {"choice": [64]}}}, "none of its 12 trials is one that this study"),
    ({"fixed": {"epochs": 7}}, "none of its 12 trials"),
    ({"dataset": {"name": "digits", "seed": 1}}, "another data set, split or size"),
])  # fmt: skip
def test_an_earlier_study_that_has_nothing_for_this_one_is_refused(tmp_path, changes, message):
    earlier_study(tmp_path / "earlier")
    search = SAMPLED["search"] | {"warm_start": [str(tmp_path / "earlier")]}
    with pytest.raises(WarmStartError, match=message):
        known_results(validate(SAMPLED | changes | {"search": search}, "f"))
    with pytest.raises(WarmStartError, match="is no study folder"):
        nowhere = SAMPLED["search"] | {"warm_start": [str(tmp_path / "nowhere")]}
        known_results(validate(SAMPLED | {"search": nowhere}, "f"))
