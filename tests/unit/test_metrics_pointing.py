"""The pointing game: points, edges, tolerance, means over findings, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordsight.errors import MetricError
from wordsight.metrics import mean_share_of_hits, pointing_hit, share_of_hits
from wordsight.types import Geometry, Prediction, ScoreKind, peak

CARZERO = Geometry((1024, 1024), (224, 224), (0.25, 0.25), (-16.0, -16.0))


def pointed(cells, geometry=CARZERO):
    prediction = Prediction(("a",), np.zeros(1, np.float32), ScoreKind.LOGIT, cells[None], geometry, "w")
    return prediction.peak("a")


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 19), st.integers(0, 29), st.integers(0, 25), st.integers(0, 15), st.integers(0, 4))
def test_a_pixel_hits_a_box_of_pixels(row, column, x, y, tolerance):
    box = (x, y, x + 5, y + 4)  # half-open: pixels x..x+4
    pixels = {(r, c) for r in range(y - tolerance, y + 4 + tolerance) for c in range(x - tolerance, x + 5 + tolerance)}
    assert pointing_hit((row + 0.5, column + 0.5), [box], tolerance) == ((row, column) in pixels)


def test_any_of_several_boxes_will_do_and_edges_count():
    point = (10.0, 12.0)
    assert pointing_hit(point, [(0, 0, 3, 3), (12, 10, 14, 11)])
    assert not pointing_hit(point, [(0, 0, 3, 3), (10, 12, 11, 14)])  # x and y exchanged
    assert not pointing_hit(point, [(13.5, 9, 20, 20)])
    assert pointing_hit(point, [(13.5, 9, 20, 20)], tolerance=1.5)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 6), (13, 13), (13, 0), (5, 9)])
def test_a_cell_points_at_its_centre_in_both_styles_at_the_border_too(row, column):
    """CARZero's letterbox on 1024 pixels: cells of 64, the first from 64 on."""
    cells = np.random.default_rng(row + column).random((14, 14)).astype(np.float32)
    cells[row, column] = 2
    centre = (64 + 64 * (row + 0.5), 64 + 64 * (column + 0.5))
    assert pointed(cells) == pytest.approx(centre)
    assert pointed(cells.repeat(16, 0).repeat(16, 1)) == pytest.approx(centre)
    assert centre == {(0, 0): (96, 96), (13, 13): (928, 928)}.get((row, column), centre)


def test_the_first_of_equal_cells_points_and_unseen_ones_do_not():
    assert peak(np.array([[np.nan, 1.0, 3.0], [3.0, 2.0, -5.0]])) == (0.5, 2.5)
    assert peak(np.full((3, 4), -2.0)) == (1.5, 2.0)  # a map that says nothing points at its middle
    two = np.zeros((4, 5))
    two[0, 0] = two[3, 4] = 1
    assert peak(two) == (0.5, 0.5)  # and not between the two
    assert peak(two.repeat(2, 0).repeat(2, 1)) == (1.0, 1.0)
    with pytest.raises(MetricError, match=r"a map \(h, w\) with numbers"):
        peak(np.full((3, 3), np.nan))


@pytest.mark.parametrize(
    ("point", "boxes", "tolerance", "message"),
    [
        ((0, 0), [], 0, r"boxes of shape \(n, 4\) with n >= 1, got \(0,\)"),
        ((0, 0), [(1, 2, 3)], 0, r"got \(1, 3\)"),
        ((0, 0), [(5, 1, 2, 3)], 0, "x1 <= x2 and y1 <= y2"),
        ((0, 0), [(0, 1, math.nan, 3)], 0, "x1 <= x2 and y1 <= y2"),
        ((0, 0), [(0, 0, 1, 1)], -1, "tolerance of 0 pixels or more, got -1"),
        ((0, math.nan), [(0, 0, 1, 1)], 0, "point .row, column. of finite numbers"),
    ],
)
def test_what_cannot_be_judged_is_refused(point, boxes, tolerance, message):
    with pytest.raises(MetricError, match=message):
        pointing_hit(point, boxes, tolerance)


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


def test_the_mean_over_findings_counts_each_the_same():
    hits = np.full((40, 3), np.nan)
    hits[:30, 0] = np.arange(30) % 3 == 0
    hits[25:, 1] = np.arange(15) % 5 != 0
    groups = [str(i // 2) for i in range(40)]
    number = mean_share_of_hits(hits, groups, draws=400, seed=3)
    assert number.value == pytest.approx((1 / 3 + 4 / 5) / 2)
    assert (number.n, number.note) == (45, "mean of 2 of 3 findings, the others have no image")
    # a slow twin: whole groups are drawn by number, in the order of their names
    rng, names = np.random.default_rng(3), sorted(set(groups))
    means = []
    for _ in range(400):
        drawn = [names[i] for i in rng.integers(0, len(names), len(names))]
        rows = np.concatenate([hits[[g == name for g in groups]] for name in drawn])
        shares = [column[~np.isnan(column)].mean() for column in rows.T if not np.isnan(column).all()]
        means.append(np.mean(shares))
    assert (number.low, number.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert math.isnan(mean_share_of_hits(hits, groups, draws=0).low)
    assert str(mean_share_of_hits(np.full((2, 2), np.nan), ["a", "b"])) == "undefined (nothing to count)"
    with pytest.raises(MetricError, match=r"one group \(patient\) per image"):
        mean_share_of_hits(hits, groups[:3])


def test_published_boxes_hold_their_centres(shared):
    from wordsight.data.sources import read_chestxdet10
    from wordsight.data.sources.chestxdet10 import SIDE

    table = read_chestxdet10(shared / "data/labels/ChestX-Det10/test.json")
    assert table.size == (SIDE, SIDE)
    found = [(finding, boxes) for row in table.boxes for finding, boxes in row.items()][::25]
    assert len(found) > 20
    for _, boxes in found:
        x1, y1, x2, y2 = boxes[-1]
        assert pointing_hit(((y1 + y2) / 2, (x1 + x2) / 2), boxes)
        assert not pointing_hit((0.5, 0.5), boxes)
        assert pointing_hit((0.5, 0.5), boxes, tolerance=SIDE)
