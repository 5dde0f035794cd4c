"""ChestX-Det10: findings with boxes on NIH images of 1024 x 1024 pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wordsight.data.listing import few
from wordsight.data.sources.files import read_json
from wordsight.data.sources.table import Boxes, LabelTable, binary_labels
from wordsight.errors import DataError

FINDINGS = (
    "Atelectasis", "Calcification", "Consolidation", "Effusion", "Emphysema", "Fibrosis", "Fracture", "Mass", "Nodule",
    "Pneumothorax",
)  # fmt: skip
SIDE = 1024
"""Height and width of the images in pixels."""


def read_chestxdet10(path: str | Path) -> LabelTable:
    """Labels and boxes from `test.json` or `train.json`: a list of {file_name, syms, boxes}.

    boxes are x1, y1, x2, y2 in pixels of the 1024 x 1024 image, one per entry of syms. The file names no patients:
    each image is its own group. Raises DataError for another structure, unknown findings, or boxes that are not in
    the image. Liu et al., arXiv 2006.10550.
    """
    path = Path(path)
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: expected a list of images with findings and boxes, got {type(entries).__name__}.")
    wrong = [number for number, entry in enumerate(entries) if not _has_form(entry)]
    if wrong:
        raise DataError(
            f"{path}: expected file_name, syms and as many boxes (four numbers each), not so in entry {few(wrong)}."
        )
    unknown = sorted({sym for entry in entries for sym in entry["syms"]} - set(FINDINGS))
    if unknown:
        raise DataError(f"{path}: expected findings {', '.join(FINDINGS)}, got {few(unknown)}.")
    names = tuple(entry["file_name"] for entry in entries)
    labels = binary_labels([entry["syms"] for entry in entries], FINDINGS)
    boxes = tuple(_boxes(path, entry) for entry in entries)
    return LabelTable("ChestX-Det10", names, FINDINGS, labels, names, "images", boxes, size=(SIDE, SIDE))


def _has_form(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        return False
    syms, boxes = entry.get("syms"), entry.get("boxes")
    if not isinstance(syms, list) or not isinstance(boxes, list) or len(syms) != len(boxes):
        return False
    return all(isinstance(sym, str) for sym in syms) and all(_is_box(box) for box in boxes)


def _is_box(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(x) in (int, float) for x in box)


def _boxes(path: Path, entry: dict[str, Any]) -> Boxes:
    found: dict[str, list[list[float]]] = {}
    for sym, box in zip(entry["syms"], entry["boxes"], strict=True):
        x1, y1, x2, y2 = box
        if not (0 <= x1 < x2 <= SIDE and 0 <= y1 < y2 <= SIDE):
            raise DataError(
                f"{path}: {entry['file_name']}: expected a box x1 < x2, y1 < y2 within {SIDE} pixels, got {box}."
            )
        found.setdefault(sym, []).append(box)
    return {sym: np.array(boxes, dtype=np.float64) for sym, boxes in found.items()}
