import io
import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from analysis import tables
from analysis.columns import readable, write
from analysis.load import Results, load
from analysis.render import latex, latex_escape, markdown, render
from analysis.speedup import speedup
from analysis.tables import Table
from tests.analysis.synthetic_studies import resnet, write_study

HOSTILE = r"50%_of\{it}$ & <b>#1</b> ~^ | *x* 中"


@pytest.fixture(scope="module")
def reference_tables(reference: Results) -> list[Table]:
    return [
        tables.comparison(reference),
        tables.hyperparameters(reference),
        tables.svm(reference),
        tables.hardware(reference),
        *speedup(reference),
    ]


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "latex", "json"])
def test_every_format_shows_the_reference_figures(reference_tables: list[Table], form: str) -> None:
    text = render(reference_tables, [], form)
    for figure in ("91.12", "99.24", "88.28", "97.92", "0.2961", "0.5981", "0.6673"):
        assert figure in text
    if form in ("text", "markdown", "latex"):
        for figure in ("4.05", "4.83", "5.04", "7,221.7"):
            assert figure in text


def test_the_json_holds_every_digit(reference_tables: list[Table]) -> None:
    document = json.loads(render(reference_tables, [], "json"))
    rows = document["tables"]["speedup"]["rows"]
    assert [round(row["speedup"], 2) for row in rows] == [4.05, 4.83, 5.04, 4.62]
    assert rows[0]["speedup_low"] is None


def test_the_csv_reads_back_equal(reference_tables: list[Table]) -> None:
    for table in reference_tables:
        read = pd.read_csv(io.StringIO(render([table], [], "csv")))
        pd.testing.assert_frame_equal(
            read, table.frame.reset_index(drop=True), check_dtype=False, check_exact=True
        )


def test_the_csv_of_the_trials_can_be_loaded_again(results: Results, tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    path.write_text(render([tables.trials(results)], [], "csv"))
    first, again = tables.comparison(results), tables.comparison(load([path]))
    columns = ["label", "val_accuracy", "test_accuracy", "total_seconds", "n", "trial_id"]
    pd.testing.assert_frame_equal(first.frame[columns], again.frame[columns], check_dtype=False)


def test_markdown_marks_the_best_and_escapes(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet(optimizer="a|b"), resnet(optimizer="<i>")])
    text = markdown([tables.comparison(load([folder]))], [])
    assert r"**a\|b**" in text
    assert "&lt;i>" in text
    widths = {line.replace(r"\|", "").count("|") for line in text.splitlines() if "|" in line}
    assert len(widths) == 1


def test_latex_escapes_what_a_study_may_hold() -> None:
    assert latex_escape(HOSTILE) == (
        r"50\%\_of\textbackslash{}\{it\}\$ \& \textless{}b\textgreater{}\#1"
        r"\textless{}/b\textgreater{} \textasciitilde{}\textasciicircum{} | *x* U+4E2D"
    )


@pytest.mark.skipif(
    not (shutil.which("pdflatex") or shutil.which("tectonic")),
    reason="neither pdflatex nor tectonic is installed",
)
def test_the_latex_compiles(
    reference_tables: list[Table], results: Results, tmp_path: Path
) -> None:
    hostile = Table("x", HOSTILE, pd.DataFrame({HOSTILE: [HOSTILE], "n": [1]}), (HOSTILE,))
    long = Table("long", "Long", pd.DataFrame({"n": range(200), "a_b": ["x_y"] * 200}))
    ours = [tables.comparison(results), *speedup(results)]
    body = latex([*reference_tables, *ours, hostile, long])
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{booktabs}\n"
        f"\\usepackage{{graphicx,longtable}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    command = (
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        if shutil.which("pdflatex")
        else ["tectonic", "paper.tex"]
    )
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of text, markdown"):
        render([], [], "word")


def test_stopped_trials_say_of_how_many_epochs(results: Results) -> None:
    cells, _ = readable(tables.comparison(results).frame)
    assert "2 of 4" in cells["epochs"].tolist()
    assert "4" in cells["epochs"].tolist()


def test_a_mean_comes_with_its_spread_and_an_interval_with_its_column() -> None:
    frame = pd.DataFrame(
        {
            "test_accuracy": [90.0, 80.0],
            "test_accuracy_spread": [1.0, None],
            "test_accuracy_low": [89.5, None],
            "test_accuracy_high": [90.5, None],
            "lr": [None, None],
        }
    )
    cells, _ = readable(frame)
    assert cells["test_accuracy"].tolist() == ["90.00 ± 1.00", "80.00"]
    assert cells["test_interval"].tolist() == ["89.50\N{EN DASH}90.50", ""]
    assert "lr" not in cells


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("total_seconds", 1234.56, "1,234.6"),
        ("predict_seconds", 0.0123, "0.012"),
        ("lr", 0.0001, "0.0001"),
        ("gflops", 0.2961, "0.2961"),
        ("batch_size", 16, "16"),
        ("pin_memory", True, "yes"),
        ("kernel", None, ""),
        ("val_accuracy", float("nan"), ""),
        ("degree", pd.NA, ""),
    ],
)
def test_values_are_written_for_a_reader(column: str, value: object, text: str) -> None:
    assert write(column, value) == text
