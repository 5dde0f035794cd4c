"""Chest x-rays: lungs, ribs, clavicles, heart, diaphragm, mediastinum and lung vessels as a sum of attenuations.

Abnormal images show interstitial disease, patchy opacities, nodules with cavities, an effusion or, rarely, a big heart.
Findings are told by their texture and edges more than by their brightness: air and fluid lie side by side. Normal and
abnormal images alike carry breast shadows, skin folds, wires with electrodes and a side marker, at varied exposure and
inspiration.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wordsight.data.phantoms.common import SIZE, Float32, Phantom, blob, mottle, same_greys
from wordsight.data.phantoms.scan import Acquisition, scanner
from wordsight.data.phantoms.thorax import Thorax, build, expose

FINDINGS = ("interstitial disease", "opacity", "nodules", "effusion", "big heart")


def draw(rng: np.random.Generator, abnormal: bool, size: int = SIZE) -> Phantom:
    """Draw one radiograph of `size` pixels; the same generator state gives the same chest with and without findings."""
    lesion_rng = rng.spawn(1)[0]
    kind = str(lesion_rng.choice(FINDINGS, p=[0.34, 0.28, 0.22, 0.13, 0.03])) if abnormal else ""
    heart = float(lesion_rng.uniform(0.60, 0.72)) if kind == "big heart" else None
    built = build(rng, size, heart)
    chest, density = built.thorax, built.density
    healthy = density.copy() if abnormal else density
    lesions = _findings(lesion_rng, kind, chest, density)
    if abnormal:
        density = _exposed_alike(density, healthy)
    image = expose(rng, density)
    how = Acquisition.sample(rng, noise=(0.010, 0.024), bias=0.12)
    attributes = {**built.attributes, **how.attributes()}
    return Phantom(scanner(rng, image, how), None, int(abnormal), attributes, lesions)


def _findings(rng: np.random.Generator, kind: str, chest: Thorax, density: Float32) -> tuple[dict[str, Any], ...]:
    """Draw the finding `kind` ('' for none) into `density` in place; returns what was added. One in eight is faint."""
    if kind == "":
        return ()
    clear = float(rng.uniform(0.4, 0.55) if rng.random() < 0.12 else rng.uniform(0.85, 1.15))
    if kind == "interstitial disease":
        return tuple(_interstitial(rng, chest, density, clear) for _ in range(int(rng.integers(3, 6))))
    if kind == "opacity":
        return tuple(_opacity(rng, chest, density, clear) for _ in range(int(rng.integers(3, 6))))
    if kind == "nodules":
        return tuple(_nodule(rng, chest, density, clear) for _ in range(int(rng.integers(6, 12))))
    if kind == "effusion":
        return (_effusion(rng, chest, density, clear),)
    centre = chest.on.pixel_of(0.02 + 0.27 * chest.heart, min(chest.domes) - 0.18)
    return ({"kind": kind, "centre": centre, "size": round(2 * chest.heart / chest.on.pixel, 1), "contrast": 0.62},)


def _place(rng: np.random.Generator, chest: Thorax) -> tuple[int, int]:
    """A pixel (row, column) well inside a lung."""
    rows, columns = np.nonzero(chest.air[::4, ::4] > 0.95)
    pick = int(rng.integers(rows.size))
    return int(rows[pick]) * 4, int(columns[pick]) * 4


def _interstitial(rng: np.random.Generator, chest: Thorax, density: Float32, clear: float) -> dict[str, Any]:
    """A field of honeycombs or fine dots: thickened septa between enlarged air spaces."""
    size = density.shape[0]
    centre, radius = _place(rng, chest), float(rng.uniform(0.10, 0.17)) * size
    window, field = blob(rng, size, centre, radius, 0.25, aspect=float(np.exp(rng.normal(0, 0.25))), edge=8)
    strength = clear * float(rng.uniform(0.32, 0.42))
    texture = mottle(rng, field.shape, float(rng.uniform(3.5, 5.5)) * size / SIZE, net=0.7)
    density[window] += field * texture * np.float32(strength) * chest.air[window]
    return {
        "kind": "interstitial disease",
        "centre": centre,
        "size": round(2 * radius, 1),
        "contrast": round(strength, 3),
    }


def _opacity(rng: np.random.Generator, chest: Thorax, density: Float32, clear: float) -> dict[str, Any]:
    """Patches of consolidated lung around open bronchi, or of trapped air, at random."""
    size = density.shape[0]
    centre, radius = _place(rng, chest), float(rng.uniform(0.08, 0.14)) * size
    window, cloud = blob(rng, size, centre, radius, 0.35, aspect=float(np.exp(rng.normal(0, 0.25))), edge=5)
    mean = float(rng.choice([-0.2, -0.05, 0.1]))
    patches = np.float32(mean) + np.float32(0.36) * mottle(
        rng, cloud.shape, float(rng.uniform(4.5, 7)) * size / SIZE, 0.3
    )
    density[window] += cloud * patches * np.float32(clear) * chest.air[window]
    return {"kind": "opacity", "centre": centre, "size": round(2 * radius, 1), "contrast": round(0.36 * clear, 3)}


def _nodule(rng: np.random.Generator, chest: Thorax, density: Float32, clear: float) -> dict[str, Any]:
    """A nodule with a dense wall, a cavity and spicules that reach into air."""
    size = density.shape[0]
    centre, radius = _place(rng, chest), float(rng.uniform(0.035, 0.06)) * size
    strength = clear * float(rng.uniform(0.38, 0.5))
    air = np.maximum(chest.air, np.float32(0.3))
    window, halo = blob(rng, size, centre, 1.5 * radius, 0.2, edge=5)
    spicules = mottle(rng, halo.shape, 3.0 * size / SIZE, net=0.5)
    density[window] += halo * spicules * np.float32(0.6 * strength) * air[window]
    window, disc = blob(rng, size, centre, radius, 0.12, edge=2)
    density[window] += disc * np.float32(strength) * air[window]
    window, core = blob(rng, size, centre, 0.62 * radius, 0.15, edge=2)
    density[window] -= core * np.float32(strength * rng.uniform(1.3, 2.2)) * air[window]
    return {"kind": "nodule", "centre": centre, "size": round(2 * radius, 1), "contrast": round(strength, 3)}


def _effusion(rng: np.random.Generator, chest: Thorax, density: Float32, clear: float) -> dict[str, Any]:
    """Fluid in pockets at the base of one lung, rising towards the side wall (the meniscus)."""
    on, side = chest.on, float(rng.choice([-1.0, 1.0]))
    across = np.clip((np.float32(side) * on.u - np.float32(0.15)) * np.float32(1 / 0.5), 0, 1)
    floor = chest.domes[int(side > 0)]
    level = np.float32(floor - rng.uniform(0.20, 0.45)) - np.float32(0.3) * across * across * across
    fluid = np.clip((on.v - level) * np.float32(25), 0, 1) * (on.u * np.float32(side) > 0)
    fluid *= chest.air
    strength = clear * float(rng.uniform(0.30, 0.42))
    texture = mottle(rng, fluid.shape, float(rng.uniform(4.5, 7)) * on.shape[0] / SIZE, net=0.6)
    texture += np.float32(rng.choice([0.0, 0.3]))
    density += fluid * texture * np.float32(strength)
    centre = on.pixel_of(side * 0.42, floor)
    extent = float(np.sqrt(np.count_nonzero(fluid > 0.5)))
    return {"kind": "effusion", "centre": centre, "size": round(extent, 1), "contrast": round(strength, 3)}


def _exposed_alike(density: Float32, healthy: Float32) -> Float32:
    """Automatic exposure: the greys of the healthy chest, so that how much is dark or bright tells nothing.

    Where a finding thins the lung, it takes a share of what is there, which leaves no attenuation below zero.
    """
    floor = np.maximum(healthy, np.float32(0.01))
    thinned = floor * np.exp(np.minimum(density - healthy, 0) / floor)
    return same_greys(np.where(density < healthy, thinned, np.maximum(density, 0)), np.maximum(healthy, 0), 2.5)
