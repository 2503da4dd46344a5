"""A study file that is wrong is refused in one line per mistake, with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import MINIMAL, ROOT, STUDIES
from tuning.reference import study_reference
from tuning.study_file import StudyError, dump, json_schema, load, validate

DRAWN = {"lr": {"loguniform": [0.01, 0.1]}, "optimizer": {"choice": ["sgd", "adam"]}}
RANDOM = {"algorithm": "random", "trials": 4}
PBT = {"type": "pbt", "mutate": ["lr"]}
REFUSED = {
    "unknown key": ({"serach": {}}, "serach: is no known key; did you mean search?"),
    "unknown key in a section": (
        {"search": {"trails": 3}},
        "search.trails: is no known key; did you mean trials?",
    ),
    "misspelt model": (
        {"space": {"model": "resnet19"}},
        "space.model: got 'resnet19'; allowed: resnet18, resnet34 or resnet50; "
        "did you mean resnet18?",
    ),
    "misspelt parameter": (
        {"space": {"modle": "resnet18"}},
        "space.modle: is no parameter of resnet; did you mean model?",
    ),
    "lr as a string": ({"space": {"lr": "0.1"}}, "space.lr: got '0.1'; allowed: a valid number"),
    "range upside down": (
        {"space": {"lr": {"uniform": [1, 0.1]}}, "search": {"algorithm": "random", "trials": 2}},
        "space.lr.uniform: must go from low to high, but got [1.0, 0.1]",
    ),
    "loguniform from zero": (
        {"space": {"lr": {"loguniform": [0, 1]}}},
        "space.lr.loguniform: must start above 0, but got [0.0, 1.0]",
    ),
    "unknown domain": ({"space": {"lr": {"normal": [0, 1]}}}, "exactly one of the keys grid"),
    "split that does not sum to 1": (
        {"dataset": {"name": "digits", "split": [0.5, 0.1, 0.2]}},
        "dataset.split: must sum to 1, but [0.5, 0.1, 0.2] sums to 0.8",
    ),
    "gpu 1.5": (
        {"resources": {"gpu": 1.5}},
        "resources.gpu: must be a fraction up to 1 or a whole number, but got 1.5; write 1 or 2",
    ),
    "workers of a native trial": (
        {"resources": {"workers": 2}},
        "resources.workers: is 2, but `engine: native` trains in one process; write 1, or "
        "`engine: ddp`",
    ),
    "workers of an SVM": (
        {"trainable": "svm", "space": {"C": 1.0}, "resources": {"workers": 2}},
        "resources.workers: is 2, but `trainable: svm` trains in one process; write 1, or a study "
        "of its own",
    ),
    "workers that share a GPU": (
        {"fixed": {"engine": "ddp"}, "resources": {"workers": 2, "gpu": 0.5}},
        "resources.gpu: got 0.5 with 2 workers; each takes a whole GPU",
    ),
    "more workers than images in a batch": (
        {"fixed": {"engine": "ddp", "batch_size": 2}, "resources": {"workers": 4}},
        "space.batch_size: 2 images are too few for 4 workers",
    ),
    "ZeRO without DeepSpeed": (
        {"fixed": {"engine": "ddp", "zero_stage": 1}},
        "space.zero_stage: is 1, but only `engine: deepspeed` shards",
    ),
    "Muon's kernels flattened by DeepSpeed": (
        {"fixed": {"engine": "deepspeed", "optimizer": "muon"}, "resources": {"workers": 2}},
        "space.optimizer: is muon, which needs whole kernels",
    ),
    "one process spread over hosts": (
        {"resources": {"placement": "spread"}},
        "resources.placement: spread is for trials of several workers",
    ),
    "grid under Optuna": (
        {"search": {"algorithm": "optuna", "trials": 4}},
        "space.lr: `grid` has no meaning under `search.algorithm: optuna`; "
        "write {choice: [...]}, or choose `search.algorithm: grid`",
    ),
    "range under grid": (
        {"space": {"lr": {"uniform": [0.1, 1]}}, "search": {"algorithm": "grid"}},
        "a grid search takes only",
    ),
    "range without a number of trials": (
        {"space": {"lr": {"uniform": [0.1, 1]}}},
        "search.trials: is needed by `algorithm: optuna`, the default where `space` draws values",
    ),
    "no number of trials": (
        {"space": {}, "search": {"algorithm": "random"}},
        "search.trials: is needed by `algorithm: random`",
    ),
    "flipped digits": ({"fixed": {"augmentation": "flip"}}, "digits are digits; use none"),
    "cuda without a GPU": ({"fixed": {"device": "cuda"}}, "resources.gpu: is 0"),
    "ASHA on SVMs alone": (
        {"trainable": "svm", "space": {}, "scheduler": {"type": "asha"}},
        "an SVM reports once, so nothing can stop early; use fifo",
    ),
    "median stopping of one epoch": (
        {"fixed": {"epochs": 1}, "scheduler": {"type": "median"}},
        "scheduler.type: trials of one epoch cannot stop early; use fifo, or more `epochs`",
    ),
    "PBT with a grid": (
        {"scheduler": {"type": "pbt", "mutate": ["lr"]}},
        "search.algorithm: pbt changes parameters while a trial trains, so no grid of them is",
    ),
    "PBT with TPE": (
        {"space": DRAWN, "search": {"algorithm": "optuna", "trials": 4}, "scheduler": PBT},
        "search.sampler: tpe learns what a configuration is worth, but pbt changes it",
    ),
    "PBT of nothing": (
        {"space": DRAWN, "search": RANDOM, "scheduler": {"type": "pbt"}},
        "scheduler.mutate: is missing: which parameters of `space` may change?",
    ),
    "PBT of the optimizer": (
        {"space": DRAWN, "search": RANDOM, "scheduler": PBT | {"mutate": ["optimizer"]}},
        "scheduler.mutate: optimizer cannot change while a network trains; what can: lr,",
    ),
    "PBT of a fixed parameter": (
        {"space": DRAWN, "search": RANDOM, "scheduler": PBT | {"mutate": ["momentum"]}},
        "scheduler.mutate: momentum is not drawn by `space`",
    ),
    "PBT against the one-cycle schedule": (
        {"space": DRAWN, "search": RANDOM, "scheduler": PBT, "fixed": {"schedule": "onecycle"}},
        "scheduler.mutate: lr follows the one-cycle schedule; write `schedule: constant`",
    ),
    "PB2 of a choice": (
        {
            "space": DRAWN | {"batch_size": {"choice": [16, 32]}},
            "search": RANDOM,
            "scheduler": {"type": "pb2", "mutate": ["batch_size"]},
        },
        "scheduler.mutate: batch_size is no range; pb2 takes only uniform, loguniform, int",
    ),
    "PBT of SVMs": (
        {
            "trainable": "svm",
            "space": {"C": {"loguniform": [1, 9]}},
            "search": RANDOM,
            "fixed": {"rungs": 3},
            "scheduler": {"type": "pbt", "mutate": ["C"]},
        },
        "scheduler.type: an SVM is fitted anew on every rung, so pbt has no weights to hand on",
    ),
    "PBT of single-shot SVMs": (
        {
            "trainable": "svm",
            "space": {"C": {"loguniform": [1, 9]}},
            "search": RANDOM,
            "scheduler": {"type": "pbt", "mutate": ["C"]},
        },
        "scheduler.type: an SVM ",
    ),
    "PBT of a function": (
        {
            "trainable": "digits_sgd:train",
            "code": str(ROOT / "examples"),
            "search": RANDOM,
            "space": {"lr": DRAWN["lr"]},
            "fixed": {"epochs": 3},
            "scheduler": PBT,
        },
        "scheduler.type: digits_sgd:train is a function, which has no state to hand on",
    ),
    "mutations without PBT": (
        {"scheduler": {"type": "asha", "mutate": ["lr"]}},
        "scheduler.mutate: is for pbt and pb2; asha changes nothing",
    ),
    "trainable that is not there": (
        {"trainable": "no.such:Thing"},
        "trainable: 'no.such:Thing' cannot be imported (No module named 'no'); install its",
    ),
    "known results for a grid": (
        {"search": {"warm_start": ["results/x"]}},
        "search.warm_start: is for `algorithm: optuna`; grid learns from no results",
    ),
    "metric that no trainable reports": (
        {"search": {"metric": "val_acuracy"}},
        "search.metric: got 'val_acuracy'; allowed: val_accuracy or val_loss; did you mean",
    ),
    "val_loss of an SVM": (
        {"trainable": "svm", "space": {}, "search": {"metric": "val_loss", "mode": "min"}},
        "search.metric: an SVM has no val_loss",
    ),
    "unknown data set": ({"dataset": {"name": "fashion-mnist"}}, "did you mean fashion_mnist?"),
    "name that leaves the folder": ({"name": "../x"}, "name: got '../x'"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=list(REFUSED))
def test_wrong_studies_are_refused_in_one_line(changes, message):
    with pytest.raises(StudyError) as refused:
        validate(MINIMAL | changes, "f.yaml")
    assert len(refused.value.lines) == 1
    assert refused.value.lines[0].startswith("f.yaml: ")
    assert message in refused.value.lines[0]


RANGE = {"space": {"lr": {"uniform": [0.1, 1]}}, "search": {"trials": 4}}


@pytest.mark.parametrize(("changes", "search"), [
    ({}, ("grid", "fifo")),
    (RANGE, ("optuna", "median")),
    (RANGE | {"fixed": {"epochs": 1}}, ("optuna", "fifo")),
    (RANGE | {"scheduler": {"type": "asha"}}, ("optuna", "asha")),
    (RANGE | {"search": {"trials": 4, "algorithm": "optuna"}}, ("optuna", "fifo")),
    (RANGE | {"search": {"trials": 4, "algorithm": "random"}}, ("random", "fifo")),
], ids=str)  # fmt: skip
def test_a_study_that_names_no_search_gets_the_default_of_its_space(changes, search):
    study = validate(MINIMAL | changes, "f.yaml")
    assert (study.search.algorithm, study.scheduler.type) == search
    assert study.search.sampler == "tpe"
    again = validate(yaml.safe_load(dump(study)), "f.yaml")
    assert again == study


def test_all_mistakes_are_reported_together():
    with pytest.raises(StudyError) as refused:
        validate(MINIMAL | {"resources": {"gpu": "much"}, "repeats": 0, "sede": 1}, "f.yaml")
    assert [line.split(": ")[1] for line in refused.value.lines] == [
        "resources.gpu", "repeats", "sede",
    ]  # fmt: skip


def test_mistakes_of_form_do_not_hide_those_of_meaning():
    """Unknown keys and wrong types beside wrong parameters and what does not fit together."""
    text = """
    name: all at once
    dataset: {name: digits, split: [0.7, 0.2, 0.2]}
    space:
      trainable:
        branch:
          resnet:
            lr: {loguniform: [0.1, 0.001]}
            model: resnet19
            device: cuda
            augmentation: flip
            epochs: 1
          svm: {kernel: rfb}
    search: {algorithm: optuna, trails: 8}
    scheduler: {type: asha}
    resources: {gpu: 0, cpu: one}
    """
    with pytest.raises(StudyError) as refused:
        validate(yaml.safe_load(text), "f.yaml")
    assert [line.split(": ")[1] for line in refused.value.lines] == [
        "name", "space.trainable.branch.resnet.lr.loguniform", "search.trails", "resources.cpu",
        "dataset.split", "space.model", "space.kernel",
        "scheduler.type", "space.augmentation", "resources.gpu",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"algorithm": "optua", "trials": 4}},
        {"search": {"algorithm": "random", "trails": 4}},
        {"trainable": "resnt", "fixed": {"epochs": 2}},
        {"scheduler": {"type": "asha"}, "fixed": {"epochs": 0}},
        {"space": {"lr": {"loguniform": [0, 1]}}, "search": {"algorithm": "random", "trials": 2}},
        {"space": {"lr": {"loguniform": [0, 1]}}, "search": {"trials": 2}},
    ],
)
def test_one_mistake_is_one_line(changes):
    with pytest.raises(StudyError) as refused:
        validate(MINIMAL | {"space": {}} | changes, "f.yaml")
    assert len(refused.value.lines) == 1


BROKEN_FILES = {
    "not YAML": ("a: [", "is not YAML"),
    "Python tag": ("!!python/object/apply:os.system ['touch canary']", "tag !!python/object"),
    "empty": ("", "is empty"),
    "list": ("- 1", "must hold `key: value` lines, but holds a list"),
    "repeated key": ("name: a\nname: b", "the key 'name' stands twice"),
    "alias": ("a: &x [1]\nb: *x", "aliases (*name) are not allowed"),
    "deep": ("[" * 5000, "levels are not allowed"),
    "binary": ("\x00\x01", "is not YAML"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN_FILES.values(), ids=list(BROKEN_FILES))
def test_files_that_hold_no_study_are_refused(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("f.yaml").write_text(text)
    with pytest.raises(StudyError) as refused:
        load(Path("f.yaml"))
    assert len(refused.value.lines) == 1
    assert message in refused.value.lines[0]
    assert not Path("canary").exists()


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*MINIMAL, "search", "lr", "grid", "branch"]), inner),
    max_leaves=12,
))  # fmt: skip
def test_no_content_of_a_file_is_met_with_a_traceback(value):
    study = MINIMAL | (value if isinstance(value, dict) else {"space": value})
    try:
        validate(study, "f.yaml")
    except StudyError as refused:
        assert all(line.startswith("f.yaml: ") for line in refused.lines)


def test_exponents_without_a_point_are_numbers(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("name: a\ntrainable: resnet\nspace: {lr: {grid: [1e-3, 1.0e-2, 2E+0]}}\n")
    assert load(path).space["lr"].grid == [0.001, 0.01, 2.0]


def test_set_overrides_and_adds_keys(write_study):
    study = load(write_study(), ["dataset.seed=7", "fixed.epochs=2", "name=other"])
    assert (study.dataset.seed, study.fixed, study.name) == (7, {"epochs": 2}, "other")


def test_set_is_refused_like_a_key_of_the_file(write_study):
    with pytest.raises(StudyError, match=r"search\.trials"):
        load(write_study(), ["search.trials=none"])
    with pytest.raises(StudyError, match="write KEY=VALUE"):
        load(write_study(), ["search.trials"])


def test_shipped_studies_are_valid_and_read_back_equal():
    assert len(STUDIES) == 8
    for path in STUDIES:
        study = load(path)
        assert validate(yaml.safe_load(dump(study)), "dumped") == study
        jsonschema.validate(json.loads(json.dumps(yaml.safe_load(path.read_text()))), json_schema())


def test_the_reference_of_the_study_file_is_current():
    assert (ROOT / "search_spaces" / "README.md").read_text() == study_reference(), (
        "run: python -m tuning.reference > search_spaces/README.md"
    )
