import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.errors import AnalysisError
from analysis.load import Results, load
from analysis.prepare import co_tenants, is_cpu, prepare
from tests.analysis.synthetic_studies import resnet, svm, write_study
from tuning.record import COLUMNS


def test_a_row_per_trial_with_the_contracts_columns(results: Results) -> None:
    assert len(results.trials) == 37
    assert set(COLUMNS) <= set(results.trials)
    assert results.trials["status"].value_counts().to_dict() == {
        "completed": 34,
        "stopped": 2,
        "failed": 1,
    }


def test_stopped_trials_keep_the_epochs_they_ran(results: Results) -> None:
    stopped = results.trials[results.trials["status"] == "stopped"]
    assert stopped["epochs"].tolist() == [1, 2]
    assert stopped["max_epochs"].tolist() == [4, 4]


def test_curves_hold_every_report(results: Results) -> None:
    assert len(results.curves) == 32 * 4 + 1 + 2 + 1 + 1


def test_the_host_gives_cpu_trials_its_measured_peak(results: Results) -> None:
    peaks = results.trials.groupby("device")["peak_gflops"].max()
    assert peaks["cpu"] == 166.0
    assert np.isnan(peaks["cuda"])


def test_unfinished_trials_are_in_the_table(tmp_path: Path) -> None:
    trials = [resnet(status="running", test_accuracy=None), resnet(status="pending")]
    table = load([write_study(tmp_path / "a", trials)]).trials
    assert table["status"].tolist() == ["running", "pending"]


def test_an_unfinished_last_line_is_passed_over(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet(), resnet()])
    record = folder / "record.jsonl"
    record.write_bytes(record.read_bytes()[:-9])
    (folder / "record.copy.jsonl").unlink()
    assert load([folder]).trials["status"].tolist() == ["completed", "running"]


def test_the_record_is_preferred_to_a_stale_csv(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet()])
    (folder / "trials.csv").write_text("trial_id,dataset,model\nx,y,z\n")
    assert load([folder]).trials["trial_id"].tolist() == ["00000"]


def test_a_studys_csv_reads_like_its_record(folder: Path, results: Results) -> None:
    columns = [c for c in COLUMNS if c not in ("error",)]
    read = load([folder / "trials.csv"]).trials
    pd.testing.assert_frame_equal(read[columns], results.trials[columns], check_dtype=False)


def test_a_study_without_its_other_files_is_shown_with_notes(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet()])
    (folder / "study.yaml").write_text("name: [unclosed")
    (folder / "environment.json").unlink()
    study = load([folder]).studies[0]
    assert study.name == "a"
    assert len(study.notes) == 2


def test_studies_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_study(tmp_path / name, [resnet()]) for name in ("a", "b")]
    assert [s.name for s in load(folders).studies] == ["quickstart (a)", "quickstart (b)"]


def test_reference_rows_are_marked_by_their_source(reference: Results) -> None:
    assert set(reference.trials["source"]) == {"reference"}
    assert len(reference.trials) == 8 + 4 + 6


def test_a_branching_space_leaves_what_does_not_apply_empty(tmp_path: Path) -> None:
    table = load([write_study(tmp_path / "a", [resnet(), svm(gamma=0.1), svm()])]).trials
    assert table["gamma"].tolist() == [None, 0.1, "scale"]
    assert table["epochs"].isna().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such folder or file"),
        (lambda p: p.mkdir(), "an empty folder: it has no record.jsonl"),
        (lambda p: (p.mkdir(), (p / "x.txt").write_text("hello")), "not a study folder"),
        (lambda p: write_study(p / "inner", [resnet()]), "it holds some: inner"),
        (lambda p: (p.mkdir(), (p / "record.jsonl").write_text("")), "holds no trial yet"),
        (lambda p: (p.mkdir(), (p / "record.jsonl").write_text("abc\n")), "line 1 is damaged"),
        (lambda p: p.write_text("a,b\n1,2\n"), "the column trial_id, dataset, model is missing"),
        (lambda p: p.write_text("trial_id,dataset,model\n"), "holds no trial"),
        (lambda p: p.write_bytes(b"\x89PNG\xff\xfe\x00"), "not a CSV of trials"),
        (lambda p: p.write_text(""), "not a CSV of trials"),
    ],
)
def test_what_is_no_study_gets_one_clear_line(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(AnalysisError, match="thing") as error:
        load([path])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet()])
    record = folder / "record.jsonl"
    lines = record.read_bytes().split(b"\n")
    lines[3] = lines[3][:-5] + b"xxxxx"
    record.write_bytes(b"\n".join(lines))
    assert load([folder]).trials["status"].tolist() == ["completed"]  # from the copy
    (folder / "record.copy.jsonl").write_bytes(record.read_bytes())
    with pytest.raises(AnalysisError, match="line 4 is damaged"):
        load([folder])


def test_loading_imports_neither_torch_nor_ray_nor_matplotlib(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from analysis.load import load; "
        f"load([Path({str(folder)!r})], reference=True); import analysis.cli; "
        "bad = {'torch', 'ray', 'optuna', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules); "
        "sys.exit(', '.join(bad) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_co_tenants_are_the_trials_that_overlap_on_a_host() -> None:
    table = pd.DataFrame(
        {
            "host": ["a", "a", "a", "b", None],
            "started": [0.0, 5.0, 10.0, 0.0, 0.0],
            "ended": [10.0, 20.0, np.nan, 5.0, 5.0],
        }
    )
    assert co_tenants(table) == [1, 2, 1, 0, None]


@pytest.mark.parametrize(
    ("name", "cpu"),
    [
        ("cpu", True),
        ("2x Xeon Gold 6326", True),
        ("AMD EPYC 7763", True),
        ("cuda", False),
        ("A30", False),
        ("NVIDIA H100 Tensor Core GPU", False),
        ("armv8", True),
    ],
)
def test_the_devices_name_tells_its_class(name: str, cpu: bool) -> None:
    assert is_cpu(name) is cpu


def test_trials_of_different_engines_are_different_models(tmp_path: Path) -> None:
    engines = [{"engine": "native"}, {"engine": "ddp"}, {"engine": "deepspeed", "zero_stage": 2}]
    folder = write_study(tmp_path / "engines", [resnet(**engine) for engine in engines])
    labels = load([folder]).trials["label"].tolist()
    assert labels == ["resnet18", "resnet18 ddp", "resnet18 deepspeed ZeRO 2"]


def test_the_number_of_workers_is_part_of_the_label() -> None:
    rows = pd.DataFrame({"model": ["resnet18"] * 2, "engine": ["ddp"] * 2, "workers": [2, 1]})
    assert prepare(rows, None)["label"].tolist() == ["resnet18 ddp x2", "resnet18 ddp"]
