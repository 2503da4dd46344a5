from __future__ import annotations

import optuna
import pytest

from tests.conftest import MINIMAL
from tuning.record import Record, read_events, read_trials
from tuning.searchers import ResumeError, StudySearcher, strategy
from tuning.study_file import validate

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
        ours.tell(f"{number:05d}", value(config))
        plain.tell(trial, value(config))


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
        searcher.on_trial_complete(f"tune-{len(searcher.trials) - 1}-{number}", metrics)
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


def test_a_failed_trial_never_reaches_optuna_as_a_value(tmp_path):
    searcher = StudySearcher(validate(SAMPLED, "f"), Record(tmp_path))
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"failure": "NonFiniteLoss", "done": True})
    states = [trial.state for trial in searcher.strategy._optuna.trials]
    assert states == [optuna.trial.TrialState.FAIL]
