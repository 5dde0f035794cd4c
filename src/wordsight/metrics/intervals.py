"""How sure a metric is: bootstrap over patients, and DeLong's interval and test for the AUROC."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from wordsight.errors import MetricError
from wordsight.metrics.number import NAN, Number
from wordsight.metrics.ranking import Floats, Ranks, checked
from wordsight.progress import progress

Statistic = Callable[[Floats], Floats]
"""Weights (D, N), how often each image counts in each draw -> values (D,) or (K, D), NaN where undefined."""

_BLOCK = 1 << 20  # numbers in one block of weights: 8 MiB
_ROWS = 256  # draws in one block: a statistic over 2,300 bins then needs 5 MB per array


@dataclass(frozen=True, slots=True)
class Interval:
    """low, high: bounds, NaN where there is no interval; note: why, or how many draws were left out."""

    low: float
    high: float
    note: str = ""


def bootstrap_weights(groups: Sequence[str], *, draws: int = 1000, seed: int = 0) -> Iterator[Floats]:
    """Blocks (d, N) of how often each image occurs when whole groups are drawn with replacement; `draws` rows in all.

    groups: (N,) the patient of each image. The draw depends on the groups' names, not on the order of the images.
    Raises MetricError for no groups or a negative number of draws. Field & Welsh, JRSS B 2007 (cluster bootstrap).
    """
    if not len(groups):
        raise MetricError("expected one group (patient) per image, got none.")
    if draws < 1:
        raise MetricError(f"expected at least 1 bootstrap draw, got {draws}.")
    places = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1]
    count = int(places.max()) + 1
    rng = np.random.default_rng(seed)
    rows = max(1, min(draws, _ROWS, _BLOCK // max(len(places), count)))
    for start in range(0, draws, rows):
        size = min(rows, draws - start)
        drawn = rng.integers(0, count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        yield times[:, places].astype(np.float64)


def bootstrap_values(statistic: Statistic, groups: Sequence[str], *, draws: int = 1000, seed: int = 0) -> Floats:
    """The statistic of every draw, (draws,) or (K, draws); arguments and errors as in `bootstrap_weights`."""
    blocks = []
    with progress("Bootstrap", draws, "draws") as bar:
        for weights in bootstrap_weights(groups, draws=draws, seed=seed):
            blocks.append(statistic(weights))
            bar.advance(len(weights))
    return np.concatenate(blocks, axis=-1)


def percentile_interval(values: Floats, level: float = 0.95) -> Interval:
    """Percentile interval of bootstrap values (D,); undefined draws (NaN) are dropped and counted in the note.

    NaN if more than half of the draws are undefined. Raises MetricError unless 0 < level < 1. Efron, 1979.
    """
    _check_level(level)
    known = values[~np.isnan(values)]
    lost = len(values) - len(known)
    if 2 * lost > len(values) or not len(known):
        return Interval(NAN, NAN, f"no interval: {lost} of {len(values)} draws undefined")
    low, high = np.percentile(known, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high), f"{lost} of {len(values)} draws undefined" if lost else "")


def bootstrap_interval(
    statistic: Statistic, groups: Sequence[str], *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Percentile interval of a statistic when whole groups (patients) are drawn with replacement.

    statistic: weights (D, N) -> (D,), e.g. `partial(weighted_auroc, labels, scores)`. With a single group there is
    no interval. Same seed and same groups, same interval, whatever the order. Errors as in `bootstrap_weights`.
    """
    _check_level(level)
    if len(set(groups)) == 1:
        return Interval(NAN, NAN, "no interval: only one patient")
    return percentile_interval(bootstrap_values(statistic, groups, draws=draws, seed=seed), level)


def share_of_hits(hits: Sequence[bool], groups: Sequence[str], *, draws: int = 1000, seed: int = 0) -> Number:
    """The share of hits (correct answers, peaks inside a box) with its 95 % bootstrap interval; draws=0 for none.

    hits: (N,) one per image; groups: (N,) the patient of each. NaN without hits and misses to count. Raises
    MetricError if the lengths differ.
    """
    if len(hits) != len(groups):
        raise MetricError(f"expected one group (patient) per hit, got {len(groups)} for {len(hits)} hits.")
    if not len(hits):
        return Number(NAN, note="nothing to count")
    values = np.asarray(hits, dtype=np.float64)
    value = float(values.mean())
    if not draws:
        return Number(value, n=len(values))

    def share(weights: Floats) -> Floats:
        return np.asarray(weights @ values / weights.sum(axis=1), dtype=np.float64)

    interval = bootstrap_interval(share, groups, draws=draws, seed=seed)
    return Number(value, interval.low, interval.high, len(values), interval.note)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise MetricError(f"expected a level between 0 and 1, got {level}. The usual level is 0.95.")


