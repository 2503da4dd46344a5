"""The command line: `analysis tables` and `analysis report`.

pandas is imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from analysis.errors import AnalysisError

if TYPE_CHECKING:
    from analysis.load import Results
    from analysis.tables import Table
    from analysis.verdict import Finding

ROWS = 50

app = typer.Typer(
    name="analysis",
    help="Comparison tables, findings and a report from study folders.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    """How tables are written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    CSV = "csv"
    LATEX = "latex"
    JSON = "json"


class Name(StrEnum):
    """Which table; `all` is each of them but the raw trials."""

    COMPARISON = "comparison"
    HYPERPARAMETERS = "hyperparameters"
    SVM = "svm"
    HARDWARE = "hardware"
    SPEEDUP = "speedup"
    SEARCH = "search"
    FRONT = "front"
    FINALISTS = "finalists"
    POPULATION = "population"
    TRIALS = "trials"
    ALL = "all"


class Against(StrEnum):
    """What to show beside the studies."""

    REFERENCE = "reference"


Folders = Annotated[
    list[Path] | None,
    typer.Argument(help="Study folders, or CSV files in the contract's columns.", metavar="FOLDER"),
]
AgainstOption = Annotated[
    Against | None, typer.Option(help="Show the published reference tables beside the studies.")
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Keep the trials that meet COLUMN=VALUE (also !=, <, <=, >, >=); repeatable."
    ),
]


@app.command()
def tables(
    folders: Folders = None,
    *,
    form: Annotated[Format, typer.Option("--format", help="How to write.")] = Format.TEXT,
    out: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    table: Annotated[list[Name] | None, typer.Option(help="Which tables; repeatable.")] = None,
    where: WhereOption = None,
    sort: Annotated[str | None, typer.Option(help="Sort by a column; -COLUMN downwards.")] = None,
    columns: Annotated[str | None, typer.Option(help="Only these columns: a,b,c.")] = None,
    group_by: Annotated[str, typer.Option(help="Put rows together by this column.")] = "dataset",
    against: AgainstOption = None,
    rows: Annotated[int, typer.Option(help="Rows per table on the screen; 0 for all.")] = ROWS,
) -> None:
    """Print the comparison tables of one or more studies."""
    with _clear_errors():
        from analysis import query, render

        names = [n.value for n in table or [Name.ALL]]
        results = _load(folders, against, where)
        made = _tables(results, names, group_by)
        if sort:
            made = query.sort(made, sort)
        if columns:
            made = query.choose_columns(made, columns.split(","))
        wanted = Name.ALL.value in names
        found = _findings(results) if wanted and form not in (Format.CSV, Format.LATEX) else []
        if out is None and form is Format.TEXT:
            render.text(made, found, _console(), rows=rows)
            return
        text = render.render(made, found, form.value)
        if out is None:
            typer.echo(text, nl=False)
        else:
            _write(out, text)


@app.command()
def report(
    folders: Folders = None,
    *,
    out: Annotated[Path, typer.Option(help="The folder for index.html; made if missing.")],
    where: WhereOption = None,
    against: AgainstOption = None,
) -> None:
    """Write one self-contained HTML page with tables, findings and pictures."""
    with _clear_errors():
        from analysis.report import write_report

        results = _load(folders, against, where)
        tables = _tables(results, [Name.ALL.value], "dataset")
        typer.echo(str(write_report(results, tables, _findings(results), out)))


def print_tables(folders: Sequence[Path], console: Console) -> None:
    """Print the tables and findings of studies, those without a row left out.

    Raises:
        AnalysisError: a folder is not a study folder.
    """
    from analysis import render
    from analysis.load import load

    results = load(folders)
    tables = [t for t in _tables(results, [Name.ALL.value], "dataset") if len(t.frame)]
    render.text(tables, _findings(results), console, rows=ROWS)


def main() -> None:
    """Run the command line; the entry point of `analysis` and `python -m analysis`."""
    app(prog_name="analysis")


def _load(
    folders: Sequence[Path] | None, against: Against | None, conditions: Sequence[str] | None
) -> Results:
    from analysis import query
    from analysis.load import load

    results = load(folders or [], reference=against is Against.REFERENCE)
    return results.keep(query.where(results.trials, conditions or []))


def _tables(results: Results, names: Sequence[str], group_by: str) -> list[Table]:
    """Build the named tables; of `all`, those without a row and without a note are left out."""
    from analysis import query, tables
    from analysis.front import covered, finalists, front
    from analysis.population import population
    from analysis.search import search
    from analysis.speedup import speedup

    group = query.known(group_by, results.trials.columns, "--group-by")
    every = Name.ALL.value in names
    makers = {
        "comparison": lambda: [tables.comparison(results, group)],
        "hyperparameters": lambda: [tables.hyperparameters(results, group)],
        "svm": lambda: [tables.svm(results, group)],
        "hardware": lambda: [tables.hardware(results, group)],
        "speedup": lambda: list(speedup(results)),
        "search": lambda: [search(results)],
        "front": lambda: [front(results), covered(results)],
        "finalists": lambda: [finalists(results)],
        "population": lambda: [population(results)],
    }
    chosen = makers if every else [n for n in dict.fromkeys(names) if n in makers]
    made = [table for name in chosen for table in makers[name]()]
    if Name.TRIALS.value in names:
        made.append(tables.trials(results))
    return [t for t in made if len(t.frame) or (t.notes and not every)]


def _findings(results: Results) -> list[Finding]:
    from analysis.findings import findings

    return findings(results)


def _console() -> Console:
    """Return a console of the terminal's width, or of any width where there is no terminal."""
    from analysis.render import UNBOUNDED

    return Console() if sys.stdout.isatty() else Console(width=UNBOUNDED)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AnalysisError(f"{path}: cannot write there ({error.strerror})") from error


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn the errors that a user can mend into one line and exit code 2."""
    try:
        yield
    except AnalysisError as error:
        typer.echo(f"analysis: {error}", err=True)
        raise typer.Exit(2) from error
