"""A replay drives the searchers and schedulers of real runs over a table."""

from __future__ import annotations

import math

import pytest
import yaml

from tests.conftest import MINIMAL, NEEDS_BOHB, ROOT
from tuning.record import Record
from tuning.replay import (
    Course,
    Simulation,
    Step,
    Table,
    TableError,
    median_interval,
    replays,
    searched,
)
from tuning.searchers import listed_configs
from tuning.study import Scheduler, Search
from tuning.study_file import validate

RATES = [0.0001, 0.001, 0.01, 0.1]
GRID = MINIMAL | {
    "space": {"lr": {"grid": RATES}, "optimizer": {"grid": ["sgd", "adam"]}},
    "fixed": {"epochs": 3},
}


def accuracy(config, epoch):
    """The higher `lr`, the better, from the first epoch on; adam adds a little."""
    return 80 + 3 * math.log10(config["lr"]) + (config["optimizer"] == "adam") + epoch


@pytest.fixture
def table(tmp_path):
    return Table.read(write_table(tmp_path / "table"))


def write_table(folder, count=8):
    """A recorded grid: three epochs of 10 s, trials of Adam 20 s."""
    folder.mkdir()
    (folder / "study.yaml").write_text(yaml.safe_dump(GRID))
    record = Record(folder)
    for number, config in enumerate(list(listed_configs(validate(GRID, "f")))[:count]):
        name = f"{number:05d}"
        record.append("trial", time=0.0, trial=name, config=config)
        for epoch in (1, 2, 3):
            seconds = epoch * (20.0 if config["optimizer"] == "adam" else 10.0)
            metrics = {"epoch": epoch, "val_accuracy": accuracy(config, epoch)}
            metrics["total_seconds"] = seconds
            record.append("report", time=0.0, trial=name, metrics=metrics)
        record.append("end", time=0.0, trial=name, status="completed", error="")
    return folder


def play(table, search, scheduler=None, slots=1):
    """One search without the time of deciding."""
    study = searched(table, search, scheduler or Scheduler())
    return Simulation(table, study, slots, clock=lambda: 0.0).run()


def test_a_table_knows_its_best_value_and_its_compute(table):
    assert table.best() == pytest.approx(80 - 3 + 1 + 3)
    assert table.seconds() == 4 * 30 + 4 * 60


def test_a_grid_takes_all_of_the_compute_and_half_the_time_on_two_slots(table):
    one, two = play(table, Search()), play(table, Search(), slots=2)
    assert (one.trials, one.compute, one.elapsed) == (8, 360, 360)
    assert two.compute == 360
    assert 180 <= two.elapsed < 240
    assert one.steps[-1].value == two.steps[-1].value == table.best()


def test_each_seed_of_a_grid_takes_another_order(table):
    orders = {
        tuple(step.compute for step in play(table, Search(seed=seed)).steps) for seed in range(6)
    }
    assert len(orders) > 1


def test_numbers_become_ordinal_and_words_a_choice(table):
    study = searched(table, Search(algorithm="optuna", trials=3), Scheduler())
    assert study.space["lr"].ordinal == RATES
    assert study.space["optimizer"].choice == ["sgd", "adam"]


@pytest.mark.parametrize(("scheduler", "slots"), [("asha", 1), ("median", 1), ("hyperband", 8)])
def test_a_scheduler_saves_compute_and_keeps_the_best(table, scheduler, slots):
    search = Search(algorithm="optuna", trials=8)
    whole = play(table, search, slots=slots)
    saving = play(table, search, Scheduler(type=scheduler), slots=slots)
    assert whole.compute == 360
    assert saving.trials == 8
    assert saving.compute < whole.compute
    assert saving.steps[-1].value == table.best()


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("scheduler", ["fifo", "asha", "median", "hyperband"])
def test_a_replay_is_deterministic_under_its_seed(table, scheduler, slots):
    search = Search(algorithm="optuna", trials=8, seed=4)
    first, second = (play(table, search, Scheduler(type=scheduler), slots) for _ in range(2))
    assert first == second


def test_the_time_of_deciding_is_added_and_holds_up_many_slots(table):
    study = searched(table, Search(algorithm="optuna", trials=8), Scheduler())
    seconds = iter(range(100_000))
    course = Simulation(table, study, 8, clock=lambda: float(next(seconds))).run()
    # Every decision takes a second: one to begin with, two a start, and more at every report.
    assert course.deciding >= 1 + 8 * 2 + 8 * 3
    assert course.compute == pytest.approx(360 + course.deciding)
    assert course.elapsed > 60 + 8 * 2


def test_seeds_differ_and_a_replay_may_end_early(table):
    search = Search(algorithm="optuna", trials=8)
    courses = list(replays(table, search, Scheduler(), 1, 4, until=lambda c: c.compute > 100))
    assert len({c.steps[0].value for c in courses}) > 1
    assert all(c.compute < 200 for c in courses)


def test_a_course_tells_when_a_value_was_reached():
    course = Course([Step(10, 10, 1, 50.0), Step(30, 40, 2, 70.0)])
    assert course.compute_until(lambda value: value >= 60) == 40
    assert course.compute_until(lambda value: value >= 80) == math.inf
    assert course.epochs_until(lambda value: value >= 60) == 2
    assert course.best_after(39) == 50.0
    assert math.isnan(course.best_after(9))


def test_the_interval_of_a_median_is_the_tabulated_one():
    # n = 30: ranks 10 and 21 (Conover, table A3).
    assert median_interval([float(n) for n in range(1, 31)]) == (15.5, 10.0, 21.0)
    assert median_interval([1.0, 2.0, math.inf]) == (2.0, 1.0, math.inf)


@pytest.mark.parametrize("name", ["fashion_resnet", "fashion_svm"])
def test_the_recorded_tables_can_be_replayed(name):
    table = Table.read(ROOT / "tests" / "benchmarks" / "tables" / name)
    assert len(table.rows) == 64
    assert play(table, Search(algorithm="optuna", trials=4), Scheduler(type="asha")).trials == 4


@NEEDS_BOHB
@pytest.mark.parametrize("scheduler", ["asha", "hyperband"])
def test_a_table_is_searched_by_bohb(scheduler):
    table = Table.read(ROOT / "tests" / "benchmarks" / "tables" / "fashion_resnet")
    search = Search(algorithm="bohb", trials=24)
    first, again = (play(table, search, Scheduler(type=scheduler)) for _ in range(2))
    assert first.trials == 24
    assert 24 < first.epochs == again.epochs
    assert [step.value for step in first.steps] == [step.value for step in again.steps]


def test_an_unfinished_table_is_refused(tmp_path):
    folder = write_table(tmp_path / "part", count=5)
    with pytest.raises(TableError, match="3 configurations of its grid are not recorded"):
        Table.read(folder)
    with pytest.raises(TableError, match="is no study folder"):
        Table.read(tmp_path / "nothing")


def test_the_command_prints_a_summary_and_refuses_what_it_cannot_replay(tmp_path, tuning_command):
    folder = write_table(tmp_path / "table")
    done = tuning_command("replay", folder, "--search", "random", "--scheduler", "asha",
                          "--slots", 2, "--seeds", 3)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "8 configurations, 360 s of compute, best val_accuracy 81" in done.stdout
    assert "reached the target" in done.stdout
    for options, message in (
        (("--scheduler", "pbt"), "--scheduler: got 'pbt'; allowed: fifo, asha"),
        (("--search", "bogus"), "--search: got 'bogus'; allowed: grid, bohb, tpe"),
    ):
        refused = tuning_command("replay", folder, *options)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
