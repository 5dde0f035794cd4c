"""Tables of images (CSV or Parquet) <-> list[Record]."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from wordsight.data.listing import few
from wordsight.errors import DataError, SettingsError
from wordsight.files import atomic_path
from wordsight.types import Record

T = TypeVar("T")
Table = dict[str, list[str]]
FILE_COLUMNS = ("path", "mask", "region")
COLUMNS = ("path", "label", "mask", "region", "patient", "split", "dataset", "report", "frame", "window")
NO_FINDINGS = frozenset({*COLUMNS, "study", "view"})
MANIFEST_SUFFIXES = frozenset({".csv", ".parquet"})
LABEL_WORDS: Mapping[str, int | None] = {
    "": None, "0": 0, "1": 1, "0.0": 0, "1.0": 1, "normal": 0, "abnormal": 1, "good": 0, "ungood": 1,
}  # fmt: skip
_WHOLE = re.compile(r"(?:[+-]?[0-9]{1,18})?")
MAX_ROWS = 20_000_000
MAX_CSV_BYTES = 4 << 30


def read_manifest(
    path: Path, *, split: str | None = None, dataset: str | None = None, allow_outside: bool = False
) -> list[Record]:
    """Records of a table with a column `path` and any of label, mask, region, patient, split, dataset, report, frame,
    window.

    Paths are relative to the table's folder; with allow_outside they may also be absolute or leave it. Labels are
    0/1, normal/abnormal or good/ungood in any case; an empty cell means unknown. A window is "centre/width" or a name
    (see `read_image`). Every further column that holds only
    whole numbers (and empty cells) is a finding, in Record.labels; study and view never are. split keeps the rows of
    that split, or names the split where the table names none; dataset names rows without one. The order is kept.
    Raises DataError that lists the rows with unknown labels, bad frames or windows, paths outside, or missing files.
    """
    path = Path(path)
    table = read_table(path)
    if "path" not in table:
        raise DataError(f"{path}: expected a column `path`, got columns {few(table, 20)}.")
    if not table["path"]:
        raise DataError(f"{path}: expected at least one row, got a table without rows.")
    kept = _of_split(table, path, split)
    table = {name: [cells[i] for i in kept] for name, cells in table.items()}
    rows = [i + 1 for i in kept]
    cells = {column: table.get(column, [""] * len(rows)) for column in COLUMNS}
    labels = _parsed(path, "label 0, 1, normal, abnormal, good, ungood or empty", rows, cells["label"], _label)
    frames = _parsed(path, "frame 0, 1, 2, ... or empty", rows, cells["frame"], _frame)
    windows = _parsed(path, "a window such as 40/400 or lung, or empty", rows, cells["window"], _window)
    unnamed = [row for row, cell in zip(rows, cells["path"], strict=True) if not cell]
    if unnamed:
        raise DataError(f"{path}: expected an image in column path of every row, it is empty in row {few(unnamed)}.")
    files = {column: _files(path, rows, cells[column], allow_outside) for column in FILE_COLUMNS}
    findings = _findings(table)
    return [
        Record(
            path=image,
            label=labels[i],
            mask=files["mask"][i],
            region=files["region"][i],
            patient=cells["patient"][i] or None,
            split=cells["split"][i] or split,
            dataset=cells["dataset"][i] or dataset,
            report=cells["report"][i] or None,
            frame=frames[i],
            labels={name: value for name, values in findings.items() if (value := values[i]) is not None},
            window=windows[i],
        )
        for i, image in enumerate(file for file in files["path"] if file is not None)
    ]


def write_manifest(records: Sequence[Record], target: Path) -> None:
    """Write records as a CSV or Parquet table, by the target's suffix; `read_manifest` gives the same records back.

    Files below the target's folder are written relative to it, others with their absolute path (reading those needs
    allow_outside). Raises DataError for another suffix or a finding named like a column.
    """
    import pandas as pd

    target = Path(target)
    if target.suffix.lower() not in MANIFEST_SUFFIXES:
        raise DataError(f"{target}: expected a manifest name that ends in .csv or .parquet, got {target.suffix!r}.")
    findings = sorted({name for record in records for name in record.labels})
    clash = sorted(set(findings) & set(COLUMNS))
    if clash:
        raise DataError(f"{target}: a finding cannot be named like a column: {few(clash)}. Rename it.")
    columns: dict[str, list[str]] = {}
    for column in COLUMNS:
        values = [getattr(record, column) for record in records]
        if column in FILE_COLUMNS:
            values = [None if v is None else _written_path(v, target.parent) for v in values]
        columns[column] = ["" if v is None else str(v) for v in values]
    for name in findings:
        columns[name] = [str(record.labels[name]) if name in record.labels else "" for record in records]
    with atomic_path(target) as temporary:
        if target.suffix.lower() == ".csv":
            pd.DataFrame(columns, dtype=str).to_csv(temporary, index=False, lineterminator="\n")
        else:
            pd.DataFrame(columns, dtype=str).to_parquet(temporary, index=False)


def _written_path(file: Path, folder: Path) -> str:
    absolute, base = Path(os.path.abspath(file)), Path(os.path.abspath(folder))
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else str(absolute)


def read_table(path: Path) -> Table:
    """Columns of a CSV or Parquet table as stripped text cells, empty for missing ones.

    Raises DataError if the file cannot be read as a table or names a column twice.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table. Give a CSV or Parquet file with a header line.")
    try:
        columns = _parquet_columns(path) if path.suffix.lower() == ".parquet" else _csv_columns(path)
    except (ValueError, OSError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: expected a CSV or Parquet table, got {reason}. Check the file.") from error
    names = Counter(name for name, _ in columns)
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise DataError(f"{path}: expected each column once, got {few(repeated)} more than once.")
    return dict(columns)


def read_column(path: Path, name: str) -> list[str]:
    """Text cells of one column, row by row as `read_manifest` gives them. Raises DataError where there is none."""
    table = read_table(Path(path))
    if name not in table:
        raise DataError(f"{path}: expected a column `{name}`, got columns {few(table, 20)}.")
    return table[name]


def _csv_columns(path: Path) -> list[tuple[str, list[str]]]:
    import pandas as pd

    if path.stat().st_size > MAX_CSV_BYTES:
        raise DataError(f"{path}: a CSV table of more than {MAX_CSV_BYTES >> 30} GiB is refused. Use Parquet.")
    # The header is read as a row, since pandas would rename repeated columns.
    table = pd.read_csv(path, dtype=str, keep_default_na=False, header=None, encoding="utf-8-sig")
    columns = [[cell_text(cell) for cell in table[name]] for name in table.columns]
    return [(cells[0], cells[1:]) for cells in columns]


def _parquet_columns(path: Path) -> list[tuple[str, list[str]]]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as opened:
        if opened.metadata.num_rows > MAX_ROWS:
            raise DataError(
                f"{path}: expected at most {MAX_ROWS} rows, got {opened.metadata.num_rows}. Split the table."
            )
        table = opened.read()
    names = zip(table.column_names, table.columns, strict=True)
    return [(str(name).strip(), [cell_text(cell) for cell in column.to_pylist()]) for name, column in names]


def cell_text(value: object) -> str:
    """A cell as text: whole floats without their point (a column of integers with gaps is stored as floats)."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _of_split(table: Table, path: Path, split: str | None) -> list[int]:
    """Indices of the rows to keep."""
    splits = table.get("split", [])
    if split is None or not any(splits):
        return list(range(len(table["path"])))
    chosen = [i for i, name in enumerate(splits) if name == split]
    if not chosen:
        here = ", ".join(f"{name or '(empty)'} ({count})" for name, count in sorted(Counter(splits).items()))
        raise DataError(f"{path}: no row of split {split!r}. Splits in the table: {here}.")
    return chosen


def _label(text: str) -> int | None:
    return LABEL_WORDS[text.casefold()]


def _frame(text: str) -> int | None:
    if not text:
        return None
    number = int(text.removesuffix(".0"))
    if number < 0:
        raise ValueError(text)
    return number


def _window(text: str) -> str | None:
    from wordsight.imaging.windows import parse_window

    try:
        return text if parse_window(text or None) is not None else None
    except SettingsError as error:
        raise ValueError(text) from error


def _parsed(
    path: Path, expected: str, rows: Sequence[int], texts: Sequence[str], parse: Callable[[str], T | None]
) -> list[T | None]:
    values: list[T | None] = []
    bad: list[str] = []
    for row, text in zip(rows, texts, strict=True):
        try:
            values.append(parse(text))
        except (KeyError, ValueError):
            bad.append(f"row {row} {text!r}")
    if bad:
        raise DataError(f"{path}: expected {expected}, got {few(bad)}. Row 1 is the first one below the header.")
    return values


def _files(path: Path, rows: Sequence[int], cells: Sequence[str], allow_outside: bool) -> list[Path | None]:
    """Cells -> existing files; refuses what leaves the table's folder, also through links."""
    files = [path.parent / cell if cell else None for cell in cells]
    if not allow_outside:
        inside = _Inside(path.parent)
        outside = [f"row {row} {cell!r}" for row, cell in zip(rows, cells, strict=True) if cell and cell not in inside]
        if outside:
            raise DataError(
                f"{path}: expected paths inside the manifest's folder, got {few(outside)}. "
                "Move the files there, or allow paths outside (--allow-outside; in Python allow_outside=True) if you "
                "trust this table."
            )
    missing = [cell for cell, file in zip(cells, files, strict=True) if file is not None and not _is_file(file)]
    if missing:
        raise DataError(f"{path}: expected existing files, {len(missing)} missing: {few(missing)}. Correct the paths.")
    return files


class _Inside:
    """`cell in inside`: whether a path stays in a folder, links followed; each subfolder is resolved once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._resolved: dict[Path, Path] = {}

    def __contains__(self, cell: str) -> bool:
        if os.path.isabs(cell) or "\0" in cell:
            return False
        file = self._folder / cell
        if not Path(os.path.normpath(file)).is_relative_to(self._folder):
            return False
        if file.parent not in self._resolved:
            self._resolved[file.parent] = file.parent.resolve()
        real = self._resolved[file.parent] / file.name
        return (real.resolve() if real.is_symlink() else real).is_relative_to(self._folder)


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


def _findings(table: Table) -> dict[str, list[int | None]]:
    """Columns beyond NO_FINDINGS whose cells are whole numbers or empty, at least one of them a number."""
    found: dict[str, list[int | None]] = {}
    for column, cells in table.items():
        texts = [cell.removesuffix(".0") for cell in cells]
        if column and column not in NO_FINDINGS and any(texts) and all(_WHOLE.fullmatch(text) for text in texts):
            found[column] = [int(text) if text else None for text in texts]
    return found
