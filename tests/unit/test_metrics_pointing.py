"""The pointing game: peaks, edges, tolerance, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordsight.errors import MetricError
from wordsight.metrics import pointing_hit, share_of_hits
from wordsight.metrics.pointing import map_peak


def peak_at(row, column, shape=(20, 30)):
    heatmap = np.zeros(shape, dtype=np.float32)
    heatmap[row, column] = 1
    return heatmap


def test_the_first_peak_counts_and_unseen_pixels_do_not():
    heatmap = np.array([[np.nan, 1.0, 3.0], [3.0, 2.0, -5.0]])
    assert map_peak(heatmap) == (0, 2)
    assert map_peak(np.full((3, 3), -2.0)) == (0, 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 19), st.integers(0, 29), st.integers(0, 25), st.integers(0, 15), st.integers(0, 4))
def test_a_hit_is_a_peak_among_the_pixels_of_a_box(row, column, x, y, tolerance):
    box = (x, y, x + 4, y + 3)
    pixels = {(r, c) for r in range(y - tolerance, y + 4 + tolerance) for c in range(x - tolerance, x + 5 + tolerance)}
    assert pointing_hit(peak_at(row, column), [box], tolerance) == ((row, column) in pixels)


def test_any_of_several_boxes_will_do():
    heatmap = peak_at(10, 12)
    assert pointing_hit(heatmap, [(0, 0, 3, 3), (12, 10, 14, 11)])
    assert not pointing_hit(heatmap, [(0, 0, 3, 3), (10, 12, 11, 14)])  # x and y exchanged
    assert not pointing_hit(heatmap, [(13.5, 9, 20, 20)])
    assert pointing_hit(heatmap, [(13.5, 9, 20, 20)], tolerance=1.5)


@pytest.mark.parametrize(
    ("heatmap", "boxes", "tolerance", "message"),
    [
        (np.zeros((3, 3)), [], 0, r"boxes of shape \(n, 4\) with n >= 1, got \(0,\)"),
        (np.zeros((3, 3)), [(1, 2, 3)], 0, r"got \(1, 3\)"),
        (np.zeros((3, 3)), [(5, 1, 2, 3)], 0, "x1 <= x2 and y1 <= y2"),
        (np.zeros((3, 3)), [(0, 1, math.nan, 3)], 0, "x1 <= x2 and y1 <= y2"),
        (np.zeros((3, 3)), [(0, 0, 1, 1)], -1, "tolerance of 0 pixels or more, got -1"),
        (np.zeros(3), [(0, 0, 1, 1)], 0, r"a map of shape \(H, W\), got \(3,\)"),
        (np.full((3, 3), np.nan), [(0, 0, 1, 1)], 0, "at least one value, got none but NaN"),
    ],
)
def test_what_cannot_be_judged_is_refused(heatmap, boxes, tolerance, message):
    with pytest.raises(MetricError, match=message):
        pointing_hit(heatmap, boxes, tolerance)


def test_the_share_of_hits():
    hits, groups = [True] * 30 + [False] * 10, [str(i) for i in range(40)]
    number = share_of_hits(hits, groups, draws=500)
    assert (number.value, number.n) == (0.75, 40)
    error = math.sqrt(0.75 * 0.25 / 40)
    assert number.high - number.low == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert math.isnan(share_of_hits(hits, groups, draws=0).low)
    assert str(share_of_hits([], [])) == "undefined (nothing to count)"
    with pytest.raises(MetricError, match=r"per hit, got 39 for 40"):
        share_of_hits(hits, groups[:39])


def test_published_boxes_hold_their_centres(shared):
    from wordsight.data.sources import read_chestxdet10
    from wordsight.data.sources.chestxdet10 import SIDE

    table = read_chestxdet10(shared / "data/labels/ChestX-Det10/test.json")
    found = [(finding, boxes) for row in table.boxes for finding, boxes in row.items()][::25]
    assert len(found) > 20
    for _, boxes in found:
        x1, y1, x2, y2 = boxes[-1]
        heatmap = peak_at(int((y1 + y2) / 2), int((x1 + x2) / 2), (SIDE, SIDE))
        assert pointing_hit(heatmap, boxes)
        outside = peak_at(0, 0, (SIDE, SIDE))
        assert not pointing_hit(outside, boxes)
        assert pointing_hit(outside, boxes, tolerance=SIDE)
