"""The study: one validated description of what is searched, how, and with which resources."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from tuning.parameters import (
    PARAMETERS,
    TrainableError,
    find_trainable,
    is_function,
    knows,
    parameters_of,
    value_adapter,
)
from tuning.space import (
    Branch,
    Config,
    Domain,
    Grid,
    Int,
    LogInt,
    LogUniform,
    Space,
    Uniform,
    Value,
    count_ways,
    expand,
    is_drawn,
    size,
    ways,
)

#: Data sets of hand-written digits: a mirrored digit is no digit, so they are never flipped.
DIGITS = ("mnist", "digits")
DATASETS = ("fashion_mnist", "mnist", "digits")
#: The data set of a user's own trainable that brings its own data.
NO_DATASET = "none"
#: Metrics of the trainables that come with the package, and the direction of each.
METRICS = {"val_accuracy": "max", "val_loss": "min"}
#: Parameters of a ResNet that may change while it trains: its weights and optimizer stay.
MUTABLE = ("lr", "momentum", "weight_decay", "label_smoothing", "batch_size", "augmentation")
#: Algorithms that learn from results which configuration to try next.
LEARNING = ("optuna", "bohb")
#: What `algorithm: bohb` imports.
BOHB_PACKAGES = ("hpbandster", "ConfigSpace")
#: Further ones, which may be an objective beside the first, or be constrained.
COSTS = {
    "train_seconds": "min",
    "predict_seconds": "min",
    "total_seconds": "min",
    "images_per_second": "max",
    "memory_bytes": "min",
    "gflops": "min",
    "parameters": "min",
    "support_vectors": "min",
}
#: Of these, what an early stop cuts short or leaves out.
CUT_SHORT = ("train_seconds", "predict_seconds", "total_seconds", "support_vectors")
#: Metrics that one of the trainables does not have.
LACKING = {"svm": ("val_loss", "gflops", "parameters"), "resnet": ("support_vectors",)}
#: Most trials of a study, and most ways through the branches of its space.
MAX_TRIALS = 10_000
MAX_WAYS = 100
#: Keys of a configuration that belong to the trial rather than to its trainable.
TRIAL_KEYS = ("trainable", "dataset")


Split = Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=3, max_length=3)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Problem(NamedTuple):
    """One thing that is wrong with a study: the dotted key, and what came and is allowed.

    Attributes:
        needs: other keys by which it was judged; where one of those is wrong too, it may be none.
    """

    key: str
    message: str
    needs: tuple[str, ...] = ()


class Section(BaseModel):
    """Base of the study's sections: unknown keys and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Dataset(Section):
    """The images that all trials of the study learn from."""

    name: Name = Field(
        "fashion_mnist",
        description="fashion_mnist, mnist, digits, or a name of your own together with `path`; "
        "none, for a trainable of your own that brings its data",
    )
    path: str | None = Field(
        None, description="your own data: a folder of IDX files, or one .npz of images and labels"
    )
    folder: str = Field(
        "data", description="folder in which data sets are looked for first and kept"
    )
    split: Split = Field(
        default=[0.7, 0.1, 0.2], description="shares of training, validation and test images"
    )
    seed: Seed = Field(0, description="seed of the split")
    image_size: Annotated[int, Field(ge=28, le=224)] = Field(
        28, description="pixels per side at which images enter a ResNet; `space` may override it"
    )


class Point(Section):
    """A configuration that the search begins with, or knows the result of."""

    values: dict[str, Value] = Field(description="parameters of the space; others are sampled")
    result: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None, description="the metric, if it is known: then the configuration is not run"
    )


class Objective(Section):
    """One of several metrics that are optimised together."""

    metric: str = Field(
        description="the first: as `search.metric`; the others: also "
        + ", ".join(COSTS)
        + ", or any number that a trainable of your own reports"
    )
    mode: Literal["max", "min"] = Field(description="direction of the metric")


class Constraint(Section):
    """A bound that a trial must keep to be called best."""

    metric: str = Field(description="as in `search.objectives`")
    max: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None, description="most that is allowed"
    )
    min: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None, description="least that is allowed"
    )


