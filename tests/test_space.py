from __future__ import annotations

import pytest

from tuning.space import draw
from tuning.study_file import validate

BRANCHED = {
    "name": "both",
    "dataset": {"name": "digits"},
    "space": {
        "trainable": {
            "branch": {
                "resnet": {"model": {"grid": ["resnet18", "resnet34"]}, "lr": {"grid": [0.1, 0.2]}},
                "svm": {
                    "kernel": {
                        "branch": {"rbf": {"gamma": 0.1}, "poly": {"degree": {"grid": [2, 3]}}}
                    }
                },
            }
        }
    },
    "fixed": {"epochs": 2, "train_size": 100},
}


def test_grid_expands_the_full_product_of_every_branch():
    from tuning.searchers import listed_configs

    study = validate(BRANCHED, "f")
    configs = list(listed_configs(study))
    resnets = [c for c in configs if c["trainable"] == "resnet"]
    svms = [c for c in configs if c["trainable"] == "svm"]
    assert [(c["model"], c["lr"]) for c in resnets] == [
        ("resnet18", 0.1), ("resnet18", 0.2), ("resnet34", 0.1), ("resnet34", 0.2),
    ]  # fmt: skip
    assert [(c["kernel"], c["gamma"], c["degree"]) for c in svms] == [
        ("rbf", 0.1, 3), ("poly", "scale", 2), ("poly", "scale", 3),
    ]  # fmt: skip


def test_fixed_parameters_reach_the_branches_that_know_them():
    from tuning.searchers import listed_configs

    configs = list(listed_configs(validate(BRANCHED, "f")))
    assert all(c["train_size"] == 100 for c in configs)
    assert all(("epochs" in c) == (c["trainable"] == "resnet") for c in configs)


class Lowest:
    """A sampler that notes what it was asked for and always takes the lowest value."""

    def __init__(self):
        self.asked = {}

    def suggest_categorical(self, name, choices):
        self.asked[name] = choices
        return choices[0]

    def suggest_float(self, name, low, high, *, step=None, log=False):
        self.asked[name] = (low, high, step, log)
        return low

    def suggest_int(self, name, low, high, *, step=1, log=False):
        self.asked[name] = (low, high, step, log)
        return low


def test_domains_are_drawn_as_written():
    study = validate(
        {
            "name": "a",
            "dataset": {"name": "digits"},
            "trainable": "resnet",
            "space": {
                "lr": {"loguniform": [0.001, 1]},
                "momentum": {"uniform": [0.5, 0.9]},
                "label_smoothing": {"quniform": [0, 0.2, 0.1]},
                "epochs": {"int": [1, 3]},
                "batch_size": {"qint": [16, 64, 16]},
                "train_size": {"logint": [100, 1000]},
                "optimizer": {"choice": ["sgd", "adam"]},
            },
            "search": {"algorithm": "random", "trials": 1},
        },
        "f",
    )
    sampler = Lowest()
    assert draw(study.full_space(), sampler)["optimizer"] == "sgd"
    assert sampler.asked == {
        "lr": (0.001, 1, None, True),
        "momentum": (0.5, 0.9, None, False),
        "label_smoothing": (0, 0.2, 0.1, False),
        "epochs": (1, 3, 1, False),
        "batch_size": (16, 64, 16, False),
        "train_size": (100, 1000, 1, True),
        "optimizer": ["sgd", "adam"],
    }


def test_only_parameters_of_the_branch_taken_are_drawn():
    space = validate(
        BRANCHED
        | {
            "space": {
                "trainable": {
                    "branch": {
                        "svm": {"C": {"uniform": [1, 2]}},
                        "resnet": {"lr": {"choice": [0.1]}},
                    }
                }
            },
            "search": {"algorithm": "random", "trials": 1},
        },
        "f",
    ).full_space()
    sampler = Lowest()
    assert draw(space, sampler) == {"trainable": "svm", "C": 1, "train_size": 100}
    assert list(sampler.asked) == ["trainable", "svm/C"]


@pytest.mark.parametrize("count", [1, 3])
def test_repeats_differ_only_in_their_seed(count):
    from tuning.searchers import count_trials, listed_configs

    study = validate(BRANCHED | {"repeats": count, "search": {"seed": 5}}, "f")
    configs = list(listed_configs(study))
    assert len(configs) == count_trials(study) == 7 * count
    assert [c.pop("seed") for c in configs] == [5 + n for n in range(count)] * 7
    assert all(c == configs[0] for c in configs[:count])
