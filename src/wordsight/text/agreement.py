"""How well an aligner agrees with labels read by people: precision and recall per status and per finding."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wordsight.errors import DataError
from wordsight.text.alignment import Statement, Status

Label = tuple[str, Status]


@dataclass(frozen=True, slots=True)
class LabelledSentence:
    """Labels of one sentence of a report, numbered from 0 as `report_sentences(text, "sections")` gives them.

    group: "held out" for sentences that nobody looked at while writing rules, "development" for others.
    """

    group: str
    report: str
    sentence: int
    labels: frozenset[Label]


@dataclass(frozen=True, slots=True)
class Agreement:
    """labelled: how often people said it; found: how often the aligner did; both: how often they agree."""

    labelled: int
    found: int
    both: int

    @property
    def precision(self) -> float:
        """both / found; NaN where nothing was found."""
        return self.both / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        """both / labelled; NaN where nothing was labelled."""
        return self.both / self.labelled if self.labelled else float("nan")


def read_labels(path: str | Path) -> list[LabelledSentence]:
    """Read a CSV with columns set, report, sentence, labels ("finding:status;finding:status", empty for none).

    Raises DataError for a missing file or column, or a label that is not finding:status.
    """
    try:
        with open(path, encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [_sentence(row) for row in rows]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such label file. Give the path of a CSV file.") from error
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path}: expected columns set, report, sentence, labels with labels such as 'edema:absent;mass:present', "
            f"got {error}. Correct the file."
        ) from error


def _sentence(row: dict[str, str]) -> LabelledSentence:
    labels = frozenset(_labels(row["labels"]))
    return LabelledSentence(row["set"], row["report"], int(row["sentence"]), labels)


def _labels(text: str) -> Iterable[Label]:
    for part in filter(None, text.split(";")):
        finding, _, status = part.rpartition(":")
        yield finding, Status(status)


def agreement(
    pairs: Iterable[tuple[frozenset[Label], Iterable[Statement]]], by: str = "status"
) -> dict[str, Agreement]:
    """Counts over sentences, by "status" or by "finding"; a label counts as met only with the same status."""
    counts: dict[str, list[int]] = {}
    for expected, statements in pairs:
        found = frozenset((s.finding, s.status) for s in statements)
        for position, labels in enumerate((expected, found, expected & found)):
            for finding, status in labels:
                counts.setdefault(str(status) if by == "status" else finding, [0, 0, 0])[position] += 1
    return {name: Agreement(*counts[name]) for name in sorted(counts)}
