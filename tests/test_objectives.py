"""Several objectives, constraints, finalists, answered repeats, and the journal; without Ray."""

from __future__ import annotations

import json

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.conftest import MINIMAL, ROOT
from tuning.changes import changes
from tuning.experiment import _with_defaults
from tuning.journal import JOURNAL, Journal
from tuning.outcome import Outcome
from tuning.record import Record, read_events, read_trials
from tuning.searchers import StudySearcher, strategy
from tuning.study_file import StudyError, dump, validate

TWO = [{"metric": "val_accuracy", "mode": "max"}, {"metric": "train_seconds", "mode": "min"}]
SPACE = {"lr": {"loguniform": [0.001, 1]}, "batch_size": {"choice": [16, 32]}}
SEARCH = {"algorithm": "optuna", "trials": 12, "seed": 3}


def study_of(search, **changes):
    return validate(MINIMAL | {"space": SPACE, "search": SEARCH | search} | changes, "f")


def metrics(config):
    """What a made-up trial reports at its end: `val_accuracy` is best in its first epoch."""
    accuracy = 100 - 50 * abs(config["lr"] - 0.05)
    common = {"train_seconds": 500 / config["batch_size"], "total_seconds": 1.0}
    return [
        {"epoch": 1, "val_accuracy": accuracy} | common,
        {"epoch": 2, "val_accuracy": accuracy - 1, "predict_seconds": 100 * config["lr"]} | common,
    ]


def play(searcher, count=100):
    """Play Ray Tune with one slot; return what was suggested."""
    suggested = []
    for number in range(count):
        tune_id = f"{len(searcher.trials)}-{number}"
        config = searcher.suggest(tune_id)
        if not isinstance(config, dict):
            break
        suggested.append(config)
        name = config["trial"]
        for report in metrics(config):
            searcher.trials[name].reports.append(report)
            searcher.record.append("report", time=1.0, trial=name, metrics=report)
        searcher.on_trial_complete(tune_id, {"final": True})
        searcher.trials[name].status = "completed"
        searcher.record.append("end", time=2.0, trial=name, status="completed", error="")
    return suggested


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp", "qmc", "random"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_samplers_suggest_for_two_objectives_what_plain_optuna_does(sampler):
    study = study_of({"objectives": TWO, "sampler": sampler, "distinct": False})
    samplers = optuna.samplers
    plain_sampler = {
        "tpe": lambda: samplers.TPESampler(seed=3),
        "nsga2": lambda: samplers.NSGAIISampler(population_size=3, seed=3),
        "gp": lambda: samplers.GPSampler(seed=3),
        "qmc": lambda: samplers.QMCSampler(seed=3, scramble=True),
        "random": lambda: samplers.RandomSampler(seed=3),
    }[sampler]()
    ours = strategy(study)
    plain = optuna.create_study(directions=["maximize", "minimize"], sampler=plain_sampler)
    for number in range(12):
        config, trial = ours.ask(str(number)), plain.ask()
        lr = trial.suggest_float("lr", 0.001, 1, log=True)
        batch_size = trial.suggest_categorical("batch_size", [16, 32])
        assert (config["lr"], config["batch_size"]) == (lr, batch_size)
        first, last = metrics(config)
        values = [first["val_accuracy"], last["train_seconds"]]
        excess = last["predict_seconds"] - 5
        ours.tell(str(number), Outcome(values, {"predict_seconds max": excess}))
        trial.set_constraint("predict_seconds max", excess)
        plain.tell(trial, values)


def test_a_resumed_search_with_objectives_and_constraints_suggests_the_same(tmp_path):
    study = study_of({"objectives": TWO, "constraints": [{"metric": "predict_seconds", "max": 5}]})
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    expected = play(StudySearcher(study, Record(tmp_path / "whole")))
    assert len(expected) == 12
    first = play(StudySearcher(study, Record(tmp_path / "cut")), 7)
    events = list(read_events(tmp_path / "cut"))
    searcher = StudySearcher(study, Record(tmp_path / "cut"), events)
    assert first + play(searcher) == expected
    told = searcher.strategy._optuna.trials
    assert [t.values[0] for t in told] == [metrics(c)[0]["val_accuracy"] for c in expected]
    assert [t.constraints for t in told] == [
        {"predict_seconds max": 100 * c["lr"] - 5} for c in expected
    ]


