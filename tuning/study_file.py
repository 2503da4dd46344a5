"""Study files: reading, validating and describing them.

Every error of a file is reported at once, one line each, with the file, the key, what came and
what is allowed. Nothing here imports Ray or torch.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tuning.study import (
    Problem,
    Study,
    did_you_mean,
    problems,
    with_default_algorithm,
    with_default_scheduler,
)

#: PyYAML reads 20 KB in a second; the study files that come with the project have 2 KB.
MAX_BYTES = 1 << 15
MAX_LINES = 20
MAX_DEPTH = 24
MAX_DIGITS = 30
MAX_LINE = 600
MAX_ROUNDS = 6
#: Tags that pydantic puts into the location of an error inside a union; no keys of the user's.
_NOT_KEYS = {"value", "str", "int", "float", "bool", "int_"}


class StudyError(ValueError):
    """A study file is wrong; `lines` says in one line each what and where."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = list(lines)


class _Loader(yaml.SafeLoader):
    """The safe loader, without aliases, repeated keys and deep nesting; `1e-3` is a number."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = self.peek_event().start_mark
            text = f"more than {MAX_DEPTH} levels are not allowed"
            raise yaml.MarkedYAMLError(problem=text, problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = key_node.value
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem="a key must be a word", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _short_int(loader: _Loader, node: yaml.ScalarNode) -> Any:
    """Read a whole number; one of thousands of digits could not even be printed."""
    if len(node.value) > MAX_DIGITS:
        raise yaml.MarkedYAMLError(
            problem=f"a number of more than {MAX_DIGITS} digits", problem_mark=node.start_mark
        )
    return loader.construct_yaml_int(node)


_Loader.add_constructor("tag:yaml.org,2002:int", _short_int)
# YAML 1.1, which PyYAML reads, takes 1e-3 for text; YAML 1.2 and every user take it for a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and validate a study file.

    Args:
        path: the YAML file.
        overrides: `a.b=c` settings that replace or add keys; `c` is read as YAML.

    Raises:
        StudyError: with all that is wrong.
    """
    raw = _read(path)
    for override in overrides:
        _override(raw, override)
    return validate(raw, str(path))


def validate(raw: Mapping[str, Any], source: str) -> Study:
    """Return the study that a mapping describes.

    Args:
        raw: the mapping.
        source: the name of the file, for the errors.

    Raises:
        StudyError: with all that is wrong.
    """
    found: list[Problem] = []
    left_out: set[str] = set()
    # What is wrong is left out and the rest is looked at again, so that mistakes of form do not
    # hide those of meaning.
    for _ in range(MAX_ROUNDS):
        study, wrong = _examine(raw, left_out)
        found += [problem for problem in wrong if not _follows(problem, left_out)]
        if study is not None or not wrong or len(found) > MAX_LINES:
            break
        left_out |= {key for problem in wrong for key in _meant(problem)}
        raw = _without(raw, [problem.key for problem in wrong])
    if study is not None and not found:
        return study
    lines = [_plain(f"{source}: {p.key}: {p.message}") for p in dict.fromkeys(found)]
    more = [f"{source}: and more"] if len(lines) > MAX_LINES else []
    raise StudyError(lines[:MAX_LINES] + more)


def _examine(
    raw: Mapping[str, Any], left_out: Collection[str]
) -> tuple[Study | None, list[Problem]]:
    """Return the study, or what keeps it from being one: mistakes of form, or else of meaning."""
    try:
        written = Study.model_validate(raw)
    except ValidationError as error:
        # Looking for the nearest known key takes a while, for thousands of wrong ones too long.
        return None, list(islice(_explain(error), MAX_LINES + 1))
    study = with_default_algorithm(written)
    found = problems(study, lambda problem: _follows(problem, left_out))
    if found:
        return None, found
    complete = with_default_scheduler(study, written)
    return (study if complete != study and problems(complete) else complete), []


def _meant(problem: Problem) -> Iterable[str]:
    """Yield the key of a problem, and the one that the user may have meant by it."""
    yield problem.key
    if hint := re.search(r"did you mean (\w+)\?", problem.message):
        yield ".".join([*problem.key.split(".")[:-1], hint[1]])


def _follows(problem: Problem, left_out: Iterable[str]) -> bool:
    """Tell whether a problem may be there only because of what was left out."""
    return any(
        f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.") or b.endswith(f".{a}")
        for a in (problem.key, *problem.needs)
        for b in left_out
    )


