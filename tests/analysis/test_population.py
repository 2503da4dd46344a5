from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from analysis.cli import app
from analysis.load import load
from analysis.population import population
from tuning.record import Record


def write_population(folder: Path) -> Path:
    """Two trials of four epochs; after the second epoch the worse one goes on from the better."""
    folder.mkdir()
    (folder / "study.yaml").write_text("name: crowd\nsearch: {metric: val_accuracy}\n")
    record = Record(folder)
    for trial, lr in (("00000", 0.1), ("00001", 0.4)):
        config = {"trainable": "resnet", "model": "resnet18", "lr": lr, "epochs": 4, "seed": 0}
        record.append("trial", time=0.0, trial=trial, config=config)

    def report(trial: str, epoch: int, accuracy: float) -> None:
        metrics = {"epoch": epoch, "val_accuracy": accuracy, "total_seconds": float(epoch)}
        record.append("report", time=float(epoch), trial=trial, metrics=metrics)

    for epoch in (1, 2):
        report("00000", epoch, 80.0 + epoch)
        report("00001", epoch, 90.0 - epoch if epoch == 1 else 40.0)
    taken = {"00001": {"donor": "00000", "config": config | {"lr": 0.12}}}
    scores = {"00000": 82.0, "00001": 40.0}
    record.append("round", time=3.0, epoch=2, scores=scores, trials=taken)
    for epoch in (3, 4):
        report("00000", epoch, 80.0 + epoch)
        report("00001", epoch, 80.5 + epoch)
    for trial in ("00000", "00001"):
        record.append("end", time=9.0, trial=trial, status="completed", error="")
    record.close()
    return folder


def test_a_population_shows_each_stretch_of_epochs_with_its_parameters(tmp_path: Path) -> None:
    frame = population(load([write_population(tmp_path / "crowd")])).frame
    rows = frame[["trial_id", "span", "weights_from", "lr", "score"]].astype(object)
    assert rows.where(rows.notna(), None).to_numpy().tolist() == [
        ["00000", "1-4", None, 0.1, 84.0],
        ["00001", "1-2", None, 0.4, 40.0],
        ["00001", "3-4", "00000", 0.12, 84.5],
    ]


def test_a_trial_is_judged_by_the_epochs_of_its_last_parameters(tmp_path: Path) -> None:
    trials = load([write_population(tmp_path / "crowd")]).trials.set_index("trial_id")
    row = trials.loc["00001"]
    assert (row["lr"], row["val_accuracy"], row["best_epoch"]) == (0.12, 84.5, 4)
    assert row["weights_from"] == "00000 after 2"


def test_the_command_prints_the_population(tmp_path: Path) -> None:
    folder = str(write_population(tmp_path / "crowd"))
    done = CliRunner().invoke(app, ["tables", folder, "--format", "markdown"])
    assert done.exit_code == 0, done.output
    assert "H. Population" in done.output
    assert "| 00001 | 3-4 | 00000 | 0.12 |" in done.output
