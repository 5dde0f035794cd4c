"""Ranking metrics against scikit-learn, pair counting, properties and published prediction files."""

import csv
import json
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import reference
from wordsight.errors import MetricError
from wordsight.metrics import auroc, average_precision, roc_curve_points, trapezoid_auprc
from wordsight.metrics.number import Number, Spread
from wordsight.metrics.ranking import weighted_auroc, weighted_average_precision

RANKERS = [auroc, average_precision, trapezoid_auprc]


def sk_trapezoid(labels, scores):
    precision, recall, _ = sk.precision_recall_curve(labels, scores)
    return sk.auc(recall, precision)


@st.composite
def labelled(draw, distinct=6):
    """Labels of both classes and scores with many ties."""
    n = draw(st.integers(2, 40))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda x: 0 < sum(x) < len(x)))
    scores = draw(st.lists(st.integers(-distinct, distinct), min_size=n, max_size=n))
    return np.array(labels), np.array(scores, dtype=np.float32) / 3


@settings(deadline=None, max_examples=50)
@given(labelled())
def test_equal_to_the_definitions_with_ties(case):
    labels, scores = case
    assert auroc(labels, scores) == pytest.approx(reference.auroc(labels, scores), abs=1e-12)
    assert average_precision(labels, scores) == pytest.approx(reference.average_precision(labels, scores), abs=1e-12)
    assert trapezoid_auprc(labels, scores) == pytest.approx(reference.trapezoid_auprc(labels, scores), abs=1e-12)


@pytest.mark.parametrize("decimals", [0, 1, 6])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(auroc, sk.roc_auc_score), (average_precision, sk.average_precision_score), (trapezoid_auprc, sk_trapezoid)],
)
def test_equal_to_scikit_learn(ours, theirs, decimals):
    rng = np.random.default_rng(decimals)
    labels = (rng.random(3000) < 0.1).astype(int)
    scores = np.round(rng.normal(size=3000) + labels, decimals)
    assert ours(labels, scores) == pytest.approx(theirs(labels, scores), abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(labelled(), st.randoms(use_true_random=False))
def test_order_scale_and_reflection(case, random):
    labels, scores = case
    order = random.sample(range(len(labels)), len(labels))
    for metric in RANKERS:
        assert metric(labels[order], scores[order]) == pytest.approx(metric(labels, scores), abs=1e-12)
        assert metric(labels, np.exp(3 * scores)) == pytest.approx(metric(labels, scores), abs=1e-12)
    assert auroc(labels, -scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)
    assert auroc(1 - labels, scores) == pytest.approx(1 - auroc(labels, scores), abs=1e-12)


def test_hand_counted_values():
    assert auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert auroc([0, 1, 0, 1], [5.0, 5.0, 5.0, 5.0]) == 0.5
    assert average_precision([0, 1, 0, 0], np.zeros(4)) == 0.25
    assert auroc([False, True], [-np.inf, np.inf]) == 1.0


@pytest.mark.parametrize("metric", RANKERS)
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_undefined_and_not_zero(metric, label):
    assert math.isnan(metric([label] * 5, np.arange(5.0)))


@pytest.mark.parametrize("metric", [*RANKERS, roc_curve_points])
@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1, 1], [0.1, 0.2], r"one shape \(N,\), got \(3,\) and \(2,\)"),
        ([[0, 1]], [[0.1, 0.2]], r"one shape \(N,\), got \(1, 2\)"),
        ([], [], "at least one label and score, got none"),
        ([0, 1], [0.1, math.nan], "got NaN for 1 of 2"),
        ([0, 2, -1], [0.1, 0.2, 0.3], "labels 0 or 1, got -1, 2"),
        ([0, math.nan], [0.1, 0.2], "labels 0 or 1, got nan"),
        ([0, 1], ["a", "b"], "numbers as scores"),
        ([0, 1], [1j, 2j], "numbers as scores"),
    ],
)
def test_what_cannot_be_ranked_is_refused(metric, labels, scores, message):
    with pytest.raises(MetricError, match=message):
        metric(labels, scores)


def test_arguments_are_left_alone():
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.3, 0.9, 0.1, 0.2], dtype=np.float32)
    before = labels.copy(), scores.copy()
    for metric in [*RANKERS, roc_curve_points]:
        metric(labels, scores)
    assert (labels == before[0]).all()
    assert (scores == before[1]).all()


@settings(deadline=None, max_examples=30)
@given(labelled())
def test_roc_points_equal_scikit_learn_and_enclose_the_area(case):
    labels, scores = case
    fpr, tpr, thresholds = roc_curve_points(labels, scores)
    expected = sk.roc_curve(labels, scores, drop_intermediate=False)
    for ours, theirs in zip((fpr, tpr, thresholds), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(labels, scores), abs=1e-12)


