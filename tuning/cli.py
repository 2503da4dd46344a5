"""The command line: `tuning run`, `plan`, `check`, `resume` and `data`.

Ray and torch are imported inside the commands that need them, so that `--help` and `check` answer
at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from tuning import ray_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tuning.experiment import Outcome
    from tuning.study import Study

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
    address: Address = None,
    settings: Settings = None,
) -> None:
    """Say what a study would do: trials, slots, time and memory; trains nothing."""
    study = _load(study_file, settings)
    ray_settings.apply(address)
    from tuning import plan as planning

    try:
        made = planning.make_plan(study, address)
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
