"""Label files as plain values: JSON without repeated keys, tables with the columns that are needed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordsight.data.listing import few
from wordsight.data.manifest import Table, read_table
from wordsight.data.sources.table import repeats
from wordsight.errors import DataError

MAX_BYTES = 256 << 20


def read_text(path: Path) -> str:
    """A UTF-8 text of at most 256 MiB. Raises DataError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: expected a label file of at most {MAX_BYTES >> 20} MiB, got a larger one.")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such label file. Give the file that the data set came with.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file, got {error}. Check the file.") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises DataError if it is none or names a key twice in one object."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = repeats(key for key, _ in pairs)
        if repeated:
            raise DataError(f"{path}: expected each name once, got {few(repeated)} more than once.")
        return dict(pairs)

    try:
        return json.loads(read_text(path), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, got {error}. Check the file.") from error


def read_columns(path: Path, needed: Sequence[str]) -> Table:
    """A CSV or Parquet table that has the columns named. Raises DataError that lists those it lacks."""
    table = read_table(path)
    missing = [column for column in needed if column not in table]
    if missing:
        raise DataError(f"{path}: expected columns {few(needed, 20)}; {few(missing, 20)} missing in {few(table, 20)}.")
    if not table[needed[0]]:
        raise DataError(f"{path}: expected at least one row, got a table without rows.")
    return table
