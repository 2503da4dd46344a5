from pathlib import Path

import pandas as pd
import pytest

from analysis import tables
from analysis.load import Results, load
from analysis.matching import find_pairs
from analysis.search import search
from analysis.speedup import speedup
from tests.analysis.synthetic_studies import resnet, svm, write_study


def rows(table: tables.Table, *columns: str) -> list[tuple[object, ...]]:
    return list(table.frame[list(columns)].itertuples(index=False, name=None))


def test_table_a_shows_the_reference(reference: Results) -> None:
    table = tables.hyperparameters(reference)
    found = rows(table, "dataset", "label", "batch_size", "optimizer", "test_accuracy")
    assert ("mnist", "resnet18", 32, "adam", 99.04) in found
    assert ("fashion_mnist", "resnet50", 16, "sgd", 88.10) in found
    assert len(found) == 8
    best = table.frame[table.frame["best"]]
    assert best["test_accuracy"].tolist() == [91.12, 99.24]
    assert best["total_seconds"].tolist() == [160.20, 174.54]


def test_table_b_shows_the_reference(reference: Results) -> None:
    assert rows(tables.svm(reference), "dataset", "kernel", "test_accuracy", "total_seconds") == [
        ("fashion_mnist", "rbf", 88.28, 222.573),
        ("fashion_mnist", "poly", 86.30, 279.310),
        ("mnist", "rbf", 97.92, 162.137),
        ("mnist", "poly", 97.71, 169.357),
    ]


def test_table_c_shows_the_reference(reference: Results) -> None:
    found = rows(tables.hardware(reference), "device_label", "label", "total_seconds", "gflops")
    assert found == [
        ("2x Xeon Gold 6326", "resnet18", 3161.05, 0.2961),
        ("A30", "resnet18", 780.54, 0.2961),
        ("2x Xeon Gold 6326", "resnet34", 5502.84, 0.5981),
        ("A30", "resnet34", 1140.24, 0.5981),
        ("2x Xeon Gold 6326", "resnet50", 7221.72, 0.6673),
        ("A30", "resnet50", 1432.99, 0.6673),
    ]


def test_table_d_shows_the_reference_without_intervals_of_single_pairs(reference: Results) -> None:
    summary, pairs = speedup(reference)
    single = summary.frame[summary.frame["pairs"].eq(1)]
    assert single["speedup"].round(2).tolist() == [4.05, 4.83, 5.04]
    assert single["speedup_low"].isna().all()
    everything = summary.frame[summary.frame["label"].eq("all")].iloc[0]
    assert everything["speedup"] == pytest.approx(4.62, abs=0.005)
    assert everything["speedup_low"] < everything["speedup"] < everything["speedup_high"]
    assert len(pairs.frame) == 3
    text = "\n".join(summary.notes)
    assert "One pair carries no interval: resnet18, resnet34, resnet50." in text
    assert "its device is not recorded: ref-svm-1" in text
    assert "ref-resnet-7" in text


def test_achieved_gflops_are_three_forward_passes_per_image(tmp_path: Path) -> None:
    trial = resnet(seconds=980.0 / 0.9)  # 49,000 images x 4 epochs in 980 s: 200 images/s
    row = tables.hardware(load([write_study(tmp_path / "a", [trial])])).frame.iloc[0]
    assert row["images_per_second"] == pytest.approx(200)
    assert row["achieved_gflops"] == pytest.approx(3 * 0.2961 * 200)
    assert row["peak_share"] == pytest.approx(100 * 3 * 0.2961 * 200 / 166.0)


def test_repeats_are_one_row_with_mean_spread_and_n(tmp_path: Path) -> None:
    trials = [
        resnet(seed=seed, accuracies=[top], test_accuracy=top)
        for seed, top in enumerate([89.0, 90.0, 91.0])
    ]
    table = tables.comparison(load([write_study(tmp_path / "a", trials)]))
    assert rows(table, "val_accuracy", "val_accuracy_spread", "n") == [(90.0, 1.0, 3)]
    assert table.frame["trial_id"].tolist() == ["00000, 00001, 00002"]


def test_trials_that_differ_in_more_than_the_seed_stay_apart(tmp_path: Path) -> None:
    trials = [resnet(seed=0), resnet(seed=1, lr=0.01), resnet(seed=2, threads=1)]
    assert len(tables.comparison(load([write_study(tmp_path / "a", trials)])).frame) == 3


def test_the_best_is_chosen_by_validation_not_by_test(tmp_path: Path) -> None:
    trials = [
        resnet(lr=0.1, accuracies=[91.0], test_accuracy=80.0),
        resnet(lr=0.2, accuracies=[90.0], test_accuracy=99.0),
        resnet(lr=0.3, accuracies=[95.0], test_accuracy=None, status="stopped"),
    ]
    results = load([write_study(tmp_path / "a", trials)])
    frame = tables.comparison(results).frame
    assert frame[frame["best"]]["lr"].tolist() == [0.1]
    assert search(results).frame["best_trial"].tolist() == ["00000"]


