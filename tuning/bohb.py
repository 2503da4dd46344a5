"""BOHB: which configuration to try next, by densities of what did well after so many epochs."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from ConfigSpace import ConfigurationSpace
from ConfigSpace.conditions import EqualsCondition
from ConfigSpace.hyperparameters import (
    CategoricalHyperparameter,
    Hyperparameter,
    UniformFloatHyperparameter,
    UniformIntegerHyperparameter,
)
from hpbandster.core.dispatcher import Job
from hpbandster.optimizers.config_generators.bohb import BOHB
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FixedTrial

from tuning.outcome import Outcome
from tuning.samplers import Encoder, optuna_study, tuned
from tuning.space import Branch, Config, Domain, Sampler, Space, draw
from tuning.study import Study, config_epochs


class Bohb:
    """Configurations that BOHB's model proposes.

    A budget is the share of its own epochs that a trial has trained: networks of ten epochs and
    SVMs that report once are then compared at their ends. The model is that of the largest budget
    with enough results, two more than twice the parameters; until then, and each third time after,
    a configuration is drawn at random. As under Optuna's samplers, one that was tried already is
    passed over `PATIENCE` times.

    References:
        Falkner, Klein, Hutter, "BOHB: Robust and Efficient Hyperparameter Optimization at Scale",
        ICML 2018; the model is the authors' own, from their package hpbandster.
    """

    PATIENCE = 20

    def __init__(self, study: Study) -> None:
        self._study = study
        self._space = study.full_space()
        seed = study.search.seed
        self._draws = optuna_study(study, optuna.samplers.RandomSampler(seed=seed))
        self._points = [Encoder(self._space, p.values).params for p in study.search.points]
        described, noted = ConfigurationSpace(seed=seed), self._draws.ask()
        _describe(self._space, described, noted)
        self._distributions = dict(noted.distributions)
        self._model = BOHB(described, logger=_quiet_logger())
        self._randomness = np.random.RandomState(seed).get_state()
        self._tried: set[Any] = set()
        self._configs: dict[str, Config] = {}
        self._losses: dict[str, dict[float, float]] = {}

    def ask(self, trial: str) -> Config | None:
        if len(self._configs) == self._study.search.trials:
            return None
        config = self._propose()
        self.adopt(trial, config)
        return config

    def adopt(self, trial: str, config: Config) -> None:
        self._configs[trial], self._losses[trial] = config, {}
        self._tried.add(tuned(config))

    def report(self, trial: str, epoch: float, value: float) -> None:
        """Learn a trial's metric after an epoch: the best one so far, which counts at its end."""
        losses = self._losses[trial]
        budget = epoch / config_epochs(self._configs[trial])
        if budget not in losses:
            loss = -value if self._study.search.mode == "max" else value
            losses[budget] = min([loss, *losses.values()])
            self._learn(trial, budget, losses[budget])

    def tell(self, trial: str, outcome: Outcome) -> None:
        """Count a failed trial as the worst one wherever others have got and it has not."""
        if outcome.value is None:
            reached = {budget for losses in self._losses.values() for budget in losses}
            for budget in sorted(reached - set(self._losses[trial])):
                self._learn(trial, budget, math.inf)

    def learn(self, values: Config, value: Any, violations: Any = None) -> None:
        """Learn nothing: a study whose results come from elsewhere, without budget, is refused."""

    def _learn(self, trial: str, budget: float, loss: float) -> None:
        try:
            params = Encoder(self._space, self._configs[trial]).params
            draw(self._space, FixedTrial(params))
        except ValueError:
            return  # The study has changed, and its space has this configuration no longer.
        drawn = ((n, d) for n, d in self._distributions.items() if n in params and not d.single())
        numbers = {name: _number(distribution, params[name]) for name, distribution in drawn}
        job = Job((trial,), config=numbers, budget=budget)
        job.result = {"loss": loss}
        if numbers:
            with self._own_randomness():
                self._model.new_result(job)

    def _propose(self) -> Config:
        while self._points:
            if self._is_new(config := self._draw(self._points.pop(0))):
                return config
        for source in (self._ask_model, self._draw):
            for _ in range(self.PATIENCE):
                if self._is_new(config := source()):
                    return config
        return config

    def _is_new(self, config: Config) -> bool:
        return not self._study.search.distinct or tuned(config) not in self._tried

    def _draw(self, given: Config | None = None) -> Config:
        """Return a random configuration, but for the parameters that are given."""
        if given:
            self._draws.enqueue_trial(given)
        return self._complete(self._draws.ask())

    def _ask_model(self) -> Config:
        with self._own_randomness():
            numbers, _ = self._model.get_config(None)
        known = self._distributions.items()
        params = {name: _value(distribution, numbers.get(name, 0)) for name, distribution in known}
        return self._complete(FixedTrial(params))

    def _complete(self, sampler: Sampler) -> Config:
        config = draw(self._space, sampler)
        return self._study.complete(config) | {"seed": self._study.search.seed}

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Let hpbandster draw from a state of the study's own in place of numpy's global one."""
        outside = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._randomness)  # noqa: NPY002
        try:
            # A density of few points has empty categories and divides by zero; it allows for that.
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                yield
        finally:
            self._randomness = np.random.get_state()  # noqa: NPY002
            np.random.set_state(outside)  # noqa: NPY002


def _quiet_logger() -> logging.Logger:
    """Return a logger for hpbandster, which warns of each candidate that it gives up."""
    logger = logging.getLogger("hpbandster")
    logger.setLevel(logging.ERROR)
    return logger


def _describe(
    space: Space,
    described: ConfigurationSpace,
    noted: optuna.Trial,
    prefix: str = "",
    condition: tuple[Hyperparameter, int] | None = None,
) -> None:
    """Describe a space to ConfigSpace, without the parameters that have one value only.

    Args:
        space: to describe.
        described: takes the parameters, by Optuna's names.
        noted: takes the distributions of all parameters.
        prefix: of the names.
        condition: the parameter and its number under which this space exists.
    """
    for key, entry in space.items():
        if not isinstance(entry, Domain):
            continue
        name = prefix + key
        entry.draw(name, noted)
        distribution = noted.distributions[name]
        parameter = None if distribution.single() else _parameter(name, distribution)
        if parameter is not None:
            described.add(parameter)
            if condition is not None:
                described.add(EqualsCondition(parameter, *condition))
        if isinstance(entry, Branch):
            for number, (value, inner) in enumerate(entry.branch.items()):
                below = condition if parameter is None else (parameter, number)
                _describe(inner, described, noted, f"{prefix}{value}/", below)


def _parameter(name: str, distribution: BaseDistribution) -> Hyperparameter:
    """Return a parameter of ConfigSpace, whose values are the numbers of `_number`.

    They are plain ones: ConfigSpace turns names into numpy's strings and rounds small values.
    """
    match distribution:
        case CategoricalDistribution(choices=choices):
            return CategoricalHyperparameter(name, range(len(choices)))
        case IntDistribution(log=True):
            return UniformIntegerHyperparameter(name, distribution.low, distribution.high, log=True)
        case IntDistribution() | FloatDistribution(step=float()):
            last = _number(distribution, distribution.high)
            return UniformIntegerHyperparameter(name, 0, last)
        case _:
            return UniformFloatHyperparameter(name, 0, 1)


def _number(distribution: BaseDistribution, value: Any) -> float:
    """Return the number of a value: its place, a whole number, or where in its range it lies."""
    match distribution:
        case CategoricalDistribution():
            return int(distribution.to_internal_repr(value))
        case IntDistribution(log=True):
            return int(value)
        case IntDistribution(low=low, step=step) | FloatDistribution(low=low, step=float(step)):
            return round(float(value - low) / step)
        case FloatDistribution(low=low, high=high, log=True):
            return float(math.log(value / low) / math.log(high / low))
        case FloatDistribution(low=low, high=high):
            return float((value - low) / (high - low))
        case _:
            raise TypeError(f"{distribution} is none of Optuna's distributions")


def _value(distribution: BaseDistribution, number: Any) -> Any:
    """Return the value of a number of `_number`; 0 stands for a parameter with one value only."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return choices[int(number)]
        case IntDistribution(log=True):
            return int(number)
        case IntDistribution(low=low, step=step) | FloatDistribution(low=low, step=float(step)):
            return low + int(number) * step
        case FloatDistribution(low=low, high=high, log=True):
            return min(max(low * (high / low) ** float(number), low), high)
        case FloatDistribution(low=low, high=high):
            return min(max(low + float(number) * (high - low), low), high)
        case _:
            raise TypeError(f"{distribution} is none of Optuna's distributions")
