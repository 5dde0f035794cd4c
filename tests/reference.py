"""Slow twins, straight from the definitions; nothing here shares code with the package."""

from __future__ import annotations

import itertools
import math

import numpy as np


def auroc(labels, scores):
    """Share of (positive, negative) pairs in order, ties one half."""
    positive = [s for s, y in zip(scores, labels, strict=True) if y == 1]
    negative = [s for s, y in zip(scores, labels, strict=True) if y == 0]
    if not positive or not negative:
        return math.nan
    credit = sum(1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative)
    return credit / (len(positive) * len(negative))


def _counts(labels, scores):
    """(positives, negatives) at or above each distinct score, highest first."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    return [
        (int((labels[scores >= t] == 1).sum()), int((labels[scores >= t] == 0).sum()))
        for t in sorted(set(scores))[::-1]
    ]


def average_precision(labels, scores):
    """Sum of recall steps times precision."""
    total, earlier, area = int(np.sum(labels)), 0, 0.0
    if total in (0, len(labels)):
        return math.nan
    for tp, fp in _counts(labels, scores):
        area += (tp - earlier) / total * tp / (tp + fp)
        earlier = tp
    return area


def trapezoid_auprc(labels, scores):
    """Trapezoids between precision-recall points, starting at recall 0 and precision 1."""
    total = int(np.sum(labels))
    if total in (0, len(labels)):
        return math.nan
    points = [(0.0, 1.0)] + [(tp / total, tp / (tp + fp)) for tp, fp in _counts(labels, scores)]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def components(mask):
    """8-connected components as lists of (row, column), by flood fill."""
    left, found = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}, []
    while left:
        queue, component = [left.pop()], []
        while queue:
            row, column = queue.pop()
            component.append((row, column))
            near = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            queue.extend(near)
        found.append(component)
    return found


def area_up_to(xs, ys, limit):
    """Area under the polyline (xs rising) from 0 to limit, cutting the segment that crosses it."""
    area = 0.0
    for x0, y0, x1, y1 in zip(xs, ys, xs[1:], ys[1:], strict=False):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
    return area


def pro(maps, masks, regions=None, max_fpr=0.3):
    """Loop over every distinct score: mean covered fraction of the lesions against the false positive rate."""
    counted = ~np.isnan(maps) if regions is None else ~np.isnan(maps) & regions
    lesions = []
    for i, mask in enumerate(masks):
        for component in components(mask):
            scores = [maps[i, r, c] for r, c in component if counted[i, r, c]]
            if scores:
                lesions.append(np.array(scores))
    normal = maps[counted & ~masks]
    if not lesions or not normal.size:
        return math.nan
    xs, ys = [0.0], [0.0]
    for threshold in np.unique(maps[counted])[::-1]:
        xs.append(float((normal >= threshold).mean()))
        ys.append(float(np.mean([(s >= threshold).mean() for s in lesions])))
    return area_up_to(xs, ys, max_fpr) / max_fpr


def delong_covariance(labels, columns):
    """AUROCs and their covariance matrix from the kernel over all pairs (DeLong et al., 1988, equations 4 to 6)."""
    labels = np.asarray(labels)
    rows, areas = [], []
    for scores in columns:
        scores = np.asarray(scores)
        gap = scores[labels == 1][:, None] - scores[labels == 0][None, :]
        kernel = (gap > 0) + 0.5 * (gap == 0)
        rows.append((kernel.mean(axis=1), kernel.mean(axis=0)))
        areas.append(kernel.mean())
    v10, v01 = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    covariance = np.atleast_2d(np.cov(v10)) / v10.shape[1] + np.atleast_2d(np.cov(v01)) / v01.shape[1]
    return np.array(areas), covariance
