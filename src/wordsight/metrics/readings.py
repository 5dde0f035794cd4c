"""How well yes-or-no readings (a radiologist's, or scores cut at a threshold) agree with the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import MetricError
from wordsight.metrics.findings import FindingTable, checked_findings, drawn_values
from wordsight.metrics.number import NAN
from wordsight.metrics.ranking import Floats

AGREEMENT = ("sensitivity", "specificity", "f1", "mcc", "kappa")
_UNDEFINED = {
    "sensitivity": "no positive label",
    "specificity": "no negative label",
    "f1": "no positive label and no positive reading",
    "mcc": "labels or readings are all alike",
    "kappa": "labels and readings are all alike",
}


def agreement(tp: Floats, fn: Floats, tn: Floats, fp: Floats) -> Floats:
    """Counts of any one shape -> (5, ...): sensitivity, specificity, F1, Matthews correlation, Cohen's kappa.

    NaN where a denominator is zero. Matthews, 1975; Cohen, Educational and Psychological Measurement 1960.
    """
    positive, negative, read, unread = tp + fn, tn + fp, tp + fp, tn + fn
    total = positive + negative
    scale = np.sqrt(positive * negative) * np.sqrt(read * unread)
    chance = positive * read + negative * unread  # expected agreement x total^2
    return np.stack(
        [
            _ratio(tp, positive),
            _ratio(tn, negative),
            _ratio(2 * tp, 2 * tp + fp + fn),
            _ratio(tp * tn - fp * fn, scale),
            _ratio(total * (tp + tn) - chance, total**2 - chance),
        ]
    )


def _ratio(top: Floats, bottom: Floats) -> Floats:
    return np.asarray(np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1.0), NAN), dtype=np.float64)


def confusion_counts(labels: NDArray[Any], readings: NDArray[Any]) -> NDArray[np.int64]:
    """(N, F) labels and readings, 0/1 -> (4, F): true positives, false negatives, true negatives, false positives."""
    cells = _cells(np.asarray(labels), np.asarray(readings))
    return np.asarray(cells.sum(axis=0), dtype=np.int64).reshape(4, -1)


def _cells(labels: NDArray[Any], readings: NDArray[Any]) -> Floats:
    """(N, 4 F) which of the four each image is, for each finding."""
    for what, values in (("labels", labels), ("readings", readings)):
        wrong = values[~np.isin(values, (0, 1))]
        if wrong.size:
            raise MetricError(f"expected {what} 0 or 1, got {wrong.flat[0]} and {wrong.size - 1} more of other values.")
    truth, said = labels.astype(bool), readings.astype(bool)
    return np.concatenate([truth & said, truth & ~said, ~truth & ~said, ~truth & said], axis=1).astype(np.float64)


def reading_agreement(
    labels: NDArray[Any], readings: NDArray[Any], groups: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> FindingTable:
    """The AGREEMENT of readings with labels for every finding, with bootstrap draws over `groups`.

    labels, readings (N, F) 0/1; groups, draws, seed as in `rank_findings`. What has a zero denominator is undefined,
    never 0. Raises MetricError for shapes that do not fit or values other than 0 and 1.
    """
    labels, readings = np.asarray(labels), np.asarray(readings)
    checked_findings(labels, readings, groups)
    cells = _cells(labels, readings)

    def of_draws(weights: Floats) -> Floats:
        counts = (weights @ cells).reshape(len(weights), 4, -1)
        return agreement(*counts.transpose(1, 2, 0))

    values = agreement(*cells.sum(axis=0).reshape(4, -1))
    drawn, note = drawn_values(of_draws, groups, draws=draws, seed=seed)
    positives = labels.astype(np.int64).sum(axis=0)
    return FindingTable(AGREEMENT, values, drawn, positives, len(labels), _UNDEFINED, note)
