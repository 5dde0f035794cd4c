"""PadChest: its table of images with (Spanish, stemmed) reports and English labels -> a table of images with reports.

Bustos et al., Medical Image Analysis 66 (2020) 101797; https://bimcv.cipf.es/bimcv-projects/padchest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

from wordsight.data.listing import few
from wordsight.data.reports.prepared import (
    Prepared,
    Row,
    Tally,
    Wanted,
    bare_name,
    decode_report,
    split_name,
    table_chunks,
    write_prepared,
)
from wordsight.errors import DataError

Text = Literal["report", "labels"]
_NEEDED = ("ImageID", "PatientID", "Projection", "Report")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_MISSING = frozenset({"", "nan", "none", "[]"})


def prepare_padchest(
    folder: Path, out: Path, *, wanted: Wanted | None = None, table: Path | None = None, text: Text = "report"
) -> Prepared:
    """Write the table of PadChest: path, report, split, patient, study, view.

    folder: holds the images, either all together or in subfolders named by ImageDir, in it or in its `images`. table:
    the CSV file, also packed; None looks for the one `*.csv` or `*.csv.gz` in `folder`. text: what becomes the report:
    the Spanish text, or the English labels as sentences. Images without text or file are dropped and counted.
    Raises DataError if the table is missing or malformed, a name leads out of the folder, or nothing is left.
    """
    folder, wanted, tally = Path(folder), wanted or Wanted(), Tally()
    if text not in ("report", "labels"):
        raise DataError(f"expected text from 'report' or 'labels', got {text!r}. Choose one of these.")
    if wanted.sections:
        raise DataError("sections: PadChest's reports have none. Leave sections out.")
    rows = _rows(folder, _table_in(folder) if table is None else Path(table), wanted, tally, text)
    return write_prepared(rows, Path(out), tally, absolute=wanted.absolute)


def label_list(cell: str) -> tuple[str, ...]:
    """Names in a cell such as "['pleural effusion', ' cardiomegaly', '']": stripped, each once, in order."""
    if cell.strip().casefold() in _MISSING:
        return ()
    names = [(single or double).strip() for single, double in _QUOTED.findall(cell)]
    return tuple(dict.fromkeys(name for name in names if name.casefold() not in _MISSING))


def _table_in(folder: Path) -> Path:
    found = sorted(p for p in folder.glob("*.csv*") if p.name.lower().endswith((".csv", ".csv.gz")))
    if len(found) != 1:
        got = few(p.name for p in found) or "none"
        raise DataError(f"{folder}: expected one table *.csv or *.csv.gz, got {got}. Name the table (--table).")
    return found[0]


def _listing(folder: str) -> frozenset[str]:
    """Names in a folder, empty if there is none."""
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def _rows(folder: Path, table: Path, wanted: Wanted, tally: Tally, text: Text) -> Iterator[Row]:
    root = os.path.abspath(folder)
    listing = lru_cache(maxsize=256)(_listing)
    for chunk in table_chunks(table):
        missing = [name for name in _NEEDED if name not in chunk]
        if missing or (text == "labels" and "Labels" not in chunk):
            raise DataError(f"{table}: expected PadChest's columns, missing {few(missing or ['Labels'])}.")
        empty = [""] * len(chunk["ImageID"])
        for i, image in enumerate(chunk["ImageID"]):
            cell = {name: chunk.get(name, empty)[i] for name in (*_NEEDED, "Labels", "StudyID", "ImageDir")}
            view = "" if cell["Projection"].casefold() in (*_MISSING, "unk") else cell["Projection"]
            if not tally.keeps(view, wanted):
                continue
            report = _report(cell, text, f"{table}, {image}")
            if not report:
                tally.drop_unreported(cell["StudyID"] or image)
                continue
            name, subfolder = bare_name(image, str(table)), cell["ImageDir"].removesuffix(".0")
            homes = [root, os.path.join(root, "images")]
            if subfolder.casefold() not in _MISSING:
                within = bare_name(subfolder, str(table))
                homes = [os.path.join(home, within) for home in homes] + homes
            home = next((home for home in homes if name in listing(home)), None)
            if home is None:
                tally.dropped["image file missing"] += 1
                continue
            split = chunk.get("split", chunk.get("Split", empty))[i]
            yield Row(
                os.path.join(home, name), report, split_name(split, wanted), cell["PatientID"], cell["StudyID"], view
            )


def _report(cell: Mapping[str, str], text: Text, where: str) -> str:
    """The text asked for, "" where there is none."""
    if text == "labels":
        names = label_list(cell["Labels"])
        return " ".join(f"{name[0].upper()}{name[1:]}." for name in names)
    report = decode_report(cell["Report"].encode(), where)
    return "" if report.casefold() in _MISSING or not any(c.isalpha() for c in report) else report
