"""Open-I (Indiana University): 7,470 images, 18 findings read from the automatic labels of each report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wordsight.data.sources.files import read_columns
from wordsight.data.sources.table import LabelTable

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax", "Edema",
    "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "Fracture", "Opacity", "Lesion", "Calcified Granuloma",
    "Granuloma",
)  # fmt: skip
SPELLINGS = {
    "Pleural_Thickening": "pleural thickening",
    "Infiltration": "infiltrate",
    "Atelectasis": "atelectases",
}


def read_openi(path: str | Path) -> LabelTable:
    """Labels from `custom.csv`: columns uid (the report), file_name, labels_automatic.

    As in CARZero's evaluation, a finding is present when its lower-cased name, or its other spelling, occurs anywhere
    in labels_automatic; so "calcified granuloma" is a granuloma too. An empty cell has no finding. Images of one
    report form a group. Raises DataError for missing columns or repeated images.
    """
    table = read_columns(Path(path), ("file_name", "uid", "labels_automatic"))
    texts = table["labels_automatic"]
    columns = [
        [finding.lower() in text or SPELLINGS.get(finding, finding.lower()) in text for text in texts]
        for finding in FINDINGS
    ]
    labels = np.array(columns, dtype=np.int8).T
    return LabelTable("Open-I", tuple(table["file_name"]), FINDINGS, labels, tuple(table["uid"]), "reports")
