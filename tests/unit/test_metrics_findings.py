"""Many findings at once against scikit-learn on resampled images, single-finding draws and published predictions."""

import csv
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from wordsight.errors import MetricError
from wordsight.metrics import FindingTable, auroc, long_tail, rank_findings, trapezoid_auprc
from wordsight.metrics.findings import RANKING, WeightedFindings, pooled_ranking
from wordsight.metrics.intervals import bootstrap_weights, percentile_interval
from wordsight.metrics.ranking import weighted_auroc, weighted_average_precision


def example(n=60, findings=4, seed=0, decimals=1):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, findings)) < rng.uniform(0.05, 0.6, findings)).astype(np.int8)
    scores = np.round(rng.normal(size=(n, findings)) + labels, decimals)
    return labels, scores, [f"p{i // 2}" for i in range(n)]


def by_scikit_learn(labels, scores):
    if labels.all() or not labels.any():
        return [math.nan] * 3
    precision, recall, _ = precision_recall_curve(labels, scores)
    return [roc_auc_score(labels, scores), auc(recall, precision), average_precision_score(labels, scores)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(4, 40), st.integers(1, 3), st.sampled_from([0, 1, 8]))
def test_draws_are_scikit_learn_on_the_drawn_images(seed, n, findings, decimals):
    labels, scores, groups = example(n, findings, seed, decimals)
    table = rank_findings(labels, scores, groups, draws=5, seed=seed)
    weights = np.concatenate(list(bootstrap_weights(groups, draws=5, seed=seed))).astype(int)
    for f in range(findings):
        assert table.values[:, f] == pytest.approx(by_scikit_learn(labels[:, f], scores[:, f]), abs=1e-12, nan_ok=True)
        for d, times in enumerate(weights):
            rows = np.repeat(np.arange(n), times)
            expected = by_scikit_learn(labels[rows, f], scores[rows, f])
            assert table.drawn[:, f, d] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_draws_are_those_of_single_findings():
    labels, scores, groups = example(80, 5, 3)
    weights = np.concatenate(list(bootstrap_weights(groups, draws=200, seed=4)))
    drawn = WeightedFindings(labels, scores)(weights)
    for f in range(5):
        expected = weighted_auroc(labels[:, f], scores[:, f], weights)
        assert drawn[0, f] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        expected = weighted_average_precision(labels[:, f], scores[:, f], weights)
        assert drawn[2, f] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_numbers_and_means_have_their_intervals():
    labels, scores, groups = example(120, 3, 1)
    table = rank_findings(labels, scores, groups, draws=300, seed=7)
    number = table.number("auroc", 1)
    assert number.value == auroc(labels[:, 1], scores[:, 1])
    assert number.low < number.value < number.high
    assert number.n == 120
    mean = table.mean("auprc")
    assert mean.value == pytest.approx(np.mean([trapezoid_auprc(labels[:, f], scores[:, f]) for f in range(3)]))
    expected = percentile_interval(table.drawn[1].mean(axis=0))
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high))
    assert table.mean("ap", [2]).value == table.number("ap", 2).value
    again = rank_findings(labels, scores, groups, draws=300, seed=7)
    assert (again.drawn == table.drawn).all()
    order = np.random.default_rng(0).permutation(120)
    shuffled = rank_findings(labels[order], scores[order], [groups[i] for i in order], draws=300, seed=7)
    assert shuffled.drawn == pytest.approx(table.drawn, abs=1e-12)


def test_undefined_findings_are_said_not_counted():
    labels, scores, groups = example(40, 3, 2)
    labels[:, 1] = 0
    table = rank_findings(labels, scores, groups, draws=50)
    assert str(table.number("auroc", 1)) == "undefined (only one class)"
    mean = table.mean("auroc")
    assert mean.value == pytest.approx(np.mean([auroc(labels[:, f], scores[:, f]) for f in (0, 2)]))
    assert mean.note.startswith("mean of 2 of 3 findings, the others: only one class")
    assert math.isfinite(mean.low)
    assert str(table.mean("auroc", [1])) == "undefined (undefined for each of 1 findings: only one class)"
    assert str(table.mean("auroc", [])) == "undefined (no findings)"


def test_draws_without_a_rare_finding_are_counted():
    labels, scores, groups = example(60, 2, 5)
    labels[:, 0] = 0
    labels[7, 0] = 1
    table = rank_findings(labels, scores, groups, draws=400)
    lost = int(np.isnan(table.drawn[0, 0]).sum())
    assert 90 < lost < 200  # (1 - 1/30)^30 = 0.36 of the draws miss the only positive's patient
    assert table.number("auroc", 0).note == f"{lost} of 400 draws undefined"
    mean = table.mean("auroc")
    assert mean.note == f"a finding was undefined in {lost} of 400 draws"
    assert mean.low < mean.value < mean.high


