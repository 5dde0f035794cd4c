"""Bootstrap and DeLong against published CheXpert predictions, all-pairs kernels and simulations."""

import csv
import json
import math
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import reference
from wordsight.errors import MetricError
from wordsight.metrics import auroc, average_precision, bootstrap_interval, delong_interval, delong_test
from wordsight.metrics.intervals import bootstrap_values, bootstrap_weights, percentile_interval
from wordsight.metrics.ranking import weighted_auroc, weighted_average_precision
from wordsight.metrics.summary import image_numbers


def normals(n, seed, shift=1.0, share=0.4):
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < share * n).astype(int)
    return labels, rng.normal(size=n) + shift * labels


@pytest.fixture(scope="module")
def chexpert(shared):
    """Labels and predictions per study and class, joined by name, and the expected numbers."""
    folder = shared / "data" / "labels"
    expected = json.loads((folder / "expected.json").read_text())
    classes = expected["protocol"]["classes"]

    def table(path):
        with open(path, newline="") as stream:
            return {row["Study"]: row for row in csv.DictReader(stream)}

    truth = table(folder / "chexpert" / "groundtruth.csv")
    labels = {c: np.array([int(float(row[c])) for row in truth.values()]) for c in classes}
    scores = {}
    for model in expected["models"]:
        rows = table(folder / "chexpert" / "predictions" / f"{model}_predictions.csv")
        scores[model] = {c: np.array([float(rows[study][c]) for study in truth]) for c in classes}
    return labels, scores, expected


def test_published_predictions_delong(chexpert):
    labels, scores, expected = chexpert
    for model, per_class in scores.items():
        for name, values in per_class.items():
            known = expected["models"][model][name]
            for scale, key in (("plain", "delong_ci"), ("clipped", "delong_ci_clipped"), ("logit", "delong_ci_logit")):
                number = delong_interval(labels[name], values, scale=scale)
                assert number.value == pytest.approx(known["auroc"], abs=1e-9)
                assert (number.low, number.high) == pytest.approx(known[key], abs=1e-9)


def test_published_predictions_paired_delong(chexpert):
    labels, scores, expected = chexpert
    for pair, per_class in expected["delong_pairs"].items():
        first, second = pair.split(" vs ")
        for name, known in per_class.items():
            result = delong_test(labels[name], scores[first][name], scores[second][name])
            assert (result.difference, result.z, result.p) == pytest.approx(
                (known["diff"], known["z"], known["p"]), abs=1e-8
            )


def test_published_predictions_bootstrap(chexpert):
    """The stated draws, so the intervals must agree to the last digit given."""
    labels, scores, expected = chexpert
    drawn = np.random.RandomState(0).randint(0, 500, size=(1000, 500))
    weights = np.stack([np.bincount(row, minlength=500) for row in drawn]).astype(float)
    for model in ("drnet", "ngango3", "yww211"):
        for name, values in scores[model].items():
            known = expected["models"][model][name]
            assert average_precision(labels[name], values) == pytest.approx(known["auprc"], abs=1e-9)
            for key, statistic in (("auroc", weighted_auroc), ("auprc", weighted_average_precision)):
                interval = percentile_interval(statistic(labels[name], values, weights))
                assert (interval.low, interval.high) == pytest.approx(known[f"{key}_boot_ci"], abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(4, 40), st.sampled_from([0, 1, 8]))
def test_delong_is_the_all_pairs_covariance(seed, n, decimals):
    labels, a = normals(n, seed)
    b = np.round(a + np.random.default_rng(seed + 1).normal(size=n), decimals)
    a = np.round(a, decimals)
    if min(labels.sum(), n - labels.sum()) < 2:
        return
    areas, covariance = reference.delong_covariance(labels, [a, b])
    number = delong_interval(labels, a, scale="plain")
    assert number.value == pytest.approx(areas[0], abs=1e-12)
    if covariance[0, 0] > 1e-12:
        assert (number.high - number.low) / 2 == pytest.approx(1.959963984540054 * math.sqrt(covariance[0, 0]), 1e-9)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    result = delong_test(labels, a, b)
    assert result.difference == pytest.approx(areas[0] - areas[1], abs=1e-12)
    if variance > 1e-9:
        assert result.z == pytest.approx((areas[0] - areas[1]) / math.sqrt(variance), abs=1e-6)


