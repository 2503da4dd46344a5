import io
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from analysis.cli import app, print_tables
from analysis.errors import AnalysisError
from tests.analysis.synthetic_studies import resnet, svm, write_study


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_tables_prints_every_table_and_the_findings(folder: Path) -> None:
    result = run("tables", folder)
    assert result.exit_code == 0
    for title in ("All trials side by side", "A. Hyper", "B. Support", "C. Hard", "D. Speed", "E."):
        assert title in result.output
    assert "refuted" in result.output


def test_the_reference_alone_or_beside_a_study(folder: Path) -> None:
    alone = run("tables", "--against", "reference", "--table", "speedup")
    assert "4.83" in alone.output
    beside = run("tables", folder, "--against", "reference", "--table", "comparison", "--rows", 0)
    assert "ref-resnet-7" in beside.output
    assert "00035" in beside.output


def test_where_sort_and_columns(folder: Path) -> None:
    result = run(
        *("tables", folder, "--table", "comparison", "--format", "csv"),
        *("--where", "model=resnet18", "--where", "lr<0.05"),
        *("--sort", "-total_seconds", "--columns", "label,lr,total_seconds"),
    )
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "label,lr,total_seconds,best"
    times = [float(line.split(",")[2]) for line in lines[1:]]
    assert times == sorted(times, reverse=True)
    assert len(times) == 9


@pytest.mark.parametrize("option", ["--group-by", "--sort"])
def test_a_column_of_words_and_numbers_can_be_ordered(tmp_path: Path, option: str) -> None:
    trials = [svm(gamma=0.1), svm(gamma="scale"), svm(gamma="auto"), svm(gamma=0.01)]
    result = run("tables", write_study(tmp_path / "a", trials), "--table", "svm", option, "gamma")
    assert result.exit_code == 0, result.output


def test_group_by_puts_rows_together(folder: Path) -> None:
    result = run(
        "tables", folder, "--table", "comparison", "--group-by", "optimizer", "--format", "csv"
    )
    column = [line.split(",")[0] for line in result.output.splitlines()[1:]]
    assert column == sorted(column, key=lambda v: v or "~")
    best = [line for line in result.output.splitlines() if line.endswith("True")]
    assert {line.split(",")[0] for line in best} == {"adam", "sgd", ""}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "modle=resnet18"], "did you mean model?"),
        (["--where", "nonsense"], "must be COLUMN=VALUE"),
        (["--where", "lr<much"], "must compare with a number"),
        (["--where", "model=vgg"], "leaves no trial"),
        (["--sort", "valaccuracy"], "did you mean val_accuracy?"),
        (["--columns", "zzz"], "no column 'zzz'"),
        (["--group-by", "optimiser"], "did you mean optimizer?"),
    ],
)
def test_a_wrong_option_gets_one_line_and_exit_code_2(
    folder: Path, arguments: list[str], message: str
) -> None:
    result = run("tables", folder, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["tables", "report"])
def test_a_foreign_folder_gets_one_line_and_exit_code_2(tmp_path: Path, command: str) -> None:
    out = ["--out", tmp_path / "out"] if command == "report" else []
    result = run(command, tmp_path, *out)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "record.jsonl" in result.stderr
    assert "Traceback" not in result.output


def test_nothing_to_show_is_said() -> None:
    result = run("tables")
    assert result.exit_code == 2
    assert "give study folders" in result.stderr


def test_out_writes_a_file(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.md"
    assert run("tables", folder, "--format", "markdown", "--out", path).exit_code == 0
    assert path.read_text().startswith("### All trials side by side")


def test_out_that_cannot_be_written_is_said(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run("tables", folder, "--out", tmp_path / "file" / "x")
    assert result.exit_code == 2
    assert "cannot write there" in result.stderr


def test_a_failed_trial_is_named_and_the_exit_code_is_0(folder: Path) -> None:
    result = run("tables", folder, "--table", "comparison")
    assert result.exit_code == 0
    assert "00034 failed" in result.output


def test_a_study_that_only_failed_still_prints(tmp_path: Path) -> None:
    trial = resnet(status="failed", error="boom", accuracies=[], test_accuracy=None)
    result = run("tables", write_study(tmp_path / "a", [trial]))
    assert result.exit_code == 0
    assert "boom" in result.output


def test_tables_leave_text_with_brackets_alone(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet(optimizer="[red]x"), resnet(optimizer="sgd")])
    assert "[red]x" in run("tables", folder).output


def test_print_tables_fits_a_narrow_console(folder: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    print_tables([folder], console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "svm rbf" in text
    assert max(map(len, text.splitlines())) <= 100


def test_print_tables_raises_for_the_caller_to_say(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError):
        print_tables([tmp_path], Console(file=io.StringIO()))


def test_module_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "analysis", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "analysis" in done.stdout
