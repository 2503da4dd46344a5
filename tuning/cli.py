"""The command line: `tuning run`, `plan`, `check`, `resume`, `replay`, `data`, and cluster jobs.

Ray and torch are imported inside the commands that need them, so that `--help` and `check` answer
at once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, TypeVar

import typer
from rich.console import Console

from tuning import ray_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuning.experiment import Outcome
    from tuning.jobs import Jobs
    from tuning.study import Study

Result = TypeVar("Result")
DONE, SOME_FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="tuning",
    help="Run hyperparameter studies of ResNets and SVMs on Ray Tune.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study file.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, e.g. search.trials=8."),
]
Storage = Annotated[
    Path, typer.Option(metavar="DIR", help="Where study folders go; all hosts must see it.")
]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDR", help="A running Ray cluster, e.g. auto; else starts Ray here."),
]
Head = Annotated[
    str, typer.Option("--address", metavar="URL", help="The head's dashboard, as http://HEAD:8265.")
]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="The job, as `tuning jobs` names it.")]
#: Where `ray dashboard cluster.yaml` makes the head's dashboard reachable.
TUNNEL = "http://127.0.0.1:8265"


@app.command()
def run(
    study_file: StudyPath,
    storage: Storage = Path("results"),
    address: Address = None,
    settings: Settings = None,
) -> None:
    """Run a study and print its tables; the last line is the study folder."""
    study = _load(study_file, settings)
    ray_settings.apply(address)
    from tuning import experiment

    console = _console()
    _finish(lambda: experiment.run(study, storage, address, console), console)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The study folder.")],
    address: Address = None,
    extend: Annotated[int, typer.Option(metavar="N", min=0, help="Add N trials.")] = 0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run failed trials anew.")
    ] = False,
    allow_changed: Annotated[
        bool,
        typer.Option("--allow-changed", help="Go on with a changed space, package or data."),
    ] = False,
    settings: Settings = None,
) -> None:
    """Finish an interrupted study; finished trials are not repeated."""
    ray_settings.apply(address)
    from tuning import experiment

    console = _console()
    _finish(
        lambda: experiment.resume(
            folder,
            address,
            console,
            settings=settings or (),
            extend=extend,
            retry_failed=retry_failed,
            allow_changed=allow_changed,
        ),
        console,
    )


@app.command()
def check(study_file: StudyPath, settings: Settings = None) -> None:
    """Validate a study file and run nothing; exits with 0 or 2."""
    study = _load(study_file, settings)
    typer.echo(f"{study_file}: {study.name} is a valid study")


@app.command()
def plan(
    study_file: StudyPath,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Run a few steps here, and recommend resources."),
    ] = False,
    address: Address = None,
    settings: Settings = None,
) -> None:
    """Say what a study would do: trials, slots, time and memory; trains nothing without --probe."""
    study = _load(study_file, settings)
    if probe and address is not None:
        _refuse("--probe: measures this machine; leave --address out, or run it on the host")
    ray_settings.apply(address)
    from tuning import plan as planning

    try:
        made = planning.make_plan(study, address)
        if probe:
            from tuning import packing

            made = packing.probed(study, made)
    except (ValueError, RuntimeError) as error:
        _refuse(str(error))
    if as_json:
        typer.echo(json.dumps(made.as_dict(), indent=2))
    else:
        planning.show(made, _console())


@app.command()
def data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="fashion_mnist, mnist or digits.")],
    folder: Annotated[Path, typer.Option(metavar="DIR", help="The data folder.")] = Path("data"),
) -> None:
    """Fetch a data set, verify it, and say what it holds."""
    from tuning.data import DataError, load_dataset
    from tuning.study import DATASETS, Dataset, did_you_mean

    if name not in DATASETS:
        _refuse(f"NAME: got {name!r}; allowed: {', '.join(DATASETS)}{did_you_mean(name, DATASETS)}")
    try:
        loaded = load_dataset(name, Dataset(name=name, folder=str(folder)))
    except DataError as error:
        _refuse(str(error))
    shape = "x".join(str(n) for n in loaded.images.shape[1:])
    typer.echo(
        f"{name}: {len(loaded.images)} images of {shape} in {loaded.classes} classes; "
        f"{len(loaded.train)} train, {len(loaded.val)} validation, {len(loaded.test)} test"
    )
    for file, digest in loaded.checksums.items():
        typer.echo(f"  {file}: SHA-256 {digest}")


@app.command()
def replay(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Folder of a finished grid.")],
    search: Annotated[
        str, typer.Option(help="grid, random, bohb, or a sampler of Optuna.")
    ] = "tpe",
    scheduler: Annotated[str, typer.Option(help="fifo, asha, hyperband or median.")] = "asha",
    slots: Annotated[int, typer.Option(min=1, help="Trials at once.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions.")] = 30,
    trials: Annotated[int | None, typer.Option(min=1, help="Default: as many as the grid.")] = None,
    target: Annotated[float, typer.Option(help="Share of the table's best value.")] = 0.995,
) -> None:
    """Search a recorded grid again in simulated time; trains nothing."""
    from tuning import replay as replaying

    try:
        _console().print(
            replaying.summary(table, search, scheduler, slots, seeds, trials, target),
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    except ValueError as error:
        _refuse(*str(error).splitlines())


@app.command()
def submit(
    study_file: StudyPath,
    address: Head = TUNNEL,
    storage: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="On the hosts; by default the cluster's TUNING_STORAGE."),
    ] = None,
    settings: Settings = None,
) -> None:
    """Run a study as a job on a cluster, and follow it; Ctrl-C leaves it running."""
    study = _load(study_file, settings)
    jobs = _jobs(address)
    name = _or_refuse(lambda: jobs.submit(study, study_file, settings or (), storage))
    typer.echo(f"job {name}")
    _follow(jobs, name)


@app.command()
def jobs(address: Head = TUNNEL) -> None:
    """List the jobs of a cluster, the newest first."""
    for job in _or_refuse(_jobs(address).all):
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(job.started))
        typer.echo(f"{job.name}  {job.status:9}  {started}  {job.command}")


@app.command()
def logs(
    job: JobName,
    address: Head = TUNNEL,
    follow: Annotated[bool, typer.Option(help="Go on until the job ends.")] = True,
) -> None:
    """Print what a job prints; exits with the job's code."""
    found = _jobs(address)
    if follow:
        _follow(found, job)
    else:
        typer.echo(_or_refuse(lambda: found.logs(job)), nl=False)


