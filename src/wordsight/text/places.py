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
AMOUNTS = frozenset(
    wordings(
        "small | tiny | trace | moderate | large | minimal | mild | slight | some | one | greater | larger | smaller"
        " | less | more | also | only | none | no | not | possible | possibly | probable | probably | likely"
    )
)
"""Words that stand for a finding named before: "no effusion on the right, small on the left"."""

_OTHER = {"left": "right", "right": "left"}
_JOINTS = frozenset(("and", "or", "than"))
_LINKS = _JOINTS | ARTICLES | frozenset(wordings("greater | more | less | larger | smaller | worse | side | sided"))
_LINKS_AFTER = _LINKS | frozenset(("in", "on", "at", "of"))
_VERBS = frozenset(wordings("is | remain | appear | has"))
_WORDS = SIDES.keys() | LEVELS | KINDS | NOUNS | REGIONS.keys()
_PLURALS = {
    "base": "bases",
    "apex": "apices",
    "lung": "lungs",
    "lobe": "lobes",
    "hilum": "hila",
    "rib": "ribs",
    "hemithorax": "hemithoraces",
}


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


def sides_of(place: str | None) -> frozenset[str]:
    """The sides that a place names, "both" as two; none for the middle and for no place."""
    words = (place or "").split()
    return frozenset(_OTHER if "both" in words else (word for word in words if word in _OTHER))


def _with_other(words: Sequence[str], others: Sequence[str]) -> list[str]:
    """The place of two that differ in their side: with what both are called, or where only one says it."""
    first, second = list(words[1:]), list(others[1:])
    return ["both", *(first or second)] if first == second or not (first and second) else ["both"]


def _is_of_next(tokens: Sequence[str], stop: int, ceiling: int) -> bool:
    """Whether the place that ends at `stop` belongs to the finding that begins at `ceiling`."""
    between = tokens[stop:ceiling]
    return ceiling < len(tokens) and len(between) <= 3 and not BREAKS_BEFORE.intersection(between)


def _run(tokens: Sequence[str], begin: int, ceiling: int) -> list[str]:
    """Place words from `begin` on, behind articles; "base of the left lung" has its side behind it."""
    while begin < len(tokens) and tokens[begin] in ARTICLES:
        begin += 1
    end = _end_of_run(tokens, begin)
    if end > begin and list(tokens[end : end + 2]) == ["of", "the"]:
        further = tokens[end + 2 : _end_of_run(tokens, end + 2)]
        return [*(word for word in further if word in SIDES), *tokens[begin:end]]
    words = list(tokens[begin:end])
    others = _other_after(tokens, end, words[0], ceiling) if words and words[0] in _OTHER else []
    return _with_other(words, others) if others else words


def _other_after(tokens: Sequence[str], end: int, side: str, ceiling: int) -> list[str]:
    """The place on the other side that is joined to one at its end: "on the left and right", "left more than right"."""
    position = end
    while position < min(end + 6, len(tokens)) and tokens[position] in _LINKS_AFTER:
        position += 1
    if not _JOINTS.intersection(tokens[end:position]) or list(tokens[position : position + 1]) != [_OTHER[side]]:
        return []
    stop = _end_of_run(tokens, position)
    own_clause = stop > position + 1 and stop < len(tokens) and tokens[stop] in _VERBS  # "and right lung is clear"
    return [] if own_clause or _is_of_next(tokens, stop, ceiling) else list(tokens[position:stop])


def _other_before(tokens: Sequence[str], begin: int, previous: int) -> list[str]:
    """The place on the other side that is joined to one that begins at `begin`: "left greater than right effusion"."""
    position = begin
    while position > max(begin - 6, previous) and tokens[position - 1] in _LINKS:
        position -= 1
    joints = _JOINTS.intersection(tokens[position:begin])
    stop = position
    while position > previous and _is_place(tokens[position - 1]) and tokens[position] != _OTHER[tokens[begin]]:
        position -= 1
    if not joints or position == stop or tokens[position] != _OTHER[tokens[begin]]:
        return []
    of_previous = previous > 0 and "than" not in joints and tokens[position - 1] in PREPOSITIONS | ARTICLES
    return [] if of_previous else list(tokens[position:stop])