def _without(raw: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return a study file's contents without some keys; a name, which it must have, is made up."""
    rest = copy.deepcopy(dict(raw))
    for key in keys:
        section, _, inner = key.partition(".")
        if section == "name":
            rest["name"] = "nameless"
        elif not _drop(rest, key.split(".")) and section == "space":
            # A parameter of a branch goes by its own name.
            _drop_everywhere(rest.get("space"), inner)
    return rest


def _drop(node: dict[str, Any], parts: Sequence[str]) -> bool:
    """Remove what a path leads to, or the last mapping's key on its way there."""
    first, *others = parts
    if first not in node:
        return False
    if not (others and isinstance(node[first], dict) and _drop(node[first], others)):
        if others and isinstance(node[first], dict):
            return False
        del node[first]
    return True


def _drop_everywhere(node: Any, name: str) -> None:
    if isinstance(node, dict):
        node.pop(name, None)
        for inner in node.values():
            _drop_everywhere(inner, name)


def _plain(line: str) -> str:
    """Return a line as printable text of moderate length, whatever a file put into it."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line[:MAX_LINE])
    return text if len(line) <= MAX_LINE else text + "..."


def dump(study: Study) -> str:
    """Return a study as YAML that `load` reads back equal, with all defaults filled in."""
    return yaml.safe_dump(
        study.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of study files, for completion in editors."""
    return Study.model_json_schema(by_alias=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StudyError([f"{path}: there is no such file"]) from None
    except IsADirectoryError:
        raise StudyError([f"{path}: is a folder; name a study file (.yaml)"]) from None
    except OSError as error:
        raise StudyError([f"{path}: cannot be read ({error.strerror})"]) from None
    if len(data) > MAX_BYTES:
        raise StudyError([f"{path}: has {len(data)} bytes; at most {MAX_BYTES} are allowed"])
    raw = _parse(data, str(path))
    if raw is None:
        raise StudyError([f"{path}: is empty; it needs at least `name`, `trainable` and `space`"])
    if not isinstance(raw, dict):
        raise StudyError([f"{path}: must hold `key: value` lines, but holds {_kind(raw)}"])
    return raw


def _parse(data: bytes | str, source: str) -> Any:
    try:
        return yaml.load(data, Loader=_Loader)
    except yaml.constructor.ConstructorError as error:
        text = str(error.problem)
        if text.startswith("could not determine a constructor"):
            tag = text.rpartition(" ")[2].strip("'").replace("tag:yaml.org,2002:", "!!")
            text = f"the tag {tag} is not allowed; write plain values"
        raise StudyError([_plain(f"{source}: {_where(error)}{text}")]) from None
    except yaml.MarkedYAMLError as error:
        text = f"{source}: {_where(error)}is not YAML: {error.problem}"
        raise StudyError([_plain(text)]) from None
    except (yaml.YAMLError, ValueError, AttributeError, TypeError) as error:
        # PyYAML's own constructors stumble over malformed values of explicit tags.
        reason = str(error).splitlines()[0]
        raise StudyError([_plain(f"{source}: is not YAML: {reason}")]) from None


def _where(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""


def _override(raw: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise StudyError([f"--set {setting}: write KEY=VALUE, for example search.trials=8"])
    value = _parse(text, f"--set {setting}")
    target = raw
    for part in parts[:-1]:
        if not isinstance(target.setdefault(part, {}), dict):
            raise StudyError([f"--set {setting}: {part} is not a section"])
        target = target[part]
    target[parts[-1]] = value


def _kind(value: Any) -> str:
    kinds = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    kinds |= {list: "a list", dict: "a mapping", type(None): "nothing"}
    return kinds.get(type(value), type(value).__name__)


def _explain(error: ValidationError) -> Iterable[Problem]:
    """Turn pydantic's errors into lines about the user's keys."""
    for item in error.errors():
        location = [str(part) for part in item["loc"]]
        key = ".".join(_user_keys(item["loc"]))
        value = item["input"]
        if item["type"] == "extra_forbidden":
            known = _known_keys(location[:-1])
            hint = did_you_mean(location[-1], known)
            yield Problem(key, "is no known key" + (hint or f"; allowed: {', '.join(known)}"))
        elif item["type"] == "missing":
            yield Problem(key, "is missing")
        elif item["type"] == "domain":
            yield Problem(key, item["msg"])
        elif item["type"] == "string_pattern_mismatch":
            yield Problem(
                key,
                f"got {_shown(value)}; allowed: up to 64 letters, digits, `_`, `.` and `-`, "
                "beginning with a letter or digit",
            )
        elif item["type"] == "literal_error":
            expected = str(item["ctx"]["expected"]).replace("'", "")
            words = expected.replace(" or ", ", ").split(", ")
            hint = did_you_mean(str(value), words)
            yield Problem(key, f"got {_shown(value)}; allowed: {expected}{hint}")
        else:
            rule = item["msg"].removeprefix("Input should be ").replace("dictionary", "mapping")
            rule = rule.partition(" or instance of ")[0]
            yield Problem(key, f"got {_shown(value)} ({_kind(value)}); allowed: {rule}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _user_keys(location: Sequence[str | int]) -> Iterable[str]:
    """Drop pydantic's union tags and field aliases from a location."""
    previous: str | int | None = None
    for part in location:
        tag = isinstance(part, str) and (part in _NOT_KEYS and previous is not None)
        if not tag and part != previous:
            yield str(part)
        previous = part


def _known_keys(location: Sequence[str]) -> list[str]:
    """Return the keys that the section at a location has."""
    model: type[BaseModel] = Study
    for part in (part for part in location if not part.isdigit()):
        field = model.model_fields.get(part)
        inner = _section(field) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a field is, or is a list of, or may be left out."""
    found = (field.annotation, *get_args(field.annotation))
    return next((t for t in found if isinstance(t, type) and issubclass(t, BaseModel)), None)
