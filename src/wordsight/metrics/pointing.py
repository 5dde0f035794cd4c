"""The pointing game: does a map point into a box that someone drew around the finding?

A map's point is `wordsight.types.peak` of its cells, the centre of the largest one, so it does not depend on how a
coarse map is enlarged for looking at. Others take the largest pixel of an enlarged map: a variant that moves the point
within the cell, or to the image's edge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from wordsight.errors import MetricError
from wordsight.metrics.intervals import bootstrap_values, percentile_interval
from wordsight.metrics.number import NAN, Number
from wordsight.metrics.ranking import Floats

VARIANT = "centre of the map's largest cell"


def pointing_hit(point: tuple[float, float], boxes: ArrayLike, tolerance: float = 0.0) -> bool:
    """Whether a point lies in any of the boxes.

    point: (row, column) in pixels, continuous coordinates where pixel i covers [i, i + 1). boxes: (n, 4) x1, y1, x2, y2
    in the same coordinates, edges included. tolerance: pixels by which each box is widened on all sides; 0 is the
    strict game, and a tolerance is a variant to be named beside the number (the first paper has 15).
    Raises MetricError without a box, for boxes of another shape or corners in the wrong order, for a point that is not
    finite and for a negative tolerance. Zhang et al., ECCV 2016.
    """
    corners = np.asarray(boxes, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4 or not len(corners):
        raise MetricError(f"expected boxes of shape (n, 4) with n >= 1, got {corners.shape}.")
    if not (np.isfinite(corners).all() and (corners[:, :2] <= corners[:, 2:]).all()):
        raise MetricError("expected boxes as x1, y1, x2, y2 with x1 <= x2 and y1 <= y2. Convert x, y, width, height.")
    if not tolerance >= 0:
        raise MetricError(f"expected a tolerance of 0 pixels or more, got {tolerance}.")
    place = np.array([point[1], point[0]], dtype=np.float64)
    if not np.isfinite(place).all():
        raise MetricError(f"expected a point (row, column) of finite numbers, got {point}.")
    inside = (corners[:, :2] - tolerance <= place) & (place <= corners[:, 2:] + tolerance)
    return bool(inside.all(axis=1).any())


def mean_share_of_hits(hits: Floats, groups: Sequence[str], *, draws: int = 1000, seed: int = 0) -> Number:
    """Mean over findings of the share of hits, with its 95 % bootstrap interval; draws=0 for none.

    hits: (N, F) 1 where an image points right, 0 where not, NaN where it has nothing to point at. groups: (N,) the
    patient of each image. Findings without an image are left out, of the value and of each draw, and counted.
    Raises MetricError if the lengths differ.
    """
    if hits.ndim != 2 or len(hits) != len(groups):
        raise MetricError(f"expected hits (N, F) with one group (patient) per image, got {hits.shape}, {len(groups)}.")
    asked, right = ~np.isnan(hits), np.nan_to_num(hits)
    counts = asked.sum(axis=0)
    known = counts > 0
    if not known.any():
        return Number(NAN, note="nothing to count")
    value, count = float((right.sum(axis=0)[known] / counts[known]).mean()), int(counts.sum())
    lost = int((~known).sum())
    said = [f"mean of {int(known.sum())} of {len(known)} findings, the others have no image"] if lost else []
    if not draws or len(set(groups)) == 1:
        return Number(value, n=count, note="; ".join(said))

    def mean_share(weights: Floats) -> Floats:
        images = weights @ asked
        shares = np.where(images > 0, weights @ right / np.maximum(images, 1), 0.0)
        return np.asarray(shares.sum(axis=1) / np.maximum((images > 0).sum(axis=1), 1), dtype=np.float64)

    interval = percentile_interval(bootstrap_values(mean_share, groups, draws=draws, seed=seed))
    return Number(value, interval.low, interval.high, count, "; ".join(filter(None, [*said, interval.note])))
