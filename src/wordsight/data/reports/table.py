"""Any table of images with reports, with columns of any names -> a table with ours."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from wordsight.data.listing import few
from wordsight.data.reports.prepared import (
    COLUMNS,
    Prepared,
    Row,
    Tally,
    Wanted,
    decode_report,
    split_name,
    table_chunks,
    write_prepared,
)
from wordsight.errors import DataError


def prepare_table(
    folder: Path, out: Path, *, table: Path, columns: Mapping[str, str] | None = None, wanted: Wanted | None = None
) -> Prepared:
    """Write a table of images with reports as path, report, split, patient, study, view.

    folder: what the paths of the table are relative to; absolute ones must lie in it. table: CSV (also .gz) or Parquet.
    columns: our name -> its name, for those that differ; path and report are needed. Without a column of views every
    view is kept.
    Raises DataError for unknown or missing columns, a path that leaves `folder`, or if nothing is left.
    """
    folder, wanted, tally = Path(folder), wanted or Wanted(), Tally()
    names = {**{name: name for name in COLUMNS}, **(columns or {})}
    unknown = sorted(set(names) - set(COLUMNS))
    if unknown:
        raise DataError(f"expected columns among {', '.join(COLUMNS)}, got {few(unknown)}. Map ours to the table's.")
    rows = _rows(folder, Path(table), names, set(columns or ()) | {"path", "report"}, wanted, tally)
    return write_prepared(rows, Path(out), tally, absolute=wanted.absolute)


def _rows(
    folder: Path, table: Path, names: Mapping[str, str], needed: set[str], wanted: Wanted, tally: Tally
) -> Iterator[Row]:
    root = os.path.abspath(folder)
    for chunk in table_chunks(table):
        missing = [names[name] for name in COLUMNS if name in needed and names[name] not in chunk]
        if missing:
            raise DataError(f"{table}: expected columns {few(missing)}, got {few(chunk, 30)}. Map them (--columns).")
        viewed = names["view"] in chunk
        empty = [""] * len(chunk[names["path"]])
        for cells in zip(*(chunk.get(names[name], empty) for name in COLUMNS), strict=True):
            path, report, split, patient, study, view = cells
            if viewed and not tally.keeps(view, wanted):
                continue
            file = _inside(root, path, table)
            if not decode_report(report.encode(), f"{table}, {path}"):
                tally.drop_unreported(study or path)
            elif not os.path.isfile(file):
                tally.dropped["image file missing"] += 1
            else:
                yield Row(file, report, split_name(split, wanted), patient, study, view)


def _inside(root: str, path: str, table: Path) -> str:
    """The absolute path of a cell, which may be absolute itself. Raises DataError for one that leaves the folder."""
    file = os.path.normpath(os.path.join(root, path))
    if not path or "\0" in path or not file.startswith(os.path.join(root, "")):
        raise DataError(f"{table}: expected paths inside {root}, got {path!r}. Give the folder that holds the images.")
    return file
