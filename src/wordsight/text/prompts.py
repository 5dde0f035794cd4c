"""Prompt sets by name, from a file, or from what somebody types.

The shipped sets have the wording that CARZero was published with (Lai et al., CVPR 2024): "There is Pleural Effusion";
the negative sentences are ours. Findings bear the names of the data sets' labels, in the order of their columns, with
PadChest's spelling ("pectum excavatum").
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

from wordsight.errors import PromptError
from wordsight.types import Combination, PromptSet

SHIPPED = {
    "chest14": "chestxray14",
    "chestxray14": "chestxray14",
    "nih14": "chestxray14",
    "chexpert5": "chexpert5",
    "openi": "openi",
    "openi18": "openi",
    "chestxdet10": "chestxdet10",
    "padchest": "padchest",
    "padchest192": "padchest",
}
"""Name -> file of a shipped set."""

_STATEMENT = re.compile(r"there (?:is|are|may be)\b", re.IGNORECASE)
_VERB = re.compile(r"\b(?:is|are|has|have|may|shows?)\b", re.IGNORECASE)
_BOUNDARY = re.compile(r"[;\n]+|\.(?=\s|$)")
_COMMA = re.compile(r",(?!(?<=[0-9],)[0-9])")  # but that of "3,5 cm"
_DENIABLE = re.compile(r"there (is|are) (?:an? )?(.+)", re.IGNORECASE)
_NOT_ONE_STATEMENT = re.compile(
    r"\b(?:no|not|nor|neither|never|none|without|absent|absence|free|but|except|although|though|while|whereas|however"
    r"|which|that|who|because|is|are|was|were|be|been|has|have|had|may|might|can|could|should|will|would|shows?|suggests?"
    r"|remains?|appears?|seems?|there)\b|n't\b|,(?![0-9])|[;:]",
    re.IGNORECASE,
)
"""What makes a sentence more than one plain statement, so that "no" at its beginning would not deny all of it."""


def prompt_set(source: str | Path, *, how: Combination = "mean") -> PromptSet:
    """The prompt set that `source` names: a shipped set, a JSON file, or text.

    source: one of SHIPPED (case and hyphens do not matter); a path that ends in .json; findings separated by commas
    ("edema, left pleural effusion" asks "There is edema", ...); or sentences ("There is a mass in the left lung"),
    separated by full stops, semicolons or new lines. how: see PromptSet.
    A phrase with a verb of its own ("the heart is enlarged") is asked as it stands. Negative sentences are made where
    all positive ones are single plain statements that begin with "There is", without a second clause or a negation.
    Raises PromptError for an empty source, an unknown file, a finding named twice, or a set's name misspelt.
    """
    name = re.sub(r"[\s_-]", "", str(source)).lower()
    if name in SHIPPED:
        file = resources.files("wordsight.text") / "prompt_sets" / f"{SHIPPED[name]}.json"
        with resources.as_file(file) as path:
            return replace(PromptSet.read(path), how=how)
    if isinstance(source, Path) or source.strip().lower().endswith(".json"):
        return replace(_named(PromptSet.read(source)), how=how)
    if "/" in source and Path(source).exists():
        raise PromptError(f"{source}: expected a prompt file that ends in .json, or words, got another file or folder.")
    if close := difflib.get_close_matches(name, SHIPPED, n=1, cutoff=0.75):
        raise PromptError(f"{source!r} is no shipped prompt set. Did you mean {close[0]}? Otherwise write a sentence.")
    return replace(_typed(source), how=how)


def _named(prompts: PromptSet) -> PromptSet:
    """Files of published evaluations number their findings ("0", "1", ...): name them by their sentences."""
    if not all(finding.isdigit() for finding in prompts.findings):
        return prompts
    names = tuple(_STATEMENT.sub("", group[0]).strip(" .") for group in prompts.positive)
    return replace(prompts, findings=names)


def _typed(text: str) -> PromptSet:
    """Findings or sentences that somebody typed."""
    parts = [part.strip() for part in _BOUNDARY.split(text) if part.strip()]
    if not parts:
        known = ", ".join(SHIPPED)
        raise PromptError(f"expected findings, a sentence, a JSON file or one of {known}, got nothing. Name one.")
    findings = []
    for part in parts:
        items = [item.strip() for item in _COMMA.split(part) if item.strip()]
        whole = any(map(_is_sentence, items)) and not all(map(_is_sentence, items))
        findings += [part] if whole else items
    positive = tuple((f if _is_sentence(f) else f"There is {re.sub('^No ', 'no ', f)}",) for f in findings)
    negative = tuple((denial,) for group in positive if (denial := _denial(group[0])) is not None)
    return PromptSet(tuple(findings), positive, negative if len(negative) == len(positive) else None)


def _denial(sentence: str) -> str | None:
    """ "There is no X" for "There is X"; None where that would not deny the whole sentence."""
    found = _DENIABLE.fullmatch(sentence)
    if found is None or _NOT_ONE_STATEMENT.search(found[2]):
        return None
    return f"There {found[1].lower()} no {found[2]}"


def _is_sentence(text: str) -> bool:
    return bool(_STATEMENT.match(text) or _VERB.search(text))
