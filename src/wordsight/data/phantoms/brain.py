"""Brain MRI slices: scalp, skull, folded cortex, white matter, deep nuclei and ventricles in four contrasts.

Abnormal slices hold two or three irregular masses of coarse texture, hypo- or hyperintense, half of them with an
enhancing or dark rim, some with oedema. The mask is the whole lesion with its oedema, as in the whole-tumour masks of
the BraTS challenges.
Normal and abnormal slices alike show what could be mistaken for one: calcified choroid plexus, vessels, the pineal
gland, wide perivascular spaces and prominent cortical veins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.common import (
    SIZE,
    Float32,
    Frame,
    Phantom,
    blob,
    frame,
    mottle,
    paint,
    profile,
    radius_of,
    smooth_field,
    soft,
    spot,
)
from wordsight.data.phantoms.scan import Acquisition, scanner


@dataclass(frozen=True)
class Contrast:
    """Grey values of one sequence in [0, 1]; `masses` are the differences from white matter that a mass may show."""

    name: str
    scalp: float
    bone: float
    white: float
    grey: float
    fluid: float
    vessel: float
    masses: tuple[float, ...]
    oedema: float


CONTRASTS = (
    Contrast("T1", 0.80, 0.07, 0.56, 0.43, 0.13, 0.20, (-0.24, -0.20, 0.22), -0.10),
    Contrast("T1 with contrast agent", 0.82, 0.08, 0.46, 0.37, 0.12, 0.85, (0.36, 0.30, -0.22), -0.09),
    Contrast("T2", 0.60, 0.05, 0.33, 0.44, 0.88, 0.06, (0.34, 0.28, -0.2), 0.18),
    Contrast("FLAIR", 0.68, 0.07, 0.36, 0.46, 0.09, 0.12, (0.34, 0.28, 0.24, -0.2), 0.16),
)


def draw(rng: np.random.Generator, abnormal: bool, size: int = SIZE) -> Phantom:
    """Draw one slice of `size` pixels; the same generator state gives the same head with and without lesions."""
    lesion_rng = rng.spawn(1)[0]
    contrast = _varied(rng, CONTRASTS[int(rng.integers(len(CONTRASTS)))])
    rotation, aspect = float(rng.normal(0, 7)), float(np.exp(rng.normal(0, 0.07)))
    on = frame(
        rng,
        size,
        rotation=rotation,
        shift=(float(rng.normal(0, 0.045)), float(rng.normal(0, 0.045))),
        scale=float(rng.uniform(0.88, 1.13)),
        aspect=aspect,
        warp=0.009,
    )
    image, inside, words = _head(rng, on, contrast)
    mask = np.zeros((size, size), np.bool_)
    lesions: list[dict[str, Any]] = []
    if abnormal:
        for _ in range(int(lesion_rng.integers(2, 4))):
            lesions.append(_lesion(lesion_rng, image, mask, inside, on, contrast))
    how = Acquisition.sample(rng, noise=(0.008, 0.025), bias=0.3, rician=True)
    attributes: dict[str, str | float | int] = {
        "sequence": contrast.name,
        **words,
        "head": "elongated" if aspect < 0.94 else "round" if aspect > 1.06 else "average",
        "rotation": round(rotation, 1),
        **how.attributes(),
    }
    return Phantom(scanner(rng, image, how), mask, int(abnormal), attributes, tuple(lesions))


def _varied(rng: np.random.Generator, contrast: Contrast) -> Contrast:
    """The same sequence with another echo and repetition time: each tissue a little brighter or darker."""
    white, grey, fluid, vessel = (
        float(np.clip(value * np.exp(rng.normal(0, spread)), 0.03, 0.97))
        for value, spread in (
            (contrast.white, 0.13),
            (contrast.grey, 0.05),
            (contrast.fluid, 0.15),
            (contrast.vessel, 0.2),
        )
    )
    grey *= white / contrast.white  # white and grey matter change together, or the order of the two would turn
    return replace(contrast, white=white, grey=grey, fluid=fluid, vessel=vessel)


def _head(
    rng: np.random.Generator, on: Frame, contrast: Contrast
) -> tuple[Float32, NDArray[np.bool_], dict[str, str | float | int]]:
    """Scalp, skull and brain; returns the image, where the parenchyma lies, and the anatomy in words."""
    radius = radius_of(on, (0.0, 0.0), (0.70, 0.84))
    thick = float(rng.uniform(0.03, 0.09))
    edge = 1 - thick - float(rng.uniform(0.03, 0.06))
    scalp = min(contrast.scalp * float(rng.uniform(0.5, 1.4)), 1.0)
    image = np.full(on.shape, 0.015, np.float32)
    _fat(rng, on, image, scalp)
    paint(image, soft(radius, 0.02), profile(radius, [(1 - thick, scalp)], contrast.bone))
    window = on.window((0.0, 0.0), 0.84 * edge)
    here = on.cut(window)
    relative = radius[window] * np.float32(1 / edge)
    tissue, words = _tissue(rng, here, relative, contrast)
    paint(image[window], soft(relative, 0.02), tissue)
    return image, radius < np.float32(0.93 * edge), words


def _fat(rng: np.random.Generator, on: Frame, image: Float32, scalp: float) -> None:
    """Temples and neck: bright and grey tissue outside the skull, which varies much from slice to slice."""
    if rng.random() < 0.6:
        extent, value = float(rng.uniform(0.03, 0.09)), float(rng.uniform(0.2, 1.0)) * scalp
        for side in (-1.0, 1.0):
            spot(on, image, (side * 0.66, float(rng.uniform(-0.3, 0.1))), (extent, 3 * extent), value, edge=3)
    if rng.random() < 0.6:
        extent, value = float(rng.uniform(0.08, 0.17)), float(rng.uniform(0.4, 1.3)) * scalp
        for side in (-1.0, 1.0):
            spot(on, image, (side * 0.17, 0.80), (0.24, extent), value, side * -12, edge=3)


def _tissue(
    rng: np.random.Generator, on: Frame, relative: Float32, contrast: Contrast
) -> tuple[Float32, dict[str, str | float | int]]:
    """Cortex, white matter, nuclei, ventricles and benign findings, filling the whole frame."""
    atrophy = float(rng.uniform(0.0, 0.8))
    folds = np.abs(smooth_field(rng, on.shape, 0.085 / on.pixel))
    rim = np.clip((relative - np.float32(0.62)) * np.float32(5), 0, 1)  # cortex: the outer third
    grey = np.clip(np.float32(1.5) - folds * np.float32(2.6), 0, 1) * rim
    grey = np.maximum(grey, np.clip((relative - np.float32(0.90)) * np.float32(20), 0, 1))
    width = np.float32(0.08 + 0.14 * atrophy)
    sulci = np.clip((width - folds) * np.float32(9), 0, 1) * rim
    sulci = np.maximum(sulci, np.clip((relative - np.float32(0.975 - 0.03 * atrophy)) * np.float32(35), 0, 1))
    fissure = np.clip(np.float32(1.5) - np.abs(on.u) * np.float32(1 / (0.006 + 0.008 * atrophy)), 0, 1)
    fissure *= np.clip((np.abs(on.v + np.float32(0.02)) - np.float32(0.26)) * np.float32(25), 0, 1)
    tissue = np.full(on.shape, contrast.white, np.float32)
    paint(tissue, grey, contrast.grey)
    for side in (-1.0, 1.0):
        spot(on, tissue, (side * 0.13, 0.04), (0.07, 0.12), contrast.grey, side * 18, edge=4)  # thalamus
        spot(on, tissue, (side * 0.21, -0.06), (0.05, 0.14), contrast.grey, side * -12, edge=4)  # putamen
    paint(tissue, np.maximum(sulci, fissure), contrast.fluid)
    wide = float(rng.uniform(0.6, 1.7))
    _ventricles(rng, on, tissue, contrast, wide)
    benign = _benign(rng, on, tissue, contrast)
    tissue *= np.float32(1) + np.float32(0.035) * smooth_field(rng, on.shape, 5)
    return tissue, {
        "ventricles": "narrow" if wide < 0.9 else "wide" if wide > 1.35 else "average",
        "sulci": "narrow" if atrophy < 0.33 else "wide" if atrophy > 0.67 else "average",
        "benign": benign,
    }


def _ventricles(rng: np.random.Generator, on: Frame, tissue: Float32, contrast: Contrast, wide: float) -> None:
    """Lateral ventricles (front and back horns, not quite symmetric), third ventricle, Sylvian fissures."""
    for side in (-1.0, 1.0):
        own = wide * float(rng.uniform(0.85, 1.15))
        spot(on, tissue, (side * (0.035 + 0.03 * own), -0.17), (0.032 * own, 0.13), contrast.fluid, side * -14)
        spot(on, tissue, (side * (0.10 + 0.045 * own), 0.24), (0.038 * own, 0.12), contrast.fluid, side * 24)
        spot(on, tissue, (side * 0.43, -0.04), (0.012 + 0.006 * own, 0.13), contrast.fluid, side * 28)
    spot(on, tissue, (0.0, 0.05), (0.010 * wide + 0.003, 0.075), contrast.fluid)


def _benign(rng: np.random.Generator, on: Frame, tissue: Float32, contrast: Contrast) -> str:
    """Small harmless spots in places where they belong; returns their names."""
    names: list[str] = []
    if rng.random() < 0.6:
        value = float(rng.choice([0.05, 0.9 * contrast.scalp]))
        for side in (-1.0, 1.0):
            extent = float(rng.uniform(0.010, 0.028))
            spot(on, tissue, (side * 0.15, 0.22 + float(rng.normal(0, 0.02))), (extent, extent * 1.3), value)
        names.append("choroid plexus")
    if rng.random() < 0.4:
        extent = float(rng.uniform(0.012, 0.022))
        spot(on, tissue, (0.0, 0.17), (extent, extent), float(rng.choice([0.06, 0.75])))
        names.append("pineal gland")
    if rng.random() < 0.7:
        for _ in range(int(rng.integers(3, 9))):
            angle, away = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.62, 0.82))
            extent = float(rng.uniform(0.008, 0.018))
            centre = (0.60 * away * float(np.cos(angle)), 0.72 * away * float(np.sin(angle)))
            spot(on, tissue, centre, (extent, extent * float(rng.uniform(1, 2.5))), contrast.vessel, np.rad2deg(angle))
        names.append("cortical veins")
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(2, 7))):
            centre = (float(rng.choice([-1, 1]) * rng.uniform(0.16, 0.34)), float(rng.uniform(-0.3, 0.3)))
            spot(on, tissue, centre, (0.008, 0.012), contrast.fluid, float(rng.uniform(0, 180)))
        names.append("perivascular spaces")
    return ", ".join(names) or "none"


def _lesion(
    rng: np.random.Generator,
    image: Float32,
    mask: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    on: Frame,
    contrast: Contrast,
) -> dict[str, Any]:
    """Add one mass to image and mask in place; returns what was added."""
    size = image.shape[0]
    angle, away = float(rng.uniform(0, 2 * np.pi)), float(np.sqrt(rng.uniform(0.05, 0.75)))
    centre = on.pixel_of(0.56 * away * float(np.cos(angle)), 0.66 * away * float(np.sin(angle)))
    radius = float(rng.uniform(0.055, 0.09)) * size
    clear = float(rng.uniform(0.45, 0.6) if rng.random() < 0.12 else rng.uniform(0.85, 1.1))
    strength = clear * float(rng.choice(contrast.masses))
    aspect, ring = float(np.exp(rng.normal(0, 0.2))), rng.random() < 0.5
    if rng.random() < 0.3:
        window, around = blob(rng, size, centre, radius * float(rng.uniform(1.2, 1.4)), 0.3, aspect=aspect, edge=4)
        around *= inside[window]
        streaks = np.float32(clear * 0.2) * mottle(rng, around.shape, 4 * size / SIZE, net=1.0)
        image[window] += (np.float32(contrast.oedema * rng.uniform(0.3, 0.6)) + streaks) * around
        mask[window] |= around >= 0.5
    middle = contrast.white + 0.15 * strength
    if ring:
        window, rim = blob(rng, size, centre, radius * 1.18, 0.15, aspect=aspect, edge=2)
        rim *= inside[window]
        paint(image[window], rim, float(np.clip(contrast.white + 0.8 * strength, 0.03, 1)))
        mask[window] |= rim >= 0.5
    window, coverage = blob(rng, size, centre, radius, 0.22, aspect=aspect, edge=2)
    coverage *= inside[window]
    texture = mottle(rng, coverage.shape, float(rng.uniform(2.6, 3.6)) * size / SIZE, net=0.25)
    paint(image[window], coverage, np.clip(np.float32(middle) + np.float32(0.21 * clear) * texture, 0.03, 1))
    mask[window] |= coverage >= 0.5
    return {
        "kind": "ring" if ring else "mass",
        "centre": centre,
        "size": round(2 * radius, 1),
        "contrast": round(strength, 3),
    }
