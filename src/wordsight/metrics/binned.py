"""Pixel metrics of any reweighting of the images, from one histogram per image: what makes bootstraps cheap.

Bins are shared by all images and cut at quantiles of the abnormal and of the normal scores, so that each holds at
most about 0.1 % of either class; a score that many pixels share has a bin of its own. Values differ from the exact
ones by less than 1e-3. Memory: 3 x 8 bytes x bins (about 2,300, at most 4,600) per image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.metrics.number import NAN
from wordsight.metrics.pixels import Masks, PixelRanks, checked_maps, component_shares, counted_pixels
from wordsight.metrics.ranking import Floats, Scores, line_gain

_POSITIVE_CUTS = 1000
_NEGATIVE_CUTS = 1000
_TAIL_CUTS = 300


def _picks(count: int, cuts: int) -> NDArray[np.int64]:
    """Places of `cuts` evenly spaced quantiles in a sorted array of `count` values (all places if there are fewer)."""
    return np.unique(np.linspace(0, count - 1, min(cuts, count)).astype(np.int64))


def bin_edges(ranks: PixelRanks) -> Scores:
    """(B - 1,) rising inner edges; bin k holds edge[k - 1] <= score < edge[k]."""
    rising, normal = ranks.ranks.positives[::-1], ranks.normal
    # Precision depends on the few highest normal scores: evenly spaced ranks alone would leave them in one bin.
    tail = len(normal) - np.unique(np.geomspace(1, len(normal), _TAIL_CUTS).astype(np.int64))
    picked = np.concatenate(
        [rising[_picks(len(rising), _POSITIVE_CUTS)], normal[_picks(len(normal), _NEGATIVE_CUTS)], normal[tail]]
    )
    values, times = np.unique(picked, return_counts=True)
    repeated = values[times > 1]
    above = np.nextafter(repeated, np.array(np.inf, dtype=repeated.dtype))
    return np.asarray(np.unique(np.concatenate([values, above])))


def _is_tied(ranks: PixelRanks, edges: Scores) -> NDArray[np.bool_]:
    """(B,) whether all scores of a bin, rising, are one and the same."""
    lows, highs = [], []
    for values in (ranks.ranks.positives[::-1], ranks.normal):
        cuts = np.searchsorted(values, edges, side="left")
        first, last = np.append(0, cuts), np.append(cuts, len(values))
        filled = last > first
        lows.append(np.where(filled, values[np.minimum(first, len(values) - 1)], np.inf))
        highs.append(np.where(filled, values[last - 1], -np.inf))
    return np.asarray(np.minimum(*lows) >= np.maximum(*highs))


@dataclass(frozen=True, slots=True)
class PixelHistograms:
    """Per image and bin, highest bin first: normal and abnormal pixels, and lesion fractions summed over lesions.

    normal, abnormal, coverage: (N, B). lesions: (N,) how many each image has. depth: (B,) where inside the bin its
    abnormal pixels lie on average, 0 at its top, 1 at its bottom. tied: (B,) all scores of the bin are equal.
    """

    normal: Floats
    abnormal: Floats
    coverage: Floats
    lesions: Floats
    depth: Floats
    tied: NDArray[np.bool_]

    @classmethod
    def of(
        cls, ranks: PixelRanks, maps: NDArray[Any], masks: Masks, regions: Masks | None = None
    ) -> PixelHistograms | None:
        """Count the pixels that `ranks` was made of; None when a class is missing."""
        if not ranks.ranks.defined:
            return None
        maps = checked_maps(maps, masks, regions)
        edges = bin_edges(ranks)
        bins = len(edges) + 1
        normal, abnormal, coverage = (np.zeros((len(maps), bins)) for _ in range(3))
        lesions = np.zeros(len(maps))
        for i, scores in enumerate(maps):
            counted = counted_pixels(scores, None if regions is None else regions[i])
            normal[i] = _counts(scores[counted & ~masks[i]], edges)
            if not np.any(counted & masks[i]):
                continue
            shares, lesions[i] = component_shares(masks[i], counted)
            found = scores[counted & masks[i]]
            abnormal[i], coverage[i] = _counts(found, edges), _sums(found, edges, shares)
        tied = _is_tied(ranks, edges)[::-1]
        # An edge is the score of an abnormal pixel more often than not, so m of them in a bin lie at 1/m ... m/m.
        many = np.maximum(abnormal.sum(axis=0)[::-1], 1.0)
        depth = np.where(tied, 0.5, (many + 1) / (2 * many))
        return cls(normal[:, ::-1], abnormal[:, ::-1], coverage[:, ::-1], lesions, depth, tied)

    def statistics(self, weights: Floats, max_fpr: float = 0.3) -> Floats:
        """Pixel AUROC, average precision and PRO of every draw: weights (D, N) -> (3, D), NaN where undefined."""
        normal = weights @ self.normal
        reached = np.cumsum(normal, axis=1)
        negatives = reached[:, -1:]
        above = reached - normal
        scale = np.where(negatives > 0, negatives, 1.0)
        abnormal = weights @ self.abnormal
        area = self._gain(above / scale, reached / scale, 1.0)
        covered = self._gain(above / scale, reached / scale, max_fpr) / max_fpr
        return np.stack(
            [
                _mean(abnormal, area, abnormal.sum(axis=1), negatives[:, 0]),
                self._average_precision(abnormal, normal, above, negatives[:, 0]),
                _mean(weights @ self.coverage, covered, weights @ self.lesions, negatives[:, 0]),
            ]
        )

    def _gain(self, start: Floats, end: Floats, max_fpr: float) -> Floats:
        gain = np.maximum(max_fpr - (start + self.depth * (end - start)), 0.0)
        gain[:, self.tied] = line_gain(start[:, self.tied], end[:, self.tied], max_fpr)
        return np.asarray(gain, dtype=np.float64)

    def _average_precision(self, abnormal: Floats, normal: Floats, above: Floats, negatives: Floats) -> Floats:
        depth = np.where(self.tied, 1.0, self.depth)
        before = np.cumsum(abnormal, axis=1) - abnormal
        found = before + depth * abnormal
        taken = found + above + depth * normal
        precision = found / np.where(taken > 0, taken, 1.0)
        return _mean(abnormal, precision, abnormal.sum(axis=1), negatives)


def _counts(scores: Scores, edges: Scores) -> Floats:
    """Scores per bin; sorting one image and placing the edges in it is far cheaper than placing every pixel."""
    below = np.searchsorted(np.sort(scores), edges, side="left")
    return np.diff(below, prepend=0, append=len(scores)).astype(np.float64)


def _sums(scores: Scores, edges: Scores, weights: Floats) -> Floats:
    """Sum of the weights of the scores in each bin."""
    places = np.searchsorted(edges, scores, side="right")
    return np.asarray(np.bincount(places, weights, minlength=len(edges) + 1), dtype=np.float64)


def _mean(weights: Floats, values: Floats, total: Floats, negatives: Floats) -> Floats:
    """Weighted mean over bins, (D, B) -> (D,); NaN for draws without an abnormal or without a normal pixel."""
    known = (total > 0) & (negatives > 0)
    sums = np.einsum("db,db->d", weights, values)
    return np.asarray(np.where(known, sums / np.where(known, total, 1.0), NAN), dtype=np.float64)