@app.command()
def stop(job: JobName, address: Head = TUNNEL) -> None:
    """Stop a job; its study folder can be resumed."""
    found = _or_refuse(lambda: _jobs(address).stop(job))
    typer.echo(f"{found.name}: {found.status}")


@app.command()
def pull(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The study folder on the head.")],
    cluster: Annotated[
        Path, typer.Option(metavar="FILE", help="The file that `ray up` was given.")
    ] = Path("cluster.yaml"),
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where it is copied to.")] = Path(
        "results"
    ),
) -> None:
    """Bring a study folder home, as it is now; the last line is the copied folder."""
    from tuning import launcher

    typer.echo(_or_refuse(lambda: launcher.read(cluster).pull(folder, out)))


@app.command()
def doctor(
    cluster: Annotated[
        Path, typer.Argument(metavar="CLUSTER.yaml", help="The file for `ray up`.")
    ] = Path("cluster.yaml"),
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDR", help="Instead of the file: the running cluster of this host."),
    ] = None,
    study_file: Annotated[
        Path | None,
        typer.Option("--study", metavar="STUDY.yaml", help="Whose data sets are to be there."),
    ] = None,
) -> None:
    """Check a cluster and its hosts, each finding with its remedy; exits with 0 or 2."""
    study = _load(study_file, None) if study_file else None
    ray_settings.apply(address or "auto")
    from tuning import doctor as doctors

    well = True
    if address:
        findings = doctors.examine_running(address, study)
    else:
        findings = doctors.examine(cluster, study)
    while finding := _or_refuse(lambda: next(findings, None)):
        typer.echo(f"{'FAIL' if finding.remedy else 'ok  '}  {finding.subject}: {finding.text}")
        if finding.remedy:
            typer.echo(f"      remedy: {finding.remedy}")
            well = False
    if not well:
        raise typer.Exit(WRONG_INPUT)


