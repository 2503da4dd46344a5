"""One self-contained HTML page of a study: tables, findings, pictures, study file, environment."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes

from analysis import figures, pictures
from analysis.columns import empty, heading, numeric, readable, write
from analysis.errors import AnalysisError
from analysis.load import Results, Study
from analysis.search import choose, configuration
from analysis.tables import Table, varied
from analysis.verdict import Finding

TEMPLATE = "report.html.j2"
SCRIPT = "report.js"


class Picture(NamedTuple):
    """An inline SVG with what a reader must know about it."""

    key: str
    title: str
    caption: str
    svg: Markup
    shape: str = ""


class Fact(NamedTuple):
    """One of the figures at the head of the page."""

    value: str
    name: str
    detail: str


def write_report(
    results: Results, tables: Sequence[Table], findings: Sequence[Finding], out: Path
) -> Path:
    """Write `out/index.html` and return its path.

    Raises:
        AnalysisError: the folder cannot be written.
    """
    page = render_page(results, tables, findings)
    path = out / "index.html"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise AnalysisError(f"{path}: cannot write there ({error.strerror})") from error
    return path


def render_page(results: Results, tables: Sequence[Table], findings: Sequence[Finding]) -> str:
    """Return the page as HTML. Whatever comes from a study is escaped."""
    package = resources.files("analysis")
    # A name in a study may hold HTML: the script is known by its hash, no other one would run.
    script = package.joinpath(SCRIPT).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(package.joinpath(TEMPLATE).read_text(encoding="utf-8"))
    own = [s for s in results.studies if s.source != "reference"] or list(results.studies)
    return template.render(
        title=", ".join(s.name for s in own),
        facts=list(_facts(results, own)),
        findings=findings,
        pictures=list(_pictures(results, tables)),
        tables=[_html_table(t) for t in tables if len(t.frame)],
        empty_tables=[t for t in tables if not len(t.frame) and t.notes],
        studies=[(s, _study_text(s)) for s in own],
        environments=[(s.name, _environment(s)) for s in own if s.environment],
        script=Markup(script),
        script_hash=f"'sha256-{digest}'",
    )


#: Columns that give way to a note where they say the same in every row, for the sake of width.
_FOLDED = {
    "comparison": ("dataset", "status"),
    "hyperparameters": ("dataset",),
    "svm": ("dataset",),
    "hardware": ("dataset", "precision"),
    "pairs": ("dataset", "train_images", "image_size", "precision", "pin_memory", "basis"),
}


def _html_table(table: Table) -> dict[str, Any]:
    """Return a table for the template; a cell is its text and what it sorts by, "" goes last."""
    cells, order = readable(table.frame)
    notes = table.notes
    same = [c for c in _FOLDED.get(table.key, ()) if c in cells and _constant(cells[c])]
    if same:
        values = ", ".join(f"{heading(c)} {cells[c].iloc[0]}" for c in same)
        notes = (f"The same in every row: {values}.", *notes)
        cells = cells.drop(columns=same)
    best = table.frame["best"].tolist() if "best" in table.frame else [False] * len(cells)
    columns = [
        [(text, "" if empty(value) else str(value)) for text, value in zip(t, v, strict=True)]
        for t, v in ((cells[c].tolist(), order[c].tolist()) for c in cells)
    ]
    return {
        "key": table.key,
        "title": table.title,
        "headings": [(heading(str(c)), numeric(order[c])) for c in cells],
        "rows": [(bool(b), row) for b, row in zip(best, zip(*columns, strict=True), strict=True)],
        "notes": notes,
    }


def _constant(cells: pd.Series[Any]) -> bool:
    return len(cells) > 1 and cells.nunique() == 1


def _facts(results: Results, own: Sequence[Study]) -> Iterator[Fact]:
    trials = results.trials[results.trials["study"].isin([s.name for s in own])]
    for dataset, rows in trials.groupby("dataset", sort=False):
        best = choose(rows)
        if len(best):
            first = best.iloc[0]
            settings = ["label", *varied(rows, results.hyperparameters)]
            yield Fact(
                f"{write('val_accuracy', first['val_accuracy'])} %",
                f"best validation accuracy on {dataset}",
                configuration(first, settings),
            )
            if not empty(first["test_accuracy"]):
                yield Fact(
                    f"{write('test_accuracy', first['test_accuracy'])} %",
                    "its test accuracy",
                    f"trial {', '.join(best['trial_id'])}",
                )
    counts = trials["status"].value_counts()
    yield Fact(
        f"{len(trials):,}",
        "trials",
        ", ".join(f"{count:,} {status}" for status, count in counts.items()),
    )
    span = trials["ended"].max() - trials["started"].min()
    if not empty(span):
        hosts = trials["host"].dropna().nunique()
        yield Fact(
            _duration(span), "from first to last", f"{hosts} host{'' if hosts == 1 else 's'}"
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _pictures(results: Results, tables: Sequence[Table]) -> Iterator[Picture]:
    """Draw what the results hold numbers for, each data set by itself."""
    datasets = list(results.trials.groupby("dataset", sort=False))
    for dataset, trials in datasets:
        where = f" on {dataset}" if len(datasets) > 1 else ""
        yield from _front_pictures(results, trials, f"{dataset}", where)
        yield from _accuracy_pictures(results, trials, f"{dataset}", where)
    speedups = next((t for t in tables if t.key == "speedup" and len(t.frame)), None)
    if speedups is not None:
        bars = _speedup_bars(speedups.frame)
        draw = partial(pictures.draw_bars, bars=bars, xlabel="times faster", one=True)
        caption = "Geometric mean of matched pairs with its 95 % interval; one pair carries none."
        yield _picture(
            "speedup", "Speedup", caption, draw, height=0.8 + 0.36 * len(bars), width=9.0
        )
    spans = figures.timeline(results.trials)
    if spans:
        hosts = {s.host: max(t.lane for t in spans if t.host == s.host) + 1 for s in spans}
        height = 1.3 + min(0.16 * sum(hosts.values()) + 0.3 * len(hosts), 6.0)
        draw = partial(pictures.draw_timeline, spans=spans)
        caption = "When each trial ran: a band per host, a lane for each that ran at the same time."
        yield _picture("timeline", "Timeline", caption, draw, height=height, width=9.0)


def _front_pictures(
    results: Results, trials: pd.DataFrame, key: str, where: str
) -> Iterator[Picture]:
    front = figures.pareto_front(results, trials)
    if front is None:
        return
    caption = (
        f"A point per completed trial. The line joins those that none beats in all objectives; "
        f"of these, {heading(front.first.metric)} decides which one is called best."
    )
    draw = partial(pictures.draw_front, front=front)
    yield _picture(f"front-{key}", f"Pareto front{where}", caption, draw, height=4.2)
    if len(front.coverage.share) > 1:
        caption = (
            "Share that the trials so far cover of the box between the best and the worst value of "
            "each objective."
        )
        draw = partial(pictures.draw_coverage, coverage=front.coverage)
        yield _picture(f"hypervolume-{key}", f"Hypervolume over time{where}", caption, draw)


def _accuracy_pictures(
    results: Results, trials: pd.DataFrame, key: str, where: str
) -> Iterator[Picture]:
    column, points = figures.accuracy_against_time(results, trials)
    if points:
        yield _picture(
            f"time-{key}",
            f"Accuracy against time{where}",
            "A point per completed trial; the line joins those that none beats in both.",
            partial(pictures.draw_accuracy_against_time, points=points, column=column),
            height=4.2,
        )
    curves = figures.learning_curves(results, trials)
    if curves:
        draw = partial(pictures.draw_learning_curves, curves=curves)
        caption = "Validation accuracy per epoch, the best named; a dashed line has no epochs."
        yield _picture(f"curves-{key}", f"Learning curves{where}", caption, draw, height=4.2)
    matrix = figures.confusion(results, trials)
    if matrix is not None:
        draw = partial(pictures.draw_confusion, confusion=matrix)
        caption = f"Test images of {matrix.name}: actual class by predicted class."
        yield _picture(f"confusion-{key}", f"Confusion{where}", caption, draw, height=4.9)
    parallel = figures.parallel_coordinates(results, trials)
    if parallel is not None:
        draw = partial(pictures.draw_parallel, parallel=parallel)
        caption = "A line per trial; the stronger, the more accurate; the best in the other colour."
        yield _picture(f"parallel-{key}", f"Settings{where}", caption, draw, width=6.2)
    yield from _importance(results, trials, key, where)


def _importance(results: Results, trials: pd.DataFrame, key: str, where: str) -> Iterator[Picture]:
    try:
        bars = figures.importance(results, trials)
    except ImportError as error:
        text = f"Not computed: {error.name or 'optuna'} is not installed."
        yield Picture(f"importance-{key}", f"Importance{where}", text, Markup())
        return
    if bars:
        caption = (
            "Share of the validation accuracy's variance that each setting explains "
            f"(Optuna's fANOVA over {bars[0].n} trials); no proof of cause."
        )
        draw = partial(pictures.draw_bars, bars=bars, xlabel="share of variance")
        height = 1.0 + 0.42 * len(bars)
        yield _picture(f"importance-{key}", f"Importance{where}", caption, draw, height=height)


def _picture(
    key: str,
    title: str,
    caption: str,
    draw: Callable[[Axes], None],
    *,
    width: float = 5.2,
    height: float = 3.4,
) -> Picture:
    svg = Markup(pictures.svg(key, draw, width=width, height=height))
    return Picture(
        key, title, caption, svg, shape="wide" if width > 7 else "tall" if height > 4.5 else ""
    )


def _speedup_bars(frame: pd.DataFrame) -> list[figures.Bar]:
    several = frame[["slow_device", "fast_device"]].drop_duplicates().shape[0] > 1
    return [
        figures.Bar(
            f"{row['label']}, {row['slow_device']} to {row['fast_device']}"
            if several
            else str(row["label"]),
            float(row["speedup"]),
            None if empty(row["speedup_low"]) else float(row["speedup_low"]),
            None if empty(row["speedup_high"]) else float(row["speedup_high"]),
            int(row["pairs"]),
        )
        for row in frame.to_dict("records")
    ]


def _study_text(study: Study) -> str:
    try:
        return (study.path / "study.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _environment(study: Study) -> dict[str, Any]:
    """Return the environment in the shape of the template; what is missing is left out."""
    raw = study.environment
    hosts = [h for h in raw.get("hosts") or [] if isinstance(h, dict)]
    data = raw.get("data") if isinstance(raw.get("data"), dict) else {}
    packages = raw.get("packages") if isinstance(raw.get("packages"), dict) else {}
    return {
        "hosts": [_host(h) for h in hosts],
        "python": raw.get("python"),
        "commit": raw.get("git_commit"),
        "packages": sorted((packages or {}).items()),
        "data": [(name, _data(d)) for name, d in (data or {}).items() if isinstance(d, dict)],
    }


def _host(host: dict[str, Any]) -> list[tuple[str, str]]:
    memory = host.get("memory_bytes")
    rows = [
        ("host", host.get("host")),
        ("CPU", host.get("cpu")),
        ("CPUs", host.get("cpus")),
        ("memory", f"{memory / 2**30:.0f} GiB" if isinstance(memory, int | float) else None),
        ("GPUs", ", ".join(map(str, host.get("gpus") or [])) or "none"),
        ("peak fp32", _gflops(host.get("fp32_gflops"))),
        ("peak bf16", _gflops(host.get("bf16_gflops"))),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _gflops(value: Any) -> str | None:
    return f"{value:,.0f} GFLOP/s" if isinstance(value, int | float) else None


def _data(data: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (name, f"{data[name]:,}" if isinstance(data[name], int) else str(data[name]))
        for name in ("images", "train", "val", "test", "split_sha256")
        if data.get(name) is not None
    ]
    files = data.get("sha256")
    if isinstance(files, dict):
        rows += [(f"SHA-256 of {file}", str(digest)) for file, digest in files.items()]
    return [(name.replace("split_sha256", "SHA-256 of the split"), value) for name, value in rows]
