"""Table H: what the trials of a population were set to, epoch by epoch."""

from __future__ import annotations

import pandas as pd

from analysis.load import Results
from analysis.tables import Table

NOTE = (
    "Under PBT and PB2 a trial goes on, after some epochs, from the weights of a better one and "
    "with other parameters: a row for each stretch of epochs with the same ones."
)


def population(results: Results) -> Table:
    """Return table H, a row per trial and stretch of epochs; empty without a population.

    `score` is the study's metric at the end of the stretch.
    """
    curves = results.curves
    if "weights_from" not in curves or curves["weights_from"].isna().all():
        return Table("population", "H. Population", pd.DataFrame())
    metrics = {study.name: study.goal[0] for study in results.studies}
    changed = [h for h in results.hyperparameters if h in curves]
    rows = []
    for (study, trial), reports in curves.groupby(["study", "trial_id"], sort=False):
        stretches = reports["weights_from"].notna().cumsum()
        for _, stretch in reports.groupby(stretches):
            first, last = stretch.iloc[0], stretch.iloc[-1]
            span = f"{first['epoch']:g}-{last['epoch']:g}"
            rows.append(
                {
                    "study": study,
                    "trial_id": trial,
                    "span": span if len(stretch) > 1 else f"{first['epoch']:g}",
                    "weights_from": first["weights_from"],
                    **{key: first[key] for key in changed},
                    "score": last.get(metrics[str(study)]),
                }
            )
    return Table("population", "H. Population", pd.DataFrame(rows), (NOTE,))
