"""Shares: what Ray sets aside for a trial, and more of a GPU for one that ran out of memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune import Callback, PlacementGroupFactory
from ray.tune.experiment import Trial

from tuning.resources import request
from tuning.study import Study


def placement(study: Study, config: dict[str, Any], *, gpus_exist: bool) -> PlacementGroupFactory:
    """Return what Ray sets aside for a trial, all of it at once: a bundle, or one per worker."""
    wanted = request(study, config, gpus_exist=gpus_exist)
    return PlacementGroupFactory(wanted.bundles(), study.resources.placement.upper())


class LargerShares(Callback):
    """Gives a trial the share of a GPU that it asks for, before its next step fails.

    Tune retries what fails from its last checkpoint, and this retry is not counted among the
    study's `retries`. Ray's ResourceChangingScheduler would do as much by pausing the trial, but
    wraps a scheduler of its own, which has no place for the study's.
    """

    def __init__(self, resources: Callable[[dict[str, Any]], PlacementGroupFactory]) -> None:
        """Take the function that says what a trial of a configuration asks for."""
        self.resources = resources

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        if "enlarge" in result:
            share = result["enlarge"]["gpu"]
            # `update_resources` is for waiting trials, which Tune lists by what they ask for; a
            # running one is on no such list until it has failed.
            trial.placement_group_factory = self.resources(trial.config | {"gpu_share": share})
            trial.max_failures += 1

    def __getstate__(self) -> dict[str, Any]:
        return {}
