"""Anybody's file of scores in the order of a label table: columns and rows by name wherever there are names."""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wordsight.data.listing import few
from wordsight.data.manifest import MAX_CSV_BYTES, read_table
from wordsight.data.sources.table import LabelTable, repeats, tail, tail_depth
from wordsight.errors import DataError

IMAGE_COLUMNS = frozenset(
    {"path", "image", "image path", "image name", "image id", "image index", "imageid", "file name", "filename", "file"}
    | {"name", "study", "id", "img", "dicom id", "source"}
)
"""Headers (lower case, underscores as spaces) of a column that names images or studies."""
By = Literal["name", "position"]


@dataclass(frozen=True, eq=False)
class ScoreFile:
    """Scores in the order of a label table.

    scores: (N, F) float64, finite. columns, rows: how they were matched; notes: the same for people to read.
    """

    scores: NDArray[np.float64]
    columns: By
    rows: By
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Layout:
    """header: cells of the header line, None without one. width: cells per line. named: whether the header names
    findings. texts: columns before the scores where it does not (0 or 1)."""

    header: tuple[str, ...] | None
    width: int
    named: bool
    texts: int = 0

    def title(self, column: int) -> str:
        """How to call a column in messages."""
        return repr(self.header[column]) if self.header is not None and self.header[column] else str(column + 1)


def read_scores(
    path: str | Path,
    labels: LabelTable,
    *,
    order: Sequence[str] | None = None,
    aliases: Mapping[str, str] | None = None,
) -> ScoreFile:
    """Read a CSV file of scores, one column per finding, for the images of a label table.

    - Columns are matched by their headers (case and underscores do not matter; aliases: other header -> finding). Only
      a file without a header, or with pandas' 0, 1, 2, ..., is read by position, in the order of `labels.findings`.
    - Rows are matched by a column of image names where there is one (headed as in IMAGE_COLUMNS, or text that names
      images of the table), by whole names or by the shortest ends of paths that tell all images apart; else by `order`,
      the names of the rows; else by position, in the order of `labels`. Images that the labels lack are left out.
    - Further columns are left out. How rows and columns were matched is said in `notes`.

    Raises DataError for a file that is no such table, findings or images that are missing or twice, another number of
    rows or columns than expected, and scores that are no finite numbers.
    """
    path = Path(path)
    layout = _layout(path)
    columns, notes = _columns(path, layout, labels.findings, aliases or {})
    scores, texts = _cells(path, layout, columns, labels.findings)
    by: By = "name" if layout.named else "position"
    image = _image_column(texts, layout, labels.names)
    if image is not None:
        names, source = texts[image], f"column {layout.title(image)}"
        notes += ["the order file was not needed: the predictions name their images"] if order is not None else []
    elif order is not None:
        _check_count(path, len(scores), len(order), "the order file")
        names, source = list(order), "the order file"
    else:
        _check_count(path, len(scores), len(labels.names), f"the labels of {labels.dataset}")
        notes.append("rows by position, in the order of the label file: the file names no images")
        return ScoreFile(scores, by, "position", tuple(notes))
    rows, said = match_rows(path, names, labels.names)
    return ScoreFile(scores[rows], by, "name", (*notes, f"rows by name, from {source}{said}"))


def read_order(path: str | Path) -> list[str]:
    """Names of rows: the column of images (or the only column) of a CSV table with a header. Raises DataError."""
    path = Path(path)
    table = read_table(path)
    known = [column for column in table if plain_name(column) in IMAGE_COLUMNS]
    if not known and len(table) == 1:
        known = list(table)
    if len(known) != 1:
        raise DataError(f"{path}: expected one column of image names such as file_name, got columns {few(table, 20)}.")
    return table[known[0]]


def plain_name(header: str) -> str:
    """A header or finding as it is compared: lower case, and one space for spaces, _ and -."""
    return re.sub(r"[\s_-]+", " ", header).strip().casefold()


def _number(cell: str) -> float:
    """The cell as a number; NaN for what is none (also for 1_000, which Python would take)."""
    try:
        return math.nan if "_" in cell else float(cell)
    except ValueError:
        return math.nan


def _is_number(cell: str) -> bool:
    return not math.isnan(_number(cell))


def _lines(path: Path) -> Iterator[list[str]]:
    """The cells of each line that is not empty. Raises DataError."""
    try:
        if path.stat().st_size > MAX_CSV_BYTES:
            raise DataError(f"{path}: a CSV file of more than {MAX_CSV_BYTES >> 30} GiB is refused.")
        with open(path, newline="", encoding="utf-8-sig") as stream:
            yield from (cells for cells in csv.reader(stream) if any(cell.strip() for cell in cells))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Give a CSV file of scores.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file of scores, got {error}. Check the file.") from error


def _layout(path: Path) -> _Layout:
    """What the first line says: names of findings, pandas' column numbers, or already scores."""
    first = [cell.strip() for cell in next(_lines(path), [])]
    if not first:
        raise DataError(f"{path}: expected a CSV file of scores, got an empty file.")
    texts = 0 if _is_number(first[0]) else 1
    rest = first[texts:]
    if not rest or not all(_is_number(cell) for cell in rest):
        return _Layout(tuple(first), len(first), True)
    numbered = len(rest) > 1 and rest == [str(i) for i in range(len(rest))]
    return _Layout(tuple(first) if numbered else None, len(first), False, texts)


