"""Several objectives, bounds, finalists and answered repeats, from study folder to table."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume
from optuna.study._multi_objective import _is_pareto_front
from typer.testing import CliRunner

from analysis import figures
from analysis.cli import app
from analysis.findings import findings
from analysis.front import covered, finalists, front
from analysis.load import Results, load
from analysis.pareto import hypervolume, non_dominated
from analysis.search import choose, search
from analysis.tables import comparison
from tests.analysis.synthetic_studies import Trial, svm, write_study
from tuning.record import Record

SEVERAL = (
    ", objectives: [{metric: val_accuracy, mode: max}, {metric: train_seconds, mode: min}]"
    ", constraints: [{metric: predict_seconds, max: 4, min: null}]"
)


def several(folder: Path) -> Results:
    """Six trials: three on the front, one beaten, one beyond the bound, one failed."""
    trials = [
        svm(accuracies=[80.0], seconds=10.0, C=1.0, begin=0.0),
        svm(accuracies=[90.0], seconds=50.0, C=2.0, begin=20.0),
        svm(accuracies=[85.0], seconds=20.0, C=3.0, begin=80.0),
        svm(accuracies=[84.0], seconds=30.0, C=4.0, begin=110.0),
        svm(accuracies=[99.0], seconds=200.0, C=5.0, begin=150.0),
        svm(accuracies=[], status="failed", C=6.0, begin=400.0, test_accuracy=None),
    ]
    return load([write_study(folder, trials, search=SEVERAL)])


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return several(tmp_path_factory.mktemp("several") / "study")


def test_the_front_and_hypervolume_by_hand() -> None:
    points = [[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [2.0, 2.0]]
    assert non_dominated(points).tolist() == [True, True, True, False, True]
    # Columns of 1 x 1, 2 x 3 and 1 x 4 below the corner (5, 5).
    assert hypervolume(points, [5.0, 5.0]) == 1 + 2 * 3 + 4
    assert hypervolume([[6.0, 0.0]], [5.0, 5.0]) == 0


@pytest.mark.parametrize("dimensions", [2, 3, 4])
def test_the_front_and_hypervolume_are_those_of_optuna(dimensions: int) -> None:
    points = np.random.default_rng(dimensions).integers(0, 9, (40, dimensions)).astype(float)
    marked = _is_pareto_front(points, assume_unique_lexsorted=False)
    assert non_dominated(points).tolist() == marked.tolist()
    corner = np.full(dimensions, 8.0)
    inside = points[(points <= corner).all(axis=1)]
    assert hypervolume(points, corner) == pytest.approx(compute_hypervolume(inside, corner))


def test_the_table_holds_the_front_and_names_the_best_and_the_rule(results: Results) -> None:
    table = front(results)
    assert table.frame["trial_id"].tolist() == ["00001", "00002", "00000"]
    assert table.frame["best"].tolist() == [True, False, False]
    assert table.frame["train_seconds"].tolist() == [45.0, 18.0, 9.0]
    notes = " ".join(table.notes)
    assert "3 of 4 comparable trials" in notes
    assert "Called best: 00001. Rule: val % decides, of equal values train s." in notes
    assert "predict s <= 4; beyond it: 00004" in notes


def test_the_hypervolume_over_time_by_hand(results: Results) -> None:
    # In units of the box from (80 %, 45 s) to (90 %, 9 s): the first two trials are its corners.
    frame = covered(results).frame
    assert frame["trial_id"].tolist() == ["00002"]
    assert frame["hypervolume_percent"].tolist() == pytest.approx([100 * 0.5 * 27 / 36])
    assert frame["ended_seconds"].tolist() == [100.0]


def test_a_trial_beyond_a_bound_is_marked_and_never_called_best(results: Results) -> None:
    assert choose(results.trials)["trial_id"].tolist() == ["00001"]
    table = comparison(results)
    rows = table.frame.set_index("trial_id")
    assert rows["feasible"].to_dict()["00004"] is False
    assert rows.index[rows["best"]].tolist() == ["00001"]
    assert any("never called best: 00004" in note for note in table.notes)
    assert search(results).frame["best_trial"].tolist() == ["00001"]
    assert "trial 00001" in next(iter(findings(results))).sentence


def test_equal_accuracies_are_decided_by_the_next_objective(tmp_path: Path) -> None:
    trials = [svm(accuracies=[90.0], seconds=s, C=c) for c, s in ((1.0, 50.0), (2.0, 40.0))]
    results = load([write_study(tmp_path / "a", trials, search=SEVERAL)])
    assert choose(results.trials)["trial_id"].tolist() == ["00001"]
    assert front(results).frame["trial_id"].tolist() == ["00001"]


def final(of: str, accuracies: list[float], **changes: Any) -> list[Trial]:
    """Return a finalist's runs with other seeds."""
    return [
        svm(accuracies=[a], test_accuracy=a - 1, seed=seed, finalist_of=of, **changes)
        for seed, a in enumerate(accuracies, start=1)
    ]


