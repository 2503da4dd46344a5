"""Tables as text, Markdown, CSV, LaTeX (booktabs) and JSON."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from analysis.columns import empty, heading, numeric, readable
from analysis.fitting import fit
from analysis.tables import Table
from analysis.verdict import Finding

FORMATS = ("text", "markdown", "csv", "latex", "json")
#: Wide enough for any table where no terminal sets the width: a file or a pipe.
UNBOUNDED = 400
#: A table of more rows does not fit on a page.
MOST_LATEX_ROWS = 45
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
}


def render(tables: Sequence[Table], findings: Sequence[Finding], form: str) -> str:
    """Write the tables, and the findings where the format has room for sentences."""
    if form == "csv":
        return csv(tables)
    if form == "json":
        return to_json(tables, findings)
    if form == "latex":
        return latex(tables)
    if form == "markdown":
        return markdown(tables, findings)
    if form == "text":
        console = Console(file=io.StringIO(), width=UNBOUNDED, color_system=None)
        text(tables, findings, console, rows=None)
        written = console.file.getvalue()  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in written.splitlines()) + "\n"
    raise ValueError(f"the format must be one of {', '.join(FORMATS)}, but got {form!r}")


def text(
    tables: Sequence[Table], findings: Sequence[Finding], console: Console, *, rows: int | None
) -> None:
    """Print to a terminal, at most `rows` rows of each table: Rich takes a millisecond a row."""
    for table in tables:
        cells, _ = readable(table.frame.head(rows) if rows else table.frame)
        cells, fitted = fit(cells, console.width)
        if len(cells.columns):
            console.print(_rich(table, cells))
        else:
            console.print(Text(f"\n{table.title}", style="bold"))
        left = len(table.frame) - len(cells)
        notes = [*fitted, *table.notes]
        if left > 0:
            notes.insert(0, f"{left:,} more rows: --rows 0 or another --format shows all.")
        for note in notes:
            console.print(Text(f"  {_shortened(note)}", style="dim"))
    if findings:
        console.print(Text("\nFindings", style="bold"))
        for finding in findings:
            line = Text(f"  {finding.verdict.value:>13}  ", style=_STYLES[finding.verdict.value])
            console.print(line.append(finding.sentence, style="default not bold"))


_STYLES = {
    "supported": "bold green",
    "refuted": "bold red",
    "not supported": "bold yellow",
    "within noise": "bold cyan",
    "noted": "bold",
}


def markdown(tables: Sequence[Table], findings: Sequence[Finding]) -> str:
    """Write GitHub's Markdown, the best rows in bold."""
    parts = []
    for table in tables:
        parts.append(f"### {_markdown_cell(table.title)}\n")
        cells, order = readable(table.frame)
        if len(cells.columns):
            names = [_markdown_cell(heading(str(c))) for c in cells]
            rule = ["---:" if numeric(order[c]) else "---" for c in cells]
            lines = [names, rule, *_marked(table, cells, _markdown_cell, lambda s: f"**{s}**")]
            parts += ["| " + " | ".join(line) + " |" for line in lines]
            parts.append("")
        parts += [f"{_markdown_cell(note)}\n" for note in table.notes]
    if findings:
        parts.append("### Findings\n")
        parts += [f"- **{f.verdict.value}**: {_markdown_cell(f.sentence)}" for f in findings]
    return "\n".join(parts).rstrip() + "\n"


def latex(tables: Sequence[Table]) -> str:
    r"""Write one `table` each, a `longtable` where it is longer than a page.

    The document needs `\usepackage{booktabs,graphicx,longtable}`.
    """
    parts = [r"% Needs \usepackage{booktabs,graphicx,longtable}."]
    for table in tables:
        cells, order = readable(table.frame)
        if not len(cells.columns):
            continue
        align = "".join("r" if numeric(order[c]) else "l" for c in cells)
        rows = _marked(table, cells, latex_escape, lambda s: rf"\textbf{{{s}}}")
        headings = " & ".join(latex_escape(heading(str(c))) for c in cells)
        body = [
            r"\toprule",
            rf"{headings} \\",
            r"\midrule",
            *_ruled(table, [" & ".join(row) + r" \\" for row in rows]),
            r"\bottomrule",
        ]
        notes = [rf"\par\footnotesize {latex_escape(_shortened(note))}" for note in table.notes]
        caption = rf"\caption{{{latex_escape(table.title)}}}\label{{tab:{table.key}}}"
        if len(rows) > MOST_LATEX_ROWS:
            start = rf"{{\scriptsize\begin{{longtable}}{{{align}}}{caption}\\"
            parts += [start, *body, r"\end{longtable}", *notes, "}", ""]
            continue
        parts += [
            r"\begin{table}",
            caption,
            r"\centering\small",
            # Shrinks a table that is wider than the page and leaves a narrow one as it is.
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{align}}}",
            *body,
            r"\end{tabular}}",
            *notes,
            r"\end{table}",
            "",
        ]
    return "\n".join(parts)