class Search(Section):
    """How configurations are chosen."""

    algorithm: Literal["grid", "random", "optuna", "bohb"] = Field(
        "grid",
        description="grid: all combinations; random: independent draws; optuna: a sampler; bohb: "
        "densities of what did well after the most epochs that enough trials have reached (Falkner "
        "et al. 2018), for Hyperband or ASHA; it needs `pip install -e '.[bohb]'`. Left out, it is "
        "optuna where `space` has other domains than `grid`",
    )
    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "qmc", "random"] = Field(
        "tpe",
        description="Optuna's sampler: tree-structured Parzen estimator, Gaussian process, CMA-ES, "
        "NSGA-II, quasi-Monte Carlo (scrambled Sobol), or independent draws",
    )
    distinct: bool = Field(
        True, description="optuna, bohb: try no configuration twice while another one is left"
    )
    points: list[Point] = Field(
        default_factory=list,
        description="optuna, bohb: configurations to begin with, or (optuna) whose results are "
        "known",
    )
    warm_start: list[str] = Field(
        default_factory=list,
        description="optuna: folders of earlier studies; their trials that this study could have "
        "run enter the searcher as known results",
    )
    trials: PositiveInt | None = Field(
        None, description="number of configurations to try (grid tries all)"
    )
    metric: str = Field(
        "val_accuracy",
        description="what is optimised, at its best epoch: val_accuracy, val_loss, or any number "
        "that a trainable of your own reports",
    )
    mode: Literal["max", "min"] = Field("max", description="direction of the metric")
    objectives: Annotated[list[Objective], Field(max_length=4)] = Field(
        default_factory=list,
        description="several metrics at once, instead of `metric` and `mode`. The first rules the "
        "scheduler and counts at its best epoch, the others are those of the whole trial",
    )
    constraints: list[Constraint] = Field(
        default_factory=list,
        description="bounds; a trial beyond one is never called best, and the samplers but cmaes, "
        "qmc and random learn to keep within",
    )
    answer_repeats: bool = Field(
        False,
        description="give a configuration and seed that have completed already their results from "
        "the record, instead of running them again",
    )
    seed: Seed = Field(0, description="seed of the searcher, and of the trials' own randomness")
    max_concurrent: PositiveInt | None = Field(
        None, description="most trials at once (default: as many as there are slots)"
    )

    @model_validator(mode="before")
    @classmethod
    def _take_first_objective(cls, raw: Any) -> Any:
        """Let the first objective stand for `metric` and `mode`, where these are left out."""
        objectives = raw.get("objectives") if isinstance(raw, dict) else None
        if not isinstance(objectives, list) or not objectives:
            return raw
        first = objectives[0]
        if isinstance(first, Objective):
            first = first.model_dump()
        if not isinstance(first, dict):
            return raw
        return {key: first[key] for key in ("metric", "mode") if key in first} | raw

    def directions(self) -> dict[str, str]:
        """Return `max` or `min` by metric, the first objective first; one without `objectives`."""
        if not self.objectives:
            return {self.metric: self.mode}
        return {objective.metric: objective.mode for objective in self.objectives}

    def bounds(self) -> list[dict[str, Any]]:
        """Return the constraints as plain values."""
        return [constraint.model_dump() for constraint in self.constraints]


class Finalists(Section):
    """The best configurations of a search, run again to find out which one is the best."""

    count: PositiveInt = Field(3, description="configurations with the best validation metric")
    seeds: PositiveInt = Field(
        3, description="runs of each, with seeds that the search has not used, to the last epoch"
    )


class Scheduler(Section):
    """Which trials are stopped early."""

    type: Literal["fifo", "asha", "hyperband", "median", "pbt", "pb2"] = Field(
        "fifo",
        description="fifo: none; asha: the worst at each rung of epochs; hyperband: likewise, in "
        "brackets that wait for each other (it halves only with slots for a whole bracket); "
        "median: what is worse than the median of the others; pbt: stops nothing, but the worst "
        "quarter goes on with the weights and the perturbed parameters of the best one; pb2: "
        "likewise, a Gaussian process chooses the parameters. Left out together with "
        "`search.algorithm`, it is median where `space` has other domains than `grid` and trials "
        "several epochs; left out under `algorithm: bohb`, it is hyperband there",
    )
    grace_epochs: PositiveInt = Field(
        1, description="asha, median: epochs before a trial may be stopped"
    )
    reduction_factor: Annotated[int, Field(ge=2)] = Field(
        3, description="asha, hyperband: one trial in this many goes on past a rung"
    )
    perturb_epochs: PositiveInt = Field(
        1, description="pbt, pb2: epochs after which all trials wait for each other and change"
    )
    mutate: list[str] = Field(
        default_factory=list,
        description="pbt, pb2: parameters of `space` that change while a trial trains; pb2 takes "
        "only ranges of numbers, and searches them evenly, not in their logarithm",
    )


class Resources(Section):
    """What one trial asks of the cluster."""

    cpu: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1, description="CPUs of a trial; its threads are this number, rounded down, at least 1"
    )
    gpu: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0,
        description="GPUs of a trial: a fraction up to 1, or a whole number. Trials that cannot "
        "use a GPU (SVM, device: cpu) ask for none",
    )
    cpu_without_gpu: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="CPUs of a trial that uses no GPU (default: cpu)"
    )
    workers: Annotated[int, Field(ge=1, le=1024)] = Field(
        1,
        description="processes of a trial with `engine: ddp` or `deepspeed`; each takes the `cpu`, "
        "`gpu` and `custom` of this section",
    )
    placement: Literal["pack", "spread"] = Field(
        "pack",
        description="where the workers of a trial go, as far as there is room: on few hosts, or on "
        "different ones",
    )
    custom: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        description="amounts of Ray's custom resources per trial that uses a GPU, to choose its "
        "hosts, such as `accelerator_type:A30: 0.001`",
    )


