"""How a trial has ended, as a searcher is told, or why it cannot go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

#: A metric, or one value for each of several objectives.
Value = float | Sequence[float]
#: By how much a trial exceeds its bounds, by their names; see `tuning.record`.
Violations = Mapping[str, float]
NONE: Violations = MappingProxyType({})


class NonFiniteLoss(ArithmeticError):
    """The training loss became infinite or not a number."""


class Outcome(NamedTuple):
    """How a trial has ended.

    Attributes:
        value: its metric or metrics at its best epoch; None if it failed.
        violations: of its bounds.
        stopped: whether a scheduler ended it before its last epoch.
    """

    value: Value | None
    violations: Violations = NONE
    stopped: bool = False