FINALS = {"finalists": {"count": 2, "seeds": 2}}


def test_finalists_are_the_best_within_bounds_and_go_on_after_a_resume(tmp_path):
    study = study_of({"constraints": [{"metric": "predict_seconds", "max": 5}]}, **FINALS)
    searcher = StudySearcher(study, Record(tmp_path))
    searched = play(searcher)
    assert not any(config["reads_test"] for config in searched)
    within = [c for c in searched if c["lr"] <= 0.05]
    best = sorted(within, key=lambda c: -metrics(c)[0]["val_accuracy"])[:2]
    assert searcher.begin_finals() == 4
    begun = play(searcher, 1)
    resumed = StudySearcher(study, Record(tmp_path), list(read_events(tmp_path)))
    assert resumed.unfinished == []
    assert resumed.begin_finals() == 3
    finals = begun + play(resumed)
    assert not any("reads_test" in config for config in finals)
    assert [(c["lr"], c["seed"]) for c in finals] == [
        (c["lr"], seed) for c in best for seed in (4, 5)
    ]
    trials = read_trials(tmp_path).values()
    assert [t.finalist_of for t in trials if t.finalist_of] == [
        c["trial"] for c in best for _ in range(2)
    ]
    assert resumed.begin_finals() == 0


def test_an_extended_search_runs_only_the_finalists_that_are_new(tmp_path):
    study = study_of({}, **FINALS)
    searcher = StudySearcher(study, Record(tmp_path))
    play(searcher)
    searcher.begin_finals()
    old = {c["lr"] for c in play(searcher)}
    more = study_of({"trials": 40}, **FINALS)
    resumed = StudySearcher(more, Record(tmp_path), list(read_events(tmp_path)))
    assert len(play(resumed)) == 28
    ranked = sorted(resumed.searched(), key=lambda t: -t.reports[0]["val_accuracy"])
    new = {t.config["lr"] for t in ranked[:2]} - old
    assert resumed.begin_finals() == 2 * len(new)


def test_an_equal_configuration_is_answered_from_the_record(tmp_path):
    space = {"lr": 0.1, "batch_size": {"choice": [16, 32]}}
    search = {"answer_repeats": True, "distinct": False}
    study = study_of(search, space=space)
    searcher = StudySearcher(study, Record(tmp_path))
    assert len(play(searcher)) == 2
    trials = read_trials(tmp_path)
    assert len(trials) == 12
    assert sum(not trial.answered_from for trial in trials.values()) == 2
    for trial in trials.values():
        source = trials[trial.answered_from or trial.trial]
        assert (trial.config, trial.reports, trial.status) == (
            source.config, source.reports, "completed",
        )  # fmt: skip
        assert trial.row().get("answered_from", "") == trial.answered_from
    resumed = StudySearcher(study, Record(tmp_path), list(read_events(tmp_path)))
    assert [t.value for t in resumed.strategy._optuna.trials] == [
        t.value for t in searcher.strategy._optuna.trials
    ]
    assert play(resumed) == []


def test_what_is_left_may_all_be_answered(tmp_path):
    search = {"answer_repeats": True, "distinct": False}
    study = study_of(search, space={"lr": 0.1, "batch_size": {"choice": [16]}})
    play(StudySearcher(study, Record(tmp_path)), 1)
    resumed = StudySearcher(study, Record(tmp_path), list(read_events(tmp_path)))
    assert not resumed.answer_first()
    assert all(trial.status == "completed" for trial in read_trials(tmp_path).values())
    more = study_of(search, space={"lr": 0.1, "batch_size": {"choice": [16, 32]}})
    (tmp_path / "more").mkdir()
    searcher = StudySearcher(more, Record(tmp_path / "more"))
    assert searcher.answer_first()
    assert [config["trial"] for config in play(searcher, 1)] == ["00000"]


