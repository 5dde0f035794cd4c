"""How well scores rank abnormal above normal: AUROC, average precision and their curves, exact for ties.

Everything rests on two binary searches per positive: how many negatives score above it, and how many at least as high.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wordsight.errors import MetricError
from wordsight.metrics.number import NAN

Scores = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ranks:
    """The positives in falling order and where they stand among the negatives.

    positives: (P,) scores, highest first. above / reached: (P,) how many negatives score > / >= each of them.
    negatives: how many negatives there are.
    """

    positives: Scores
    above: NDArray[np.int64]
    reached: NDArray[np.int64]
    negatives: int

    @classmethod
    def of(cls, positives: Scores, negatives: Scores) -> Ranks:
        """From positives in falling and negatives in rising order."""
        rising = positives[::-1]
        above = len(negatives) - np.searchsorted(negatives, rising, side="right")[::-1]
        reached = len(negatives) - np.searchsorted(negatives, rising, side="left")[::-1]
        return cls(positives, above.astype(np.int64), reached.astype(np.int64), len(negatives))

    @property
    def defined(self) -> bool:
        """Whether both classes are there."""
        return len(self.positives) > 0 and self.negatives > 0

    def area(self) -> float:
        """Area under the ROC curve: the share of (positive, negative) pairs in order, ties counting one half."""
        if not self.defined:
            return NAN
        lost = int(self.above.sum()) + int(self.reached.sum())
        return 1.0 - lost / (2 * len(self.positives) * self.negatives)

    def partial_area(self, weights: Floats, max_fpr: float) -> float:
        """Area under (false positive rate, sum of the weights found) for rates in [0, max_fpr], over max_fpr.

        weights: (P,) in the order of `positives`. Neighbouring points are joined by straight lines.
        """
        if not self.defined:
            return NAN
        gain = line_gain(self.above / self.negatives, self.reached / self.negatives, max_fpr)
        return float(weights @ gain) / max_fpr

    def _steps(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Per distinct positive score: share of positives there; positives found; negatives above; negatives found."""
        last = np.flatnonzero(np.append(self.positives[1:] != self.positives[:-1], True))
        found = (last + 1).astype(np.float64)
        share = np.diff(found, prepend=0.0) / len(self.positives)
        return share, found, self.above[last].astype(np.float64), self.reached[last].astype(np.float64)

    def average_precision(self) -> float:
        """Sum over distinct scores of (gain in recall) x (precision there)."""
        if not self.defined:
            return NAN
        share, found, _, reached = self._steps()
        return float(share @ (found / (found + reached)))

    def trapezoid_precision(self) -> float:
        """Area under straight lines between the precision-recall points; precision is 1 where nothing is found yet."""
        if not self.defined:
            return NAN
        share, found, above, reached = self._steps()
        earlier = np.append(0.0, found[:-1])
        taken = earlier + above
        before = np.where(taken > 0, earlier / np.maximum(taken, 1.0), 1.0)
        return float(share @ (before + found / (found + reached))) / 2


def line_gain(start: Floats, end: Floats, max_fpr: float) -> Floats:
    """Area in [0, max_fpr] that one unit of height adds when it is gained evenly between two false positive rates."""
    full = np.maximum(max_fpr - (start + end) / 2, 0.0)
    inside = np.maximum(max_fpr - start, 0.0)
    cut = inside**2 / (2 * np.where(end > start, end - start, 1.0))
    return np.asarray(np.where(end <= max_fpr, full, np.where(start < max_fpr, cut, 0.0)), dtype=np.float64)


def checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Scores]:
    """Labels as bool and scores as float, both (N,). Raises MetricError for anything that cannot be ranked."""
    truth, values = np.asarray(labels), np.asarray(scores)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise MetricError(
            f"expected labels and scores of one shape (N,), got {truth.shape} and {values.shape}. "
            "Pass one label and one score per image."
        )
    if truth.size == 0:
        raise MetricError("expected at least one label and score, got none. Check that images were read.")
    if values.dtype.kind not in "fiub":
        raise MetricError(f"expected numbers as scores, got {values.dtype}. Convert them to float.")
    if truth.dtype.kind not in "fiub" or not np.isin(truth, (0, 1)).all():
        wrong = [str(v) for v in np.unique(truth) if v not in (0, 1)][:5]
        raise MetricError(f"expected labels 0 or 1, got {', '.join(wrong)}. Drop or map unknown labels first.")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    lost = int(np.isnan(values).sum())
    if lost:
        raise MetricError(f"expected a score for every image, got NaN for {lost} of {values.size}. Drop those images.")
    return truth.astype(np.bool_), values