def csv(tables: Sequence[Table]) -> str:
    """Write raw values; several tables stand under one another, each after a `# key` line."""
    tables = [t for t in tables if len(t.frame)]
    if len(tables) == 1:
        return frame_csv(tables[0].frame)
    return "\n".join(f"# {t.key}\n{frame_csv(t.frame)}" for t in tables)


def frame_csv(frame: pd.DataFrame) -> str:
    """Write every digit, so that the values read back equal."""
    return frame.to_csv(index=False, lineterminator="\n")


def to_json(tables: Sequence[Table], findings: Sequence[Finding]) -> str:
    """Write raw values with null for empty ones, notes and findings with their numbers."""
    document = {
        "tables": {
            t.key: {
                "title": t.title,
                "rows": [
                    {str(k): _json_value(v) for k, v in row.items()}
                    for row in t.frame.to_dict("records")
                ],
                "notes": list(t.notes),
            }
            for t in tables
        },
        "findings": [
            {
                "verdict": f.verdict.value,
                "sentence": f.sentence,
                "numbers": {k: _json_value(v) for k, v in f.numbers.items()},
            }
            for f in findings
        ],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def latex_escape(value: str) -> str:
    """Escape text for LaTeX; a character that pdfLaTeX has no glyph for is written as its code."""
    escaped = "".join(_LATEX.get(c, c) for c in " ".join(value.split()))
    return re.sub(r"[^\x20-\x7e\xa0-\xff]", lambda m: f"U+{ord(m[0]):04X}", escaped)


def _rich(table: Table, cells: pd.DataFrame) -> RichTable:
    _, order = readable(table.frame.loc[cells.index])
    rich = RichTable(title=Text(table.title), title_justify="left", title_style="bold")
    for column in cells:
        number = numeric(order[column])
        rich.add_column(
            Text(heading(str(column))),
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
        )
    ends = _group_ends(table, len(cells))
    best = _best(table, len(cells))
    for position, row in enumerate(cells.itertuples(index=False)):
        rich.add_row(
            *(Text(cell) for cell in row),
            style="bold" if best[position] else None,
            end_section=position in ends,
        )
    return rich


def _marked(table: Table, cells: pd.DataFrame, escape: Any, mark: Any) -> list[list[str]]:
    best = _best(table, len(cells))
    return [
        [mark(escape(cell)) if bold and cell else escape(cell) for cell in row]
        for bold, row in zip(best, cells.itertuples(index=False), strict=True)
    ]


def _best(table: Table, n: int) -> list[bool]:
    if "best" not in table.frame:
        return [False] * n
    return [bool(b) for b in table.frame["best"].tolist()[:n]]


def _group_ends(table: Table, n: int) -> set[int]:
    """Return the positions after which the group changes."""
    if table.group is None or table.group not in table.frame:
        return set()
    values = [str(v) for v in table.frame[table.group].tolist()[:n]]
    return {i for i in range(n - 1) if values[i] != values[i + 1]}


def _ruled(table: Table, lines: list[str]) -> Iterable[str]:
    ends = _group_ends(table, len(lines))
    for position, line in enumerate(lines):
        yield line
        if position in ends:
            yield r"\midrule"


def _markdown_cell(value: str) -> str:
    value = " ".join(value.split()).replace("\\", "\\\\")
    value = value.replace("&", "&amp;").replace("<", "&lt;")
    # An underscore inside a word (fashion_mnist) is plain text; at its edge it would be emphasis.
    return re.sub(r"([|*`\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", value)


def _json_value(value: Any) -> Any:
    if empty(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value.item() if hasattr(value, "item") else value


def _shortened(note: str, names: int = 12) -> str:
    """Name the first trials of a long list: the JSON and the report hold all of them."""
    head, sep, tail = note.rpartition(": ")
    parts = tail.split(", ")
    if not sep or len(parts) <= names + 3:
        return note
    return f"{head}: {', '.join(parts[:names])} and {len(parts) - names:,} more."