def test_repeats_are_run_unless_the_study_asks_for_answers(tmp_path):
    space = {"lr": 0.1, "batch_size": {"choice": [16, 32]}}
    study = study_of({"distinct": False}, space=space)
    assert len(play(StudySearcher(study, Record(tmp_path)))) == 12


def read_journal(folder):
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    return optuna.load_study(study_name=folder.name, storage=storage)


def test_the_journal_follows_a_running_study(tmp_path):
    study = study_of({})
    record = Record(tmp_path)
    journal = Journal(study, tmp_path, [])
    record.listeners.append(journal.take)
    open_study = read_journal(tmp_path)
    states = TrialState
    config = {"lr": 0.1, "batch_size": 16, "seed": 3}

    def now():
        return [(t.state, t.value, t.intermediate_values) for t in open_study.get_trials()]

    record.append("trial", time=1.0, trial="00000", config=config)
    assert now() == [(states.WAITING, None, {})]
    record.append("start", time=1.0, trial="00000", session=1)
    report = {"epoch": 1, "val_accuracy": 50.0}
    record.append("report", time=2.0, trial="00000", metrics=report)
    record.append("report", time=2.0, trial="00000", metrics=report)
    assert now() == [(states.RUNNING, None, {1: 50.0})]
    record.append("end", time=3.0, trial="00000", status="stopped", error="")
    record.append("trial", time=3.0, trial="00001", config=config | {"lr": 0.2})
    record.append("start", time=3.0, trial="00001", session=1)
    record.append("end", time=4.0, trial="00001", status="failed", error="lost")
    record.append("retry", time=5.0, trial="00001")
    assert now() == [
        (states.PRUNED, 50.0, {1: 50.0}), (states.FAIL, None, {}), (states.WAITING, None, {})
    ]  # fmt: skip
    assert open_study.get_trials()[1].params == {"lr": 0.2, "batch_size": 16}
    assert open_study.get_trials()[1].datetime_complete.timestamp() == 4.0


def test_a_torn_journal_is_written_anew_and_an_open_dashboard_reads_on(tmp_path):
    study = study_of({"objectives": TWO}, **FINALS)
    record = Record(tmp_path)
    record.listeners.append(Journal(study, tmp_path, []).take)
    play(StudySearcher(study, record), 5)
    whole = (tmp_path / JOURNAL).read_bytes()
    open_study = read_journal(tmp_path)
    (tmp_path / JOURNAL).write_bytes(whole[:-7])
    record = Record(tmp_path)
    record.listeners.append(Journal(study, tmp_path, read_events(tmp_path)).take)
    assert (tmp_path / JOURNAL).read_bytes() == whole
    searcher = StudySearcher(study, record, list(read_events(tmp_path)))
    play(searcher)
    searcher.begin_finals()
    play(searcher)
    assert len(open_study.get_trials()) == 12 + 4
    finals = [t for t in open_study.get_trials() if "finalist_of" in t.user_attrs]
    assert [t.params["lr"] for t in finals] == [
        t.config["lr"] for t in read_trials(tmp_path).values() if t.finalist_of
    ]


def test_a_journal_that_cannot_be_written_does_not_stop_the_study(tmp_path):
    (tmp_path / JOURNAL).mkdir()
    record = Record(tmp_path)
    record.listeners.append(Journal(study_of({}), tmp_path, []).take)
    assert len(play(StudySearcher(study_of({}), record))) == 12


def test_a_study_with_objectives_reads_back_equal_and_its_first_one_is_the_metric(tmp_path):
    study = study_of({"objectives": TWO, "constraints": [{"metric": "gflops", "max": 1}]}, **FINALS)
    assert (study.search.metric, study.search.mode) == ("val_accuracy", "max")
    from tuning.study_file import load

    (tmp_path / "study.yaml").write_text(dump(study))
    assert load(tmp_path / "study.yaml") == study


def objectives(*pairs):
    return [{"metric": metric, "mode": mode} for metric, mode in pairs]


ACCURACY, SECONDS = ("val_accuracy", "max"), ("train_seconds", "min")


