"""Where a finding lies, read from the words around it: "patchy left lower lobe opacity", "granuloma in the right
apex".
"""

from __future__ import annotations

from collections.abc import Sequence

from wordsight.text.chest_terms import wordings

SIDES = {"right": "right", "left": "left", "bilateral": "both", "bilaterally": "both", "both": "both"}
LEVELS = frozenset(
    wordings("upper | lower | middle | mid | medial | lateral | posterior | anterior | peripheral | central")
)
KINDS = frozenset(wordings("thoracic | lumbar | cervical | costophrenic | ascending | descending | lung | pulmonary"))
NOUNS = frozenset(
    wordings(
        "lobe | lung | zone | base | apex | hilum | lingula | midlung | hemithorax | rib | clavicle | spine | aorta"
        " | fissure | quadrant | mediastinum | hemidiaphragm | shoulder | vertebra"
        " | sternum | humerus | neck | diaphragm | angle | arch"
    )
)
REGIONS = {
    "basilar": "lung base",
    "basal": "lung base",
    "bibasilar": "both lung bases",
    "bibasal": "both lung bases",
    "apical": "lung apex",
    "biapical": "both lung apices",
    "perihilar": "perihilar region",
    "suprahilar": "suprahilar region",
    "infrahilar": "infrahilar region",
    "retrocardiac": "retrocardiac region",
    "clavicular": "clavicle",
    "lingular": "lingula",
    "hilar": "hilum",
}
"""Adjective -> the place it names."""

PREPOSITIONS = frozenset(
    wordings(
        "in | on | of | at | within | overlying | over | involving | near | through | throughout | along | projecting"
        " | from"
    )
)
ARTICLES = frozenset(("the", "a", "an"))
BREAKS = frozenset(wordings(", | ; | : | ( | ) | ? | and | or | with | no | without | not | but | may | which"))
BREAKS_BEFORE = BREAKS | {"is", "of", "in"}
_WORDS = SIDES.keys() | LEVELS | KINDS | NOUNS | REGIONS.keys()
_PLURALS = {"base": "bases", "apex": "apices", "lung": "lungs", "lobe": "lobes", "hilum": "hila", "rib": "ribs"}


def _is_place(word: str) -> bool:
    return word in _WORDS or (word[0].isdigit() and word[-1].isalpha())  # "7th" rib


def _named(words: Sequence[str]) -> str | None:
    """A place from its words; None where they name none (a level alone, "pulmonary")."""
    sides = [SIDES[w] for w in words if w in SIDES]
    regions = [REGIONS[w] for w in words if w in REGIONS]
    parts = [w for w in words if w not in SIDES and w not in REGIONS and w != "pulmonary"]
    if parts and parts[-1] in NOUNS:
        if parts[-1] in ("base", "apex") and "lung" not in parts:
            parts.insert(-1, "lung")
        if sides[:1] == ["both"]:
            parts[-1] = _PLURALS.get(parts[-1], parts[-1])
        return " ".join([*sides[:1], *parts])
    if regions:
        return regions[0] if regions[0].startswith("both") else " ".join([*sides[:1], regions[0]])
    if sides:
        return "both sides" if sides[0] == "both" else f"{sides[0]} side"
    return None


def _end_of_run(tokens: Sequence[str], begin: int) -> int:
    end = begin
    while end < len(tokens) and _is_place(tokens[end]):
        end += 1
    return end


def _run(tokens: Sequence[str], begin: int) -> list[str]:
    """Place words from `begin` on, behind articles; "base of the left lung" has its side behind it."""
    while begin < len(tokens) and tokens[begin] in ARTICLES:
        begin += 1
    end = _end_of_run(tokens, begin)
    if end > begin and list(tokens[end : end + 2]) == ["of", "the"]:
        further = tokens[end + 2 : _end_of_run(tokens, end + 2)]
        return [*(word for word in further if word in SIDES), *tokens[begin:end]]
    return list(tokens[begin:end])


def _before(tokens: Sequence[str], start: int, floor: int) -> list[str]:
    """Place words that end at most three words before `start` and lie behind `floor`."""
    end = start
    while not (end > floor and _is_place(tokens[end - 1])):
        if end <= max(start - 3, floor) or tokens[end - 1] in BREAKS_BEFORE:
            return []
        end -= 1
    begin = end
    while begin > floor and _is_place(tokens[begin - 1]):
        begin -= 1
    if begin >= 2 and tokens[begin - 1] == "and" and {tokens[begin - 2], tokens[begin]} == {"right", "left"}:
        return ["both", *tokens[begin + 1 : end]]
    return list(tokens[begin:end])


def _after(tokens: Sequence[str], end: int) -> list[str]:
    """Place words right at `end`, or behind the first preposition within four words."""
    if end < len(tokens) and _is_place(tokens[end]):
        return _run(tokens, end)
    for position in range(end, min(end + 5, len(tokens))):
        if tokens[position] in PREPOSITIONS:
            return _run(tokens, position + 1)
        if tokens[position] in BREAKS:
            break
    return []


def place_of(tokens: Sequence[str], start: int, end: int, floor: int = 0) -> str | None:
    """Place of the finding at tokens[start:end], or None.

    Words before it (behind `floor`, where the previous finding ends) win where they name more than a side.
    """
    first, second = _named(_before(tokens, start, floor)), _named(_after(tokens, end))
    if first is None or (second is not None and first.endswith((" side", " sides"))):
        return second if second is not None else first
    return first