def test_roc_points_of_one_class_have_one_undefined_axis():
    fpr, tpr, thresholds = roc_curve_points([1, 1, 1], [0.2, 0.2, 0.5])
    assert np.isnan(fpr).all()
    np.testing.assert_allclose(tpr, [0, 1 / 3, 1])
    np.testing.assert_allclose(thresholds, [np.inf, 0.5, 0.2])


@settings(deadline=None, max_examples=40)
@given(labelled(), st.integers(0, 2**32 - 1))
def test_weights_mean_repetition(case, seed):
    labels, scores = case
    weights = np.random.default_rng(seed).integers(0, 4, size=(5, len(labels))).astype(float)
    areas = weighted_auroc(labels, scores, weights)
    precisions = weighted_average_precision(labels, scores, weights)
    for row, area, precision in zip(weights.astype(int), areas, precisions, strict=True):
        y, s = np.repeat(labels, row), np.repeat(scores, row)
        if not y.size:
            assert math.isnan(area)
            assert math.isnan(precision)
            continue
        assert area == pytest.approx(auroc(y, s), abs=1e-12, nan_ok=True)
        assert precision == pytest.approx(average_precision(y, s), abs=1e-12, nan_ok=True)


def test_weights_of_the_wrong_shape_are_refused():
    with pytest.raises(MetricError, match=r"shape \(draws, 2\), got \(4, 3\)"):
        weighted_auroc([0, 1], [0.1, 0.2], np.ones((4, 3)))


def test_published_carzero_predictions_on_open_i(shared):
    folder = shared / "data"
    expected = json.loads((folder / "predictions" / "openi_expected.json").read_text())
    scores = np.loadtxt(folder / "predictions" / "openi_carzero.csv", delimiter=",", skiprows=1)
    truth = _open_i_truth(folder, expected["findings"])
    assert truth.sum(axis=0).tolist() == expected["positives"]
    for key, metric in (
        ("auroc", auroc),
        ("average_precision", average_precision),
        ("auprc_trapezoid", trapezoid_auprc),
    ):
        values = [metric(truth[:, i], scores[:, i]) for i in range(truth.shape[1])]
        np.testing.assert_allclose(values, expected[key], atol=1e-6)
        assert np.mean(values) == pytest.approx(expected["macro"][key], abs=1e-9)


def _open_i_truth(folder, findings):
    """Substring rule of the label file, with its three further spellings."""
    more = {"Pleural_Thickening": "pleural thickening", "Infiltration": "infiltrate", "Atelectasis": "atelectases"}
    with open(folder / "labels" / "openi" / "custom.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    by_file = {r["file_name"]: (r["labels_automatic"] or "").lower() for r in rows}
    with open(folder / "labels" / "openi" / "image_order.csv", newline="") as stream:
        texts = [by_file[r["file_name"]] for r in csv.DictReader(stream)]
    return np.array([[int(f.lower() in t or more.get(f, f.lower()) in t) for f in findings] for t in texts])


def test_number_says_its_interval_or_why_it_is_undefined():
    assert str(Number(0.9134, 0.88, 0.94, 20)) == "0.913 [0.88, 0.94]"
    assert str(Number(0.9134, n=20)) == "0.913"
    assert str(Number(math.nan, note="only one class")) == "undefined (only one class)"
    assert str(Number(math.nan)) == "undefined"
    assert not Number(math.nan).defined
    assert Number(0.0).defined


def test_number_to_json_has_no_nan():
    value = Number(math.nan, n=3, note="only one class").to_json()
    assert value == {"value": None, "low": None, "high": None, "n": 3, "note": "only one class"}
    assert json.loads(json.dumps(Number(0.5, 0.25, 0.75, 4).to_json(), allow_nan=False))["high"] == 0.75
    with pytest.raises(AttributeError):
        Number(0.5).value = 1.0


def test_spread_is_mean_and_sample_deviation():
    spread = Spread.of([0.8, 0.9, 1.0])
    assert (spread.mean, spread.std, spread.n) == (pytest.approx(0.9), pytest.approx(0.1), 3)
    assert str(spread) == "0.900 ± 0.100 (n = 3)"
    assert str(Spread.of([0.8])) == "0.800 (n = 1)"
    partly = Spread.of([0.8, math.nan, 0.6])
    assert (partly.mean, partly.n, partly.note) == (pytest.approx(0.7), 2, "undefined in 1 of 3 runs")
    assert str(Spread.of([math.nan])) == "undefined (undefined in 1 of 1 runs)"
    assert Spread.of([math.nan]).to_json()["mean"] is None


def test_no_numpy_warnings_on_degenerate_input():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert auroc([0, 1], [0.0, 0.0]) == 0.5
        assert math.isnan(weighted_auroc([1, 1], [0.0, 1.0], np.ones((2, 2)))[0])
        assert math.isnan(weighted_average_precision([0, 0], [0.0, 1.0], np.ones((2, 2)))[0])
