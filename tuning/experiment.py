"""The experiment: builds the study folder and the Tuner, fits it, and finishes what was begun."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from rich.console import Console

import tuning
from tuning import environment, schedulers
from tuning.callbacks import Progress, Recorder
from tuning.changes import changes
from tuning.cluster import ClusterError, connect, hosts, on_each_host, require_shared
from tuning.data import ImageData, load_dataset
from tuning.finalists import count_runs
from tuning.guard import FULL, Guard, check_disk
from tuning.journal import Journal
from tuning.memory import want_of_memory_ends_trials
from tuning.record import (
    RECORD,
    TABLE,
    Event,
    Record,
    has_record,
    read_events,
    read_trials,
    write_atomically,
    write_json,
)
from tuning.resources import count_slots, request
from tuning.searchers import ResumeError, StudySearcher, count_trials
from tuning.shares import LargerShares, placement
from tuning.study import NO_DATASET, Study, sample_configs
from tuning.study_file import StudyError, dump, load, validate
from tuning.trial import StudyTrial
from tuning.watch import INTERRUPTED, RayWatch

STUDY = "study.yaml"
ENVIRONMENT = "environment.json"


@dataclass(frozen=True)
class Outcome:
    """How a run ended before or at its end.

    Attributes:
        folder: the study folder.
        failed: ids of the trials that failed.
        unfinished: number of trials that did not end, or were not begun.
        reason: why the study was stopped early; empty after Ctrl-C.
    """

    folder: Path
    failed: list[str]
    unfinished: int
    reason: str


def run(study: Study, storage: Path, address: str | None, console: Console) -> Outcome:
    """Run a study from the beginning.

    Args:
        study: what to run.
        storage: where to make the study folder; all hosts must see it.
        address: of a running Ray cluster; None starts Ray on this machine.
        console: for the progress.

    Raises:
        DataError, ResourceError, ClusterError, DiskError: before any trial runs.
    """
    check_disk(study, storage.resolve())
    data = _load_data(study)
    with connect(address):
        require_shared(storage.resolve())
        slots = _slots(study)
        folder = _new_folder(study, storage)
        with _locked(folder):
            write_atomically(folder / STUDY, dump(study).encode())
            console.print(f"study folder: {folder}", highlight=False, soft_wrap=True)
            return _fit(study, folder, data, slots, Record(folder), console)


def resume(
    folder: Path,
    address: str | None,
    console: Console,
    *,
    settings: Sequence[str] = (),
    extend: int = 0,
    retry_failed: bool = False,
    allow_changed: bool = False,
) -> Outcome:
    """Finish an interrupted study: unfinished trials first, from their last checkpoints.

    Args:
        folder: of the study.
        address: of a running Ray cluster; None starts Ray on this machine.
        console: for the progress.
        settings: `a.b=c`, of keys on which no result depends, such as a budget.
        extend: number of trials to add.
        retry_failed: run failed trials anew.
        allow_changed: go on though the space, a package or the data has changed.

    Raises:
        StudyError, CorruptRecord, ResumeError, DataError, ResourceError, ClusterError, DiskError:
            before any trial runs.
    """
    folder = folder.resolve()
    if not (folder / STUDY).is_file() and not has_record(folder):
        raise ResumeError(f"{folder}: is no study folder (it holds no {STUDY} and no {RECORD})")
    with _locked(folder):
        events = list(read_events(folder)) if has_record(folder) else []
        _refuse_lost_record(folder, events)
        last = next((e for e in reversed(events) if e["event"] == "session"), {})
        study = _extended(_study_of(folder, last, settings, console), extend)
        check_disk(study, folder)
        data = _load_data(study)
        if not allow_changed:
            _refuse_changes(folder, last, _identity(study, data))
        with connect(address):
            require_shared(folder)
            slots = _slots(study)
            record = Record(folder)
            for note in record.notes:
                console.print(note, highlight=False, soft_wrap=True)
            write_atomically(folder / STUDY, dump(study).encode())
            if retry_failed:
                _retry_failed(folder, record)
            return _fit(study, folder, data, slots, record, console, allow_changed=allow_changed)


def _refuse_lost_record(folder: Path, events: list[Event]) -> None:
    """Refuse a record that does not know the trials whose folders are there."""
    known = {event["trial"] for event in events if event["event"] == "trial"}
    there = sorted(path.name for path in (folder / "trials").glob("*") if path.is_dir())
    unknown = [name for name in there if name not in known]
    if unknown:
        raise ResumeError(
            f"{folder / RECORD}: is missing or cut short, and so is its copy: it does not know "
            f"trial {unknown[0]}, whose folder is there; restore it from a backup, or remove the "
            f"folders of the {len(unknown)} unknown trials to run them anew"
        )


def _study_of(folder: Path, last: Event, settings: Sequence[str], console: Console) -> Study:
    """Return the study of a folder; if its file is damaged, as the record has it."""
    try:
        study = load(folder / STUDY, settings)
        # It was written with every key: half of it may still be a study, with other limits.
        written = study.model_dump(by_alias=True, exclude_unset=True)
        if lost := [key for key in last.get("study", {}) if key not in written]:
            raise StudyError([f"{folder / STUDY}: is cut short: it lacks {lost[0]}"])
        return study
    except StudyError as error:
        if "study" not in last or settings:
            raise
        study = validate(last["study"], str(folder / RECORD))
        console.print(
            f"{error.lines[0]}; the study was taken from {RECORD}", highlight=False, soft_wrap=True
        )
        return study


def _extended(study: Study, trials: int) -> Study:
    if not trials:
        return study
    if study.search.trials is None:
        raise ResumeError(
            "--extend: a grid search has tried every combination; "
            "write a study with more values, or with `algorithm: random`"
        )
    if study.scheduler.type in ("pbt", "pb2"):
        raise ResumeError(
            f"--extend: the {study.search.trials} trials of a population train side by side; "
            "write a study with more of them"
        )
    search = study.search.model_copy(update={"trials": study.search.trials + trials})
    return study.model_copy(update={"search": search})


def _identity(study: Study, data: dict[str, ImageData]) -> dict[str, Any]:
    """Return what results depend on, as each session writes it into the record."""
    return {
        "study": study.model_dump(mode="json", by_alias=True),
        "packages": environment.describe_software()["packages"],
        "data": {name: images.describe() for name, images in data.items()},
    }


def _refuse_changes(folder: Path, last: Event, identity: dict[str, Any]) -> None:
    found = changes(_with_defaults(last), identity)
    if found:
        raise ResumeError(
            "\n".join(f"{folder}: {line}" for line in found)
            + "\nput it back as it was, or go on with --allow-changed"
        )


def _with_defaults(last: Event) -> Event:
    """Return a session with the keys that its study did not know then, at their defaults."""
    try:
        study = validate(last.get("study", {}), RECORD)
    except StudyError:
        return last
    return last | {"study": study.model_dump(mode="json", by_alias=True)}


def _retry_failed(folder: Path, record: Record) -> None:
    for trial in read_trials(folder).values():
        if trial.status == "failed":
            # First, so that a kill in between leaves a failed trial, not one with old marks.
            shutil.rmtree(folder / "trials" / trial.trial, ignore_errors=True)
            record.append("retry", time=time.time(), trial=trial.trial)


def _fit(
    study: Study,
    folder: Path,
    data: dict[str, ImageData],
    slots: int,
    record: Record,
    console: Console,
    *,
    allow_changed: bool = False,
) -> Outcome:
    """Run all trials that the record does not hold as finished: the search, then the finalists."""
    events = list(read_events(folder))
    searcher = StudySearcher(study, record, events, allow_changed=allow_changed)
    session = 1 + sum(event["event"] == "session" for event in events)
    record.append(
        "session",
        time=time.time(),
        session=session,
        host=platform.node(),
        pid=os.getpid(),
        version=tuning.__version__,
        **_identity(study, data),
    )
    journal = Journal(study, folder, read_events(folder))
    record.listeners.append(journal.take)
    total = count_trials(study)
    finished = sum(trial.finished for trial in searcher.trials.values())
    _announce(study, total, finished, slots, console)
    progress = Progress(study, console, searcher.trials, total + count_runs(study), slots)
    guard = Guard(study, folder, searcher.trials, events)

    def end_at_once(lost: str) -> None:
        # Ray's own calls may wait for ever now; the record is on the disk whatever happens.
        progress.close()
        _write_table_if_possible(recorder, console)
        console.print(
            f"{lost} was lost; finish the study with: tuning resume {folder}",
            highlight=False,
            soft_wrap=True,
        )
        console.file.flush()
        os._exit(INTERRUPTED)

    watch = RayWatch(end_at_once)
    recorder = Recorder(study, folder, record, searcher.trials, before_failure=watch.check)
    scheduler = schedulers.build_scheduler(study, recorder.write_round)
    searched = {trial.trial for trial in searcher.searched() if not trial.answered_from}
    schedulers.replay(scheduler, [e for e in events if e.get("trial", "") in ("", *searched)])
    callbacks = [recorder, guard, progress]

    def fit(name: str, trials: int, scheduler: TrialScheduler) -> None:
        if not (folder / ENVIRONMENT).is_file():
            write_json(folder / ENVIRONMENT, _describe(data))
        tuner = _tuner(study, folder, data, slots, name, trials, searcher, scheduler, callbacks)
        tuner.fit()

    def missing() -> int:
        return total - sum(trial.finished for trial in searcher.searched())

    try:
        with watch, want_of_memory_ends_trials():
            # Tune is not started for trials that are all answered.
            if missing() > 0 and searcher.answer_first():
                fit(f"session-{session}", missing(), scheduler)
            if missing() <= 0 and not guard.reason and (runs := searcher.begin_finals()):
                # Finalists are compared by whole runs, so nothing stops them.
                fit(f"session-{session}-finalists", runs, FIFOScheduler())
            progress.close()
            if _has_networks(study) and missing() <= 0 and not searcher.final_runs_left():
                _add_peaks(folder, data, console)
    except (OSError, tune.TuneError) as error:
        full = _full_disk(error)
        if full is None:
            raise
        guard.reason = f"{full.filename or folder}: {full.strerror}; free some space"
    finally:
        progress.close()
        _write_table_if_possible(recorder, console)
        record.close()
    failed = [t.trial for t in searcher.trials.values() if t.status == "failed"]
    left = missing()
    left += count_runs(study) if left else searcher.final_runs_left()
    return Outcome(folder, failed, left, guard.reason)


def _full_disk(error: BaseException | None) -> OSError | None:
    """Return the error of a full disk behind another one: Tune wraps what a callback raises."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def _write_table_if_possible(recorder: Recorder, console: Console) -> None:
    """Write `trials.csv`; a full disk leaves the last one, since the record has it all."""
    try:
        recorder.write_table()
    except OSError as error:
        text = f"{TABLE} was not written ({error.strerror}); it is written anew on resume"
        console.print(text, highlight=False, soft_wrap=True)