@app.command()
def tensorboard(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The study folder.")],
    port: Annotated[int, typer.Option(help="On this machine's loopback.")] = 6006,
) -> None:
    """Start TensorBoard on a study folder, also while the study runs."""
    trials = folder / "trials"
    if not trials.is_dir():
        _refuse(f"{folder}: is no study folder (it holds no trials)")
    command = ["-m", "tensorboard.main", "--logdir", str(trials), "--port", str(port)]
    os.execv(sys.executable, [sys.executable, *command])


@app.command()
def schema() -> None:
    """Print the JSON Schema of study files, for editors."""
    from tuning.study_file import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def main() -> None:
    """Run the command line."""
    app()


def _console() -> Console:
    """Return the console; output that goes to a file or a pipe is given room for the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _load(study_file: Path, settings: list[str] | None) -> Study:
    from tuning.study_file import StudyError, load

    try:
        return load(study_file, settings or ())
    except StudyError as error:
        _refuse(*error.lines)


def _jobs(address: str) -> Jobs:
    ray_settings.apply(address)
    from tuning.jobs import Jobs

    return _or_refuse(lambda: Jobs(address))


def _follow(jobs: Jobs, name: str) -> None:
    """Print what a job prints until it ends, and exit with its code."""
    there = "" if jobs.address == TUNNEL else f" --address {jobs.address}"
    try:
        code = _or_refuse(lambda: jobs.follow(name, lambda text: typer.echo(text, nl=False)))
    except KeyboardInterrupt:
        typer.echo(f"\nthe job {name} goes on; follow it with: tuning logs {name}{there}")
        typer.echo(f"stop it with: tuning stop {name}{there}")
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(code)


def _or_refuse(call: Callable[[], Result]) -> Result:
    """Return what a call returns; what is wrong with the user's input becomes exit code 2."""
    try:
        return call()
    except (ValueError, RuntimeError) as error:
        _refuse(*str(error).splitlines())


def _refuse(*lines: str) -> NoReturn:
    for line in lines:
        typer.echo(line, err=True)
    raise typer.Exit(WRONG_INPUT)


def _finish(start: Callable[[], Outcome], console: Console) -> None:
    """Run or resume a study, print its tables, and exit with the contract's code."""
    try:
        outcome = start()
    except OSError as error:
        _refuse(f"{error.filename or 'the storage'}: {error.strerror or error}")
    except (ValueError, RuntimeError) as error:
        _refuse(*str(error).splitlines())
    from analysis.cli import print_tables

    print_tables([outcome.folder], console)
    if outcome.unfinished:
        console.print(
            f"{outcome.reason + '; ' if outcome.reason else ''}interrupted with "
            f"{outcome.unfinished} trials to go; finish them with: tuning resume {outcome.folder}",
            highlight=False,
            soft_wrap=True,
        )
    if outcome.failed:
        console.print(
            f"failed trials: {', '.join(outcome.failed)}; run them anew with: "
            f"tuning resume {outcome.folder} --retry-failed",
            highlight=False,
            soft_wrap=True,
        )
    typer.echo(outcome.folder)
    if outcome.unfinished:
        raise typer.Exit(INTERRUPTED)
    if outcome.failed:
        raise typer.Exit(SOME_FAILED)
