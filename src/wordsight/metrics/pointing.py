"""The pointing game: does a heatmap peak inside a box that someone drew around the finding?

The game's number is the `share_of_hits` over the images that have the finding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordsight.errors import MetricError


def map_peak(heatmap: NDArray[Any]) -> tuple[int, int]:
    """(row, column) of the largest value; of equal ones the first in row order; NaN (never seen) does not count.

    Raises MetricError for a map that is not (H, W) or has no value at all.
    """
    if heatmap.ndim != 2:
        raise MetricError(f"expected a map of shape (H, W), got {heatmap.shape}.")
    if np.isnan(heatmap).all():
        raise MetricError("expected a map with at least one value, got none but NaN. Leave this image out.")
    row, column = np.unravel_index(int(np.nanargmax(heatmap)), heatmap.shape)
    return int(row), int(column)


def pointing_hit(heatmap: NDArray[Any], boxes: ArrayLike, tolerance: float = 0.0) -> bool:
    """Whether the map's peak lies in any of the boxes.

    heatmap: (H, W) of any range on the image's own pixels, NaN = not seen. boxes: (n, 4) x1, y1, x2, y2 in those
    pixels, edges included. tolerance: pixels by which each box is widened on all sides; 0 is the published game, and
    a tolerance is a variant to be named beside the number. A map of few cells should be brought to the image's pixels
    smoothly: with nearest neighbour the peak is the upper left corner of a cell.
    Raises MetricError without a box, for boxes of another shape or corners in the wrong order, for a negative
    tolerance, and as `map_peak`. Zhang et al., ECCV 2016.
    """
    corners = np.asarray(boxes, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[1] != 4 or not len(corners):
        raise MetricError(f"expected boxes of shape (n, 4) with n >= 1, got {corners.shape}.")
    if not (np.isfinite(corners).all() and (corners[:, :2] <= corners[:, 2:]).all()):
        raise MetricError("expected boxes as x1, y1, x2, y2 with x1 <= x2 and y1 <= y2. Convert x, y, width, height.")
    if not tolerance >= 0:
        raise MetricError(f"expected a tolerance of 0 pixels or more, got {tolerance}.")
    row, column = map_peak(heatmap)
    point = np.array([column, row])
    inside = (corners[:, :2] - tolerance <= point) & (point <= corners[:, 2:] + tolerance)
    return bool(inside.all(axis=1).any())
