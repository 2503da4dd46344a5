from pathlib import Path

from analysis.findings import findings
from analysis.load import Results, load
from analysis.verdict import Finding, Verdict
from tests.analysis.synthetic_studies import resnet, svm, write_study


def find(found: list[Finding], text: str) -> Finding:
    return next(f for f in found if text in f.sentence)


def test_orders_of_magnitude_is_refuted_by_the_reference(reference: Results) -> None:
    finding = find(findings(reference), "orders of magnitude")
    assert finding.verdict is Verdict.REFUTED
    assert 1 < finding.numbers["ratio"] < 2
    assert "162.1-279.3 s" in finding.sentence
    assert "105.1-240.5 s" in finding.sentence


def test_orders_of_magnitude_is_supported_when_it_is_so(tmp_path: Path) -> None:
    trials = [
        *(resnet(lr=0.1 * i, seconds=1.0) for i in (1, 2, 3)),
        *(svm(C=float(i), seconds=500.0) for i in (1, 2, 3)),
    ]
    found = findings(load([write_study(tmp_path / "a", trials)]))
    assert find(found, "orders of magnitude").verdict is Verdict.SUPPORTED


def test_growing_speedup_is_not_supported_by_one_pair_each(reference: Results) -> None:
    finding = find(findings(reference), "grows with the model")
    assert finding.verdict is Verdict.NOT_SUPPORTED
    assert "one pair each" in finding.sentence


def test_growing_speedup_with_enough_pairs_is_supported(results: Results) -> None:
    assert find(findings(results), "grows with the model").verdict is Verdict.SUPPORTED


def test_devices_do_not_differ_in_accuracy_beyond_noise(reference: Results) -> None:
    assert find(findings(reference), "same configuration").verdict is Verdict.NOISE


def test_unknown_test_sizes_cannot_be_judged(reference: Results) -> None:
    found = [f for f in findings(reference) if "the best SVM" in f.sentence]
    assert found
    assert all(f.verdict is Verdict.NOTED for f in found)


def test_mcnemar_where_predictions_are_stored(tmp_path: Path) -> None:
    near = [
        resnet(accuracies=[90.10], test_accuracy=90.00, store_predictions=True),
        resnet(lr=0.1, accuracies=[90.00], test_accuracy=89.99, store_predictions=True),
    ]
    finding = find(findings(load([write_study(tmp_path / "a", near)])), "next best")
    assert finding.verdict is Verdict.NOISE
    assert "McNemar" in finding.sentence
    assert finding.numbers["n"] == 14_000


def test_intervals_where_no_predictions_are_stored(tmp_path: Path) -> None:
    trials = [
        resnet(accuracies=[90.0], test_accuracy=90.0),
        resnet(lr=0.1, accuracies=[70.0], test_accuracy=70.0),
    ]
    finding = find(findings(load([write_study(tmp_path / "a", trials)])), "next best")
    assert finding.verdict is Verdict.SUPPORTED
    assert "do not overlap" in finding.sentence


def test_damaged_predictions_are_passed_over(tmp_path: Path) -> None:
    trials = [resnet(store_predictions=True), resnet(lr=0.1, accuracies=[89.0])]
    folder = write_study(tmp_path / "a", trials)
    (folder / "trials" / "00000" / "predictions.npz").write_bytes(b"PK broken")
    finding = find(findings(load([folder])), "next best")
    assert "overlap" in finding.sentence


def test_few_pairs_never_support_an_effect(tmp_path: Path) -> None:
    trials = [
        resnet(optimizer=optimizer, batch_size=batch, accuracies=[90.0 + (optimizer == "adam")])
        for optimizer in ("sgd", "adam")
        for batch in (16, 32, 64)
    ]
    finding = find(findings(load([write_study(tmp_path / "a", trials)])), "optimizer sgd")
    assert finding.verdict is Verdict.NOT_SUPPORTED
    assert finding.numbers["n"] == 3


def test_enough_pairs_support_an_effect(results: Results) -> None:
    finding = find(findings(results), "optimizer sgd against adam")
    assert finding.verdict is Verdict.SUPPORTED
    assert finding.numbers["n"] == 8


def test_stopped_failed_and_shared_trials_are_said(results: Results) -> None:
    found = findings(results)
    assert "3 of 8 epochs" in find(found, "The scheduler stopped").sentence
    assert "00034" in find(found, "failed").sentence
    assert find(found, "overlapped in time").numbers["known"] == 37


def test_differing_threads_are_said(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet(threads=1), resnet(lr=0.1, threads=4)])
    assert "(1, 4)" in find(findings(load([folder])), "differing threads").sentence


def test_a_study_without_results_has_no_findings(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "a", [resnet(status="pending")])
    assert findings(load([folder])) == []


def test_a_trial_is_never_compared_with_itself(tmp_path: Path) -> None:
    # An SVM leaves the network's settings empty, and the other way round.
    trials = [
        resnet(accuracies=[90.0], lr=0.1),
        resnet(accuracies=[89.0], lr=0.2),
        svm(accuracies=[88.0], C=1.0),
        svm(accuracies=[87.0], C=2.0),
    ]
    finding = find(findings(load([write_study(tmp_path / "a", trials)])), "next best")
    assert "trial 00000" in finding.sentence
    assert "trial 00001" in finding.sentence
