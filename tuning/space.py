"""The search space: domains, branches, and the configurations in them.

A space maps a parameter to a value (fixed) or to a domain, which is a mapping with one key:

    {grid: [a, b]}            every value; under the grid search
    {choice: [a, b]}          one of the values
    {ordinal: [a, b]}         one of the values, in an order that means something
    {uniform: [lo, hi]}       a real number
    {loguniform: [lo, hi]}    a real number, uniform in its logarithm
    {quniform: [lo, hi, q]}   lo, lo + q, ... up to hi
    {int: [lo, hi]}           a whole number, both ends included
    {logint: [lo, hi]}        a whole number, uniform in its logarithm
    {qint: [lo, hi, q]}       lo, lo + q, ... up to hi, whole numbers
    {branch: {a: {...}}}      one of the values, each with a space of its own
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

Value = str | int | float | bool | None
Config = dict[str, Any]


class Sampler(Protocol):
    """Draws one value of a domain by name; `optuna.Trial` is one."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """Draw one of the choices."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Draw a real number."""

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        """Draw a whole number."""


def _all_different(values: list[Any]) -> list[Any]:
    seen = set()
    for value in values:
        if (type(value), value) in seen:
            raise PydanticCustomError("domain", "names {value} twice", {"value": repr(value)})
        seen.add((type(value), value))
    return values


def _within(bounds: list[Any], value: Any, kinds: tuple[type, ...]) -> bool:
    """Return whether a value lies in `low, high` or `low, high, step`."""
    low, high, *step = bounds
    if type(value) not in kinds or not low <= value <= high:
        return False
    return not step or abs((value - low) / step[0] - round((value - low) / step[0])) < 1e-9


def _ascending(bounds: list[Any]) -> list[Any]:
    low, high = bounds[:2]
    if not low < high:
        raise PydanticCustomError(
            "domain", "must go from low to high, but got {bounds}", {"bounds": str(bounds)}
        )
    return bounds


def _above_zero(bounds: list[Any]) -> list[Any]:
    if bounds[0] <= 0:
        raise PydanticCustomError(
            "domain", "must start above 0, but got {bounds}", {"bounds": str(bounds)}
        )
    return bounds


def _stepped(bounds: list[Any]) -> list[Any]:
    low, high, step = bounds
    if not 0 < step <= high - low:
        raise PydanticCustomError(
            "domain", "needs a step above 0 that fits in, but got {bounds}", {"bounds": str(bounds)}
        )
    return bounds


Finite = Annotated[float, Field(allow_inf_nan=False)]
Pair = Field(min_length=2, max_length=2)
Triple = Field(min_length=3, max_length=3)
Values = Annotated[list[Value], Field(min_length=1), AfterValidator(_all_different)]
Floats = Annotated[list[Finite], Pair, AfterValidator(_ascending)]
Ints = Annotated[list[int], Pair, AfterValidator(_ascending)]