def _ranks(labels: ArrayLike, scores: ArrayLike) -> Ranks:
    truth, values = checked(labels, scores)
    return Ranks.of(np.sort(values[truth])[::-1], np.sort(values[~truth]))


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the share of (abnormal, normal) pairs in the right order, ties counting one half.

    labels: (N,) 0/1. scores: (N,) any range, higher = more abnormal; +-inf are allowed. NaN with one class only.
    Raises MetricError for shapes that differ, NaN scores, other labels or nothing at all. Hanley & McNeil, 1982.
    """
    return _ranks(labels, scores).area()


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision, the step-wise area under the precision-recall curve (as scikit-learn defines it).

    Arguments, errors and NaN as in `auroc`.
    """
    return _ranks(labels, scores).average_precision()


def trapezoid_auprc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under straight lines between precision-recall points, as many papers report it (optimistic).

    Davis & Goadrich, ICML 2006, on why average precision is to be preferred. Arguments, errors and NaN as in `auroc`.
    """
    return _ranks(labels, scores).trapezoid_precision()


def roc_curve_points(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """The ROC curve: false positive rate, true positive rate and threshold, (K,) each, from (0, 0) at +inf to (1, 1).

    One point per distinct score (a score counts as abnormal if >= threshold). A rate without its class is NaN.
    Arguments and errors as in `auroc`.
    """
    truth, values = checked(labels, scores)
    order = np.argsort(-values, kind="stable")
    ranked, hits = values[order], truth[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found = np.append(0, np.cumsum(hits)[last])
    taken = np.append(0, last + 1)
    positives, negatives = int(hits.sum()), int((~hits).sum())
    tpr = found / positives if positives else np.full(len(found), NAN)
    fpr = (taken - found) / negatives if negatives else np.full(len(found), NAN)
    return fpr, tpr, np.append(np.inf, ranked[last]).astype(np.float64)


def _weighted(labels: ArrayLike, scores: ArrayLike, weights: Floats) -> tuple[Ranks, Floats, Floats]:
    """Ranks, weights of the positives in their order (D, P), and weight of the k highest negatives (D, n + 1)."""
    truth, values = checked(labels, scores)
    if weights.ndim != 2 or weights.shape[1] != truth.size:
        raise MetricError(f"expected weights of shape (draws, {truth.size}), got {weights.shape}.")
    order = np.argsort(values, kind="stable")
    positive, negative = order[truth[order]][::-1], order[~truth[order]]
    ranks = Ranks.of(values[positive], values[negative])
    highest = np.zeros((weights.shape[0], len(negative) + 1))
    np.cumsum(weights[:, negative[::-1]], axis=1, out=highest[:, 1:])
    return ranks, weights[:, positive].astype(np.float64), highest


def weighted_auroc(labels: ArrayLike, scores: ArrayLike, weights: Floats) -> Floats:
    """AUROC for each row of weights: (D, N) non-negative -> (D,), NaN where a class has no weight.

    A weight is how often an image counts, as in a bootstrap draw. Errors as in `auroc`.
    """
    ranks, positive, highest = _weighted(labels, scores, weights)
    lost = ((highest[:, ranks.above] + highest[:, ranks.reached]) * positive).sum(axis=1)
    pairs = 2 * positive.sum(axis=1) * highest[:, -1]
    return np.asarray(np.where(pairs > 0, 1.0 - lost / np.where(pairs > 0, pairs, 1.0), NAN), dtype=np.float64)


def weighted_average_precision(labels: ArrayLike, scores: ArrayLike, weights: Floats) -> Floats:
    """Average precision for each row of weights: (D, N) -> (D,), NaN where a class has no weight; see `auroc`."""
    ranks, positive, highest = _weighted(labels, scores, weights)
    total = positive.sum(axis=1)
    if not ranks.defined:
        return np.full(len(total), NAN)
    last = np.flatnonzero(np.append(ranks.positives[1:] != ranks.positives[:-1], True))
    found = np.cumsum(positive, axis=1)[:, last]
    share = np.diff(found, prepend=0.0, axis=1)
    taken = found + highest[:, ranks.reached[last]]
    area = (share * found / np.where(taken > 0, taken, 1.0)).sum(axis=1)
    known = (total > 0) & (highest[:, -1] > 0)
    return np.asarray(np.where(known, area / np.where(known, total, 1.0), NAN), dtype=np.float64)
