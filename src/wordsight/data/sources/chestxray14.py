"""ChestXray14 (NIH): the list of test images with 14 flags each."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from wordsight.data.listing import few
from wordsight.data.sources.files import read_text
from wordsight.data.sources.table import LabelTable
from wordsight.errors import DataError

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural Thickening", "Hernia",
)  # fmt: skip


def read_chestxray14(path: str | Path) -> LabelTable:
    """Labels from `test_list.txt`: per line an image and 14 flags 0/1, in the order of FINDINGS.

    The patient is the file name up to its underscore. Raises DataError that lists lines of another form.
    """
    path = Path(path)
    lines = [(number, line.split()) for number, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    wrong = [number for number, cells in lines if len(cells) != 15 or not set(cells[1:]) <= {"0", "1"}]
    if wrong or not lines:
        got = f"something else in line {few(wrong)}" if wrong else "no line"
        raise DataError(f"{path}: expected lines with an image and 14 flags 0 or 1, got {got}.")
    names = tuple(cells[0] for _, cells in lines)
    labels = np.array([cells[1:] for _, cells in lines]).astype(np.int8)
    patients = tuple(PurePosixPath(name).name.partition("_")[0] for name in names)
    return LabelTable("ChestXray14", names, FINDINGS, labels, patients, "patients")
