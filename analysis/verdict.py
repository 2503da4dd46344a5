"""What a finding is: a verdict, a sentence, and the numbers that it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Verdict(Enum):
    """What the data says of a statement."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    NOT_SUPPORTED = "not supported"
    NOISE = "within noise"
    NOTED = "noted"


@dataclass(frozen=True)
class Finding:
    """One sentence; `numbers` holds its figures under their names for programs to read."""

    verdict: Verdict
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)
