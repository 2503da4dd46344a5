"""Optuna's samplers, and configurations in Optuna's terms."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection

from tuning.space import Branch, Config, Domain, Space
from tuning.study import Study


def build_sampler(study: Study) -> BaseSampler:
    """Return the sampler that a study names, seeded.

    References:
        tpe: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011.
        cmaes: Hansen and Ostermeier, "Completely Derandomized Self-Adaptation in Evolution
            Strategies", Evolutionary Computation 2001; it draws categorical values at random.
        nsga2: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002.
    """
    seed, samplers = study.search.seed, optuna.samplers
    # What Optuna says once per trial of a sampler's limits, the reference says once.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    match study.search.sampler:
        case "tpe":
            return samplers.TPESampler(seed=seed)
        case "gp":
            return samplers.GPSampler(seed=seed)
        case "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "nsga2":
            # At least four generations, and Optuna's population where there are trials for it.
            return samplers.NSGAIISampler(
                population_size=max(2, min(50, (study.search.trials or 0) // 4)), seed=seed
            )
        case "qmc":
            return samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
        case "random":
            return samplers.RandomSampler(seed=seed)


def optuna_study(study: Study, sampler: BaseSampler) -> optuna.Study:
    """Return an Optuna study in memory, which says nothing on the console."""
    # Optuna announces every trial on the console; the progress table does that.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=sampler, directions=optuna_directions(study))


def optuna_directions(study: Study) -> list[StudyDirection]:
    """Return the directions of a study's objectives, the first one first."""
    return [
        StudyDirection.MAXIMIZE if mode == "max" else StudyDirection.MINIMIZE
        for mode in study.search.directions().values()
    ]


class Encoder:
    """A sampler that suggests what a given configuration holds, and notes it for Optuna.

    Attributes:
        params: suggested values by Optuna's names.
        distributions: of those names.
        values: the searched part of the configuration.
        config: the configuration, with the fixed values on its way through the branches.
    """

    def __init__(self, space: Space, values: Mapping[str, Any]) -> None:
        """Walk a space along a configuration, which may leave parameters open.

        Raises:
            ValueError: a value is outside of its domain.
        """
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self.values: Config = {}
        self.config: Config = {}
        self._walk(space, values, "")

    def _walk(self, space: Space, values: Mapping[str, Any], prefix: str) -> None:
        for name, entry in space.items():
            if not isinstance(entry, Domain):
                self.config[name] = entry
                continue
            if name not in values:
                continue
            if not entry.contains(values[name]):
                raise ValueError(f"{name}: got {values[name]!r}, outside of its domain")
            self.values[name] = self.config[name] = values[name]
            self._internal = entry.encode(values[name])
            entry.draw(prefix + name, self)
            if isinstance(entry, Branch):
                self._walk(entry.branch[values[name]], values, f"{prefix}{values[name]}/")

    def _note(self, name: str, distribution: BaseDistribution) -> Any:
        self.params[name] = self._internal
        self.distributions[name] = distribution
        return self._internal

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        return self._note(name, CategoricalDistribution(choices))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        return float(self._note(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return int(self._note(name, IntDistribution(low, high, log=log, step=step)))


def tuned(config: Config) -> tuple[tuple[str, Any], ...]:
    """Return a hashable form of a configuration, by which equal ones are known."""
    return tuple(sorted(config.items()))