class Limits(Section):
    """What one trial, and the storage, may use up."""

    trial_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="seconds of work after which a trial is ended and fails, a hanging one too "
        "(default: none)",
    )
    trial_memory_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="GiB that a trial, or each of its workers, may allocate on its host, the data "
        "it shares with others aside; one that wants more fails alone (default: what the host has)",
    )
    free_disk_mib: Annotated[int, Field(ge=0)] = Field(
        1024,
        description="MiB free on the storage below which no study starts and a running one stops, "
        "resumable",
    )


class Budget(Section):
    """What the whole study may use up, over all its sessions; then it stops, resumable."""

    seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="wall time in seconds (default: no end)"
    )
    device_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="seconds times the GPUs of each trial, or times its CPUs if it has no GPU "
        "(default: no end)",
    )
    epochs: PositiveInt | None = Field(
        None, description="epochs of all trials together (default: no end)"
    )


class Study(Section):
    """One study: a search over one space, on one or more data sets."""

    name: Name = Field(description="letters, digits, `_`, `.` and `-`; study folders begin with it")
    dataset: Dataset = Field(default_factory=lambda: Dataset(), description="the images")
    trainable: str | None = Field(
        None,
        description="what a trial trains: resnet, svm, or your own `package.module:name`, a class "
        "or a function; or put it in `space` as a branch",
    )
    code: str | None = Field(
        None, description="folder in which your own trainable's module lies, if not installed"
    )
    space: Space = Field(default_factory=dict, description="the search space")
    fixed: Space = Field(
        default_factory=dict, description="parameters with one value in all trials that have them"
    )
    search: Search = Field(default_factory=lambda: Search(), description="the search")
    scheduler: Scheduler = Field(default_factory=lambda: Scheduler(), description="early stopping")
    resources: Resources = Field(default_factory=lambda: Resources(), description="per trial")
    limits: Limits = Field(default_factory=lambda: Limits(), description="per trial, and the disk")
    budget: Budget = Field(default_factory=lambda: Budget(), description="of the whole study")
    finalists: Finalists | None = Field(
        None,
        description="run the best configurations again with other seeds; their mean validation "
        "metric decides, and only they are read on test (default: every trial that completes is)",
    )
    repeats: PositiveInt = Field(
        1, description="run each configuration this often, each time with the next seed"
    )
    retries: Annotated[int, Field(ge=0)] = Field(
        2,
        description="how often a trial that lost its process or raised an error goes on from its "
        "last checkpoint (a non-finite loss is not retried)",
    )
    keep_checkpoints: Literal["best", "all", "none"] = Field(
        "best",
        description="whose last checkpoints stay when their trials have ended: the best completed "
        "trial's, all trials', or nobody's",
    )
    reuse_actors: bool = Field(
        True, description="run one trial after another in the same process, which starts faster"
    )

    def full_space(self) -> Space:
        """Return the space with the study's fixed parameters and trainable in it.

        A fixed parameter goes to every trainable that knows it, so that `epochs` can be fixed
        for the ResNets of a study that has SVMs beside them.
        """
        trainable = self.space.get("trainable", self.trainable)
        if not isinstance(trainable, Branch):
            return {"trainable": trainable} | self.space | self._fixed_for(str(trainable))
        branches = {
            value: inner | {k: v for k, v in self._fixed_for(value).items() if k not in inner}
            for value, inner in trainable.branch.items()
        }
        return self.space | {"trainable": Branch(branch=branches)}

    def _fixed_for(self, trainable: str) -> Space:
        return {k: v for k, v in self.fixed.items() if k == "dataset" or knows(trainable, k)}

    def trainables(self) -> set[str]:
        """Return the trainables that trials of this study use."""
        return {str(way["trainable"]) for way in ways(self.full_space())}

    def datasets(self) -> list[str]:
        """Return the names of the data sets that trials of this study use."""
        names: dict[str, None] = {}
        for way in ways(self.full_space()):
            entry = way.get("dataset", self.dataset.name)
            found = entry.corners() if isinstance(entry, Domain) else [entry]
            names |= dict.fromkeys(str(name) for name in found)
        return list(names)

    def max_epochs(self) -> int:
        """Return the most epochs that any trial can run."""
        return max((config_epochs(way) for way in ways(self.full_space())), default=1)

    def describe_search(self) -> str:
        """Return searcher and scheduler in a few words."""
        search = self.search
        name = f"optuna {search.sampler}" if search.algorithm == "optuna" else search.algorithm
        return f"search {name}, scheduler {self.scheduler.type}"

    def complete(self, config: Config) -> Config:
        """Return a drawn configuration with the defaults of all parameters that it leaves open."""
        trainable = config["trainable"]
        values = {k: v for k, v in config.items() if k not in TRIAL_KEYS}
        if trainable == "resnet":
            values = {"image_size": self.dataset.image_size} | values
        parameters = parameters_of(trainable).model_validate(values)
        dataset = config.get("dataset", self.dataset.name)
        return {"trainable": trainable, "dataset": dataset} | parameters.model_dump()