def _tuner(
    study: Study,
    folder: Path,
    data: dict[str, ImageData],
    slots: int,
    name: str,
    trials: int,
    searcher: StudySearcher,
    scheduler: TrialScheduler,
    callbacks: list[Any],
) -> tune.Tuner:
    gpus_exist = ray.cluster_resources().get("GPU", 0) > 0

    def resources(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        return placement(study, config, gpus_exist=gpus_exist)

    code = str(Path(study.code).resolve()) if study.code else None
    trainable = tune.with_parameters(
        StudyTrial,
        folder=str(folder),
        data=data,
        limits=study.limits,
        code=code,
        gpu=study.resources.gpu,
        trainables=study.trainables(),
    )
    return tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=trials,
            max_concurrent_trials=schedulers.concurrency(study, slots),
            reuse_actors=study.reuse_actors,
            trial_name_creator=lambda trial: str(trial.config["trial"]),
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(folder / "tune"),
            failure_config=tune.FailureConfig(max_failures=study.retries),
            # Trials keep their own checkpoints; Tune would copy the last one of every trial.
            checkpoint_config=tune.CheckpointConfig(
                checkpoint_frequency=0, checkpoint_at_end=False
            ),
            callbacks=[*callbacks, LargerShares(resources)],
            verbose=0,
        ),
    )


