"""How well anomaly maps find abnormal pixels and whole lesions: pixel AUROC, pixel average precision, PRO.

Maps (N, h, w) float, masks (N, h, w) bool, regions (N, h, w) bool or None (all pixels). Pixels outside the region and
pixels whose map is NaN (never seen) do not count. Exact, ties included, by sorting once. Memory beyond the
arguments: 4 bytes per normal pixel (8 for float64 maps), about 40 per abnormal pixel, and some per pixel of one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import MetricError
from wordsight.metrics.number import NAN
from wordsight.metrics.ranking import Floats, Ranks, Scores

Masks = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PixelRanks:
    """The counted pixels of a data set, sorted once for all metrics.

    ranks: the abnormal pixels among the normal ones. normal: (n,) scores of normal pixels, rising.
    coverage: (P,) 1 / (pixels in its component), in the order of ranks.positives; empty if not asked for.
    components: how many lesions have a counted pixel. images: how many images have a counted pixel.
    """

    ranks: Ranks
    normal: Scores
    coverage: Floats
    components: int
    images: int

    @property
    def missing(self) -> str:
        """Why the metrics are undefined, "" if they are not."""
        if self.ranks.defined:
            return ""
        return "no abnormal pixels" if self.ranks.negatives else "no normal pixels"

    def pro(self, max_fpr: float = 0.3) -> float:
        """Per-region overlap; see `pro`."""
        check_max_fpr(max_fpr)
        if not self.ranks.defined:
            return NAN
        return self.ranks.partial_area(self.coverage, max_fpr) / self.components


def check_max_fpr(max_fpr: float) -> None:
    """Raise MetricError unless 0 < max_fpr <= 1."""
    if not 0 < max_fpr <= 1:
        raise MetricError(f"expected max_fpr in (0, 1], got {max_fpr}. The usual limit is 0.3.")


def checked_maps(maps: NDArray[Any], masks: NDArray[Any], regions: NDArray[Any] | None) -> Scores:
    """The maps as float32 or float64. Raises MetricError for shapes that differ or masks that are not boolean."""
    if maps.ndim != 3 or maps.size == 0:
        raise MetricError(f"expected maps of shape (N, h, w), none of them 0, got {maps.shape}.")
    for name, other in (("masks", masks), ("regions", regions)):
        if other is None:
            continue
        if other.shape != maps.shape:
            raise MetricError(f"expected {name} of the maps' shape {maps.shape}, got {other.shape}. Resample them.")
        if other.dtype != np.bool_:
            raise MetricError(f"expected boolean {name}, got {other.dtype}. Threshold them first, e.g. mask > 0.")
    if maps.dtype.kind not in "fiu":
        raise MetricError(f"expected numbers as maps, got {maps.dtype}.")
    return maps if maps.dtype in (np.float32, np.float64) else maps.astype(np.float64)


def counted_pixels(scores: Scores, region: Masks | None) -> Masks:
    """(h, w) which pixels of one map count: seen, and inside the region."""
    seen = ~np.isnan(scores)
    return seen if region is None else seen & region


def component_shares(mask: Masks, counted: Masks) -> tuple[Floats, int]:
    """1 / (counted pixels of its 8-connected component) for every counted abnormal pixel, in row order; components.

    Components are those of the whole mask: a lesion cut by the region's border is still one lesion. One without
    any counted pixel is left out.
    """
    from scipy import ndimage

    places = ndimage.label(mask, structure=np.ones((3, 3), dtype=np.int8))[0][mask & counted]
    sizes = np.bincount(places)
    return 1.0 / sizes[places], int(np.count_nonzero(sizes))


def rank_pixels(maps: NDArray[Any], masks: Masks, regions: Masks | None = None, *, lesions: bool = True) -> PixelRanks:
    """Sort the counted pixels; `lesions=False` leaves out the connected components, which only PRO needs."""
    maps = checked_maps(maps, masks, regions)
    counts = np.zeros((len(maps), 2), dtype=np.int64)
    for i, scores in enumerate(maps):
        counted = counted_pixels(scores, None if regions is None else regions[i])
        counts[i] = np.count_nonzero(counted & masks[i]), np.count_nonzero(counted)
    positives, total = counts.sum(axis=0)
    abnormal, normal = np.empty(positives, dtype=maps.dtype), np.empty(total - positives, dtype=maps.dtype)
    coverage = np.empty(positives if lesions else 0)
    components, p, n = 0, 0, 0
    for i, scores in enumerate(maps):
        counted = counted_pixels(scores, None if regions is None else regions[i])
        mine, all_mine = counts[i]
        abnormal[p : p + mine] = scores[counted & masks[i]]
        normal[n : n + all_mine - mine] = scores[counted & ~masks[i]]
        if lesions and mine:
            coverage[p : p + mine], found = component_shares(masks[i], counted)
            components += found
        p, n = p + mine, n + all_mine - mine
    normal.sort()
    if lesions:
        order = np.argsort(abnormal)[::-1]
        abnormal, coverage = abnormal[order], coverage[order]
    else:
        abnormal = np.sort(abnormal)[::-1]
    images = int(np.count_nonzero(counts[:, 1]))
    return PixelRanks(Ranks.of(abnormal, normal), normal, coverage, components, images)


def pixel_auroc(maps: NDArray[Any], masks: Masks, regions: Masks | None = None) -> float:
    """AUROC over all counted pixels of all images; NaN if one class is missing.

    Raises MetricError for shapes that differ or masks that are not boolean.
    """
    return rank_pixels(maps, masks, regions, lesions=False).ranks.area()


def pixel_average_precision(maps: NDArray[Any], masks: Masks, regions: Masks | None = None) -> float:
    """Average precision over all counted pixels of all images; NaN if one class is missing. Errors as `pixel_auroc`."""
    return rank_pixels(maps, masks, regions, lesions=False).ranks.average_precision()


def pro(maps: NDArray[Any], masks: Masks, regions: Masks | None = None, *, max_fpr: float = 0.3) -> float:
    """Per-region overlap: the covered fraction of a lesion, averaged over lesions, over false positive rates.

    At each threshold, the mean over the 8-connected components of the masks of the fraction with map >= threshold
    is plotted against the false positive rate over all normal pixels; the area up to `max_fpr` is divided by
    `max_fpr`, so that 1 is perfect. NaN without a lesion or without a normal pixel. Errors as `pixel_auroc`;
    also for max_fpr outside (0, 1]. Bergmann et al., CVPR 2019 and IJCV 2021, section 5.
    """
    check_max_fpr(max_fpr)
    return rank_pixels(maps, masks, regions).pro(max_fpr)