@pytest.fixture(scope="module")
def with_finalists(tmp_path_factory: pytest.TempPathFactory) -> Results:
    trials = [
        svm(accuracies=[90.0], C=1.0, test_accuracy=None),
        svm(accuracies=[89.0], C=2.0, test_accuracy=None),
        svm(accuracies=[70.0], C=3.0, test_accuracy=None),
        *final("00000", [84.5, 85.0, 85.5], C=1.0),
        *final("00001", [88.0, 88.5, 89.0], C=2.0),
    ]
    folder = tmp_path_factory.mktemp("finalists") / "study"
    return load([write_study(folder, trials)])


def test_finalists_are_ranked_by_their_mean_and_interval(with_finalists: Results) -> None:
    table = finalists(with_finalists)
    assert table.frame["finalist"].tolist() == ["00001", "00000"]
    assert table.frame["best"].tolist() == [True, False]
    first = table.frame.iloc[0]
    assert first["val_accuracy"] == pytest.approx(88.5)
    # Student's t with 2 degrees of freedom: 4.3027 times 0.5 / sqrt(3).
    assert first["val_accuracy_high"] - first["val_accuracy"] == pytest.approx(1.242, abs=1e-3)
    assert (first["in_search"], first["n"]) == (89.0, 3)
    assert first["test_accuracy"] == pytest.approx(87.5)
    assert "was chosen for its result" in table.notes[0]
    assert len(table.notes) == 1


def test_the_best_finalist_is_called_best_not_the_luckiest_trial(with_finalists: Results) -> None:
    best = choose(with_finalists.trials)
    assert best["trial_id"].tolist() == ["00006"]
    assert best["test_accuracy"].tolist() == pytest.approx([87.5])
    table = comparison(with_finalists)
    assert table.frame[table.frame["best"]]["trial_id"].tolist() == ["00006, 00007, 00008"]
    assert "best mean over new seeds" in next(iter(findings(with_finalists))).sentence


def test_overlapping_finalists_are_said_to_be_unsettled(tmp_path: Path) -> None:
    trials = [svm(C=1.0), svm(C=2.0), *final("00000", [84.0, 85.0], C=1.0),
              *final("00001", [84.1, 84.9], C=2.0)]  # fmt: skip
    table = finalists(load([write_study(tmp_path / "a", trials)]))
    assert "is not settled" in table.notes[1]


def test_an_answered_trial_is_marked_and_is_no_repetition(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [svm(C=1.0), svm(C=2.0)])
    record = Record(folder)
    config = {**svm(C=1.0).config, "seed": 0}
    record.append("trial", time=1.8e9, trial="00002", config=config)
    record.append("answer", time=1.8e9, trial="00002", of="00000")
    record.close()
    results = load([folder])
    assert choose(results.trials)["trial_id"].tolist() == ["00000", "00001"]
    table = comparison(results)
    row = table.frame.set_index("trial_id").loc["00002"]
    assert (row["answered_from"], row["val_accuracy"]) == ("00000", 88.0)
    assert "n" not in table.frame
    assert any("00002 (00000's)" in note for note in table.notes)


def test_every_format_and_the_page_show_the_front(tmp_path: Path) -> None:
    several(tmp_path / "study")
    run = CliRunner().invoke
    for form in ("text", "markdown", "csv", "latex", "json"):
        arguments = ["tables", str(tmp_path / "study"), "--table", "front", "--format", form]
        result = run(app, arguments)
        assert result.exit_code == 0, result.output
        assert "00001" in result.output
    document = json.loads(result.output)
    assert document["tables"]["front"]["rows"][0]["val_accuracy"] == 90.0
    out = tmp_path / "page"
    assert run(app, ["report", str(tmp_path / "study"), "--out", str(out)]).exit_code == 0
    html = (out / "index.html").read_text()
    assert "Pareto front" in html
    assert "Hypervolume over time" in html


def test_the_picture_tells_best_front_beaten_and_beyond_apart(results: Results) -> None:
    picture = figures.pareto_front(results, results.trials)
    assert picture is not None
    kinds = [(m.best, m.front, m.feasible) for m in picture.marks]
    assert kinds == [(False, True, True), (True, True, True), (False, True, True),
                     (False, False, True), (False, False, False)]  # fmt: skip
    shares = picture.coverage.share.tolist()
    assert all(a <= b for a, b in itertools.pairwise(shares))
