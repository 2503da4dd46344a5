"""The rounds of a population, without Ray's controller: no interruption changes them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT
from tuning.record import Record, collect, read_events
from tuning.schedulers import build_scheduler, replay
from tuning.study_file import validate


def study(kind):
    return validate(
        {
            "name": "crowd",
            "dataset": {"name": "none"},
            "trainable": "tests.cheap:Climber",
            "code": str(ROOT),
            "space": {
                "lr": {"loguniform": [1e-4, 1.0]},
                "width": {"int": [1, 64]},
                "drop": {"quniform": [0.0, 0.45, 0.15]} if kind == "pbt" else {"uniform": [0, 1]},
                "kind": {"choice": ["a", "b"]},
            },
            "fixed": {"epochs": 5},
            "search": {"algorithm": "random", "trials": 6, "metric": "score", "seed": 4},
            "scheduler": {"type": kind, "mutate": ["lr", "width", "drop"]},
        },
        "f",
    )


class Crowd:
    """Plays Tune for six trials of five epochs; is killed after a number of lines of the record."""

    def __init__(self, kind, folder, stop=math.inf):
        self.record, self.stop = Record(folder), stop
        self.scheduler = build_scheduler(study(kind), self.on_round)
        events = list(read_events(folder))
        self.lines = len(events)
        replay(self.scheduler, events)
        self.trials = collect(read_events(folder))
        if not events:
            for number in range(6):
                config = {"lr": 0.9 / 4**number, "width": 64, "drop": 0.45, "kind": "a"}
                config |= {"seed": number, "epochs": 5}
                self.write("trial", trial=f"{number:05d}", config=config)
            self.trials = collect(read_events(folder))

    def write(self, event, **values):
        if self.lines >= self.stop:
            raise KeyboardInterrupt
        self.record.append(event, time=0.0, **values)
        self.lines += 1

    def on_round(self, epoch, scores, taken):
        trials = {name: takeover._asdict() for name, takeover in taken.items()}
        self.write("round", epoch=epoch, scores=scores, trials=trials)

    def get_live_trials(self):
        return self.tune

    def pause_trial(self, trial, should_checkpoint):
        trial.status = "PAUSED"

    def next(self):
        """Tune starts a trial that has not begun in this session, whatever the scheduler says."""
        pending = (trial for trial in self.tune if trial.status == "PENDING")
        return self.scheduler.choose_trial_to_run(self) or next(pending, None)

    def play(self):
        self.tune = [
            SimpleNamespace(status="PENDING", config={"trial": name} | trial.last_config())
            for name, trial in self.trials.items()
            if not trial.finished
        ]
        for trial in self.tune:
            trial.set_config = lambda config, trial=trial: setattr(trial, "config", config)
            self.scheduler.on_trial_add(self, trial)
        while trial := self.next():
            trial.status, name = "RUNNING", trial.config["trial"]
            # As a checkpoint would have it: the last epoch is reported once more.
            done = len(self.trials[name].reports)
            for epoch in range(max(done, 1), 6):
                score = epoch * (1 - abs(math.log10(trial.config["lr"]) + 2))
                metrics = {"epoch": epoch, "score": score}
                if epoch == 5:
                    self.write("end", trial=name, status="completed", error="")
                    self.scheduler.on_trial_complete(self, trial, metrics)
                    self.tune.remove(trial)
                    break
                self.scheduler.on_trial_result(self, trial, metrics)
                if not self.trials[name].has_report(metrics):
                    self.write("report", trial=name, metrics=metrics)
                    self.trials[name].reports.append(metrics)
                if trial.status == "PAUSED":
                    break


def rounds(folder):
    return [event for event in read_events(folder) if event["event"] == "round"]


@pytest.mark.parametrize(("kind", "every"), [("pbt", 2), ("pb2", 13)])
def test_a_population_cut_off_anywhere_goes_on_with_the_same_rounds(tmp_path, kind, every):
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "record.jsonl").touch()
    Crowd(kind, tmp_path / "whole").play()
    expected = rounds(tmp_path / "whole")
    assert [event["epoch"] for event in expected] == [1, 2, 3, 4]
    assert all(event["trials"] for event in expected)
    lines = len(list(read_events(tmp_path / "whole")))
    for stop in range(7, lines, every):
        folder = tmp_path / str(stop)
        folder.mkdir()
        (folder / "record.jsonl").touch()
        with pytest.raises(KeyboardInterrupt):
            Crowd(kind, folder, stop).play()
        Crowd(kind, folder).play()
        assert rounds(folder) == expected


@pytest.mark.parametrize("kind", ["pbt", "pb2"])
def test_perturbed_parameters_stay_inside_of_their_domains(tmp_path, kind):
    (tmp_path / "record.jsonl").touch()
    Crowd(kind, tmp_path).play()
    taken = [t["config"] for event in rounds(tmp_path) for t in event["trials"].values()]
    assert len({config["lr"] for config in taken}) > 2
    for config in taken:
        assert 1e-4 <= config["lr"] <= 1.0
        assert config["width"] in range(1, 65)
        assert 0 <= config["drop"] <= 1
        steps = config["drop"] / 0.15
        assert kind == "pb2" or steps == pytest.approx(round(steps))
        assert config["kind"] == "a"