def test_ties_are_named(tmp_path: Path) -> None:
    trials = [resnet(lr=0.1), resnet(lr=0.2), resnet(lr=0.3, accuracies=[10.0])]
    table = search(load([write_study(tmp_path / "a", trials)]))
    assert table.frame["best_trial"].tolist() == ["00000, 00001"]
    assert any("a tie at 90.00 % between 00000, 00001" in note for note in table.notes)


def test_search_counts_what_was_spent(results: Results) -> None:
    row = search(results).frame.iloc[0]
    assert (row["trials"], row["completed"], row["stopped"], row["failed"]) == (37, 34, 2, 1)
    assert row["epochs"] == 32 * 4 + 3
    assert row["searcher"] == "optuna tpe"


def test_time_to_the_best_ends_with_its_best_epoch(tmp_path: Path) -> None:
    trials = [
        resnet(lr=0.1, accuracies=[50.0], seconds=30.0),
        resnet(lr=0.2, accuracies=[80.0, 90.0, 85.0, 84.0], seconds=40.0, begin=30.0),
    ]
    row = search(load([write_study(tmp_path / "a", trials)])).frame.iloc[0]
    assert row["seconds_to_best"] == pytest.approx(30.0 + 20.0)


def test_failed_trials_are_named_with_their_reason(results: Results) -> None:
    notes = tables.comparison(results).notes
    assert any("trial 00034 failed: FloatingPointError: the loss is nan" in n for n in notes)


def test_resnets_and_svms_stand_side_by_side(results: Results) -> None:
    table = tables.comparison(results)
    labels = set(table.frame["label"])
    assert {"resnet18", "resnet50", "svm rbf", "svm poly"} == labels


def test_a_small_stem_is_named(tmp_path: Path) -> None:
    trials = [resnet(stem="standard"), resnet(stem="small")]
    table = tables.comparison(load([write_study(tmp_path / "a", trials)]))
    assert set(table.frame["label"]) == {"resnet18", "resnet18 small stem"}


def test_pairs_agree_in_everything_but_the_device(results: Results) -> None:
    pairs, rest = find_pairs(results.trials)
    assert len(pairs) == 8
    assert (pairs["slow_device"] == "Intel Xeon Gold 6326").all()
    assert set(rest["trial_id"]) == {"00032", "00033", "00034", "00035", "00036"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"batch_size": 32}, "differs in batch size (16 against 32)"),
        ({"lr": 0.01}, "differs in lr (0.001 against 0.01)"),
        ({"precision": "amp"}, "differs in precision (fp32 against amp)"),
        ({"pin_memory": False}, "differs in pin memory (yes against no)"),
        ({"model": "resnet50"}, "no other device ran resnet18 on fashion_mnist"),
        ({"status": "stopped", "test_accuracy": None}, "every timed trial ran on"),
    ],
)
def test_an_unmatched_trial_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    other = {"device": "cuda", "device_name": "A30", **change}
    folder = write_study(tmp_path / "a", [resnet(), resnet(**other)])
    summary, _ = speedup(load([folder]))
    assert summary.frame.empty
    note = next(n for n in summary.notes if "00000" in n)
    assert reason in note


def test_speedup_of_training_time_where_both_have_it(tmp_path: Path) -> None:
    gpu = {"device": "cuda", "device_name": "A30"}
    trials = [resnet(seconds=100.0), resnet(seconds=25.0, **gpu)]
    summary, pairs = speedup(load([write_study(tmp_path / "a", trials)]))
    assert pairs.frame["basis"].tolist() == ["train seconds"]
    assert summary.frame["speedup"].tolist() == pytest.approx([4.0])
    assert summary.frame["pairs"].tolist() == [1]


def test_repeats_make_one_pair(tmp_path: Path) -> None:
    gpu = {"device": "cuda", "device_name": "A30"}
    trials = [
        resnet(seconds=s, seed=i, **(gpu if i > 1 else {}))
        for i, s in enumerate([100.0, 400.0, 20.0, 80.0])
    ]
    summary, _ = speedup(load([write_study(tmp_path / "a", trials)]))
    assert rows(summary, "pairs", "speedup") == [(1, pytest.approx(5.0))]


def test_studies_with_trials_of_one_id_are_not_confused(tmp_path: Path) -> None:
    slow = write_study(tmp_path / "slow", [resnet(seconds=100.0, threads=2)], name="slow")
    fast = write_study(
        tmp_path / "fast",
        [resnet(seconds=25.0, device="cuda", device_name="A30", threads=8)],
        name="fast",
    )
    summary, pairs = speedup(load([slow, fast]))
    assert rows(pairs, "slow_trial", "fast_trial") == [("slow/00000", "fast/00000")]
    assert any("A30 8; Intel Xeon Gold 6326 2" in note for note in summary.notes)


def test_svms_compare_by_kernel(tmp_path: Path) -> None:
    trials = [svm("rbf"), svm("poly", accuracies=[87.0], degree=3)]
    table = tables.svm(load([write_study(tmp_path / "a", trials)]))
    assert rows(table, "kernel", "best") == [("rbf", True), ("poly", False)]
    assert isinstance(table.frame, pd.DataFrame)
