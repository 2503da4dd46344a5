from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tuning.study_file import dump, load


def test_check_accepts_a_good_study_and_exits_with_0(write_study, tuning_command):
    result = tuning_command("check", write_study())
    assert (result.returncode, result.stdout.split(": ")[1].strip()) == (
        0,
        "small is a valid study",
    )


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_a_bad_study_gets_one_line_and_exit_code_2(write_study, tuning_command, command):
    path = write_study(repeats=0)
    result = tuning_command(command, path)
    assert result.returncode == 2
    assert result.stderr == f"{path}: repeats: got 0 (a whole number); allowed: greater than 0\n"
    assert result.stdout == ""


def test_a_file_that_does_not_exist_is_refused(tuning_command, tmp_path):
    result = tuning_command("check", "nowhere.yaml")
    assert (result.returncode, result.stderr) == (2, "nowhere.yaml: there is no such file\n")
    assert tuning_command("resume", "nowhere").returncode == 2


def test_missing_data_is_refused_before_a_folder_is_made(write_study, tuning_command, tmp_path):
    path = write_study(dataset={"name": "mine", "path": "nowhere.npz"})
    result = tuning_command("run", path)
    assert result.returncode == 2
    assert result.stderr == "nowhere.npz: there is no such file or folder (dataset.path)\n"
    assert not (tmp_path / "results").exists()


def test_data_says_what_a_data_set_holds(tuning_command):
    result = tuning_command("data", "digits")
    assert result.stdout.startswith("digits: 1797 images of 8x8 in 10 classes; 1258 train, 180 val")
    wrong = tuning_command("data", "digit")
    assert (wrong.returncode, wrong.stderr.strip()[-22:]) == (2, "; did you mean digits?")


def test_plan_counts_trials_and_slots_and_estimates_time_and_memory(tuning_command):
    study = ROOT / "search_spaces" / "resnet_grid.yaml"
    result = tuning_command("plan", study, "--json", "--set", "resources.cpu=1")
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["trials"] == 64
    assert plan["slots"] == plan["hosts"][0]["cpus"]
    assert sum(kind["trials"] for kind in plan["kinds"]) == 64
    small, large = (
        [k for k in plan["kinds"] if k["label"].startswith(m)] for m in ("resnet18", "resnet50")
    )
    assert min(k["seconds"] for k in large) > max(k["seconds"] for k in small) / 2 > 0
    assert all(2**29 < k["memory_bytes"] < 2**33 for k in plan["kinds"])


def test_help_and_check_import_neither_torch_nor_ray():
    code = (
        "import sys\n"
        "from tuning.cli import app\n"
        "from typer.testing import CliRunner\n"
        "result = CliRunner().invoke(app, ['check', 'search_spaces/quickstart.yaml'])\n"
        "assert result.exit_code == 0, result.output\n"
        "assert not {'torch', 'ray', 'optuna', 'sklearn', 'pandas'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_driver_of_a_study_imports_no_torch():
    code = "import sys, tuning.experiment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_dump_and_load_agree(write_study, tmp_path):
    study = load(write_study())
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(study))
    assert load(copy) == study
