"""Finds the wordings of the tables in a sentence: one tree of words, compiled once, longest wording first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from wordsight.text import chest_terms
from wordsight.text.chest_terms import wordings
from wordsight.text.cues import CUES, PSEUDO_NEGATIONS

_TOKEN = re.compile(r"[a-z]+|\d+(?:\.\d+)?(?:st|nd|rd|th)?|[,;:()?]")
_SEPARATORS = {",": "comma", ";": "end", ":": "end", "(": "end", ")": "end", "?": "doubted"}
_FORMS = {
    "apices": "apex",
    "hila": "hilum",
    "was": "is",
    "were": "is",
    "are": "is",
    "has": "has",
    "pneumothoraces": "pneumothorax",
    "atelectases": "atelectasis",
    "metastases": "metastasis",
    "granulomata": "granuloma",
    "bullae": "bulla",
    "vertebrae": "vertebra",
    "diaphragms": "diaphragm",
}


class Term(NamedTuple):
    """A recognised wording: its kind, what it stands for, and the tokens [start, end) it covers."""

    kind: str
    value: tuple[str, ...]
    start: int
    end: int


class _Node:
    """One word of the tree of wordings."""

    __slots__ = ("entry", "following")

    def __init__(self) -> None:
        self.following: dict[str, _Node] = {}
        self.entry: tuple[str, tuple[str, ...]] | None = None


@lru_cache(maxsize=1 << 16)
def lemma(word: str) -> str:
    """Singular of a lower-case word by its ending; words that only look like plurals stay."""
    if word in _FORMS:
        return _FORMS[word]
    if len(word) < 4 or word[-1] != "s" or word[-2:] in ("ss", "us", "is"):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "xes", "ches")) else word[:-1]


def tokens_of(sentence: str) -> list[str]:
    """Lemmas, numbers and the separators , ; : ( ) ?; hyphens and slashes only separate words."""
    return [lemma(token) for token in _TOKEN.findall(sentence.lower())]


def _entries() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(wording, kind, value) of all tables; a later one replaces an earlier one of the same wording."""
    tables = (("subject", chest_terms.SUBJECTS), ("state", chest_terms.STATES), ("finding", chest_terms.FINDINGS))
    for kind, table in tables:
        yield from ((w, kind, (name,)) for name, text in table.items() for w in wordings(text))
    yield from ((w, "denial", (name,)) for w, name in chest_terms.general_denials().items())
    yield from ((w, "finding", (name,)) for w, name in chest_terms.general_findings().items())
    yield from ((w, "finding", names) for w, names in chest_terms.SEVERAL.items())
    yield from ((w, kind, ()) for kind, text in CUES.items() for w in wordings(text))
    yield from ((w, "unchanged", ()) for w in PSEUDO_NEGATIONS)
    yield from ((w, "ignored", ()) for w in wordings(chest_terms.NOT_FINDINGS))
    yield from ((w, "well", ()) for w in chest_terms.normal_examinations())


@lru_cache(maxsize=1)
def _lexicon() -> _Node:
    root = _Node()
    for wording, kind, value in _entries():
        node = root
        for token in tokens_of(wording):
            node = node.following.setdefault(token, _Node())
        node.entry = (kind, value)
    return root


def terms_of(tokens: Sequence[str]) -> list[Term]:
    """Recognised wordings from left to right, the longest at each place; other words are passed over."""
    found, position, root = [], 0, _lexicon()
    while position < len(tokens):
        node, end, best = root, position, None
        while end < len(tokens) and (following := node.following.get(tokens[end])) is not None:
            node, end = following, end + 1
            if node.entry is not None:
                best = Term(*node.entry, position, end)
        if best is None and tokens[position] in _SEPARATORS:
            best = Term(_SEPARATORS[tokens[position]], (), position, position + 1)
        if best is not None:
            found.append(best)
        position = best.end if best is not None else position + 1
    return found
