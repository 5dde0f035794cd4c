"""Liver CT slices: body wall, ribs, spine, table, aorta, stomach, spleen, kidneys and a liver with vessels.

Abnormal slices hold two to four lesions of coarse texture inside the liver. Normal and abnormal slices alike show
what looks similar there: vessels cut across, the gallbladder, the fatty fissure, surgical clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.common import (
    SIZE,
    Float32,
    Frame,
    Phantom,
    blob,
    ellipse,
    frame,
    mottle,
    paint,
    profile,
    radius_of,
    shell,
    smooth_field,
    soft,
    spot,
    tubes,
)
from wordsight.data.phantoms.scan import Acquisition, scanner


@dataclass(frozen=True)
class Phase:
    """Grey values of one contrast phase in [0, 1]; `lesions` are the differences from liver that a lesion may show."""

    name: str
    vessel: float
    aorta: float
    spleen: float
    kidney: float
    lesions: tuple[float, ...]


PHASES = (
    Phase("native", -0.09, 0.42, 0.50, 0.45, (-0.22, -0.19, -0.26)),
    Phase("arterial", 0.03, 0.95, 0.68, 0.80, (0.26, 0.22, -0.22)),
    Phase("portal venous", 0.14, 0.68, 0.60, 0.78, (-0.28, -0.24, -0.32)),
    Phase("late", 0.08, 0.58, 0.56, 0.70, (-0.25, -0.21, 0.22)),
)


def draw(rng: np.random.Generator, abnormal: bool, size: int = SIZE) -> Phantom:
    """Draw one slice of `size` pixels; the same generator state gives the same body with and without lesions."""
    lesion_rng = rng.spawn(1)[0]
    phase = PHASES[int(rng.integers(len(PHASES)))]
    rotation, aspect = float(rng.normal(0, 5)), float(np.exp(rng.normal(0, 0.06)))
    on = frame(
        rng,
        size,
        rotation=rotation,
        shift=(float(rng.normal(0, 0.04)), float(rng.normal(-0.02, 0.05))),
        scale=float(rng.uniform(0.82, 1.08)),
        aspect=aspect,
        warp=0.014,
    )
    density = float(rng.uniform(0.46, 0.60))
    image, cavity, fat = _body(rng, on)
    _organs(rng, on, image, phase)
    liver, lobe = _liver(rng, on, image, cavity, phase, density)
    benign = _benign(rng, on, image, liver)
    mask = np.zeros((size, size), np.bool_)
    lesions: list[dict[str, Any]] = []
    if abnormal:
        for _ in range(int(lesion_rng.integers(2, 5))):
            lesions.append(_lesion(lesion_rng, image, mask, liver, phase, density))
    how = Acquisition.sample(rng, noise=(0.014, 0.035), bias=0.2)
    attributes: dict[str, str | float | int] = {
        "phase": phase.name,
        "fat": fat,
        "left lobe": lobe,
        "benign": benign,
        "body": "slim" if aspect < 0.95 else "broad" if aspect > 1.05 else "average",
        "rotation": round(rotation, 1),
        **how.attributes(),
    }
    return Phantom(scanner(rng, image, how), mask, int(abnormal), attributes, tuple(lesions))


def _body(rng: np.random.Generator, on: Frame) -> tuple[Float32, Float32, str]:
    """Table, skin, fat, muscle wall, ribs, spine; returns the image, the cavity's radius and the fat in words."""
    radius = radius_of(on, (0.0, 0.0), (0.88, 0.66), power=2.0)
    fat = float(rng.uniform(0.03, 0.13))
    wall, inner = 0.97 - fat, 0.86 - fat
    skin, muscle = float(rng.uniform(0.10, 0.20)), float(rng.uniform(0.38, 0.5))
    image = profile(radius, [(inner, muscle), (wall, skin), (0.985, 0.42), (1.0, 0.01)], float(rng.uniform(0.12, 0.22)))
    if rng.random() < 0.6:
        table = np.abs(on.v - np.float32(0.80) + np.float32(0.12) * on.u * on.u)
        table *= np.float32(-60)
        table += np.float32(1.6)
        paint(image, np.clip(table, 0, 1, out=table), float(rng.uniform(0.25, 0.7)))
    cavity = radius * np.float32(1 / inner)
    between = 0.915 - fat
    start = float(rng.uniform(0, 30))
    for angle in np.arange(start - 60, start + 241, float(rng.uniform(21, 30))):
        turn = np.deg2rad(angle + rng.normal(0, 3))
        centre = (0.88 * between * float(np.cos(turn)), -0.66 * between * float(np.sin(turn)))
        tangent = float(np.rad2deg(np.arctan2(0.66 * np.cos(turn), 0.88 * np.sin(turn))))
        length = float(rng.uniform(0.035, 0.075))
        shell(on, image, centre, (length, 0.020), (float(rng.uniform(0.75, 1.0)), 0.6), tangent, inner=0.5)
    _spine(rng, on, image)
    return image, cavity, "little" if fat < 0.06 else "much" if fat > 0.1 else "average"


