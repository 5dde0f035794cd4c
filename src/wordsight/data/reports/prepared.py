"""What all sources of images with reports share: rows, which views are kept, counts of the others, the table."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from wordsight.data.listing import few
from wordsight.data.manifest import MANIFEST_SUFFIXES, cell_text
from wordsight.errors import DataError
from wordsight.files import atomic_path
from wordsight.progress import progress
from wordsight.text.sentences import SECTIONS, report_sections

Views = Literal["frontal", "lateral", "all"]
Label = int | None
COLUMNS = ("path", "report", "split", "patient", "study", "view")
MAX_REPORT_BYTES = 1 << 20
ROWS = 20_000  # read and written at once: bounds the memory
FRONTAL = frozenset({"PA", "AP", "AP_HORIZONTAL", "FRONTAL"})
LATERAL = frozenset({"L", "LL", "RL", "LATERAL", "XTABLE LATERAL"})
SPLIT_NAMES: Mapping[str, str] = MappingProxyType(
    {"training": "train", "validate": "valid", "validation": "valid", "val": "valid", "dev": "valid", "testing": "test"}
)


@dataclass(frozen=True, slots=True)
class Row:
    """One image: absolute path, the whole report, and what the source says of it ("" where it says nothing)."""

    path: str
    report: str
    split: str = ""
    patient: str = ""
    study: str = ""
    view: str = ""
    labels: Sequence[Label] = ()


@dataclass(frozen=True)
class Wanted:
    """Which images to keep and how to name them.

    views: "frontal" keeps PA, AP and AP_horizontal, "lateral" the lateral ones, "all" every view.
    unknown_views: whether to keep images whose view the source does not tell.
    split: for images whose split it does not tell. absolute: absolute paths, else relative to the folder of the table,
    which then must hold the images. sections: what of a report becomes its text, in this order and without headings
    (names of SECTIONS, or "body" for text under no heading); empty for the whole.
    Raises DataError for other sections.
    """

    views: Views = "frontal"
    unknown_views: bool = False
    split: str | None = None
    absolute: bool = False
    sections: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.sections if name not in (*SECTIONS, "body")]
        if unknown:
            raise DataError(f"sections: expected names among {', '.join(SECTIONS)}, body, got {few(unknown)}.")

    def text_of(self, report: str) -> str:
        """The wanted sections of a report, "" where it has none of them."""
        if not self.sections:
            return report
        found = report_sections(report)
        return "\n\n".join(found[name] for name in self.sections if name in found)


@dataclass
class Tally:
    """What happened to the images of a source while its rows were read."""

    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    without_report: dict[str, None] = field(default_factory=dict)

    def drop_unreported(self, study: str) -> None:
        """Count an image whose study has no text and remember the study."""
        self.dropped["no report text"] += 1
        self.without_report[study] = None

    def keeps(self, view: str, wanted: Wanted) -> bool:
        """Whether an image of this view is wanted; counts it if not."""
        if wanted.views == "all":
            return True
        if not view:
            if wanted.unknown_views:
                self.notes["view unknown, kept"] += 1
            else:
                self.dropped["view unknown"] += 1
            return wanted.unknown_views
        if view.upper() in (FRONTAL if wanted.views == "frontal" else LATERAL):
            return True
        self.dropped[f"view not {wanted.views}"] += 1
        return False


@dataclass(frozen=True, slots=True)
class Prepared:
    """The table that was written and what was left out.

    images, studies, patients: in the table. splits: name ("" unknown) -> images. dropped: reason -> images. notes: what
    else to know -> images. without_report: studies without text.
    """

    path: Path
    images: int
    studies: int
    patients: int
    splits: Mapping[str, int]
    dropped: Mapping[str, int]
    notes: Mapping[str, int]
    without_report: tuple[str, ...]

    def lines(self) -> list[str]:
        """The numbers in words, one a line."""
        splits = ", ".join(f"{name or 'no split'} {count}" for name, count in sorted(self.splits.items()))
        lines = [f"images: {self.images} ({splits})", f"studies: {self.studies}, patients: {self.patients}"]
        lines += [f"dropped: {count} images, {reason}" for reason, count in sorted(self.dropped.items())]
        lines += [f"note: {count} images, {note}" for note, count in sorted(self.notes.items())]
        if self.without_report:
            lines.append(f"studies without report text: {few(self.without_report)}")
        return lines


def split_name(text: str, wanted: Wanted) -> str:
    """The split as this package calls it (train, valid, test, or the source's own word)."""
    name = text.strip()
    return SPLIT_NAMES.get(name.casefold(), name) or wanted.split or ""


def bare_name(name: str, where: str) -> str:
    """A file or folder name without any path in it. Raises DataError for one that could lead elsewhere."""
    if name in ("", ".", "..") or any(c in name for c in "/\\\0"):
        raise DataError(f"{where}: expected a plain file name, got {name!r}. Check the table; paths are refused here.")
    return name


def decode_report(content: bytes, where: str) -> str:
    """The text of a report. Raises DataError for one of more than 1 MiB."""
    if len(content) > MAX_REPORT_BYTES:
        raise DataError(f"{where}: expected a report of at most {MAX_REPORT_BYTES >> 20} MiB. Check the file.")
    return content.decode("utf-8-sig", errors="replace").strip()


def table_chunks(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, list[str]]]:
    """Columns of a CSV (also .gz) or Parquet table as stripped text, some thousand rows at a time.

    columns: those to read, which must exist; None for all. Raises DataError if there is no such table or column.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table. Give a CSV (also .gz) or Parquet file with a header line.")
    chunks = _parquet_chunks(path) if path.suffix.lower() == ".parquet" else _csv_chunks(path)
    try:
        for chunk in chunks:
            missing = [name for name in columns or () if name not in chunk]
            if missing:
                raise DataError(
                    f"{path}: expected columns {few(columns or (), 20)}, missing {few(missing)}. Columns: "
                    f"{few(chunk, 30)}."
                )
            yield {name: [cell_text(cell) for cell in chunk[name]] for name in columns or chunk}
    except (ValueError, OSError, EOFError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: expected a CSV or Parquet table, got {reason}. Check the file.") from error


def _csv_chunks(path: Path) -> Iterator[dict[str, list[Any]]]:
    import pandas as pd

    with pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", chunksize=ROWS) as reader:
        for frame in reader:
            yield {str(name).strip(): frame[name].tolist() for name in frame.columns}


def _parquet_chunks(path: Path) -> Iterator[dict[str, list[Any]]]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS):
            yield {str(name).strip(): cells for name, cells in batch.to_pydict().items()}


class _Sink(Protocol):
    def add(self, columns: Mapping[str, list[Any]]) -> None: ...


def write_prepared(
    rows: Iterable[Row], out: Path, tally: Tally, *, absolute: bool, findings: Sequence[str] = ()
) -> Prepared:
    """Write rows as they come to a CSV or Parquet table; it replaces `out` only once it is complete.

    Columns: COLUMNS, then one per finding (empty where unknown). findings: names of Row.labels.
    Raises DataError for another suffix, no rows, or images outside the table's folder unless absolute.
    """
    if out.suffix.lower() not in MANIFEST_SUFFIXES:
        raise DataError(f"{out}: expected a table name that ends in .csv or .parquet, got {out.suffix!r}.")
    base = os.path.join(os.path.abspath(out.parent), "")
    splits: Counter[str] = Counter()
    studies: set[str] = set()
    patients: set[str] = set()
    images = 0
    with atomic_path(out) as temporary, _sink(temporary, findings) as sink, progress("Preparing images") as bar:
        source = iter(rows)
        while batch := list(islice(source, ROWS)):
            columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in batch] for name in COLUMNS}
            if not absolute:
                columns["path"] = [_below(base, path, out) for path in columns["path"]]
            for place, finding in enumerate(findings):
                columns[finding] = [row.labels[place] if row.labels else None for row in batch]
            sink.add(columns)
            splits.update(columns["split"])
            studies.update(columns["study"])
            patients.update(columns["patient"])
            images += len(batch)
            bar.advance(len(batch))
        if not images:
            reasons = "; ".join(f"{count} dropped: {reason}" for reason, count in tally.dropped.items())
            raise DataError(f"{out}: no image is left ({reasons or 'the source names none'}). Nothing was written.")
    counts = (len(studies - {""}), len(patients - {""}))
    return Prepared(
        out, images, *counts, dict(splits), dict(tally.dropped), dict(tally.notes), tuple(tally.without_report)
    )


def _below(base: str, path: str, out: Path) -> str:
    if not path.startswith(base):
        raise DataError(
            f"{path}: lies outside the folder of {out}. Write the table into the folder that holds the images or one "
            "above it, or ask for absolute paths (--absolute)."
        )
    return path[len(base) :].replace(os.sep, "/")


@contextmanager
def _sink(path: Path, findings: Sequence[str]) -> Iterator[_Sink]:
    if path.suffix.lower() == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            yield _Csv(file, findings)
        return
    import pyarrow as pa
    from pyarrow import parquet

    text, number = pa.string(), pa.int8()
    schema = pa.schema([(name, text) for name in COLUMNS] + [(name, number) for name in findings])
    with parquet.ParquetWriter(path, schema) as writer:
        yield _Parquet(writer, schema)


class _Csv:
    def __init__(self, file: Any, findings: Sequence[str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow([*COLUMNS, *findings])

    def add(self, columns: Mapping[str, list[Any]]) -> None:
        self._writer.writerows(zip(*columns.values(), strict=True))


class _Parquet:
    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer, self._schema = writer, schema

    def add(self, columns: Mapping[str, list[Any]]) -> None:
        import pyarrow as pa

        self._writer.write_table(pa.table(dict(columns), schema=self._schema))
