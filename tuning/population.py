"""Populations: what PBT and PB2 decide when all trials have come to the same epoch.

Ray's own classes decide, in their synchronous mode: who takes over whose weights, and with which
perturbed configuration it goes on. They are given members instead of Ray's trials, all of a round
in the order of their names and with a seed of its own, so that a round depends on nothing but the
rounds before it and the scores: not on how many trials ran at once, nor on an interruption.
"""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pb2 import PB2
from sklearn.exceptions import ConvergenceWarning

from tuning.space import (
    Choice,
    Config,
    Domain,
    Int,
    LogInt,
    LogUniform,
    Ordinal,
    QInt,
    QUniform,
    Uniform,
    ways,
)
from tuning.study import Study


class Takeover(NamedTuple):
    """A member goes on with a donor's weights and a configuration of its own."""

    donor: str
    config: Config


class Member:
    """What Ray's schedulers see of a trial: always paused, with a checkpoint."""

    status = Trial.PAUSED
    checkpoint = True
    experiment_tag = ""

    def __init__(self, trial_id: str, config: Config) -> None:
        self.trial_id = trial_id
        self.config = config
        self.playing = True
        self.evaluated_params: Config = {}
        self.temporary_state = SimpleNamespace(saving_to=None)
        manager = SimpleNamespace(checkpoint_config=SimpleNamespace(num_to_keep=None))
        self.run_metadata = SimpleNamespace(checkpoint_manager=manager)

    def is_finished(self) -> bool:
        return not self.playing

    def set_config(self, config: Config) -> None:
        """Take a configuration; the seed stays the member's own."""
        self.config = config | {"seed": self.config["seed"]}

    def set_experiment_tag(self, tag: str) -> None:
        """Show nothing: the record has the configuration."""

    def __str__(self) -> str:
        return self.trial_id


class Population:
    """The members of a study and the rounds that they played."""

    def __init__(self, study: Study) -> None:
        """Begin without members.

        References:
            pbt: Jaderberg et al., "Population Based Training of Neural Networks", 2017.
            pb2: Parker-Holder et al., "Provably Efficient Online Hyperparameter Optimization with
                Population-Based Bandits", NeurIPS 2020.
        """
        # They write every takeover to the console; the record has it.
        logging.getLogger("ray.tune.schedulers.pbt").setLevel(logging.WARNING)
        self._seed = study.search.seed
        self._metric = study.search.metric
        self._domains = mutable_domains(study)
        self._members: dict[str, Member] = {}
        self._donors: dict[str, str] = {}
        common = {
            "time_attr": "epoch",
            "metric": study.search.metric,
            "mode": study.search.mode,
            "perturbation_interval": study.scheduler.perturb_epochs,
            "custom_explore_fn": self._within,
            "synch": True,
            "log_config": False,
        }
        noting = _noting(PB2 if study.scheduler.type == "pb2" else PopulationBasedTraining)
        if study.scheduler.type == "pb2":
            bounds = {key: domain.corners() for key, domain in self._domains.items()}
            self._ray = noting(self._donors, hyperparam_bounds=bounds, **common)
        else:
            mutations = {key: _mutation(domain) for key, domain in self._domains.items()}
            self._ray = noting(self._donors, hyperparam_mutations=mutations, **common)

    def join(self, name: str, config: Config) -> None:
        """Add a member."""
        member = self._members[name] = Member(name, config)
        self._ray.on_trial_add(SimpleNamespace(search_alg=None), member)

    def play(self, epoch: int, scores: Mapping[str, float]) -> dict[str, Takeover]:
        """Play a round and return who takes over from whom.

        Args:
            epoch: at which all members of the round are.
            scores: their metrics at that epoch, by name; NaN for none.
        """
        for name, member in self._members.items():
            member.playing = name in scores
        playing = [self._members[name] for name in sorted(scores)]
        controller = SimpleNamespace(get_trials=lambda: playing, get_live_trials=lambda: playing)
        self._donors.clear()
        # Else Ray would not wait for the last one where a trainable counts epochs in large steps.
        self._ray._next_perturbation_sync = epoch
        with _seeded(f"{self._seed}/{epoch}"), warnings.catch_warnings():
            # PB2's Gaussian process says so whenever a few points leave its length scale open.
            warnings.simplefilter("ignore", ConvergenceWarning)
            for member in playing:
                result = {"epoch": epoch, self._metric: scores[member.trial_id]}
                self._ray.on_trial_result(controller, member, result)
        return {
            name: Takeover(donor, self._members[name].config)
            for name, donor in self._donors.items()
        }

    def take(self, name: str, config: Config) -> None:
        """Give a member the configuration that the record says it took."""
        self._members[name].set_config(config)

    def _within(self, config: Config) -> Config:
        """Return a configuration that Ray perturbed, moved into its domains."""
        moved = {key: _nearest(domain, config[key]) for key, domain in self._domains.items()}
        return config | moved


def mutable_domains(study: Study) -> dict[str, Domain]:
    """Return the domains of the parameters that a study mutates."""
    found: dict[str, Domain] = {}
    for key in study.scheduler.mutate:
        for way in ways(study.full_space()):
            if isinstance(entry := way.get(key), Domain):
                found[key] = entry
    return found


def _noting(kind: Any) -> Any:
    """Return Ray's class, made to note from whom a trial takes over."""

    class Noting(kind):
        def __init__(self, donors: dict[str, str], **options: Any) -> None:
            super().__init__(**options)
            self._donors = donors

        def _get_new_config(self, trial: Member, trial_to_clone: Member) -> Any:
            self._donors[trial.trial_id] = trial_to_clone.trial_id
            return super()._get_new_config(trial, trial_to_clone)

    return Noting


def _mutation(domain: Domain) -> Any:
    """Return a domain in the terms of Ray's PBT, in which a list moves to a neighbour."""
    match domain:
        case Choice(choice=values) | Ordinal(ordinal=values):
            return list(values)
        case QUniform(quniform=bounds) | QInt(qint=bounds):
            low, high, step = bounds
            return [low + n * step for n in range(int((high - low) / step + 1e-9) + 1)]
        case Uniform(uniform=bounds):
            return tune.uniform(*bounds)
        case LogUniform(loguniform=bounds):
            return tune.loguniform(*bounds)
        case Int(int_=bounds):
            return tune.randint(bounds[0], bounds[1] + 1)
        case LogInt(logint=bounds):
            return tune.lograndint(bounds[0], bounds[1] + 1)
    raise TypeError(f"{domain} cannot be mutated")


def _nearest(domain: Domain, value: Any) -> Any:
    match domain:
        case Uniform(uniform=bounds) | LogUniform(loguniform=bounds):
            return float(min(max(value, bounds[0]), bounds[1]))
        case Int(int_=bounds) | LogInt(logint=bounds):
            return int(min(max(value, bounds[0]), bounds[1]))
    return value


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Seed the global generators, from which Ray draws, and put them back afterwards."""
    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(random.getrandbits(32))  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)  # noqa: NPY002