def _before(tokens: Sequence[str], start: int, floor: int, previous: int) -> list[str]:
    """Place words that end at most three words before `start` and lie behind `floor`."""
    end = start
    while not (end > floor and _is_place(tokens[end - 1])):
        if end <= max(start - 3, floor) or tokens[end - 1] in BREAKS_BEFORE:
            return []
        end -= 1
    begin = end
    while begin > floor and _is_place(tokens[begin - 1]):
        begin -= 1
    words = list(tokens[begin:end])
    others = _other_before(tokens, begin, previous) if words[0] in _OTHER else []
    return _with_other(others, words) if others else words


def _after(tokens: Sequence[str], end: int, ceiling: int) -> list[str]:
    """Place words right at `end`, or behind the first preposition within four words."""
    if end < len(tokens) and _is_place(tokens[end]):
        return _run(tokens, end, ceiling)
    for position in range(end, min(end + 5, len(tokens))):
        if tokens[position] in PREPOSITIONS:
            return _run(tokens, position + 1, ceiling)
        if tokens[position] in BREAKS:
            break
    return []


def _is_compared(tokens: Sequence[str], end: int, ceiling: int, known: Sequence[str]) -> bool:
    """Whether sides are compared behind a finding: "effusions, left greater than right", "left one larger than right".

    known: the words of its place before it.
    """
    start = end
    if tokens[end : end + 1] and tokens[end] in (",", "("):
        start += 1
    named = [side for side in known if side in _OTHER] or list(tokens[start : start + 1])
    behind = start + (list(tokens[start : start + 1]) == named)
    others = _other_after(tokens, behind, named[0], ceiling) if named and named[0] in _OTHER else []
    return bool(others) and "than" in tokens[behind : behind + 5]


def other_side(tokens: Sequence[str], end: int, side: str, ceiling: int) -> tuple[str, frozenset[str]] | None:
    """What follows on the other side without the finding's name: its place and the words for its amount.

    "No effusion on the right, small on the left": end is behind the effusion, side "right" -> ("left side", {"small"}).
    """
    for position in range(end, ceiling):
        if tokens[position] not in (",", "and", "but"):
            continue
        begin = position + 1
        while begin < ceiling and tokens[begin] in AMOUNTS | {"and", "but"}:
            begin += 1
        amounts = frozenset(tokens[position + 1 : begin]) & AMOUNTS
        if not amounts or list(tokens[begin : begin + 1]) not in (["on"], ["in"], ["at"]):
            continue
        words = _run(tokens, begin + 1, ceiling)
        place = _named(words)
        if words[:1] == [_OTHER[side]] and place is not None:
            stop = begin + 1 + sum(token in ARTICLES for token in tokens[begin + 1 : begin + 2]) + len(words)
            return None if _is_of_next(tokens, stop, ceiling) else (place, amounts)
    return None


def place_of(
    tokens: Sequence[str], start: int, end: int, floor: int = 0, ceiling: int | None = None, previous: int | None = None
) -> str | None:
    """Place of the finding at tokens[start:end], or None.

    Words before it (behind `floor`, where what precedes it ends) win where they name more than a side. ceiling: where
    the next finding begins, None for nowhere. previous: where the last clause or finding ends; between it and floor
    lies at most the other of two sides, "left or right effusion". None for floor.
    """
    limit = len(tokens) if ceiling is None else ceiling
    before = _before(tokens, start, floor, floor if previous is None else previous)
    first, second = _named(before), _named(_after(tokens, end, limit))
    if second is None and (first is None or first.endswith(" side")) and _is_compared(tokens, end, limit, before):
        return "both sides"
    if first is None or (second is not None and first.endswith((" side", " sides"))):
        return second if second is not None else first
    return first
