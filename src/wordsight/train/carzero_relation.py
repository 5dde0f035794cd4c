"""What a report says of a statement about one finding: that it is right, that it is wrong, or nothing.

Places count on both sides: "no left effusion" says nothing of the right side, and an effusion on the right does not
contradict it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum

from wordsight.text.alignment import Statement, Status
from wordsight.text.places import sides_of

_BOTH = frozenset({"left", "right"})
_EVERYWHERE = ("lung", "both lungs")  # "no mass in the lungs" denies a mass


class Relation(IntEnum):
    """What a report says of a text."""

    WRONG = 0
    UNKNOWN = 1
    RIGHT = 2


def compare(statement: Statement, said: Sequence[Statement]) -> Relation:
    """What a report that says `said` of a finding says of a statement about it.

    Where a finding is not named, or only on the other side, it is taken not to be there, since reports name what they
    see; its denial stays unknown. A denial of one place leaves all others open.
    """
    present, doubted, denied = ([s.place for s in said if s.status is status] for status in Status)
    denied = [None if q in _EVERYWHERE else q for q in denied]
    if statement.status is Status.ABSENT:
        return _denial(statement.place, present, doubted, denied)
    if not said:
        return Relation.WRONG
    if not present and not doubted:
        return Relation.WRONG if _touched(statement.place, denied) else Relation.UNKNOWN
    sure, unsure = _found(statement.place, present), _found(statement.place, doubted)
    if Relation.RIGHT not in (sure, unsure) and _touched(statement.place, [q for q in denied if q is not None]):
        return Relation.WRONG
    if statement.status is Status.PRESENT:
        return sure if sure is Relation.RIGHT else max(sure, min(unsure, Relation.UNKNOWN))
    return Relation.UNKNOWN if sure is Relation.RIGHT else max(sure, unsure)


def _denial(
    place: str | None, present: Sequence[str | None], doubted: Sequence[str | None], denied: Sequence[str | None]
) -> Relation:
    """The same of "There is no ..."; a denial without a place counts where nothing speaks against it anywhere."""
    if any(_holds(place, other) for other in present):
        return Relation.WRONG
    if any(_holds(place, other) for other in doubted):
        return Relation.UNKNOWN
    everywhere = not present and not doubted and None in denied
    return Relation.RIGHT if everywhere or _covered(place, denied) else Relation.UNKNOWN


def _found(place: str | None, places: Sequence[str | None]) -> Relation:
    """Whether what lies at `places`, and nowhere else as far as sides are named, lies at `place`."""
    if not places:
        return Relation.WRONG
    if place is None or place in places:
        return Relation.RIGHT
    asked, known = sides_of(place), _united(places)
    if asked and asked <= known and _is_side(place):
        return Relation.RIGHT
    other_side = asked and not asked <= known and all(sides_of(q) for q in places)
    return Relation.WRONG if other_side else Relation.UNKNOWN


def _holds(place: str | None, other: str | None) -> bool:
    """Whether what lies at `other` certainly lies at `place`, or in a part of it."""
    return place is None or place == other or (_is_side(place) and bool(sides_of(place) & sides_of(other)))


def _covered(place: str | None, denied: Iterable[str | None]) -> bool:
    """Whether places that are free of a finding make up all of `place`."""
    free = [q for q in denied if q is not None]
    asked = _BOTH if place is None else sides_of(place)
    return place in free or (bool(asked) and asked <= _united(q for q in free if _is_side(q)))


def _touched(place: str | None, denied: Sequence[str | None]) -> bool:
    """Whether places that are free of a finding leave no room for it at `place`, at one of its two sides or at both."""
    if None in denied or _covered(place, denied):
        return True
    return place is not None and bool(sides_of(place) & _united(q for q in denied if _is_side(q)))


def _united(places: Iterable[str | None]) -> frozenset[str]:
    return frozenset().union(*(sides_of(place) for place in places))


def _is_side(place: str | None) -> bool:
    """Whether a place is a side and no part of it."""
    return place in ("left side", "right side", "both sides")
