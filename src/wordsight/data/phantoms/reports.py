"""Chest x-ray phantoms with short reports for image-text pretraining: named findings, their places, boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.common import stream
from wordsight.data.phantoms.findings import DRAWN_BY, ZONES, Drawn, Mask, Scene
from wordsight.data.phantoms.phrases import PHRASES, Mention, report_text
from wordsight.data.phantoms.scan import Acquisition, scanner
from wordsight.data.phantoms.sets import keep_memory
from wordsight.data.phantoms.thorax import build, expose
from wordsight.errors import DataError, SettingsError

NAME = "ChestReports"
FINDINGS = tuple(sorted(DRAWN_BY))
SIZE = 224
SMALLEST = 96
PRESENT, UNCERTAIN = 0.16, 0.04  # shares of the images, for each finding by itself


class State(StrEnum):
    """What a report says of a finding."""

    PRESENT = "present"
    ABSENT = "absent"
    UNCERTAIN = "uncertain"


Box = tuple[int, int, int, int]
CODES: Mapping[State, int] = MappingProxyType({State.PRESENT: 1, State.ABSENT: 0, State.UNCERTAIN: -1})
"""Numbers for tables, as CheXpert writes them."""


@dataclass(frozen=True)
class Truth:
    """What is known of one finding in one image.

    place: words such as "right upper zone", "" where there are none. boxes: (x1, y1, x2, y2) in pixels, half-open,
    around what is drawn; two for a finding of both lungs. mask: (size, size) bool, None where nothing is drawn: always
    if absent, in half of the uncertain cases.
    """

    state: State
    place: str = ""
    boxes: tuple[Box, ...] = ()
    mask: Mask | None = None


@dataclass(frozen=True)
class ReportPhantom:
    """One synthetic radiograph, its report and the truth behind it.

    pixels: (size, size) uint8. report: "FINDINGS: ...", a line break, "IMPRESSION: ...". findings: Truth of each of
    FINDINGS. attributes: anatomy and acquisition, never findings.
    """

    pixels: NDArray[np.uint8]
    report: str
    findings: Mapping[str, Truth]
    attributes: Mapping[str, str | float | int]


def draw_report_phantom(
    seed: int, index: int, size: int = SIZE, states: Mapping[str, State] | None = None
) -> ReportPhantom:
    """Draw image `index`; the same arguments give the same pixels and words on every call.

    states: what the report is to say of each finding, absent if not named; None draws it: each finding by itself is
    present in 16 % and uncertain in 4 % of the images (a pacemaker never is). An uncertain finding is drawn faintly or,
    as often, not at all. The chest, its exposure and noise do not depend on the findings.
    seed, index: integers in [0, 2**32). Raises SettingsError for numbers out of range, DataError for unknown findings.
    """
    if size < SMALLEST:
        raise SettingsError(f"size: expected at least {SMALLEST} pixels, got {size}: small findings need them.")
    rng = stream(NAME, seed, index)
    generators = dict(zip((*FINDINGS, "states", "words"), rng.spawn(len(FINDINGS) + 2), strict=True))
    drawn_states = _states(generators["states"])
    chosen = drawn_states if states is None else _checked(states)
    keep_memory()
    clear = {name: _clearness(generators[name], state) for name, state in chosen.items()}
    ratio = _heart(generators["Cardiomegaly"], chosen["Cardiomegaly"], clear["Cardiomegaly"])
    chest = build(rng, size, ratio)
    scene = Scene.of(chest)
    drawn = {name: _drawn(generators[name], name, scene, clear[name]) for name in DRAWN_BY if clear[name] is not None}
    how = Acquisition.sample(rng, noise=(0.010, 0.024), bias=0.12)
    pixels = scanner(rng, expose(rng, scene.density), how)
    mentions = [_mention(name, chosen[name], drawn.get(name)) for name in DRAWN_BY]
    truths = {name: _truth(chosen[name], drawn.get(name), clear[name]) for name in FINDINGS}
    return ReportPhantom(
        pixels, report_text(generators["words"], mentions), truths, {**chest.attributes, **how.attributes()}
    )


def _states(rng: np.random.Generator) -> dict[str, State]:
    """A state of each finding, independent of the others."""
    states = {}
    for name, chance in zip(FINDINGS, rng.random(len(FINDINGS)), strict=True):
        doubtful = bool(PHRASES[name].uncertain) and PRESENT <= chance < PRESENT + UNCERTAIN
        states[name] = State.PRESENT if chance < PRESENT else State.UNCERTAIN if doubtful else State.ABSENT
    return states


def _checked(states: Mapping[str, State]) -> dict[str, State]:
    """States of all findings; refuses names that are none."""
    unknown = [name for name in states if name not in FINDINGS]
    if unknown:
        raise DataError(f"expected findings among {', '.join(FINDINGS)}, got {unknown[0]!r}. Check the spelling.")
    if states.get("Pacemaker") == State.UNCERTAIN:
        raise DataError("a pacemaker is present or absent, never uncertain. Ask for one of these.")
    return {name: State(states.get(name, State.ABSENT)) for name in FINDINGS}


def _clearness(rng: np.random.Generator, state: State) -> float | None:
    """How strongly to draw: about 1, 0.4 if uncertain, 0 for an uncertain one that is not there, None if absent."""
    if state is State.ABSENT:
        return None
    if state is State.PRESENT:
        return float(rng.uniform(0.85, 1.15))
    return float(rng.uniform(0.3, 0.45)) if rng.random() < 0.5 else 0.0


def _heart(rng: np.random.Generator, state: State, clear: float | None) -> float | None:
    """Width of the heart over width of the chest; None for a normal heart."""
    if not clear:
        return None
    return float(rng.uniform(0.58, 0.72) if state is State.PRESENT else rng.uniform(0.50, 0.53))


def _drawn(rng: np.random.Generator, name: str, scene: Scene, clear: float | None) -> Drawn:
    """Draw a finding; one of strength 0 leaves no trace and yet has a place that the report can name."""
    return DRAWN_BY[name](rng, scene if clear else scene.copy(), clear or 0.0)


def _mention(name: str, state: State, drawn: Drawn | None) -> Mention:
    known = drawn or Drawn(np.zeros((0, 0), np.bool_))
    words: dict[str, str | int] = {"side": known.side, "zone": known.zone, "grade": known.grade, "mm": known.size_mm}
    return Mention(name, state.value, words)


def _truth(state: State, drawn: Drawn | None, clear: float | None) -> Truth:
    if drawn is None:
        return Truth(state)
    place = " ".join(filter(None, (drawn.side, drawn.zone + " zone" if drawn.zone in ZONES else drawn.zone)))
    if not clear:
        return Truth(state, place)
    return Truth(state, place, _boxes(drawn), drawn.mask)


def _boxes(drawn: Drawn) -> tuple[Box, ...]:
    """The box around the mask, or one in each half of the image."""
    if not drawn.bilateral:
        return (_box(drawn.mask),)
    middle = drawn.mask.shape[1] // 2
    right, left = drawn.mask.copy(), drawn.mask.copy()
    right[:, middle:] = False
    left[:, :middle] = False
    return tuple(_box(half) for half in (right, left) if half.any())


def _box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