def with_default_algorithm(study: Study) -> Study:
    """Return a study with the search that holds where its file names none.

    A space of grids is tried whole; any other one is searched by TPE.
    """
    if "algorithm" in study.search.model_fields_set or not is_drawn(study.space):
        return study
    search = study.search.model_copy(update={"algorithm": "optuna"})
    return study.model_copy(update={"search": search})


def with_default_scheduler(study: Study, written: Study) -> Study:
    """Return a right study with the scheduler that holds where its file names none.

    It is the median rule where the search is the default one too and trials have several epochs.
    ASHA stops more, but on a recorded table whose learning curves cross (`tests/benchmarks`) it
    stopped the best trials in most searches. An objective that an early stop cuts short, such as
    the training time, leaves all trials whole.

    Args:
        study: with its search.
        written: the same as its file has it.
    """
    named = written.search.model_fields_set | written.scheduler.model_fields_set
    if study.search.algorithm == "bohb" and "type" not in named and study.max_epochs() > 1:
        scheduler = study.scheduler.model_copy(update={"type": "hyperband"})
        return study.model_copy(update={"scheduler": scheduler})
    if {"algorithm", "type"} & named or study.search.algorithm == "grid" or study.max_epochs() == 1:
        return study
    if any(metric in CUT_SHORT for metric in study.search.directions()):
        return study
    scheduler = study.scheduler.model_copy(update={"type": "median"})
    return study.model_copy(update={"scheduler": scheduler})


def config_epochs(way: Space) -> int:
    """Return the most epochs of one way through the space (1 for a trainable without epochs)."""
    trainable = str(way["trainable"])
    if trainable == "svm":
        return max(svm_epochs(rungs) for rungs in _values(way.get("rungs", 1)))
    field = parameters_of(trainable).model_fields.get("epochs")
    return int(max(_values(way.get("epochs", field.default if field else 1))))


def svm_epochs(rungs: int) -> int:
    """Return the last `epoch` of an SVM that fits in rungs, each three times the last."""
    return int(3 ** (rungs - 1))


def _values(entry: Any) -> list[Any]:
    """Return the values that stand for an entry of the space."""
    return entry.corners() if isinstance(entry, Domain) else [entry]


def problems(study: Study, follows: Callable[[Problem], bool] = lambda _: False) -> list[Problem]:
    """Return all that is wrong with a study whose sections are each well formed.

    Args:
        study: what to look at.
        follows: tells of a problem that it is only there because of another one.
    """
    found = list(_size_problems(study))
    if found:
        return found
    in_space = list(_space_problems(study))
    parts = (*_section_problems(study), *_objective_problems(study), *in_space)
    found = [p for p in parts if not follows(p)]
    if not found and not in_space:
        found = [p for p in _whole_problems(study) if not follows(p)]
    return list(dict.fromkeys(found))


def _size_problems(study: Study) -> Iterator[Problem]:
    """Refuse what would take for ever to check, before anything goes through it."""
    trials = max(size(study.space), study.search.trials or 0) * study.repeats
    if trials > MAX_TRIALS:
        yield Problem(
            "space", f"comes to {_large(trials)} trials; at most {MAX_TRIALS} are allowed"
        )
    if count_ways(study.space) > MAX_WAYS:
        yield Problem("space", f"branches into more than {MAX_WAYS} spaces, the most allowed")


def _large(number: int) -> str:
    return str(number) if number < 10**12 else "more than 10^12"


def _section_problems(study: Study) -> Iterator[Problem]:
    search, resources = study.search, study.resources
    # An algorithm that the file leaves open follows from the space.
    open_choice = "algorithm" not in search.model_fields_set
    chosen = ("search.algorithm", *(("space",) if open_choice else ()))
    if abs(sum(study.dataset.split) - 1) > 1e-6:
        total = round(sum(study.dataset.split), 6)
        yield Problem("dataset.split", f"must sum to 1, but {study.dataset.split} sums to {total}")
    own = _trainables(study) - set(PARAMETERS)
    datasets = (*DATASETS, NO_DATASET) if own else DATASETS
    if study.dataset.path is None and study.dataset.name not in datasets:
        yield Problem(
            "dataset.name",
            f"got {study.dataset.name!r}; allowed: {', '.join(datasets)}, or any name together "
            f"with `path`{did_you_mean(study.dataset.name, datasets)}",
            ("trainable", "space.trainable"),
        )
    yield from _resource_problems(resources)
    if search.algorithm == "grid" and search.trials is not None:
        yield Problem("search.trials", "grid tries every combination; leave `trials` out", chosen)
    if search.algorithm != "grid" and search.trials is None:
        why = ", the default where `space` draws values" if search.algorithm == "optuna" else ""
        text = f"is needed by `algorithm: {search.algorithm}`{why}"
        yield Problem("search.trials", text, chosen)
    if search.algorithm in LEARNING and study.repeats > 1:
        text = f"is for grid and random searches; {search.algorithm} runs each once"
        yield Problem("repeats", text, chosen)
    if search.metric not in METRICS and not own:
        yield Problem(
            "search.metric",
            f"got {search.metric!r}; allowed: {' or '.join(METRICS)}"
            f"{did_you_mean(search.metric, METRICS)}",
            ("trainable", "space.trainable"),
        )
    elif search.mode != METRICS.get(search.metric, search.mode):
        right = METRICS[search.metric]
        text = f"got {search.mode}; {search.metric} is searched by {right}"
        yield Problem("search.mode", text, ("search.metric",))
    yield from _knowledge_problems(search, chosen)
    if search.algorithm == "bohb" and (text := missing_for_bohb()):
        yield Problem("search.algorithm", text)


