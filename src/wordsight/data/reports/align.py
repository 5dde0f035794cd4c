"""A table of images with reports -> the same table with a column of prompts, one cell of sentences per report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from wordsight.data.listing import few
from wordsight.data.manifest import MANIFEST_SUFFIXES, Table, read_table
from wordsight.errors import DataError
from wordsight.files import atomic_path
from wordsight.text.aligned import write_aligned
from wordsight.text.alignment import Statement, align_sentence
from wordsight.text.sentences import report_sentences

COLUMN = "aligned"


class Aligner(Protocol):
    """Sentences -> their statements, in order; `Endpoint` is one. failed: those that it could not read, and why."""

    @property
    def failed(self) -> dict[str, str]: ...

    def align(self, sentences: Sequence[str]) -> list[tuple[Statement, ...]]: ...


def align_table(table: Path, out: Path, aligner: Aligner, *, column: str = COLUMN, limit: int | None = None) -> int:
    """Write a table with a further column of prompts, and return the number of reports.

    table: CSV or Parquet with a column `report`; out: the same folder, since paths are relative to it. Reports are cut
    as `align_report` cuts them, every different sentence is asked once. Sentences that the aligner failed on are read
    by the rules. column: its name, which must be new. limit: the first rows alone, for trying.
    Raises DataError for tables that do not fit, and the errors of the aligner.
    """
    table, out = Path(table), Path(out)
    _check(table, out, limit)
    columns = read_table(table)
    if "report" not in columns:
        raise DataError(f"{table}: expected a column `report`, got columns {few(columns, 20)}.")
    if column in columns:
        raise DataError(f"{table}: has a column {column!r} already. Name another with --column.")
    columns = {name: cells[:limit] for name, cells in columns.items()}
    reports = [report_sentences(report, marks="keep") for report in columns["report"]]
    asked = list(dict.fromkeys(sentence for sentences in reports for sentence in sentences))
    if not asked:
        raise DataError(f"{table}: expected reports with sentences, got none in column `report`. Check the table.")
    known = dict(zip(asked, aligner.align(asked), strict=True))
    known |= {sentence: align_sentence(sentence) for sentence in aligner.failed}
    columns[column] = [_cell([known[sentence] for sentence in sentences]) for sentences in reports]
    _write(columns, out)
    return len(reports)


def _check(table: Path, out: Path, limit: int | None) -> None:
    if out.suffix.lower() not in MANIFEST_SUFFIXES:
        raise DataError(f"{out}: expected a table name that ends in .csv or .parquet, got {out.suffix!r}.")
    if out.resolve().parent != table.resolve().parent:
        raise DataError(
            f"{out}: expected a table in the folder of {table}, to which the paths of its images are relative. Write "
            "it there."
        )
    if limit is not None and limit < 1:
        raise DataError(f"limit: expected 1 row or more, got {limit}.")


def _cell(sentences: Sequence[Sequence[Statement]]) -> str:
    """The prompts of a report, each once; an empty cell where it states nothing."""
    prompts = dict.fromkeys(statement.sentence() for found in sentences for statement in found)
    return write_aligned(prompts) if prompts else ""


def _write(columns: Table, out: Path) -> None:
    import pandas as pd

    with atomic_path(out) as temporary:
        frame = pd.DataFrame(columns, dtype=str)
        if out.suffix.lower() == ".csv":
            frame.to_csv(temporary, index=False, lineterminator="\n")
        else:
            frame.to_parquet(temporary, index=False)