def test_delong_p_value_is_two_sided():
    from scipy.stats import norm

    labels, a = normals(60, 0)
    b = a + np.random.default_rng(1).normal(size=60) * 2
    result = delong_test(labels, a, b)
    assert result.p == pytest.approx(2 * norm.sf(abs(result.z)), abs=1e-12)
    swapped = delong_test(labels, b, a)
    assert (swapped.difference, swapped.z, swapped.p) == pytest.approx((-result.difference, -result.z, result.p))


def test_delong_of_scores_that_order_alike_is_one():
    labels, a = normals(40, 2)
    result = delong_test(labels, a, np.exp(a))
    assert (result.difference, result.z, result.p) == (0.0, 0.0, 1.0)


def test_delong_where_it_says_nothing():
    perfect = delong_interval([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert perfect.value == 1.0
    assert math.isnan(perfect.low)
    assert perfect.note == "no interval: DeLong's variance is zero"
    few = delong_interval([0, 0, 1], [0.1, 0.9, 0.5])
    assert (few.value, few.note) == (0.5, "no interval: fewer than two images of a class")
    assert str(delong_interval([1, 1], [0.1, 0.2])) == "undefined (only one class)"
    opposite = delong_test([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert (opposite.difference, math.isnan(opposite.p)) == (1.0, True)
    assert math.isnan(delong_test([1, 1], [1, 2], [1, 2]).difference)


def test_delong_clips_and_logit_stays_inside():
    labels = np.array([0] * 20 + [1] * 20)
    scores = np.where(labels == 1, 2.0, 0.0)
    scores[[0, 20]] = 1.0, 0.5
    plain, clipped, logit = (delong_interval(labels, scores, scale=s) for s in ("plain", "clipped", "logit"))
    assert plain.high > 1
    assert clipped.high == 1.0
    assert clipped.low == plain.low
    assert 0 < logit.low < logit.value < logit.high < 1


@pytest.mark.parametrize("level", [0, 1, 95, -0.5])
def test_levels_outside_their_range_are_refused(level):
    with pytest.raises(MetricError, match="level between 0 and 1, got"):
        delong_interval([0, 1], [0.0, 1.0], level=level)
    with pytest.raises(MetricError, match="level between 0 and 1, got"):
        bootstrap_interval(lambda w: w[:, 0], ["a", "b"], level=level)


def test_other_bad_arguments_are_refused():
    with pytest.raises(MetricError, match="scale 'clipped', 'plain' or 'logit', got 'log'"):
        delong_interval([0, 1], [0.0, 1.0], scale="log")
    with pytest.raises(MetricError, match=r"one group .* per image, got none"):
        bootstrap_interval(lambda w: w[:, 0], [])
    with pytest.raises(MetricError, match="at least 1 bootstrap draw, got 0"):
        bootstrap_interval(lambda w: w[:, 0], ["a", "b"], draws=0)
    with pytest.raises(MetricError, match="got NaN for 1 of 2"):
        delong_test([0, 1], [0.0, 1.0], [math.nan, 1.0])


def test_whole_groups_are_drawn():
    groups = ["b", "a", "b", "c", "a", "b"]
    weights = np.concatenate(list(bootstrap_weights(groups, draws=500, seed=0)))
    assert weights.shape == (500, 6)
    assert (weights[:, [0]] == weights[:, [2, 5]]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    assert abs(weights.mean() - 1) < 0.05


def test_draws_do_not_depend_on_order_or_on_blocks(monkeypatch):
    groups = np.array([f"p{i % 17}" for i in range(60)])
    order = np.random.default_rng(0).permutation(60)
    weights = np.concatenate(list(bootstrap_weights(groups, draws=40, seed=5)))
    shuffled = np.concatenate(list(bootstrap_weights(groups[order], draws=40, seed=5)))
    assert (weights[:, order] == shuffled).all()
    monkeypatch.setattr("wordsight.metrics.intervals._BLOCK", 200)
    blocks = list(bootstrap_weights(groups, draws=40, seed=5))
    assert len(blocks) > 5
    assert (np.concatenate(blocks) == weights).all()
    assert (np.concatenate(list(bootstrap_weights(groups, draws=40, seed=6))) != weights).any()


def test_bootstrap_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    groups = [str(i) for i in range(400)]
    interval = bootstrap_interval(lambda w: w @ values / w.sum(axis=1), groups, draws=4000)
    error = values.std() / 20
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert interval.low < values.mean() < interval.high


def test_images_of_one_patient_widen_the_interval():
    """Ten copies of each image add no information; a bootstrap by image would believe they do."""
    labels, scores = normals(40, 3)
    y, s = np.repeat(labels, 10), np.repeat(scores, 10)
    statistic = partial(weighted_auroc, y, s)
    by_patient = bootstrap_interval(statistic, [str(i // 10) for i in range(400)])
    by_image = bootstrap_interval(statistic, [str(i) for i in range(400)])
    single = bootstrap_interval(partial(weighted_auroc, labels, scores), [str(i) for i in range(40)])
    assert by_patient.high - by_patient.low > 2.5 * (by_image.high - by_image.low)
    assert by_patient.high - by_patient.low == pytest.approx(single.high - single.low, rel=0.15)


def test_the_interval_covers_about_as_often_as_it_says():
    covered = 0
    truth = 0.7602499  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    for seed in range(100):
        labels, scores = normals(80, seed)
        groups = [str(i) for i in range(80)]
        interval = bootstrap_interval(partial(weighted_auroc, labels, scores), groups, draws=200, seed=seed)
        covered += interval.low <= truth <= interval.high
    assert 86 <= covered <= 100


def test_undefined_draws_are_dropped_counted_and_too_many_refused():
    values = np.array([0.5, math.nan, 0.7, 0.6, 0.8])
    interval = percentile_interval(values)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile([0.5, 0.6, 0.7, 0.8], [2.5, 97.5])))
    assert interval.note == "1 of 5 draws undefined"
    lost = percentile_interval(np.array([0.5, math.nan, math.nan]))
    assert math.isnan(lost.low)
    assert lost.note == "no interval: 2 of 3 draws undefined"
    rare = bootstrap_interval(partial(weighted_auroc, [1] + [0] * 9, np.arange(10.0)), [str(i) for i in range(10)])
    lost_draws = int(rare.note.split()[0])
    assert 280 < lost_draws < 420  # (1 - 1/10)^10 = 0.349 of the draws miss the only positive
    two = bootstrap_interval(partial(weighted_auroc, [1, 0], [1.0, 0.0]), ["a", "b"], draws=50)
    assert math.isnan(two.low) == (int(two.note.replace("no interval: ", "").split()[0]) > 25)


def test_a_single_patient_has_no_interval():
    interval = bootstrap_interval(partial(weighted_auroc, [0, 1], [0.0, 1.0]), ["p", "p"])
    assert math.isnan(interval.low)
    assert interval.note == "no interval: only one patient"


def test_a_thousand_draws_of_a_thousand_images_take_less_than_a_second():
    labels, scores = normals(1000, 0)
    groups = [str(i) for i in range(1000)]
    start = time.process_time()
    values = bootstrap_values(partial(weighted_auroc, labels, scores), groups)
    bootstrap_values(partial(weighted_average_precision, labels, scores), groups)
    assert time.process_time() - start < 1.5  # both; measured 0.1 s
    assert values.shape == (1000,)


def test_image_numbers():
    labels, scores = normals(50, 1)
    groups = [f"p{i // 2}" for i in range(50)]
    numbers = image_numbers(labels, scores, groups, draws=300, seed=2)
    assert numbers["image_auroc"].value == auroc(labels, scores)
    assert numbers["image_ap"].value == average_precision(labels, scores)
    assert all(v.low < v.value < v.high and v.n == 50 for v in numbers.values())
    assert image_numbers(labels, scores, groups, draws=300, seed=2) == numbers
    assert image_numbers(labels, scores, groups, draws=300, seed=3) != numbers
    assert math.isnan(image_numbers(labels, scores, groups, draws=0)["image_auroc"].low)
    single = image_numbers(np.ones(5, dtype=np.int64), scores[:5], groups[:5])
    assert str(single["image_auroc"]) == "undefined (only one class)"