class Domain(BaseModel):
    """A set of values that one parameter can take."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def corners(self) -> list[Any]:
        """Return the values that must be legal for the whole domain to be so."""
        raise NotImplementedError

    def draw(self, name: str, sampler: Sampler) -> Any:
        """Draw one value."""
        raise NotImplementedError

    def contains(self, value: Any) -> bool:
        """Return whether the domain has a value."""
        return any(type(value) is type(v) and value == v for v in self.corners())

    def encode(self, value: Any) -> Any:
        """Return what the sampler must suggest for `draw` to return a value."""
        return value


class Grid(Domain):
    """Every one of the values, with every combination of the other grids."""

    grid: Values

    def corners(self) -> list[Any]:
        return self.grid

    def draw(self, name: str, sampler: Sampler) -> Any:
        return sampler.suggest_categorical(name, self.grid)


class Choice(Domain):
    """One of the values."""

    choice: Values

    def corners(self) -> list[Any]:
        return self.choice

    def draw(self, name: str, sampler: Sampler) -> Any:
        return sampler.suggest_categorical(name, self.choice)


class Ordinal(Domain):
    """One of the values, neighbours in the list being alike: sizes, or rates a step apart."""

    ordinal: Values

    def corners(self) -> list[Any]:
        return self.ordinal

    def draw(self, name: str, sampler: Sampler) -> Any:
        return self.ordinal[sampler.suggest_int(name, 0, len(self.ordinal) - 1)]

    def encode(self, value: Any) -> Any:
        return self.ordinal.index(value)


class Uniform(Domain):
    """A real number in `[low, high]`."""

    uniform: Floats

    def corners(self) -> list[Any]:
        return self.uniform

    def contains(self, value: Any) -> bool:
        return _within(self.uniform, value, (int, float))

    def draw(self, name: str, sampler: Sampler) -> Any:
        return sampler.suggest_float(name, *self.uniform)


class LogUniform(Domain):
    """A real number in `[low, high]`, uniform in its logarithm."""

    loguniform: Annotated[Floats, AfterValidator(_above_zero)]

    def corners(self) -> list[Any]:
        return self.loguniform

    def contains(self, value: Any) -> bool:
        return _within(self.loguniform, value, (int, float))

    def draw(self, name: str, sampler: Sampler) -> Any:
        return sampler.suggest_float(name, *self.loguniform, log=True)


class QUniform(Domain):
    """A real number among `low, low + step, ...` up to `high`."""

    quniform: Annotated[list[Finite], Triple, AfterValidator(_ascending), AfterValidator(_stepped)]

    def corners(self) -> list[Any]:
        return self.quniform[:2]

    def contains(self, value: Any) -> bool:
        return _within(self.quniform, value, (int, float))

    def draw(self, name: str, sampler: Sampler) -> Any:
        low, high, step = self.quniform
        return sampler.suggest_float(name, low, high, step=step)


class Int(Domain):
    """A whole number from `low` to `high`, both included."""

    int_: Annotated[Ints, Field(alias="int")]

    def corners(self) -> list[Any]:
        return self.int_

    def contains(self, value: Any) -> bool:
        return _within(self.int_, value, (int,))

    def draw(self, name: str, sampler: Sampler) -> Any:
        return sampler.suggest_int(name, *self.int_)


class LogInt(Domain):
    """A whole number from `low` to `high`, uniform in its logarithm."""

    logint: Annotated[Ints, AfterValidator(_above_zero)]

    def corners(self) -> list[Any]:
        return self.logint

    def contains(self, value: Any) -> bool:
        return _within(self.logint, value, (int,))

    def draw(self, name: str, sampler: Sampler) -> Any:
        return sampler.suggest_int(name, *self.logint, log=True)


class QInt(Domain):
    """A whole number among `low, low + step, ...` up to `high`."""

    qint: Annotated[list[int], Triple, AfterValidator(_ascending), AfterValidator(_stepped)]

    def corners(self) -> list[Any]:
        return self.qint[:2]

    def contains(self, value: Any) -> bool:
        return _within(self.qint, value, (int,))

    def draw(self, name: str, sampler: Sampler) -> Any:
        low, high, step = self.qint
        return sampler.suggest_int(name, low, high, step=step)


class Branch(Domain):
    """One of the named values, each with parameters that exist only under it."""

    branch: Annotated[dict[str, dict[str, Entry]], Field(min_length=1)]

    def corners(self) -> list[Any]:
        return list(self.branch)

    def draw(self, name: str, sampler: Sampler) -> Any:
        return sampler.suggest_categorical(name, list(self.branch))


DOMAINS: tuple[type[Domain], ...] = (
    Grid, Choice, Ordinal, Uniform, LogUniform, QUniform, Int, LogInt, QInt, Branch,
)  # fmt: skip
KEYS = tuple(field.alias or name for d in DOMAINS for name, field in d.model_fields.items())


def _kind(entry: Any) -> str | None:
    """Return the tag of an entry: its one key, or `value` for a fixed value."""
    if isinstance(entry, Domain):
        return type(entry).__name__.lower()
    if isinstance(entry, Mapping):
        return str(next(iter(entry))) if len(entry) == 1 else None
    return "value" if entry is None or isinstance(entry, str | int | float) else None


Entry = Annotated[
    Annotated[Grid, Tag("grid")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[Ordinal, Tag("ordinal")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[QUniform, Tag("quniform")]
    | Annotated[Int, Tag("int")]
    | Annotated[LogInt, Tag("logint")]
    | Annotated[QInt, Tag("qint")]
    | Annotated[Branch, Tag("branch")]
    | Annotated[Value, Tag("value")],
    Discriminator(
        _kind,
        custom_error_type="domain",
        custom_error_message="must be a value, or a mapping with exactly one of the keys "
        + ", ".join(KEYS),
    ),
]
Space = dict[str, Entry]
Branch.model_rebuild()


def is_drawn(space: Space) -> bool:
    """Return whether a space has values to draw, and not only grids to go through."""
    return any(
        any(map(is_drawn, entry.branch.values()))
        if isinstance(entry, Branch)
        else isinstance(entry, Domain) and not isinstance(entry, Grid)
        for entry in space.values()
    )


def size(space: Space) -> int:
    """Return how many configurations `expand` yields, without making them."""
    return math.prod(
        len(entry.grid)
        if isinstance(entry, Grid)
        else sum(map(size, entry.branch.values()))
        if isinstance(entry, Branch)
        else 1
        for entry in space.values()
    )


def count_ways(space: Space) -> int:
    """Return how many spaces `ways` yields, without making them."""
    branches = (entry for entry in space.values() if isinstance(entry, Branch))
    return math.prod(sum(map(count_ways, entry.branch.values())) for entry in branches)


def expand(space: Space) -> Iterator[Config]:
    """Yield the full product of all grids, of every branch; the last parameter varies fastest."""
    parts = [list(_alternatives(name, entry)) for name, entry in space.items()]
    for combination in itertools.product(*parts):
        yield {key: value for part in combination for key, value in part.items()}


def _alternatives(name: str, entry: Entry) -> Iterator[Config]:
    match entry:
        case Grid(grid=values):
            for value in values:
                yield {name: value}
        case Branch(branch=branches):
            for value, inner in branches.items():
                for config in expand(inner):
                    yield {name: value, **config}
        case Domain():
            raise TypeError(f"{name} is drawn, it cannot be enumerated")
        case _:
            yield {name: entry}


def draw(space: Space, sampler: Sampler, prefix: str = "") -> Config:
    """Draw one configuration, asking the sampler only for parameters of the branches taken.

    A parameter inside a branch is asked for under `branch value/name`, so that equal names in
    different branches may have different domains.
    """
    config: Config = {}
    for name, entry in space.items():
        if not isinstance(entry, Domain):
            config[name] = entry
            continue
        config[name] = entry.draw(prefix + name, sampler)
        if isinstance(entry, Branch):
            inner = entry.branch[config[name]]
            config |= draw(inner, sampler, f"{prefix}{config[name]}/")
    return config


def ways(space: Space) -> Iterator[Space]:
    """Yield one flat space for every way through the branches, a branch's choice as a value."""
    parts = [list(_ways(name, entry)) for name, entry in space.items()]
    for combination in itertools.product(*parts):
        yield {key: entry for part in combination for key, entry in part.items()}


def _ways(name: str, entry: Entry) -> Iterator[Space]:
    if not isinstance(entry, Branch):
        yield {name: entry}
        return
    for value, inner in entry.branch.items():
        for way in ways(inner):
            yield {name: value, **way}