def test_an_interval_that_misses_its_value_says_so():
    """Two positives deep among many negatives: repeated in a draw, they have twins, and precision rises."""
    labels, scores = np.zeros((400, 100), dtype=np.int8), np.random.default_rng(0).normal(size=(400, 100))
    for finding in range(100):
        labels[[finding, 200 + finding], finding] = 1
    table = rank_findings(labels, scores, [str(i) for i in range(400)], draws=300)
    mean = table.mean("ap")
    assert mean.value < mean.low
    assert "lies outside its interval" in mean.note
    assert "lies outside" not in table.mean("auroc").note


def test_without_draws_or_with_one_patient_there_is_no_interval():
    labels, scores, _ = example(20, 2, 0)
    bare = rank_findings(labels, scores, [str(i) for i in range(20)], draws=0)
    assert (math.isnan(bare.number("auroc", 0).low), bare.number("auroc", 0).note) == (True, "")
    single = rank_findings(labels, scores, ["p"] * 20)
    assert single.number("auroc", 0).note == "no interval: only one patient"
    assert single.mean("ap").note == "no interval: only one patient"


def test_pooled_findings_are_one_list():
    labels, scores, _ = example(50, 3, 9)
    pooled = pooled_ranking(labels, scores)
    assert [pooled[m].value for m in RANKING] == pytest.approx(by_scikit_learn(labels.ravel(), scores.ravel()))
    assert math.isnan(pooled["auroc"].low)
    assert str(pooled_ranking(np.zeros((4, 2)), np.ones((4, 2)))["ap"]) == "undefined (only one class)"


def test_tiers_by_how_common_findings_are():
    positives = np.array([5, 10, 11, 20, 30, 40, 50, 60, 100, 200])
    limit = np.percentile(positives, 65)
    assert long_tail(positives) == {"head": [6, 7, 8, 9], "medium": [2, 3, 4, 5], "tail": [0, 1]}
    assert 40 < limit < 50
    assert long_tail(np.array([1, 2, 3])) == {"head": [], "medium": [], "tail": [0, 1, 2]}


def test_bad_tables_are_refused():
    labels, scores, groups = example(10, 2)
    with pytest.raises(MetricError, match=r"one shape \(images, findings\), got \(10, 2\) and \(10,\)"):
        rank_findings(labels, scores[:, 0], groups)
    with pytest.raises(MetricError, match=r"one shape \(images, findings\), got \(10, 0\)"):
        rank_findings(labels[:, :0], scores[:, :0], groups)
    with pytest.raises(MetricError, match=r"one group \(patient\) per image, got 9 for 10"):
        rank_findings(labels, scores, groups[:9])
    scores[3, 1] = math.nan
    with pytest.raises(MetricError, match="got NaN for 1 of 10"):
        rank_findings(labels, scores, groups)


def test_a_thousand_draws_of_a_large_set_take_seconds():
    labels, scores, groups = example(7470, 18, 0, decimals=6)
    start = time.process_time()
    table = rank_findings(labels, scores, groups, draws=1000)
    assert time.process_time() - start < 15  # measured 2 s here (a third are positives), 1 s on Open-I
    assert isinstance(table, FindingTable)
    assert table.drawn.shape == (3, 18, 1000)


def test_published_predictions_with_the_stated_draws(shared):
    """The intervals of the reference, per class and of the means over classes, to the last digit given."""
    folder = shared / "data" / "labels"
    expected = json.loads((folder / "expected.json").read_text())
    classes = expected["protocol"]["classes"]

    def table(path):
        with open(path, newline="") as stream:
            return {row["Study"]: [float(row[c]) for c in classes] for row in csv.DictReader(stream)}

    truth = table(folder / "chexpert" / "groundtruth.csv")
    labels = np.array(list(truth.values())).astype(np.int8)
    drawn = np.random.RandomState(0).randint(0, 500, size=(1000, 500))
    weights = np.stack([np.bincount(row, minlength=500) for row in drawn]).astype(float)
    for model, known in expected["models"].items():
        rows = table(folder / "chexpert" / "predictions" / f"{model}_predictions.csv")
        scores = np.array([rows[study] for study in truth])
        plain = rank_findings(labels, scores, list(truth), draws=0)
        stated = FindingTable(
            RANKING, plain.values, WeightedFindings(labels, scores)(weights), plain.positives, 500, plain.undefined
        )
        for metric, key in (("auroc", "auroc"), ("ap", "auprc")):
            numbers = [stated.number(metric, f) for f in range(5)] + [stated.mean(metric)]
            for number, name in zip(numbers, [*classes, "macro"], strict=True):
                assert number.value == pytest.approx(known[name][key], abs=1e-9)
                assert (number.low, number.high) == pytest.approx(known[name][f"{key}_boot_ci"], abs=1e-9)
