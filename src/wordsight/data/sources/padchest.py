"""PadChest: 39,053 images that physicians labelled, 192 findings, most of them rare."""

from __future__ import annotations

from pathlib import Path

from wordsight.data.listing import few
from wordsight.data.sources.files import read_json
from wordsight.data.sources.table import LabelTable, binary_labels
from wordsight.errors import DataError

NORMAL = "normal"


def read_padchest(path: str | Path) -> LabelTable:
    """Labels from `manual_image.json`: an object of image -> list of labels.

    Findings are the labels that occur, without "normal", sorted by code point as CARZero's evaluation orders its
    columns. The file names no patients: images of one study, the name up to its last underscore, form a group.
    PadChest20 are the findings with at most 10 positives, the tail of `metrics.long_tail`.
    Raises DataError for another structure, repeated images or a file without findings.
    """
    path = Path(path)
    found = read_json(path)
    if not isinstance(found, dict) or not found:
        raise DataError(f"{path}: expected an object of image -> list of labels, got {type(found).__name__}.")
    wrong = [k for k, v in found.items() if not isinstance(v, list) or not all(isinstance(x, str) for x in v)]
    if wrong:
        raise DataError(
            f"{path}: expected a list of labels (text) for every image, got something else for {few(wrong)}."
        )
    findings = tuple(sorted({label for labels in found.values() for label in labels} - {NORMAL}))
    labels = binary_labels(list(found.values()), findings)
    return LabelTable("PadChest", tuple(found), findings, labels, tuple(map(_study, found)), "studies")


def _study(name: str) -> str:
    stem = Path(name).stem
    return stem.rpartition("_")[0] or stem
