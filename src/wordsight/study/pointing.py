"""The pointing game of a benchmark with boxes: hits per finding and their mean, strict and with a tolerance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wordsight.data.peak_file import PeakFile
from wordsight.data.sources import LabelTable
from wordsight.metrics import Number, mean_share_of_hits, pointing_hit, share_of_hits
from wordsight.metrics.pointing import VARIANT
from wordsight.metrics.ranking import Floats

STRICT, TOLERANT = "pointing", "pointing_tolerant"


@dataclass(frozen=True, slots=True)
class Pointing:
    """tolerance: in pixels of the boxes' images. findings: per finding its shares of hits by name (STRICT, TOLERANT);
    macro: their means over the findings. missing: boxes' images whose map points at nothing, which are misses."""

    tolerance: float
    findings: tuple[Mapping[str, Number], ...]
    macro: Mapping[str, Number]
    missing: int

    def notes(self) -> list[str]:
        """What to say beside the numbers."""
        said = [f"pointing game: {VARIANT}, inside any box of the finding; tolerant: within {self.tolerance:g} pixels"]
        said += [f"pointing game: {self.missing} maps point at nothing on the image: misses"] if self.missing else []
        return said

    def about(self) -> dict[str, Any]:
        """How it was played, as plain values."""
        return {"point": VARIANT, "tolerance_pixels": self.tolerance, "without_point": self.missing}


def play(labels: LabelTable, file: PeakFile, *, tolerance: float, draws: int, seed: int) -> Pointing:
    """All numbers of the game; every image with boxes of a finding counts, one without a point as a miss."""
    names = {STRICT: 0.0, TOLERANT: tolerance}
    hits = {name: _hits(labels, file, reach) for name, reach in names.items()}
    findings = tuple(
        {name: _share(hits[name][:, f], labels.groups, draws, seed) for name in names}
        for f in range(len(labels.findings))
    )
    macro = {name: mean_share_of_hits(hits[name], labels.groups, draws=draws, seed=seed) for name in names}
    pairs = zip(labels.boxes or (), file.points, strict=True)
    missing = sum(finding not in points for boxes, points in pairs for finding in boxes)
    return Pointing(tolerance, findings, macro, missing)


def _hits(labels: LabelTable, file: PeakFile, tolerance: float) -> Floats:
    """(N, F) 1 for a hit, 0 for a miss, NaN for images without a box of the finding."""
    hits = np.full((len(labels.names), len(labels.findings)), np.nan)
    column = {finding: f for f, finding in enumerate(labels.findings)}
    for row, (boxes, points) in enumerate(zip(labels.boxes or (), file.points, strict=True)):
        for finding, corners in boxes.items():
            point = points.get(finding)
            hits[row, column[finding]] = point is not None and pointing_hit(point, corners, tolerance)
    return hits


def _share(hits: Floats, groups: Sequence[str], draws: int, seed: int) -> Number:
    chosen = np.flatnonzero(~np.isnan(hits)).tolist()
    return share_of_hits(hits[chosen].astype(bool).tolist(), [groups[i] for i in chosen], draws=draws, seed=seed)
