"""CheXpert: the test set's labels per image or per study, and the 5x200 set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from wordsight.data.listing import few
from wordsight.data.manifest import Table, read_table
from wordsight.data.sources.files import read_columns
from wordsight.data.sources.table import LabelTable
from wordsight.errors import DataError

FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
NAME_COLUMNS = ("Path", "Study")
_PATIENT = re.compile(r"patient[0-9]+")


def read_chexpert(path: str | Path, *, findings: Sequence[str] = FINDINGS, frontal_only: bool = False) -> LabelTable:
    """Labels of the test set: a column Path (images) or Study, and columns of 0 and 1 named like the findings.

    Columns are taken by name, since files differ in their order. frontal_only: leave lateral images out; the view is
    in the file's name. Images of one patient form a group. Raises DataError for missing columns, other labels (the
    test set has no uncertain ones), names without a patient or, where asked for, without a view.
    """
    path = Path(path)
    column = next((name for name in NAME_COLUMNS if name in read_table(path)), NAME_COLUMNS[0])
    table = read_columns(path, (column, *findings))
    names = table[column]
    labels = _labels(path, table, findings)
    rows = "studies" if column == "Study" else "images"
    patients = _patients(path, names)
    result = LabelTable("CheXpert", tuple(names), tuple(findings), labels, patients, "patients", rows=rows)
    return result.take(_frontal(path, names)) if frontal_only else result


def read_chexpert5x200(path: str | Path) -> LabelTable:
    """Labels of the 5x200 set (Huang et al., ICCV 2021): column Path, and exactly one of five findings per image.

    Raises DataError as `read_chexpert` does and for images with none or several of the findings.
    """
    table = read_chexpert(path, findings=COMPETITION)
    wrong = [name for name, count in zip(table.names, table.labels.sum(axis=1), strict=True) if count != 1]
    if wrong:
        raise DataError(f"{path}: expected exactly one of {', '.join(COMPETITION)} per image, not so for {few(wrong)}.")
    return table


def _labels(path: Path, table: Table, findings: Sequence[str]) -> NDArray[np.int8]:
    columns = {f: [cell.removesuffix(".0") for cell in table[f]] for f in findings}
    wrong = [
        f"row {row} {finding} {cell!r}"
        for finding, cells in columns.items()
        for row, cell in enumerate(cells, 1)
        if cell not in ("0", "1")
    ]
    if wrong:
        raise DataError(f"{path}: expected labels 0 or 1, got {few(wrong)}. Row 1 is the first one below the header.")
    return np.array(list(columns.values())).astype(np.int8).T


def _patients(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    found = [_PATIENT.search(name) for name in names]
    lost = [name for name, match in zip(names, found, strict=True) if match is None]
    if lost:
        raise DataError(f"{path}: expected names with a patient such as patient64741, got {few(lost)}.")
    return tuple(match[0] for match in found if match is not None)


def _frontal(path: Path, names: Sequence[str]) -> list[int]:
    views = [PurePosixPath(name).name for name in names]
    unknown = [name for name, view in zip(names, views, strict=True) if "frontal" not in view and "lateral" not in view]
    if unknown:
        raise DataError(
            f"{path}: expected images named ..._frontal or ..._lateral to choose by view, got {few(unknown)}."
        )
    frontal = [row for row, view in enumerate(views) if "frontal" in view]
    if not frontal:
        raise DataError(f"{path}: expected frontal images, all {len(names)} are lateral.")
    return frontal
