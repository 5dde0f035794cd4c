"""All the numbers of one evaluation: image level and pixel level, with bootstrap intervals by patient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.metrics.binned import PixelHistograms
from wordsight.metrics.intervals import Interval, bootstrap_interval, bootstrap_values, percentile_interval
from wordsight.metrics.number import NAN, Number
from wordsight.metrics.pixels import Masks, rank_pixels
from wordsight.metrics.ranking import (
    Scores,
    auroc,
    average_precision,
    checked,
    weighted_auroc,
    weighted_average_precision,
)


def _number(value: float, interval: Interval, n: int, *notes: str) -> Number:
    return Number(value, interval.low, interval.high, n, "; ".join(filter(None, (*notes, interval.note))))


def image_numbers(
    labels: NDArray[np.int64], scores: Scores, groups: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> dict[str, Number]:
    """image_auroc and image_ap with 95 % bootstrap intervals over `groups`; draws=0 for no intervals.

    labels (N,) 0/1, scores (N,), groups (N,) the patient of each image. Errors as in `auroc`.
    """
    truth, _ = checked(labels, scores)
    if truth.all() or not truth.any():
        return dict.fromkeys(("image_auroc", "image_ap"), Number(NAN, n=truth.size, note="only one class"))
    numbers = {}
    for name, value, weighted in (
        ("image_auroc", auroc, weighted_auroc),
        ("image_ap", average_precision, weighted_average_precision),
    ):
        statistic = partial(weighted, labels, scores)
        interval = bootstrap_interval(statistic, groups, draws=draws, seed=seed) if draws else Interval(NAN, NAN)
        numbers[name] = _number(value(labels, scores), interval, truth.size)
    return numbers


def pixel_numbers(
    maps: NDArray[Any],
    masks: Masks,
    groups: Sequence[str],
    regions: Masks | None = None,
    *,
    draws: int = 1000,
    seed: int = 0,
    max_fpr: float = 0.3,
    note: str = "",
) -> dict[str, Number]:
    """auroc, ap and pro over the pixels with 95 % bootstrap intervals over `groups`; draws=0 for no intervals.

    Values are exact; the draws use histograms (see `binned`). note is put before each number's own. Shapes, memory
    and errors as in `pixels`.
    """
    ranks = rank_pixels(maps, masks, regions)
    names = ("auroc", "ap", "pro")
    if ranks.missing:
        return dict.fromkeys(names, Number(NAN, n=ranks.images, note="; ".join(filter(None, (ranks.missing, note)))))
    values = (ranks.ranks.area(), ranks.ranks.average_precision(), ranks.pro(max_fpr))
    intervals = [Interval(NAN, NAN)] * 3
    if draws and len(set(groups)) == 1:
        intervals = [Interval(NAN, NAN, "no interval: only one patient")] * 3
    elif draws:
        histograms = PixelHistograms.of(ranks, maps, masks, regions)
        assert histograms is not None
        drawn = bootstrap_values(partial(histograms.statistics, max_fpr=max_fpr), groups, draws=draws, seed=seed)
        intervals = [percentile_interval(row) for row in drawn]
    return {k: _number(v, i, ranks.images, note) for k, v, i in zip(names, values, intervals, strict=True)}
