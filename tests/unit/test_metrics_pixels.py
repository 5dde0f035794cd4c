"""Pixel metrics against scikit-learn, flood fill and a loop over thresholds; binned draws against exact ones."""

import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import reference
from wordsight.errors import MetricError
from wordsight.metrics import pixel_auroc, pixel_average_precision, pro
from wordsight.metrics.binned import PixelHistograms
from wordsight.metrics.pixels import component_shares, rank_pixels
from wordsight.metrics.summary import pixel_numbers


def lesions(images, side, seed, levels=None, contrast=1.5):
    """Correlated noise plus lesions of differing size in two of three images; `levels` rounds scores into ties."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, side, side), dtype=bool)
    rows, columns = np.mgrid[:side, :side]
    for i in range(images):
        for _ in range((0, 1, 2)[i % 3]):
            row, column = rng.uniform(0, side, 2)
            masks[i] |= (rows - row) ** 2 + (columns - column) ** 2 < rng.uniform(1, max(1.5, side / 5)) ** 2
    maps = rng.normal(size=masks.shape)
    maps = maps + np.roll(maps, 1, axis=1) + np.roll(maps, 1, axis=2) + contrast * masks
    maps += rng.normal(size=(images, 1, 1)) * 0.3
    return (maps if levels is None else np.round(maps * levels) / levels).astype(np.float32), masks


@st.composite
def small_case(draw):
    seed, levels = draw(st.integers(0, 10**6)), draw(st.sampled_from([None, 0.3, 1, 4]))
    maps, masks = lesions(draw(st.integers(2, 4)), draw(st.integers(3, 9)), seed, levels)
    rng = np.random.default_rng(seed + 1)
    regions = rng.random(masks.shape) < 0.8 if draw(st.booleans()) else None
    if draw(st.booleans()):
        maps[rng.random(masks.shape) < 0.1] = np.nan
    return maps, masks, regions


@settings(deadline=None, max_examples=50)
@given(small_case(), st.sampled_from([0.01, 0.05, 0.3, 1 / 3, 1.0]))
def test_pro_is_the_loop_over_all_thresholds(case, max_fpr):
    maps, masks, regions = case
    expected = reference.pro(maps, masks, regions, max_fpr)
    assert pro(maps, masks, regions, max_fpr=max_fpr) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@settings(deadline=None, max_examples=40)
@given(small_case())
def test_pixel_ranking_is_that_of_the_flat_pixels(case):
    maps, masks, regions = case
    counted = ~np.isnan(maps) if regions is None else ~np.isnan(maps) & regions
    labels, scores = masks[counted].astype(int), maps[counted]
    if 0 < labels.sum() < labels.size:
        assert pixel_auroc(maps, masks, regions) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        precision = average_precision_score(labels, scores)
        assert pixel_average_precision(maps, masks, regions) == pytest.approx(precision, abs=1e-12)
    else:
        assert math.isnan(pixel_auroc(maps, masks, regions))
        assert math.isnan(pixel_average_precision(maps, masks, regions))


def test_pro_by_hand():
    mask = np.zeros((1, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[0, 1, 1] = True  # one component: corners touch
    mask[0, 3, 3] = True
    assert pro(mask.astype(np.float32), mask) == 1.0
    assert pro(1 - mask.astype(np.float32), mask) == 0.0
    # All tied: one straight line from (0, 0) to (1, 1), so limit / 2.
    assert pro(np.zeros((1, 4, 4), dtype=np.float32), mask, max_fpr=0.3) == pytest.approx(0.15)
    assert pro(np.zeros((1, 4, 4), dtype=np.float32), mask, max_fpr=1.0) == pytest.approx(0.5)
    # The single pixel is found at once, the pair never within the limit: lesions count alike whatever their size.
    found = np.zeros((1, 4, 4), dtype=np.float32)
    found[0, 3, 3], found[0, 0, 0], found[0, 1, 1] = 1, -1, -1
    assert pro(found, mask) == pytest.approx((1 + 0) / 2)


def test_a_lesion_cut_by_the_region_stays_one_lesion():
    mask = np.zeros((1, 3, 7), dtype=bool)
    mask[0, 1] = True
    region = np.ones_like(mask)
    region[0, :, 3] = False
    maps = np.zeros((1, 3, 7), dtype=np.float32)
    maps[0, 1, :2] = 1
    assert rank_pixels(maps, mask, region).components == 1
    assert pro(maps, mask, region) == pytest.approx(reference.pro(maps, mask, region), abs=1e-12)
    shares, count = component_shares(mask[0], region[0])
    assert (count, shares.tolist()) == (1, [1 / 6] * 6)


def test_components_are_those_of_a_flood_fill():
    for seed in range(5):
        mask = np.random.default_rng(seed).random((12, 15)) < 0.3
        shares, count = component_shares(mask, np.ones_like(mask))
        sizes = sorted(len(c) for c in reference.components(mask))
        assert count == len(sizes)
        assert sorted(round(1 / s) for s in shares) == sorted(n for n in sizes for _ in range(n))


@pytest.mark.parametrize("metric", [pixel_auroc, pixel_average_precision, pro])
def test_without_both_classes_it_is_undefined(metric):
    maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    assert math.isnan(metric(maps, np.zeros(maps.shape, dtype=bool)))
    assert math.isnan(metric(maps, np.ones(maps.shape, dtype=bool)))
    assert math.isnan(metric(maps, maps > 3, np.zeros(maps.shape, dtype=bool)))
    assert math.isnan(metric(maps * np.nan, maps > 3))


@pytest.mark.parametrize("metric", [pixel_auroc, pixel_average_precision, pro])
@pytest.mark.parametrize(
    ("maps", "masks", "regions", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 4), dtype=bool), None, r"shape \(N, h, w\), none of them 0, got \(4, 4\)"),
        (np.zeros((0, 4, 4)), np.zeros((0, 4, 4), dtype=bool), None, "none of them 0"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 5), dtype=bool), None, r"masks of the maps' shape .* got \(1, 4, 5\)"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4), dtype=np.uint8), None, "boolean masks, got uint8"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4), bool), np.zeros((2, 4, 4), bool), "regions of the maps' shape"),
        (np.zeros((1, 4, 4)), np.zeros((1, 4, 4), bool), np.zeros((1, 4, 4)), "boolean regions, got float64"),
        (np.zeros((1, 4, 4), dtype=complex), np.zeros((1, 4, 4), bool), None, "numbers as maps, got complex128"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(metric, maps, masks, regions, message):
    with pytest.raises(MetricError, match=message):
        metric(maps, masks, regions)


@pytest.mark.parametrize("limit", [0, -0.1, 1.01, math.nan])
def test_a_limit_outside_its_range_is_refused(limit):
    maps = np.zeros((1, 2, 2), dtype=np.float32)
    with pytest.raises(MetricError, match=r"max_fpr in \(0, 1\], got"):
        pro(maps, maps > 0, max_fpr=limit)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_other_number_types_give_the_same_ranking(dtype):
    maps, masks = lesions(3, 8, 0, levels=1)
    expected = [f(maps, masks) for f in (pixel_auroc, pixel_average_precision, pro)]
    assert [f(maps.astype(dtype), masks) for f in (pixel_auroc, pixel_average_precision, pro)] == expected


def exact(maps, masks, regions=None):
    ranks = rank_pixels(maps, masks, regions)
    return ranks.ranks.area(), ranks.ranks.average_precision(), ranks.pro()


@pytest.mark.parametrize("levels", [None, 0.5, 2, 50])
@pytest.mark.parametrize("contrast", [0.0, 1.5, 6.0])
def test_binned_values_are_within_a_thousandth_of_the_exact_ones(levels, contrast):
    maps, masks = lesions(12, 64, 3, levels, contrast)
    histograms = PixelHistograms.of(rank_pixels(maps, masks), maps, masks)
    rng = np.random.default_rng(0)
    weights = np.vstack([np.ones(12), rng.multinomial(12, np.ones(12) / 12, size=6)]).astype(float)
    values = histograms.statistics(weights)
    for row, value in zip(weights.astype(int), values.T, strict=True):
        np.testing.assert_allclose(value, exact(np.repeat(maps, row, axis=0), np.repeat(masks, row, axis=0)), atol=1e-3)


def test_binned_values_of_a_clipped_map():
    """Half of all pixels share one score (as after a ReLU) and few pixels are abnormal."""
    maps, masks = lesions(9, 48, 5, contrast=3.0)
    maps = np.maximum(maps, np.median(maps))
    masks[3:] = False
    regions = np.random.default_rng(0).random(masks.shape) < 0.7
    histograms = PixelHistograms.of(rank_pixels(maps, masks, regions), maps, masks, regions)
    assert histograms.tied.any()
    np.testing.assert_allclose(histograms.statistics(np.ones((1, 9)))[:, 0], exact(maps, masks, regions), atol=1e-3)


def test_draws_without_a_lesion_are_undefined():
    maps, masks = lesions(3, 16, 2)
    masks[1:] = False
    masks[0, :4, :4] = True
    histograms = PixelHistograms.of(rank_pixels(maps, masks), maps, masks)
    values = histograms.statistics(np.array([[0.0, 2, 1], [1, 1, 1]]))
    assert np.isnan(values[:, 0]).all()
    assert not np.isnan(values[:, 1]).any()
    assert PixelHistograms.of(rank_pixels(maps, np.zeros_like(masks)), maps, np.zeros_like(masks)) is None


def test_pixel_numbers_are_exact_values_with_intervals_around_them():
    maps, masks = lesions(12, 32, 1)
    groups = [str(i // 2) for i in range(12)]
    numbers = pixel_numbers(maps, masks, groups, draws=200, seed=1)
    assert [numbers[k].value for k in ("auroc", "ap", "pro")] == list(exact(maps, masks))
    for number in numbers.values():
        assert number.low < number.value < number.high
        assert number.n == 12
    order = np.random.default_rng(0).permutation(12)
    shuffled = pixel_numbers(maps[order], masks[order], [groups[i] for i in order], draws=200, seed=1)
    for key, number in numbers.items():
        assert shuffled[key].low == pytest.approx(number.low, abs=1e-9)
        assert shuffled[key].high == pytest.approx(number.high, abs=1e-9)


def test_pixel_intervals_are_those_of_exact_draws():
    """The same draws computed by repeating images and measuring exactly."""
    from wordsight.metrics.intervals import bootstrap_weights, percentile_interval

    maps, masks = lesions(9, 24, 4)
    groups = [str(i // 3) + "abc"[i % 3] for i in range(9)]
    numbers = pixel_numbers(maps, masks, groups, draws=60, seed=3)
    rows = np.concatenate(list(bootstrap_weights(groups, draws=60, seed=3))).astype(int)
    values = np.array([exact(np.repeat(maps, row, axis=0), np.repeat(masks, row, axis=0)) for row in rows])
    for key, column in zip(("auroc", "ap", "pro"), values.T, strict=True):
        expected = percentile_interval(column)
        assert numbers[key].low == pytest.approx(expected.low, abs=1e-3)
        assert numbers[key].high == pytest.approx(expected.high, abs=1e-3)


def test_pixel_numbers_without_lesions_say_so():
    maps = np.zeros((2, 3, 3), dtype=np.float32)
    numbers = pixel_numbers(maps, maps > 0, ["a", "b"], note="left out: 1")
    assert str(numbers["pro"]) == "undefined (no abnormal pixels; left out: 1)"
    assert str(pixel_numbers(maps, maps == 0, ["a", "b"])["auroc"]) == "undefined (no normal pixels)"


def test_one_patient_has_no_interval():
    maps, masks = lesions(3, 8, 0)
    number = pixel_numbers(maps, masks, ["p"] * 3, draws=20)["auroc"]
    assert math.isnan(number.low)
    assert number.note == "no interval: only one patient"


def test_a_hundred_images_take_about_a_second():
    maps, masks = lesions(100, 240, 0)
    start = time.process_time()
    pro(maps, masks)
    assert time.process_time() - start < 5  # measured 0.2 s; a loop over thresholds would take hours