def _spine(rng: np.random.Generator, on: Frame, image: Float32) -> None:
    """Back muscles, vertebral body, canal, processes."""
    for side in (-1.0, 1.0):
        spot(on, image, (side * 0.15, 0.46), (0.14, 0.10), 0.44, side * 10)
        spot(on, image, (side * 0.10, 0.40), (0.11, 0.022), 0.85, side * 25)
    spot(on, image, (0.0, 0.46), (0.022, 0.08), 0.9)
    shell(on, image, (0.0, 0.26), (0.115, 0.095), (0.92, float(rng.uniform(0.62, 0.8))), inner=0.82)
    spot(on, image, (0.0, 0.375), (0.045, 0.035), 0.40)


def _organs(rng: np.random.Generator, on: Frame, image: Float32, phase: Phase) -> None:
    """Spleen, stomach with gas and meal, bowel, kidneys, aorta and vena cava."""
    if rng.random() < 0.75:
        spot(on, image, (0.58, 0.12), (0.13, 0.25), phase.spleen * float(rng.uniform(0.9, 1.05)), -15, edge=2)
    meal = float(rng.choice([0.30, 0.42, 0.95]))
    middle = (float(rng.uniform(0.34, 0.46)), float(rng.uniform(-0.28, -0.16)))
    shell(on, image, middle, (0.23, 0.17), (0.42, meal), float(rng.uniform(-25, 10)), inner=0.86, edge=2)
    if rng.random() < 0.7:
        spot(on, image, (middle[0] + 0.02, middle[1] - 0.06), (0.14, 0.065), 0.01, edge=2)
    for _ in range(int(rng.integers(1, 6))):
        centre = (float(rng.uniform(0.05, 0.45)), float(rng.uniform(-0.05, 0.14)))
        extent = float(rng.uniform(0.04, 0.09))
        spot(on, image, centre, (extent, extent * 0.8), float(rng.uniform(0.35, 0.5)), float(rng.uniform(0, 90)))
    if rng.random() < 0.6:
        for side in (-1.0, 1.0):
            place = (side * 0.31 + 0.02, 0.29 + float(rng.normal(0, 0.02)))
            shell(on, image, place, (0.095, 0.125), (phase.kidney, 0.3), side * 20, inner=0.45, edge=2)
    spot(on, image, (0.07, 0.125), (0.048, 0.048), phase.aorta)
    spot(on, image, (-0.11, 0.115), (0.050, 0.040), min(phase.aorta, 0.62))


def _liver(
    rng: np.random.Generator, on: Frame, image: Float32, cavity: Float32, phase: Phase, density: float
) -> tuple[NDArray[np.bool_], str]:
    """Paint the liver with its vessels; returns where it lies and its left lobe in words."""
    reach = float(rng.uniform(-0.02, 0.22))
    right = radius_of(on, (-0.42, -0.06), (float(rng.uniform(0.36, 0.44)), float(rng.uniform(0.36, 0.46))), 12)
    left = radius_of(on, (reach - 0.12, -0.26), (0.40, float(rng.uniform(0.13, 0.19))), -8)
    outline = np.minimum(right, left)
    outline = np.maximum(outline, cavity * np.float32(1.03))
    coverage = soft(outline, 0.05)
    lobules = np.float32(density) + np.float32(0.018) * smooth_field(rng, on.shape, 4)
    scale = on.shape[0] / SIZE
    hilum = on.pixel_of(-0.20, -0.02)
    lines = _tree(rng, hilum, scale) + [_dot(rng, on) for _ in range(int(rng.integers(2, 8)))]
    lobules += tubes(on.shape, lines) * np.float32(phase.vessel * float(rng.uniform(0.8, 1.15)))
    paint(image, coverage, lobules)
    return outline < np.float32(0.96), "large" if reach > 0.14 else "small" if reach < 0.05 else "average"


