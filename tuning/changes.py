"""What may not change between two sessions of a study, and the names of what did.

Each session writes the study, the package versions and the data's checksums into the record. A
resumed study that differs in what its results depend on would mix two studies in one table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Keys on which no result depends: they may change from one session to the next.
FREE = (
    "study.budget",
    "study.limits",
    "study.resources",
    "study.retries",
    "study.reuse_actors",
    "study.search.max_concurrent",
    "study.dataset.folder",
    "study.dataset.path",
)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each key that changed, such as `study.space.lr...: was 1, is 2`.

    Args:
        before: `study`, `packages` and `data` of the last session; what it lacks is not compared.
        now: the same of this session.
    """
    found = []
    for part in ("study", "packages", "data"):
        if part not in before:
            continue
        old, new = dict(_leaves(before[part], part)), dict(_leaves(now[part], part))
        for key in dict.fromkeys([*old, *new]):
            was, is_now = old.get(key), new.get(key)
            if was != is_now and not _may_change(key, was, is_now):
                found.append(f"{key}: was {_shown(was)}, is {_shown(is_now)}")
    return found


def _may_change(key: str, was: Any, is_now: Any) -> bool:
    if key == "study.search.trials" and None not in (was, is_now):
        return bool(is_now > was)
    return any(key == free or key.startswith(free + ".") for free in FREE)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    else:
        yield key, value


def _shown(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
