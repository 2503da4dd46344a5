"""The experiment: builds the study folder and the Tuner, fits it, and finishes what was begun."""

from __future__ import annotations

import importlib
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray import tune
from rich.console import Console

import tuning
from tuning import environment, schedulers
from tuning.callbacks import Progress, Recorder
from tuning.cluster import ClusterError, connect, hosts, on_each_host, require_shared
from tuning.data import ImageData, load_dataset
from tuning.record import Event, Record, read_events, write_atomically, write_json
from tuning.resources import count_slots, request
from tuning.searchers import ResumeError, StudySearcher, count_trials
from tuning.study import Study, sample_configs
from tuning.study_file import dump, load
from tuning.trial import StudyTrial

STUDY = "study.yaml"
ENVIRONMENT = "environment.json"


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: the study folder.
        failed: ids of the trials that failed.
        unfinished: number of trials that did not end, or were not begun.
    """

    folder: Path
    failed: list[str]
    unfinished: int


def run(study: Study, storage: Path, address: str | None, console: Console) -> Outcome:
    """Run a study from the beginning.

    Args:
        study: what to run.
        storage: where to make the study folder; all hosts must see it.
        address: of a running Ray cluster; None starts Ray on this machine.
        console: for the progress.

    Raises:
        DataError, ResourceError, ClusterError: before any trial runs.
    """
    data = _load_data(study)
    with connect(address):
        require_shared(storage.resolve())
        slots = _slots(study)
        folder = _new_folder(study, storage)
        with _locked(folder):
            write_atomically(folder / STUDY, dump(study).encode())
            write_json(folder / ENVIRONMENT, _describe(data))
            console.print(f"study folder: {folder}", highlight=False, soft_wrap=True)
            return _fit(study, folder, data, slots, [], console)


def resume(folder: Path, address: str | None, console: Console) -> Outcome:
    """Finish an interrupted study: unfinished trials first, from their last checkpoints.

    Raises:
        StudyError, CorruptRecord, ResumeError, DataError, ResourceError, ClusterError: before any
            trial runs.
    """
    folder = folder.resolve()
    if not (folder / STUDY).is_file():
        raise ResumeError(f"{folder}: is no study folder (it holds no {STUDY})")
    study = load(folder / STUDY)
    data = _load_data(study)
    with _locked(folder), connect(address):
        require_shared(folder)
        slots = _slots(study)
        try:
            events = list(read_events(folder))
        except FileNotFoundError:
            events = []
        return _fit(study, folder, data, slots, events, console)


def _fit(
    study: Study,
    folder: Path,
    data: dict[str, ImageData],
    slots: int,
    events: list[Event],
    console: Console,
) -> Outcome:
    """Run all trials that the record does not hold as finished."""
    record = Record(folder)
    scheduler = schedulers.build_scheduler(study)
    searcher = StudySearcher(
        study,
        record,
        events,
        on_resumed=lambda trial, tune_id: schedulers.replay(scheduler, trial, tune_id),
    )
    session = 1 + sum(event["event"] == "session" for event in events)
    record.append(
        "session",
        time=time.time(),
        session=session,
        host=platform.node(),
        pid=os.getpid(),
        version=tuning.__version__,
    )
    total = count_trials(study)
    finished = [trial for trial in searcher.trials.values() if trial.finished]
    for trial in finished:
        schedulers.replay(scheduler, trial, f"earlier-{trial.trial}")
    _announce(study, total, len(finished), slots, console)
    recorder = Recorder(study, folder, record, searcher.trials)
    progress = Progress(study, console, searcher.trials, total, slots)
    try:
        if len(finished) < total:
            _warm_up(study, slots)
            tuner = _tuner(study, folder, data, slots, session, total - len(finished), searcher,
                           scheduler, [recorder, progress])  # fmt: skip
            tuner.fit()
    finally:
        progress.close()
        recorder.write_table()
        record.close()
    failed = [t.trial for t in searcher.trials.values() if t.status == "failed"]
    done = sum(t.finished for t in searcher.trials.values())
    return Outcome(folder, failed, total - done)


def _tuner(
    study: Study,
    folder: Path,
    data: dict[str, ImageData],
    slots: int,
    session: int,
    trials: int,
    searcher: StudySearcher,
    scheduler: Any,
    callbacks: list[Any],
) -> tune.Tuner:
    gpus_exist = ray.cluster_resources().get("GPU", 0) > 0

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        wanted = request(study, config, gpus_exist=gpus_exist)
        bundle = {"CPU": wanted.cpu} | ({"GPU": wanted.gpu} if wanted.gpu else {})
        return tune.PlacementGroupFactory([bundle | dict(wanted.custom)])

    trainable = tune.with_parameters(StudyTrial, folder=str(folder), data=data)
    return tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=trials,
            max_concurrent_trials=slots,
            reuse_actors=study.reuse_actors,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name=f"session-{session}",
            storage_path=str(folder / "tune"),
            failure_config=tune.FailureConfig(max_failures=study.retries),
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
            callbacks=callbacks,
            verbose=0,
        ),
    )


def _warm_up(study: Study, slots: int) -> None:
    """Import torch in as many worker processes as trials run at once; the trials take these over.

    Tune gives a waiting trial the first process that comes free, and forgets the one that was
    starting for it. Where trials are shorter than a process takes to start, all of them would
    otherwise run one after another in the first process.
    """
    cpus = min(study.resources.cpu, study.resources.cpu_without_gpu or study.resources.cpu)
    warm = ray.remote(num_cpus=cpus, scheduling_strategy="SPREAD")(_import_trainables)
    ray.get([warm.remote() for _ in range(slots)])


def _import_trainables() -> None:
    importlib.import_module("tuning.resnet")
    importlib.import_module("tuning.svm")


def _announce(study: Study, total: int, finished: int, slots: int, console: Console) -> None:
    search, scheduler = study.search, study.scheduler
    name = f"optuna {search.sampler}" if search.algorithm == "optuna" else search.algorithm
    text = (
        f"{study.name}: {total} trials, search {name}, scheduler {scheduler.type}, "
        f"{slots} at once; the best epoch by {search.metric} counts"
    )
    if finished:
        text += f"; {finished} are finished already"
    console.print(text, highlight=False, soft_wrap=True)


def _load_data(study: Study) -> dict[str, ImageData]:
    return {name: load_dataset(name, study.dataset) for name in study.datasets()}


def _slots(study: Study) -> int:
    """Return how many trials run at once on the connected cluster.

    Raises:
        ResourceError: some trial fits nowhere.
    """
    found = hosts()
    gpus_exist = any(host.gpus for host in found)
    requests = {
        request(study, study.complete(config), gpus_exist=gpus_exist)
        for config in sample_configs(study)
    }
    slots = count_slots(requests, found)
    return min(slots, study.search.max_concurrent or slots)


def _new_folder(study: Study, storage: Path) -> Path:
    """Make a folder that no other study has, even one started in the same second."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{n}" for n in range(2, 100))):
        folder = storage.resolve() / f"{study.name}-{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        (folder / "trials").mkdir()
        return folder
    raise ClusterError(f"{storage}: cannot make a study folder")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the study folder, so that two drivers cannot run one study.

    Raises:
        ResumeError: another driver holds it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ResumeError(f"{folder}: is being run by another process") from None
    with lock:
        lock.release()
        yield


def _describe(data: dict[str, ImageData]) -> dict[str, Any]:
    """Return the contents of `environment.json`."""
    return {
        "hosts": [host for _, host in on_each_host(environment.describe_host, measure=True)],
        **environment.describe_software(),
        "data": {name: images.describe() for name, images in data.items()},
    }