def _cells(
    path: Path, layout: _Layout, columns: Sequence[int], findings: Sequence[str]
) -> tuple[NDArray[np.float64], dict[int, list[str]]]:
    """Scores (rows, F), and the cells of all other columns."""
    texts: dict[int, list[str]] = {i: [] for i in range(layout.width) if i not in set(columns)}
    rows: list[array[float]] = []
    wrong: list[str] = []
    for number, cells in enumerate(_lines(path), 1 if layout.header is None else 0):
        if not number:
            continue
        if len(cells) != layout.width:
            raise DataError(f"{path}: expected {layout.width} cells in every row, got {len(cells)} in row {number}.")
        rows.append(array("d", [_number(cells[i]) for i in columns]))
        for i, column in texts.items():
            column.append(cells[i].strip())
        if not all(map(math.isfinite, rows[-1])):
            bad = zip(findings, columns, rows[-1], strict=True)
            wrong += [f"row {number} {f!r} {cells[i]!r}" for f, i, value in bad if not math.isfinite(value)]
    if wrong:
        raise DataError(
            f"{path}: expected a finite number for every image and finding, got {few(wrong)}. "
            "Row 1 is the first row of scores. Correct these."
        )
    if not rows:
        raise DataError(f"{path}: expected at least one row of scores, got none.")
    return np.array(rows, dtype=np.float64), texts


def _image_column(texts: Mapping[int, Sequence[str]], layout: _Layout, wanted: Sequence[str]) -> int | None:
    """The column that names the images: of those that are no scores, the first that names all, else the likeliest."""
    headers = {i: plain_name(layout.header[i]) if layout.header is not None else "" for i in texts}
    likely = [i for i in texts if headers[i] in IMAGE_COLUMNS]
    depth = tail_depth(wanted)
    ends = {tail(name, depth) for name in wanted}
    for column in (*likely, *texts):
        found = {tail(name, depth) for name in texts[column]}
        if ends <= found:
            return column
        if column not in likely and ends & found:
            likely.append(column)
    # a column of different texts that names none of the images must not be passed over for the order of the rows
    return next(iter((*likely, *(i for i in texts if _looks_like_names(texts[i])))), None)


def _looks_like_names(cells: Sequence[str]) -> bool:
    return not any(map(_is_number, cells)) and len(set(cells)) == len(cells)


def _columns(
    path: Path, layout: _Layout, findings: Sequence[str], aliases: Mapping[str, str]
) -> tuple[list[int], list[str]]:
    """The column of each finding, and what to say about it."""
    if not layout.named:
        count = layout.width - layout.texts
        if count != len(findings):
            raise DataError(
                f"{path}: expected {len(findings)} columns of scores, got {count} without names. "
                "Add a header line with the findings, or check that this is the right file and protocol."
            )
        note = "columns by position, in the order of the protocol: the file does not name them"
        return list(range(layout.texts, layout.width)), [note]
    header = layout.header or ()
    exact = {plain_name(finding): finding for finding in findings}
    named = {exact[plain] for cell in header if (plain := plain_name(cell)) in exact}
    wanted = exact | {plain_name(other): finding for other, finding in aliases.items() if finding not in named}
    matched = [(i, wanted[plain_name(cell)]) for i, cell in enumerate(header) if plain_name(cell) in wanted]
    repeated = repeats(finding for _, finding in matched)
    if repeated:
        raise DataError(f"{path}: expected one column per finding, got several for {few(repeated)}. Remove the others.")
    place = {finding: i for i, finding in matched}
    missing = [finding for finding in findings if finding not in place]
    if missing:
        raise DataError(
            f"{path}: expected columns named like the findings, missing {few(missing, 20)}; got {few(header, 20)}. "
            "Rename the columns, or remove the header line to have them read by position."
        )
    return [place[finding] for finding in findings], ["columns by name"]


def _check_count(path: Path, got: int, expected: int, what: str) -> None:
    if got != expected:
        raise DataError(
            f"{path}: expected {expected} rows, one for each of {what}, got {got} without image names. "
            "Add a column of image names, or give the names of the rows in a file (--order)."
        )


def match_rows(path: Path, names: Sequence[str], wanted: Sequence[str]) -> tuple[list[int], str]:
    """For each wanted image its row among `names`, and what to say about the match.

    Raises DataError for images that are missing or named twice.
    """
    said = ""
    if not set(wanted) <= set(names):
        depth = tail_depth(wanted)
        names, wanted = [tail(n, depth) for n in names], [tail(n, depth) for n in wanted]
        said = f", by the last {depth} parts of the paths" if depth > 1 else ", by file name"
    place = {name: row for row, name in enumerate(names)}
    missing = [name for name in wanted if name not in place]
    if missing:
        raise DataError(
            f"{path}: expected a row for each of {len(wanted)} images, {len(missing)} missing: {few(missing)}. "
            f"Names in the file are like {few(names, 2)}. Add the rows, or check that the label file belongs to it."
        )
    repeated = sorted(set(repeats(names)) & set(wanted))
    if repeated:
        raise DataError(f"{path}: expected each image once, got {few(repeated)} more than once. Remove the others.")
    left = len(names) - len(wanted)
    said += f"; {left} rows left out, of images without labels" if left else ""
    return [place[name] for name in wanted], said
