from __future__ import annotations

from types import SimpleNamespace

import pytest

from tuning.parameters import TrainableError
from tuning.trial import FunctionTraining


def climb(parameters, data, seed, allotment):
    for height in range(1, 4):
        yield {"height": height * parameters.pace}


def build(function, **parameters):
    return FunctionTraining(function, SimpleNamespace(**parameters), None, 0, None)


def steps(training, count):
    return [training.step() for _ in range(count)]


def test_a_function_ends_with_its_epochs_or_when_it_returns():
    told = steps(build(climb, pace=2, epochs=2), 2)
    assert told == [
        {"epoch": 1, "height": 2, "done": False},
        {"epoch": 2, "height": 4, "done": True},
    ]
    untold = steps(build(climb, pace=2), 4)
    assert untold[-1] == untold[-2] | {"done": True}
    assert untold[-1]["epoch"] == 3


def test_a_function_goes_on_in_another_process_where_it_was():
    whole = steps(build(climb, pace=2, epochs=3), 3)
    first, second = build(climb, pace=2, epochs=3), build(climb, pace=2, epochs=3)
    begun = steps(first, 2)
    second.restore(first.state())
    assert begun + steps(second, 1) == whole


def test_a_function_may_return_metrics_once_but_nothing_else():
    once = steps(build(lambda *_: {"height": 1.0}), 2)
    assert once[-1] == {"epoch": 1, "height": 1.0, "done": True}
    with pytest.raises(TrainableError, match="must yield mappings of metrics, but gave 3"):
        build(lambda *_: iter([3])).step()
