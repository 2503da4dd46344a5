"""The reference of the study file, made from the models that validate it.

`python -m tuning.reference > search_spaces/README.md` writes it anew.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from tuning.parameters import ResNetParameters, SVMParameters
from tuning.study import (
    Budget,
    Constraint,
    Dataset,
    Finalists,
    Limits,
    Objective,
    Resources,
    Scheduler,
    Search,
    Study,
)

INTRODUCTION = """\
# The study file

A study is one YAML file: what to search, on which data, how, and with which resources. This page
is made from the models that validate it (`python -m tuning.reference`), so it says what is true.
`tuning check FILE` validates a file, `tuning schema` prints its JSON Schema for editors, and
`--set a.b=c` overrides a key of any command. Unknown keys are errors.

## A space

`space` maps a parameter of the trainable to a value, or to a domain with one of these keys:

| domain | draws |
|---|---|
| `{grid: [a, b]}` | every value, with every combination of the others (grid search only) |
| `{choice: [a, b]}` | one of the values |
| `{ordinal: [a, b]}` | one of the values, in an order that means something |
| `{uniform: [lo, hi]}` | a real number |
| `{loguniform: [lo, hi]}` | a real number, uniform in its logarithm |
| `{quniform: [lo, hi, q]}` | `lo`, `lo + q`, ... up to `hi` |
| `{int: [lo, hi]}` | a whole number, both ends included |
| `{logint: [lo, hi]}` | a whole number, uniform in its logarithm |
| `{qint: [lo, hi, q]}` | a whole number among `lo`, `lo + q`, ... up to `hi` |
| `{branch: {a: {...}}}` | one of the values, each with parameters that exist only under it |

A branch over `trainable` compares ResNets with SVMs in one study:

```yaml
space:
  trainable:
    branch:
      resnet: {lr: {loguniform: [1e-3, 1e-1]}}
      svm: {C: {loguniform: [0.1, 100]}}
```

## A trainable of your own

`trainable: package.module:name` names a class or function of yours, from an installed package or
from the folder `code`. A class is made as `Class(parameters, data, seed, allotment)` and has three
methods: `step()` trains a while and returns metrics, with `done: True` at the end; `state()` and
`restore(state)` let a trial go on elsewhere (tensors and plain values). A pydantic model
`Parameters` inside the class declares its parameters; without one, any names are taken. A function
takes the same four arguments and yields a mapping of metrics for every epoch; a trial of it that
lost its process runs it again from the beginning, and passes over the epochs that are known. The
metrics become columns of `trials.csv`, and `search.metric` may name one. `epochs` among the
parameters tells schedulers how long a trial can be; `dataset: {name: none}` loads no images.
`examples/digits_mlp.py` is a whole class, `examples/digits_sgd.py` a whole function.

## Early stopping and known results

ASHA, median stopping, PBT and PB2 are rebuilt on resume from the record and decide as if nothing
had happened. Hyperband's brackets begin anew; the unfinished trials go on from their checkpoints in
them. An SVM with `rungs: 3` fits a ninth, a third and all of its training images, so that a
scheduler can stop hopeless `C` and `gamma` early. `search.points` and `search.warm_start` give an
Optuna search what is known; it is written into the study's own record, which a resume reads.

Under PBT and PB2 all trials train side by side. Every `perturb_epochs` they wait for each other;
then the worst quarter takes over weights from the best quarter and goes on with perturbed
parameters. The record holds each such round, `weights_from` in `trials.csv` names the donors, and a
trial's row has the parameters with which it ended and its best epoch since then. A class of your
own gets the donor's state by `adopt(state)`, or if it has none by `restore(state)`; what that holds
of the donor's parameters, such as an optimizer's learning rate, it has to set back to its own.

## Several objectives, constraints, finalists

```yaml
search:
  algorithm: optuna
  trials: 16
  objectives: [{metric: val_accuracy, mode: max}, {metric: train_seconds, mode: min}]
  constraints: [{metric: predict_seconds, max: 5}]
finalists: {count: 3, seeds: 3}
```

The Pareto front holds the completed trials within all bounds that no other one beats. One of them
is called best by a fixed rule: the first objective decides, of equal values the next. Under
`finalists`, the best configurations by that rule run again with new seeds, and the best mean of
these runs decides; the run that made a configuration a finalist does not count, since it was chosen
for being high. Test accuracies are then recorded for the finalists' runs only. What a trial's
`predict_seconds` times is the test split, so every trial predicts it; the others' predictions are
thrown away unseen.

`dataset` may be searched like a parameter (`dataset: {grid: [mnist, fashion_mnist]}`). The metric
that counts is always that of the validation split, at a trial's best epoch; the test split is read
once, at the end of a trial that was not stopped.
"""

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Top level", Study),
    ("`dataset`", Dataset),
    ("`search`", Search),
    ("Each of `search.objectives`", Objective),
    ("Each of `search.constraints`", Constraint),
    ("`finalists`", Finalists),
    ("`scheduler`", Scheduler),
    ("`resources`", Resources),
    ("`limits`", Limits),
    ("`budget`", Budget),
    ("Parameters of `trainable: resnet`", ResNetParameters),
    ("Parameters of `trainable: svm`", SVMParameters),
)


def study_reference() -> str:
    """Return the reference as Markdown."""
    parts = [INTRODUCTION]
    for title, model in SECTIONS:
        rows = "\n".join(_rows(model))
        parts.append(
            f"## {title}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}\n"
        )
    return "\n".join(parts)


def _rows(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        cells = (f"`{name}`", _type(field), _default(field), field.description or "")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(field: FieldInfo) -> str:
    return _name(field.annotation) + _bounds(field.metadata)


def _name(annotation: Any) -> str:
    """Return a type in the words of a user."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        return _name(inner) + _bounds(metadata)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_name(part) for part in get_args(annotation) if part is not type(None))
    if origin is list:
        return f"list of {_name(get_args(annotation)[0])}"
    if origin is dict:
        return "parameters"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    words = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return words[annotation]


def _bounds(metadata: list[Any]) -> str:
    """Return the limits of a number, such as ` > 0, < 1`."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = [
        f"{sign} {value}"
        for item in metadata
        for key, sign in signs.items()
        if (value := getattr(item, key, None)) is not None and value < 2**32
    ]
    return " " + ", ".join(found) if found else ""


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "empty" if field.default_factory in (dict, list) else "its defaults"
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return ""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return str(field.default)


if __name__ == "__main__":
    sys.stdout.write(study_reference())