@pytest.mark.parametrize(("changes", "line"), [
    ({"search": {"objectives": TWO, "sampler": "cmaes"}},
     "search.sampler: cmaes searches by one metric; use tpe, gp, nsga2, qmc or random"),
    ({"search": {"objectives": TWO}, "scheduler": {"type": "asha"}},
     "scheduler.type: train_seconds of a trial that asha stops is cut short, so it cannot be an "
     "objective; use fifo"),
    ({"search": {"objectives": TWO, "metric": "val_loss", "mode": "min"}},
     "search.metric: is the first of `objectives`; leave metric and mode out"),
    ({"search": {"objectives": objectives(ACCURACY)}},
     "search.objectives: is for several; write `metric` and `mode` for one"),
    ({"search": {"objectives": objectives(ACCURACY, SECONDS, SECONDS)}},
     "search.objectives: names a metric twice"),
    ({"search": {"objectives": objectives(ACCURACY, ("train_seconds", "max"))}},
     "search.objectives.1.mode: got max; train_seconds is searched by min"),
    ({"search": {"objectives": objectives(SECONDS, ACCURACY)}},
     "search.metric: got 'train_seconds'; allowed: val_accuracy or val_loss"),
    ({"search": {"objectives": objectives(ACCURACY, ("test_accuracy", "max"))}},
     "search.objectives.1.metric: got 'test_accuracy'; test data chooses nothing"),
    ({"search": {"objectives": objectives(ACCURACY, ("support_vectors", "min"))}},
     "search.objectives.1.metric: got support_vectors, which trials of resnet do not have"),
    ({"search": {"objectives": [{"metrik": "val_accuracy", "mode": "max"}]}},
     "search.objectives.0.metrik: is no known key; did you mean metric?"),
    ({"search": {"constraints": [{"metric": "predict_second", "max": 1}]}},
     "search.constraints.0.metric: got 'predict_second'; allowed: "),
    ({"search": {"constraints": [{"metric": "predict_seconds"}]}},
     "search.constraints.0: has no bound; write `max` or `min`"),
    ({"search": {"constraints": [{"metric": "gflops", "max": 1, "min": 2}]}},
     "search.constraints.0: allows nothing: min 2 is above max 1"),
    ({"search": {"objectives": TWO, "points": [{"values": {"lr": 0.1}, "result": 80.0}]}},
     "search.points.0.result: is one metric; with several objectives or constraints use"),
    ({"search": {"algorithm": "random"}, "repeats": 2} | FINALS,
     "finalists: is for configurations run once; `repeats` runs all of them"),
])  # fmt: skip
def test_what_does_not_fit_together_is_explained(changes, line):
    search = SEARCH | changes["search"]
    with pytest.raises(StudyError) as error:
        validate(MINIMAL | {"space": SPACE} | changes | {"search": search}, "f")
    assert any(found.startswith(f"f: {line}") for found in error.value.lines), error.value.lines


def test_no_scheduler_cuts_an_objective_short_by_default():
    plain = MINIMAL | {"space": SPACE, "search": {"trials": 12}}
    assert validate(plain, "f").scheduler.type == "median"
    several = plain | {"search": {"trials": 12, "objectives": TWO}}
    assert validate(several, "f").scheduler.type == "fifo"


def test_the_first_objective_may_rule_a_scheduler_where_no_cost_is_cut_short():
    several = objectives(ACCURACY, ("gflops", "min"))
    assert study_of({"objectives": several}, scheduler={"type": "asha"}).scheduler.type == "asha"
    own = {"trainable": "tests.cheap:Quadratic", "code": str(ROOT), "dataset": {"name": "none"},
           "space": {"lr": {"loguniform": [0.001, 1]}}}  # fmt: skip
    several = objectives(("score", "max"), ("cost", "min"))
    assert list(study_of({"objectives": several}, **own).search.directions()) == ["score", "cost"]


def test_a_study_from_before_these_keys_has_not_changed():
    now = {"study": study_of({}).model_dump(mode="json", by_alias=True)}
    before = json.loads(json.dumps(now))
    del before["study"]["finalists"], before["study"]["search"]["objectives"]
    assert changes(_with_defaults(before), now) == []
    before["study"]["search"]["seed"] = 4
    assert changes(_with_defaults(before), now) == ["study.search.seed: was 4, is 3"]