def _placements(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """For each abnormal image the share of normal ones below it, for each normal one the share of abnormal ones above.

    Ties count one half. (P,) and (n,), in the order of the images; both means are the AUROC. These are DeLong's
    structural components, from midranks in O(N log N) (Sun & Xu, IEEE Signal Processing Letters 2014).
    """
    truth, values = checked(labels, scores)
    positive, negative = values[truth], values[~truth]
    shares = []
    for mine, others, sign in ((positive, negative, 1), (negative, positive, -1)):
        order = np.argsort(sign * mine)[::-1]
        ranks = Ranks.of((sign * mine)[order], np.sort(sign * others))
        share = np.full(len(mine), NAN)
        if len(others):
            share[order] = 1.0 - (ranks.above + ranks.reached) / (2 * len(others))
        shares.append(share)
    return shares[0], shares[1]


def _variance(positive: Floats, negative: Floats) -> float:
    """Variance of a mean over both classes; NaN with fewer than two images in one of them."""
    if min(len(positive), len(negative)) < 2:
        return NAN
    return float(positive.var(ddof=1)) / len(positive) + float(negative.var(ddof=1)) / len(negative)


def delong_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    level: float = 0.95,
    scale: Literal["clipped", "plain", "logit"] = "clipped",
) -> Number:
    """AUROC with DeLong's interval; images are taken as independent (use the bootstrap for several per patient).

    scale: "plain" is value -+ z SE, which may leave [0, 1]; "clipped" cuts it there; "logit" is symmetric on the
    logit scale. No interval with fewer than two images of a class or a variance of zero (perfect separation), where
    the method says nothing. Raises MetricError as `auroc` does. DeLong et al., Biometrics 1988.
    """
    _check_level(level)
    if scale not in ("clipped", "plain", "logit"):
        raise MetricError(f"expected scale 'clipped', 'plain' or 'logit', got {scale!r}.")
    positive, negative = _placements(labels, scores)
    n = len(positive) + len(negative)
    if not len(positive) or not len(negative):
        return Number(NAN, n=n, note="only one class")
    value = float(positive.mean())
    variance = _variance(positive, negative)
    if not variance > 0:
        why = "fewer than two images of a class" if math.isnan(variance) else "DeLong's variance is zero"
        return Number(value, n=n, note=f"no interval: {why}")
    reach = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    if scale == "logit":
        centre, reach = math.log(value / (1 - value)), reach / (value * (1 - value))
        low, high = (1 / (1 + math.exp(-x)) for x in (centre - reach, centre + reach))
        return Number(value, low, high, n)
    low, high = value - reach, value + reach
    return Number(value, max(low, 0.0), min(high, 1.0), n) if scale == "clipped" else Number(value, low, high, n)


@dataclass(frozen=True, slots=True)
class DeLongTest:
    """difference: AUROC of the first scores minus that of the second; z: its standard score; p: two-sided."""

    difference: float
    z: float
    p: float


def delong_test(labels: ArrayLike, a: ArrayLike, b: ArrayLike) -> DeLongTest:
    """Whether two scores of the same images differ in AUROC (paired; images taken as independent).

    Scores that order the images alike give z = 0, p = 1. All NaN with one class only; z and p NaN where the variance
    is undefined or is zero although the areas differ. Raises MetricError as `auroc` does. DeLong et al., 1988.
    """
    (positive_a, negative_a), (positive_b, negative_b) = _placements(labels, a), _placements(labels, b)
    if not len(positive_a) or not len(negative_a):
        return DeLongTest(NAN, NAN, NAN)
    difference = float((positive_a - positive_b).mean())
    variance = _variance(positive_a - positive_b, negative_a - negative_b)
    if not variance > 0:
        same = variance == 0 and difference == 0
        return DeLongTest(difference, 0.0, 1.0) if same else DeLongTest(difference, NAN, NAN)
    z = difference / math.sqrt(variance)
    return DeLongTest(difference, z, 2 * NormalDist().cdf(-abs(z)))
