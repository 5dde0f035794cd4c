"""Where anybody's maps point, in the order of a label table and in the pixels of its boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordsight.data.listing import few
from wordsight.data.score_file import match_rows, plain_name
from wordsight.data.sources.files import read_json
from wordsight.data.sources.table import LabelTable
from wordsight.errors import DataError

Point = tuple[float, float]
_STRETCH = 0.02


@dataclass(frozen=True, eq=False)
class PeakFile:
    """Points in the order of a label table.

    points: per image finding -> (row, column) in the pixels of the boxes; a finding without a point is missing. notes:
    how rows were matched, for people to read.
    """

    points: tuple[Mapping[str, Point], ...]
    notes: tuple[str, ...]


def read_peaks(path: str | Path, labels: LabelTable, *, aliases: Mapping[str, str] | None = None) -> PeakFile:
    """Read a predictions.json: `{"predictions": [{"name", "shape": [h, w], "peaks": {finding: [row, column]}}]}`.

    name, or path: the image. shape: of the image that the peaks lie on, in pixels; where the boxes were drawn on
    another size, the peaks are brought to it. Findings match in any case; aliases: other name -> finding.
    Raises DataError for another structure, labels without boxes, missing or repeated images, images of another shape
    than the boxes', and for a file without a single peak.
    """
    path, size = Path(path), labels.size
    if labels.boxes is None or size is None:
        raise DataError(f"{path}: the label file of {labels.dataset} has no boxes to point into. Leave the peaks out.")
    value = read_json(path)
    entries = value.get("predictions") if isinstance(value, dict) else None
    if not isinstance(entries, list) or not all(map(_has_form, entries)):
        raise DataError(
            f'{path}: expected {{"predictions": [{{"name", "shape": [h, w], "peaks": {{finding: [row, column]}}}}]}}, '
            "got something else. Give the predictions.json of `wordsight predict`, or write this form."
        )
    known = {plain_name(other): finding for other, finding in (aliases or {}).items()}
    known |= {plain_name(finding): finding for finding in labels.findings}
    rows, said = match_rows(path, [str(entry.get("path") or entry["name"]) for entry in entries], labels.names)
    points = tuple(_points(path, entries[row], known, size) for row in rows)
    if not any(points):
        raise DataError(
            f"{path}: expected peaks of {few(labels.findings)}, got none. Predict with maps (not --no-maps), and name "
            "findings as the label file does."
        )
    return PeakFile(points, (f"peaks by name{said}",))


def _has_form(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("path") or entry.get("name"), str):
        return False
    shape, peaks = entry.get("shape"), entry.get("peaks")
    if not isinstance(shape, list) or not _numbers(shape) or min(shape) < 1 or not isinstance(peaks, dict):
        return False
    return all(isinstance(finding, str) and _numbers(peak) for finding, peak in peaks.items())


def _numbers(pair: Any) -> bool:
    right = isinstance(pair, list) and len(pair) == 2 and all(type(x) in (int, float) for x in pair)
    return right and all(map(math.isfinite, pair))


def _points(path: Path, entry: Mapping[str, Any], known: Mapping[str, str], size: tuple[int, int]) -> dict[str, Point]:
    down, across = (to / of for to, of in zip(size, entry["shape"], strict=True))
    if abs(down / across - 1) > _STRETCH:
        raise DataError(
            f"{path}: {entry.get('name')}: expected an image of {size[0]} x {size[1]} pixels, on which the boxes were "
            f"drawn, or of that shape in another size, got {entry['shape'][0]} x {entry['shape'][1]}. Predict the "
            "images as the data set ships them."
        )
    found = {plain_name(finding): peak for finding, peak in entry["peaks"].items()}
    return {known[name]: (row * down, column * across) for name, (row, column) in found.items() if name in known}
