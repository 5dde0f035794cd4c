"""Reports and prompts as sentences: exactly as the published CARZero code cuts them, and with a splitter that reads
reports.

The published rules cut at every dot and swallow the digits before it: "3.5 cm nodule" becomes "5 cm nodule", and
pieces of one word vanish. They are needed where published weights or numbers are; `sections` is for everything else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from wordsight.errors import SettingsError

Style = Literal["sections", "published"]
Marks = Literal["drop", "keep"]

SECTIONS = {
    "findings": ("findings/impression", "findings", "finding"),
    "impression": ("impressions", "impression", "conclusions", "conclusion", "opinion"),
    "indication": ("clinical indication", "indications", "indication", "reason for exam", "reason for examination"),
    "history": ("clinical history", "clinical information", "history"),
    "comparison": ("comparisons", "comparison"),
    "technique": ("technique", "procedure", "views", "examination", "exam", "study"),
    "other": ("final report", "wet read", "notification", "recommendations", "recommendation", "addendum", "signed"),
}
"""Section -> the headings that open it. Sentences come from `findings` and `impression`."""

TITLES = re.compile(r"drs?|mr|mrs|ms|prof|st|vs|cf|figs?|approx|ca|resp|e\.g|i\.e", re.IGNORECASE)
"""Abbreviations that never end a sentence."""
CLOSERS = re.compile(r"a\.m|p\.m|etc|cm|mm|ml|pts?|no|jr|sr|m\.d|r\.n", re.IGNORECASE)
"""Abbreviations that end one only where a capital or nothing follows."""

WINDOW = 24  # characters looked at on either side of a dot; longer than any abbreviation
MARK = "XXXX"
_MARKS = re.compile(r"\[\*\*.{0,200}?\*\*\]|\b[Xx]{3,}(?:[/-][Xx]{2,})*\b|_{2,}", re.DOTALL)
_MARK_AND_STUB = re.compile(rf"(?:\b[xX]-?\s?)?-?\b{MARK}\b(?:['’]s\b)?-?")
_NAMES = {name: section for section, names in SECTIONS.items() for name in names}
_ALTERNATIVES = "|".join(sorted(_NAMES, key=len, reverse=True))
_UPPER = _ALTERNATIVES.upper()
_CAPITAL = "|".join(sorted((name.capitalize() for name in _NAMES), key=len, reverse=True))
_HEADING = re.compile(
    rf"^[ \t]*(?P<line>(?i:{_ALTERNATIVES})(?=[ \t]*:)|(?:{_UPPER})(?=[ \t]*$))[ \t]*:?"
    rf"|(?<![^\s.;])(?P<inline>{_UPPER}|{_CAPITAL})[ \t]*:",
    re.MULTILINE,
)
_BLOCK = re.compile(r"\n\s*\n|\n\s*(?=[-*•]\s|\(?\d{1,2}[.)]\s)")
_ITEM = re.compile(r"(?<![^\s.:;,?!])\(?(\d{1,2})[.)][.,]*\s*(?=[^\W\d_])")
_STOP = re.compile(r"(?<![.!?])[.!?]+(?=\s|$|[\"')\]]|[A-Z])|(?<=[a-z]{3})\.(?=[a-z]{2})|;(?=\s+[A-Z])")
_LAST_WORD = re.compile(r"[\w.]*$")
_BEFORE_INITIAL = re.compile(r"(?:\b(?:Drs?|Mr|Mrs|Ms|Prof|by|with|per)\.?|\b[A-Z]\.)\s*$")
_ENUMERATION = re.compile(r"(?<![0-9])[0-9]+\.")
_RUNS = re.compile(r"\w+")


def _checked(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SettingsError(f"expected {name} to be one of {', '.join(choices)}, got {value!r}. Choose one of them.")


def _published_pieces(text: str) -> Iterator[list[str]]:
    """Words of every piece that the published code keeps; non-ASCII characters are deleted after the one-word test."""
    for item in _ENUMERATION.split(text.replace("\n", " ")):
        for piece in item.split("."):
            runs = _RUNS.findall(piece.replace("\ufffd\ufffd", " ").lower())
            if len(runs) > 1:
                yield [word for run in runs if (word := run.encode("ascii", "ignore").decode("ascii"))]


def clean_prompt(text: str) -> str:
    """The published line that goes to CARZero's tokenizer for one prompt (Lai et al., CVPR 2024, `process_text`).

    Cut at dots, digits before a dot swallowed, pieces of one word dropped (so "cardiomegaly" gives ""), non-ASCII
    characters deleted. The network's own cleaning, which can be told to lose nothing, is
    `models.carzero.text_input.clean`.
    """
    return " ".join(word for piece in _published_pieces(text) for word in piece)


def _published_sentences(text: str, max_word_num: int | None) -> list[str]:
    sentences, count = [], 0
    for words in _published_pieces(text):
        if words:
            sentences.append(" ".join(words))
        count += len(words)
        if count == max_word_num:
            break
    return sentences


def report_sections(text: str) -> dict[str, str]:
    """Sections of a plain-text report by name (the keys of SECTIONS, and "body" for text under no heading).

    A heading stands at a line's start, or anywhere in capitals with a colon. A paragraph after a blank line within a
    section that is neither findings nor impression counts as body, since many reports leave the heading FINDINGS out.
    """
    found: dict[str, list[str]] = {}
    name, start = "body", 0
    headings = [(m.start(), m.end(), _NAMES[(m["line"] or m["inline"]).lower()]) for m in _HEADING.finditer(text)]
    for begin, end, following in [*headings, (len(text), len(text), "")]:
        content = text[start:begin].strip()
        if name not in ("findings", "impression", "body"):
            content, *rest = re.split(r"\n\s*\n", content, maxsplit=1)
            found.setdefault("body", []).extend(rest)
        found.setdefault(name, []).append(content)
        name, start = following, end
    return {section: "\n\n".join(filter(None, parts)) for section, parts in found.items() if any(parts)}


def _is_stop(text: str, stop: re.Match[str]) -> bool:
    """Whether punctuation ends a sentence: not after titles and initials, nor within "at 3 p.m. today"."""
    if stop[0] != ".":
        return True
    begin, end = stop.span()
    word = _LAST_WORD.search(text, max(begin - WINDOW, 0), begin)
    last = word[0] if word else ""
    following = text[end : end + WINDOW].lstrip()
    if TITLES.fullmatch(last):
        return False
    if CLOSERS.fullmatch(last):
        return not following or following[0].isupper() or (last == "no" and not following[0].isdigit())
    if len(last) == 1 and last.isupper() and following[:1].isupper():
        return not _BEFORE_INITIAL.search(text, max(begin - 1 - WINDOW, 0), begin - 1)
    return True


def enumeration_marks(text: str) -> list[re.Match[str]]:
    """Enumeration marks ("2.", "(2)"): a number at the beginning, a 1 where a sentence may start, then 2, 3, ..."""
    found, expected = [], 1
    for match in _ITEM.finditer(text):
        before = text[max(match.start() - WINDOW, 0) : match.start()].rstrip()
        number = int(match[1])
        starts = not before or before[-1] in ".:;?!"
        if not before or (number == expected and (starts or expected > 1)) or (number == 1 and starts):
            found.append(match)
            expected = number + 1
    return found


def _pieces(text: str) -> Iterator[str]:
    """Text between sentence ends and enumeration marks of one block."""
    items = [m.span() for m in enumeration_marks(text)]
    stops = [m.span() for m in _STOP.finditer(text) if _is_stop(text, m)]
    start = 0
    for begin, end in sorted([*items, *stops, (len(text), len(text))]):
        if begin < start:  # the dot of an enumeration mark
            continue
        yield text[start:begin] + ("?" if "?" in text[begin:end] else "")  # a question doubts what it asks
        start = end


def _tidy(sentence: str, marks: Marks) -> str:
    """One space between words, no marks (unless kept), nothing hanging at the ends."""
    if marks == "drop":
        sentence = _MARK_AND_STUB.sub(" ", sentence)
        sentence = re.sub(r"\(\W{0,20}\)", " ", sentence)
        sentence = re.sub(r"(?:\s*,)+(?=\s*(?:,|$))|^\s*,", "", sentence)
    sentence = re.sub(r"\s+([,;:.)])", r"\1", " ".join(sentence.split()))
    return sentence.strip(" ,;:-*•.")


def _key(sentence: str) -> str:
    """What two sentences share when they say the same: their words without marks, case and punctuation."""
    return " ".join(_RUNS.findall(_MARK_AND_STUB.sub(" ", sentence).lower()))


def _read_sentences(texts: Iterable[str], marks: Marks) -> list[str]:
    sentences: dict[str, str] = {}
    for text in texts:
        sections = report_sections(_MARKS.sub(MARK, text.replace("\r\n", "\n")))
        kept = [sections[name] for name in ("findings", "impression") if name in sections]
        for block in (b for part in kept or [sections.get("body", "")] for b in _BLOCK.split(part)):
            for piece in _pieces(" ".join(block.split())):
                key = _key(piece)
                if re.search(r"[^\W\d_]{2}", key):
                    sentences.setdefault(key, _tidy(piece, marks))
    return [s for s in sentences.values() if s]


def report_sentences(
    report: str | Sequence[str],
    style: Style = "sections",
    *,
    max_word_num: int | None = None,
    marks: Marks = "drop",
) -> list[str]:
    """Sentences of a report, given as one text or as several columns.

    sections: sentences of FINDINGS and IMPRESSION (of everything outside INDICATION, COMPARISON, ... where neither
    exists), as written, without full stops, enumeration marks and repeated sentences. De-identified words (XXXX, ___,
    [** **]) are dropped, or kept as XXXX with marks="keep"; a sentence of nothing else is dropped either way, so both
    give the same number of sentences.
    published: lower-case words as CARZero's training set makes them (Lai et al., CVPR 2024,
    `create_path_2_sent_mapping`): columns joined without a separator, pieces as in `clean_prompt`, and the rest of
    the report dropped where the number of words so far EQUALS max_word_num (published: 5; None: never).
    Raises SettingsError for an unknown style or marks, or max_word_num with `sections`.
    """
    _checked("style", style, get_args(Style))
    _checked("marks", marks, get_args(Marks))
    columns = [report] if isinstance(report, str) else list(report)
    if style == "published":
        return _published_sentences("".join(columns), max_word_num)
    if max_word_num is not None:
        raise SettingsError("max_word_num belongs to style='published'. Leave it out or choose that style.")
    return _read_sentences(columns, marks)