def _has_networks(study: Study) -> bool:
    return any(config["trainable"] == "resnet" for config in sample_configs(study))


def _announce(study: Study, total: int, finished: int, slots: int, console: Console) -> None:
    text = (
        f"{study.name}: {total} trials, {study.describe_search()}, "
        f"{slots} at once; the best epoch by {study.search.metric} counts"
    )
    others = [f"{m} ({mode})" for m, mode in list(study.search.directions().items())[1:]]
    text += f"; objectives beside it: {', '.join(others)}" if others else ""
    if study.finalists:
        count, seeds = study.finalists.count, study.finalists.seeds
        text += f"; then {count} finalists with {seeds} seed{'s' if seeds > 1 else ''} each"
    if finished:
        text += f"; {finished} are finished already"
    console.print(text, highlight=False, soft_wrap=True)


def _load_data(study: Study) -> dict[str, ImageData]:
    names = [name for name in study.datasets() if name != NO_DATASET]
    return {name: load_dataset(name, study.dataset) for name in names}


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
    try:
        yield
    finally:
        lock.release()


def _describe(data: dict[str, ImageData]) -> dict[str, Any]:
    """Return the contents of `environment.json`, but for the hosts' peaks."""
    if len(hosts()) > 1:
        found = [host for _, host in on_each_host(environment.describe_host, measure=False)]
    else:
        # A task would have a process of its own, which starts beside those of the trials.
        found = [environment.describe_host(measure=False)]
    return {
        "hosts": found,
        **environment.describe_software(),
        "data": {name: images.describe() for name, images in data.items()},
    }


def _add_peaks(folder: Path, data: dict[str, ImageData], console: Console) -> None:
    """Measure the hosts' peaks, with which networks are compared, unless they are known.

    It is done when the last trial has ended: nothing disturbs the measurement then, and no trial
    waits for it.
    """
    try:
        known = json.loads((folder / ENVIRONMENT).read_text())
        described = {host["host"]: host for host in known["hosts"]}
    except (OSError, ValueError, LookupError, TypeError):
        known, described = _describe(data), {}
    if any("fp32_gflops" in host for host in described.values()):
        return
    try:
        measured = on_each_host(environment.describe_host, measure=True)
    except (ClusterError, KeyboardInterrupt):
        text = f"the peaks of the hosts were not measured; tuning resume {folder} does it"
        console.print(text, highlight=False, soft_wrap=True)
        return
    described |= {host["host"]: host for _, host in measured}
    write_json(folder / ENVIRONMENT, known | {"hosts": list(described.values())})