def _tree(
    rng: np.random.Generator, hilum: tuple[int, int], scale: float
) -> list[tuple[list[tuple[float, float]], float]]:
    """Branches from the hilum outward: polylines in pixels with falling widths."""
    lines: list[tuple[list[tuple[float, float]], float]] = []
    ends = [(float(hilum[0]), float(hilum[1]), float(np.deg2rad(rng.uniform(140, 220))), 5.0 * scale)]
    for _ in range(int(rng.integers(7, 13))):
        row, column, heading, width = ends.pop(0)
        points = [(row, column)]
        for _ in range(3):
            heading += float(rng.normal(0, 0.25))
            row += 8 * scale * float(np.sin(heading))
            column += 8 * scale * float(np.cos(heading))
            points.append((row, column))
        lines.append((points, width))
        for turn in (-0.6, 0.6):
            ends.append((row, column, heading + turn + float(rng.normal(0, 0.2)), max(width * 0.72, 1.2)))
    return lines


def _dot(rng: np.random.Generator, on: Frame) -> tuple[list[tuple[float, float]], float]:
    """A vessel cut across: a short thick line."""
    row, column = on.pixel_of(float(rng.uniform(-0.75, 0.1)), float(rng.uniform(-0.4, 0.25)))
    angle, width = float(rng.uniform(0, np.pi)), float(rng.uniform(2.0, 5.5)) * on.shape[0] / SIZE
    length = width * float(rng.uniform(0.6, 1.8))
    return [(row, column), (row + length * float(np.sin(angle)), column + length * float(np.cos(angle)))], width


def _benign(rng: np.random.Generator, on: Frame, image: Float32, liver: NDArray[np.bool_]) -> str:
    """Gallbladder (taken out of `liver` in place), fissure and clips of normal and abnormal slices; their names."""
    names: list[str] = []
    if rng.random() < 0.4:
        extent = float(rng.uniform(0.05, 0.08))
        centre = (float(rng.uniform(-0.22, -0.12)), float(rng.uniform(0.02, 0.10)))
        window, here = on.around(centre, extent * 1.5)
        bladder = ellipse(here, centre, (extent, extent * 1.5), float(rng.uniform(-40, 40)), edge=2)
        paint(image[window], bladder, 0.33)
        liver[window] &= bladder < 0.1
        names.append("gallbladder")
    if rng.random() < 0.5:
        spot(on, image, (-0.08, -0.30), (0.010, float(rng.uniform(0.06, 0.12))), 0.18, 8, edge=2)
        names.append("fissure")
    if rng.random() < 0.2:
        for _ in range(int(rng.integers(1, 4))):
            centre = (float(rng.uniform(-0.5, 0.0)), float(rng.uniform(-0.2, 0.15)))
            spot(on, image, centre, (0.012, 0.006), 1.0, float(rng.uniform(0, 180)), edge=1)
        names.append("clips")
    return ", ".join(names) or "none"


def _lesion(
    rng: np.random.Generator,
    image: Float32,
    mask: NDArray[np.bool_],
    liver: NDArray[np.bool_],
    phase: Phase,
    density: float,
) -> dict[str, Any]:
    """Add one lesion inside the liver to image and mask in place; returns what was added."""
    size = image.shape[0]
    rows, columns = np.nonzero(liver[::3, ::3])
    pick = int(rng.integers(rows.size))
    centre = (int(rows[pick]) * 3, int(columns[pick]) * 3)
    radius = float(rng.uniform(0.045, 0.08)) * size
    clear = float(rng.uniform(0.45, 0.6) if rng.random() < 0.12 else rng.uniform(0.85, 1.1))
    strength = clear * float(rng.choice(phase.lesions))
    if rng.random() < 0.4:  # an enhancing or a dark rim
        window, rim = blob(rng, size, centre, radius * 1.2, 0.15, edge=2)
        rim *= liver[window]
        paint(image[window], rim, float(np.clip(density + 0.7 * strength, 0.05, 1)))
        mask[window] |= rim >= 0.5
    window, coverage = blob(rng, size, centre, radius, 0.2, aspect=float(np.exp(rng.normal(0, 0.18))), edge=2)
    coverage *= liver[window]
    texture = mottle(rng, coverage.shape, float(rng.uniform(2.8, 4.2)) * size / SIZE, net=0.35)
    value = np.float32(density + 0.15 * strength) + np.float32(0.17 * clear) * texture
    paint(image[window], coverage, np.clip(value, 0.03, 1, out=value))
    mask[window] |= coverage >= 0.5
    return {
        "kind": "hypodense" if strength < 0 else "hyperdense",
        "centre": centre,
        "size": round(2 * radius, 1),
        "contrast": round(strength, 3),
    }
