"""Schedulers: which trials are stopped early."""

from __future__ import annotations

from types import SimpleNamespace

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tuning.record import TrialRecord
from tuning.study import Study


def build_scheduler(study: Study) -> TrialScheduler:
    """Return the scheduler that a study asks for.

    ASHA (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020) counts
    epochs. A trainable that reports once, such as the SVM, has none and is never compared.
    """
    if study.scheduler.type == "fifo":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=study.search.metric,
        mode=study.search.mode,
        max_t=study.max_epochs(),
        grace_period=study.scheduler.grace_epochs,
        reduction_factor=study.scheduler.reduction_factor,
    )


def replay(scheduler: TrialScheduler, trial: TrialRecord, tune_id: str) -> None:
    """Tell a scheduler what a trial reported before its study was interrupted.

    Args:
        scheduler: that of the resumed study.
        trial: finished or not.
        tune_id: under which Tune will know the trial, if it goes on.
    """
    if not trial.reports:
        return
    known = SimpleNamespace(trial_id=tune_id)
    *earlier, last = trial.reports
    scheduler.on_trial_add(None, known)
    for report in earlier:
        scheduler.on_trial_result(None, known, report)
    if trial.finished:
        scheduler.on_trial_complete(None, known, last)
    else:
        scheduler.on_trial_result(None, known, last)