def missing_for_bohb() -> str:
    """Return what to install before BOHB can search, or nothing."""
    missing = [name for name in BOHB_PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return f"bohb needs {' and '.join(missing)}; pip install -e '.[bohb]'"


def _knowledge_problems(search: Search, chosen: tuple[str, ...]) -> Iterator[Problem]:
    """Refuse results from elsewhere where the searcher cannot learn them."""
    known = any(point.result is not None for point in search.points)
    if search.algorithm == "bohb" and (known or search.warm_start):
        key = "search.points" if known else "search.warm_start"
        text = (
            "gives results, which is for `algorithm: optuna`; bohb learns from its trials' epochs"
        )
        yield Problem(key, text, chosen)
    elif search.algorithm not in LEARNING and (search.points or search.warm_start):
        key = "search.points" if search.points else "search.warm_start"
        text = f"is for `algorithm: optuna`; {search.algorithm} learns from no results"
        yield Problem(key, text, chosen)


def _resource_problems(resources: Resources) -> Iterator[Problem]:
    if resources.gpu > 1 and resources.gpu != int(resources.gpu):
        low, high = int(resources.gpu), int(resources.gpu) + 1
        yield Problem(
            "resources.gpu",
            f"must be a fraction up to 1 or a whole number, but got {resources.gpu}; "
            f"write {low} or {high}",
        )
    if resources.workers > 1 and resources.gpu not in (0, 1):
        yield Problem(
            "resources.gpu",
            f"got {resources.gpu:g} with {resources.workers} workers; each takes a whole GPU, "
            "since nccl refuses two on one; write 1, or 0 to train on CPUs",
        )
    if resources.workers == 1 and resources.placement == "spread":
        yield Problem(
            "resources.placement", "spread is for trials of several workers; write `workers`"
        )


def _objective_problems(study: Study) -> Iterator[Problem]:
    search, known = study.search, METRICS | COSTS
    if search.algorithm == "bohb" and (search.objectives or search.constraints):
        key = "search.objectives" if search.objectives else "search.constraints"
        text = "bohb searches by one metric without bounds; use `algorithm: optuna`"
        yield Problem(key, text, ("search.algorithm",))
    own = _trainables(study) - set(PARAMETERS)
    if study.finalists and study.repeats > 1:
        yield Problem("finalists", "is for configurations run once; `repeats` runs all of them")
    if search.objectives:
        yield from _several_problems(search)
    yield from _bound_problems(search)
    for key, metric in _named_metrics(search):
        if metric.startswith("test_"):
            yield Problem(key, f"got {metric!r}; test data chooses nothing")
        elif metric not in known and not own:
            hint = did_you_mean(metric, known)
            yield Problem(key, f"got {metric!r}; allowed: {', '.join(known)}{hint}")
    for number, point in enumerate(search.points):
        if point.result is not None and (search.objectives or search.constraints):
            text = "is one metric; with several objectives or constraints use warm_start"
            yield Problem(f"search.points.{number}.result", text)


def _several_problems(search: Search) -> Iterator[Problem]:
    first, *others = search.objectives
    if (search.metric, search.mode) != (first.metric, first.mode):
        yield Problem("search.metric", "is the first of `objectives`; leave metric and mode out")
    if not others:
        yield Problem("search.objectives", "is for several; write `metric` and `mode` for one")
    if len(search.directions()) < len(search.objectives):
        yield Problem("search.objectives", "names a metric twice")
    if search.algorithm == "optuna" and search.sampler == "cmaes":
        yield Problem(
            "search.sampler", "cmaes searches by one metric; use tpe, gp, nsga2, qmc or random"
        )
    for number, objective in enumerate(others, start=1):
        right = (METRICS | COSTS).get(objective.metric, objective.mode)
        if objective.mode != right:
            text = f"got {objective.mode}; {objective.metric} is searched by {right}"
            yield Problem(f"search.objectives.{number}.mode", text)


def _bound_problems(search: Search) -> Iterator[Problem]:
    for number, constraint in enumerate(search.constraints):
        low, high = constraint.min, constraint.max
        key = f"search.constraints.{number}"
        if low is None and high is None:
            yield Problem(key, "has no bound; write `max` or `min`")
        elif low is not None and high is not None and low > high:
            yield Problem(key, f"allows nothing: min {low:g} is above max {high:g}")


def _named_metrics(search: Search) -> Iterator[tuple[str, str]]:
    """Yield the metrics beyond the first one, each with its key."""
    for number, objective in enumerate(search.objectives[1:], start=1):
        yield f"search.objectives.{number}.metric", objective.metric
    for number, constraint in enumerate(search.constraints):
        yield f"search.constraints.{number}.metric", constraint.metric


def _space_problems(study: Study) -> Iterator[Problem]:
    """Check every key and every corner value of every way through the space."""
    if study.trainable is not None and "trainable" in study.space:
        yield Problem("trainable", "is in `space` too; keep one of them")
    for way in ways(dict(study.space)):
        yield from _way_problems(study, way)
    for key, entry in study.fixed.items():
        yield from _fixed_problems(study, key, entry)
    for number, point in enumerate(study.search.points):
        for key, value in point.values.items():
            entries = [way[key] for way in ways(dict(study.space)) if key in way]
            if not any(e.contains(value) if isinstance(e, Domain) else e == value for e in entries):
                where = "no domain of `space` has it" if entries else "`space` has no such key"
                label = f"search.points.{number}.{key}"
                yield Problem(label, f"got {value!r}; {where}", (f"space.{key}",))


def _fixed_problems(study: Study, key: str, entry: Any) -> Iterator[Problem]:
    trainables = sorted(_trainables(study))
    knowing = [name for name in trainables if knows(name, key)]
    if key in study.space:
        yield Problem(f"fixed.{key}", "is in `space` too; keep one of them")
    elif key == "trainable":
        yield Problem("fixed.trainable", "belongs at the top of the file: `trainable: resnet`")
    elif isinstance(entry, Domain):
        yield Problem(f"fixed.{key}", "must be a plain value; domains belong in `space`")
    elif key == "dataset":
        yield from _dataset_problems(study, [entry])
    elif not knowing and trainables:  # an unknown trainable is a problem of its own
        needs = ("trainable", "space.trainable")
        yield Problem(f"fixed.{key}", _unknown(key, trainables), needs)
    for name in knowing:
        yield from _value_problems(f"fixed.{key}", name, key, [entry])


def _trainables(study: Study) -> set[str]:
    """Return the known trainables that the study names, without assuming that it is right."""
    named = [study.trainable, *(way.get("trainable") for way in ways(dict(study.space)))]
    return {name for name in named if isinstance(name, str) and not _why_unknown(study, name)}


def _why_unknown(study: Study, trainable: str) -> str:
    """Return what is wrong with the name of a trainable, or nothing."""
    if trainable in PARAMETERS:
        return ""
    if ":" not in trainable:
        allowed = ", ".join(PARAMETERS)
        text = f"got {trainable!r}; allowed: {allowed}, or your own package.module:name"
        return text + did_you_mean(trainable, PARAMETERS)
    try:
        find_trainable(trainable, study.code)
    except TrainableError as error:
        return f"{error}; install its package, or name its folder in `code`"
    return ""


def _way_problems(study: Study, way: Space) -> Iterator[Problem]:
    trainable = way.get("trainable", study.trainable)
    if trainable is None:
        allowed = ", ".join(PARAMETERS)
        text = f"is missing; write one of {allowed}, or make it a branch of `space`"
    elif isinstance(trainable, Domain):
        text = "must be a branch, since each trainable has parameters of its own"
    else:
        text = _why_unknown(study, str(trainable))
    if text or not isinstance(trainable, str):
        yield Problem("trainable", text, ("space.trainable",))
        return
    for key, entry in way.items():
        if key == "trainable":
            continue
        values = entry.corners() if isinstance(entry, Domain) else [entry]
        if key == "dataset":
            yield from _dataset_problems(study, values)
        elif not knows(trainable, key):
            yield Problem(f"space.{key}", _unknown(key, [trainable]))
        else:
            yield from _value_problems(f"space.{key}", trainable, key, values)
        yield from _algorithm_problems(study, key, entry)


def _unknown(key: str, trainables: list[str]) -> str:
    known = dict.fromkeys(k for name in trainables for k in parameters_of(name).model_fields)
    whose = " and ".join(trainables)
    hint = did_you_mean(key, known)
    return f"is no parameter of {whose}{hint or '; allowed: ' + ', '.join(known)}"


def _value_problems(label: str, trainable: str, key: str, values: list[Any]) -> Iterator[Problem]:
    adapter = value_adapter(trainable, key)
    for value in values:
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            yield Problem(label, describe(error, value))


def describe(error: ValidationError, value: Any) -> str:
    """Say in one line what came and what is allowed instead."""
    allowed: list[str] = []
    hint = ""
    for item in error.errors():
        context = item.get("ctx", {})
        if item["type"] == "literal_error":
            allowed.append(str(context["expected"]).replace("'", ""))
            hint = did_you_mean(str(value), allowed[-1].replace(" or ", ", ").split(", "))
        else:
            allowed.append(item["msg"].removeprefix("Input should be "))
    return f"got {value!r}; allowed: {' or '.join(dict.fromkeys(allowed))}{hint}"


def _dataset_problems(study: Study, values: list[Any]) -> Iterator[Problem]:
    allowed = [*DATASETS, *([study.dataset.name] if study.dataset.path else [])]
    for value in values:
        if value not in allowed:
            hint = did_you_mean(str(value), allowed)
            yield Problem("space.dataset", f"got {value!r}; allowed: {', '.join(allowed)}{hint}")


def _algorithm_problems(study: Study, key: str, entry: Any) -> Iterator[Problem]:
    algorithm = study.search.algorithm
    if algorithm == "grid" and isinstance(entry, Domain) and not isinstance(entry, Grid):
        yield Problem(
            f"space.{key}",
            "a grid search takes only `grid`, `branch` and plain values; "
            "write {grid: [...]}, or choose `search.algorithm: optuna` or `random`",
            ("search.algorithm",),
        )
    if algorithm != "grid" and isinstance(entry, Grid):
        yield Problem(
            f"space.{key}",
            f"`grid` has no meaning under `search.algorithm: {algorithm}`; "
            "write {choice: [...]}, or choose `search.algorithm: grid`",
            ("search.algorithm",),
        )


def _whole_problems(study: Study) -> Iterator[Problem]:
    """Check what only holds between parts that are each right."""
    if study.search.metric == "val_loss" and "svm" in study.trainables():
        text = "an SVM has no val_loss; write val_accuracy"
        yield Problem("search.metric", text, ("trainable",))
    yield from _lacking_problems(study)
    if study.scheduler.type != "fifo" and study.max_epochs() == 1:
        if study.trainables() == {"svm"}:
            text = (
                "an SVM reports once, so nothing can stop early; use fifo, or `rungs: 3` in `fixed`"
            )
        else:
            text = "trials of one epoch cannot stop early; use fifo, or more `epochs`"
        yield Problem("scheduler.type", text, ("epochs", "rungs", "trainable"))
    elif study.scheduler.type == "asha" and study.scheduler.grace_epochs > study.max_epochs():
        yield Problem(
            "scheduler.grace_epochs",
            f"got {study.scheduler.grace_epochs}, above the {study.max_epochs()} epochs of a trial",
            ("epochs", "rungs", "trainable"),
        )
    yield from _population_problems(study)
    for config in sample_configs(study):
        yield from _config_problems(study, config)
        yield from _engine_problems(study, study.complete(config))


def _lacking_problems(study: Study) -> Iterator[Problem]:
    """Refuse metrics that some trial does not have, or not in full."""
    scheduler = study.scheduler.type
    for key, metric in _named_metrics(study.search):
        for name in sorted(study.trainables()):
            if metric in LACKING.get(name, ()):
                yield Problem(key, f"got {metric}, which trials of {name} do not have")
        if scheduler != "fifo" and metric in CUT_SHORT and key.startswith("search.objectives"):
            text = f"{metric} of a trial that {scheduler} stops is cut short, so it cannot be an "
            yield Problem("scheduler.type", text + "objective; use fifo")


def _population_problems(study: Study) -> Iterator[Problem]:
    """Check what only holds under PBT and PB2."""
    scheduler, search = study.scheduler, study.search
    bohb = search.algorithm == "bohb"
    if scheduler.type not in ("pbt", "pb2"):
        if scheduler.mutate:
            text = f"is for pbt and pb2; {scheduler.type} changes nothing"
            yield Problem("scheduler.mutate", text, ("scheduler.type",))
        return
    if search.algorithm == "grid":
        yield Problem(
            "search.algorithm",
            f"{scheduler.type} changes parameters while a trial trains, so no grid of them is "
            "tried; write `algorithm: random`, and choices or ranges in `space`",
        )
    elif bohb or (search.algorithm == "optuna" and search.sampler not in ("random", "qmc")):
        yield Problem(
            "search.algorithm" if bohb else "search.sampler",
            f"{'bohb' if bohb else search.sampler} learns what a configuration is worth, but "
            f"{scheduler.type} changes it on the way; write `algorithm: random`",
            ("search.algorithm",),
        )
    elif (search.trials or 0) * study.repeats < 2:
        yield Problem("search.trials", "got 1; a population needs at least 2 trials")
    for key, given in (
        ("finalists", study.finalists),
        ("search.answer_repeats", search.answer_repeats),
    ):
        if given:
            text = f"is for configurations that hold; {scheduler.type} changes them on the way"
            yield Problem(key, text)
    if study.max_epochs() > 1:
        yield from _handing_on_problems(study)


def _handing_on_problems(study: Study) -> Iterator[Problem]:
    """Check that trials can take over one another's weights."""
    scheduler = study.scheduler
    functions = [name for name in study.trainables() - set(PARAMETERS) if is_function(name)]
    if scheduler.perturb_epochs >= study.max_epochs():
        yield Problem(
            "scheduler.perturb_epochs",
            f"got {scheduler.perturb_epochs}, but trials end after {study.max_epochs()} epochs",
        )
    if study.resources.workers > 1:
        yield Problem(
            "resources.workers",
            f"got {study.resources.workers}, but {scheduler.type} hands weights on between trials "
            "of one worker",
        )
    if "svm" in study.trainables():
        yield Problem(
            "scheduler.type",
            f"an SVM is fitted anew on every rung, so {scheduler.type} has no weights to hand on; "
            "use asha with `rungs: 3` in `fixed`",
        )
    elif functions:
        yield Problem(
            "scheduler.type",
            f"{functions[0]} is a function, which has no state to hand on; {scheduler.type} needs "
            "a class with `state` and `restore`",
        )
    elif not scheduler.mutate:
        yield Problem("scheduler.mutate", "is missing: which parameters of `space` may change?")
    else:
        yield from _mutation_problems(study)


def _mutation_problems(study: Study) -> Iterator[Problem]:
    every = list(ways(study.full_space()))
    kind = study.scheduler.type
    for key in study.scheduler.mutate:
        entries = [way.get(key) for way in every]
        domain, text = entries[0], ""
        if any(entry != domain for entry in entries):
            text = "must be the same in all branches of `space`"
        elif not isinstance(domain, Domain):
            text = "is not drawn by `space`; give it a choice or a range there"
        elif kind == "pb2" and not isinstance(domain, Uniform | LogUniform | Int | LogInt):
            text = "is no range; pb2 takes only uniform, loguniform, int and logint"
        elif study.trainables() == {"resnet"} and key not in MUTABLE:
            text = f"cannot change while a network trains; what can: {', '.join(MUTABLE)}"
        elif key in ("lr", "momentum") and any(
            "onecycle" in _values(way.get("schedule")) for way in every
        ):
            text = "follows the one-cycle schedule; write `schedule: constant`"
        if text:
            yield Problem("scheduler.mutate", f"{key} {text}")


def sample_configs(study: Study) -> Iterator[Config]:
    """Yield configurations that stand for all: the whole grid, or the corners of each way."""
    space = study.full_space()
    if study.search.algorithm == "grid":
        yield from expand(space)
        return
    for way in ways(space):
        corners = {
            key: Grid(grid=list(dict.fromkeys(entry.corners())))
            for key, entry in way.items()
            if isinstance(entry, Domain)
            and key in ("dataset", "augmentation", "device", "engine", "zero_stage", "batch_size")
        }
        rest = {
            key: entry.corners()[0] if isinstance(entry, Domain) else entry
            for key, entry in way.items()
            if key not in corners
        }
        yield from expand(rest | corners)


def _config_problems(study: Study, config: Config) -> Iterator[Problem]:
    full = study.complete(config)
    if full.get("augmentation") == "flip" and full["dataset"] in DIGITS:
        yield Problem(
            "space.augmentation",
            f"flip mirrors images, and {full['dataset']} are digits; use none",
            ("dataset.name", "space.dataset"),
        )
    if full.get("device") == "cuda" and study.resources.gpu == 0:
        text = "is 0, but trials have `device: cuda`; write e.g. gpu: 0.25"
        yield Problem("resources.gpu", text, ("device",))
    if full.get("num_workers") and full["loader"] == "resident":
        text = "is for `loader: dataloader`; resident data needs none"
        yield Problem("space.num_workers", text, ("loader", "num_workers"))


def _engine_problems(study: Study, full: Config) -> Iterator[Problem]:
    """Check that a complete configuration can train in as many workers as the study says."""
    workers, engine = study.resources.workers, full.get("engine", "native")
    if workers > 1 and engine == "native":
        of = "`engine: native`" if "engine" in full else f"`trainable: {full['trainable']}`"
        remedy = "`engine: ddp`" if "engine" in full else "a study of its own"
        yield Problem(
            "resources.workers",
            f"is {workers}, but {of} trains in one process; write 1, or {remedy}",
            ("engine", "trainable"),
        )
    elif full.get("batch_size", workers) < workers:
        yield Problem(
            "space.batch_size",
            f"{full['batch_size']} images are too few for {workers} workers; each needs one",
            ("resources.workers",),
        )
    if full.get("zero_stage") and engine != "deepspeed":
        yield Problem(
            "space.zero_stage",
            f"is {full['zero_stage']}, but only `engine: deepspeed` shards; put it in a branch of "
            "`engine`, or leave it out",
            ("engine",),
        )
    if full.get("optimizer") == "muon" and engine == "deepspeed":
        yield Problem(
            "space.optimizer",
            "is muon, which needs whole kernels, but `engine: deepspeed` flattens all weights into "
            "one; write `engine: ddp`, or another optimizer",
            ("engine",),
        )


def did_you_mean(word: str, known: Any) -> str:
    """Return `; did you mean X?` for the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, [str(k) for k in known], n=1)
    return f"; did you mean {close[0]}?" if close else ""
