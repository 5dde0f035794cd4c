"""The column of a table that holds prompts made beforehand, by rules, a language model or people.

A cell is a JSON list of sentences, `["There is pleural effusion", "There is no mass"]`, or sentences separated by " |
". An empty cell means that the report states nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from wordsight.errors import DataError

SEPARATOR = " | "


def read_aligned(cell: str) -> list[str]:
    """Sentences of one cell, stripped. Raises DataError for JSON that is not a list of non-empty sentences."""
    text = cell.strip()
    if not text.startswith("["):
        return [part.strip() for part in text.split("|") if part.strip()]
    try:
        sentences = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"expected a JSON list of sentences, got {text[:60]!r} ({error}). Correct the cell.") from error
    if not isinstance(sentences, list) or not all(isinstance(s, str) and s.strip() for s in sentences):
        raise DataError(f"expected a JSON list of sentences, got {text[:60]!r}. Quote every sentence.")
    return [sentence.strip() for sentence in sentences]


def write_aligned(sentences: Iterable[str]) -> str:
    """The cell for sentences: a JSON list, whatever the sentences contain."""
    return json.dumps(list(sentences), ensure_ascii=False)
