"""A healthy chest in attenuation: lungs, ribs, clavicles, heart, diaphragm, mediastinum, lung vessels, things worn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wordsight.data.phantoms.common import Float32, Frame, ellipse, enlarge, frame, radius_of, smooth_field, soft, tubes


@dataclass(frozen=True)
class Thorax:
    """What one chest is built of, in anatomical units; `air` is (H, W) coverage of both lungs."""

    domes: tuple[float, float]
    heart: float
    air: Float32
    on: Frame


@dataclass(frozen=True)
class Chest:
    """A chest ready for findings: `density` is (H, W) attenuation, `vessels` the part of it that lung vessels make.

    silhouette: coverage of the heart, (H, W); attributes: anatomy and what the patient wears, for Phantom.attributes.
    """

    thorax: Thorax
    density: Float32
    vessels: Float32
    silhouette: Float32
    attributes: dict[str, str | float | int]


def build(rng: np.random.Generator, size: int, heart_ratio: float | None = None) -> Chest:
    """Draw a chest of `size` pixels; heart_ratio: width of heart over width of chest, None for a normal one at random.

    The generator is used alike whatever heart_ratio is, so the same state gives the same chest with another heart.
    """
    rotation, aspect = float(rng.normal(0, 4)), float(np.exp(rng.normal(0, 0.07)))
    half = frame(
        rng,
        (size + 1) // 2,
        rotation=rotation,
        shift=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.06))),
        scale=float(rng.uniform(0.85, 1.15)),
        aspect=aspect,
        warp=0.015,
    )
    dome = float(rng.uniform(0.30, 0.56))
    domes = (dome + float(rng.normal(0, 0.05)), dome + 0.05 + float(rng.normal(0, 0.05)))
    normal = float(rng.uniform(0.40, 0.48))
    # Everything is soft here: half the resolution is enough for all but vessels, wires and the edges of findings.
    small = Thorax(domes, (normal if heart_ratio is None else heart_ratio) * 0.66, lungs(rng, half, domes), half)
    on = half.enlarged((size, size))
    tissue, silhouette = soft_tissue(rng, small)
    density = enlarge(tissue + bones(rng, half) + clavicles(rng, half), on.shape, bicubic=False)
    thorax = Thorax(domes, small.heart, enlarge(small.air, on.shape, bicubic=False), on)
    fan = vessels(rng, thorax)
    density += fan
    attributes: dict[str, str | float | int] = {
        "inspiration": "deep" if dome > 0.48 else "shallow" if dome < 0.38 else "average",
        "devices": devices(rng, on, density),
        "chest": "narrow" if aspect < 0.94 else "broad" if aspect > 1.06 else "average",
        "rotation": round(rotation, 1),
    }
    return Chest(thorax, density, fan, enlarge(silhouette, on.shape, bicubic=False), attributes)


def lungs(rng: np.random.Generator, on: Frame, domes: tuple[float, float]) -> Float32:
    """Coverage of both lungs: two tall ovals cut off by the domes of the diaphragm; the right dome stands higher."""
    air = np.zeros(on.shape, np.float32)
    for side, low in zip((-1.0, 1.0), domes, strict=True):
        width = float(rng.uniform(0.27, 0.31))
        middle = side * 0.37
        oval = radius_of(on, (middle, 0.02), (width, 0.72), side * -5)
        across = on.u - np.float32(middle - side * 0.05)
        floor = np.float32(low) + np.float32(1.9) * across * across
        air += soft(oval, 0.10) * np.clip((floor - on.v) * np.float32(28), 0, 1)
    np.clip(air, 0, 1, out=air)
    return air


def soft_tissue(rng: np.random.Generator, chest: Thorax) -> tuple[Float32, Float32]:
    """Body wall with breasts, minus the air of the lungs, plus mediastinum, heart and liver; and the heart alone."""
    on = chest.on
    body = soft(radius_of(on, (0.0, 0.75), (1.02, 1.55), power=4.0), 0.05)
    neck = ellipse(on, (0.0, -0.95), (0.26, 0.45), edge=8)
    density: Float32 = np.maximum(body, neck) * np.float32(1.05)
    density += np.float32(0.16) * np.clip((on.v - np.float32(0.25)) * np.float32(3), 0, 1) * body
    tilt = np.float32(1) + np.float32(rng.normal(0, 0.08)) * on.u + np.float32(rng.normal(0, 0.10)) * on.v
    density -= chest.air * (tilt * np.float32(rng.uniform(0.58, 0.80)))
    mid = np.abs(on.u - np.float32(0.01))
    density += np.float32(0.24) * np.clip((np.float32(0.13) - mid) * np.float32(12), 0, 1) * body
    density += np.float32(0.10) * np.clip((np.float32(0.065) - mid) * np.float32(40), 0, 1) * body  # spine
    throat = np.clip((np.float32(0.035) - mid) * np.float32(60), 0, 1)
    density -= np.float32(0.13) * throat * np.clip((np.float32(-0.28) - on.v) * np.float32(20), 0, 1)
    wide = chest.heart
    lean = float(rng.uniform(18, 34))
    heart = ellipse(on, (0.02 + 0.27 * wide, min(chest.domes) - 0.18), (wide, 0.78 * wide), lean, edge=6)
    knob = ellipse(on, (0.11, -0.26), (0.075, 0.085), edge=5)
    density += np.float32(0.62) * np.maximum(heart, knob * np.float32(0.7)) * chest.air
    if rng.random() < 0.5:
        extent, sag = float(rng.uniform(0.20, 0.32)), float(rng.uniform(0.15, 0.45))
        for side in (-1.0, 1.0):
            strength = np.float32(rng.uniform(0.03, 0.22))
            density += strength * ellipse(on, (side * 0.40, sag), (extent, extent * 0.95), edge=10)
    return density, heart


def bones(rng: np.random.Generator, on: Frame) -> Float32:
    """Ribs behind and in front, clavicles, vertebrae, shoulder blades."""
    spacing, start = float(rng.uniform(0.145, 0.185)), float(rng.uniform(0, 1))
    away = np.abs(on.u)
    cage = soft(radius_of(on, (0.0, 0.10), (0.72, 0.98)), 0.06)
    behind = (on.v - np.float32(0.18) * away + np.float32(0.75) * away * away) * np.float32(1 / spacing)
    wave = np.cos(np.float32(2 * np.pi) * (behind + np.float32(start)))
    bones: Float32 = np.clip((wave - np.float32(0.25)) * np.float32(2.5), 0, 1) * np.float32(0.085)
    front = (on.v + np.float32(0.62) * away - np.float32(0.25) * away * away) * np.float32(1 / (spacing * 1.15))
    wave = np.cos(np.float32(2 * np.pi) * (front + np.float32(start * 0.7)))
    bones += np.clip((wave - np.float32(0.35)) * np.float32(2), 0, 1) * np.float32(0.05) * (away > 0.18)
    bones *= cage
    bones *= np.clip((away - np.float32(0.05)) * np.float32(14), 0, 1)
    disc = np.cos(np.float32(2 * np.pi / 0.115) * on.v)
    bones += np.float32(0.02) * disc * (away < 0.06)
    return bones


def clavicles(rng: np.random.Generator, on: Frame) -> Float32:
    """Both collar bones, more or less raised with the arms."""
    rise = float(rng.uniform(-0.06, 0.10))
    lines: list[tuple[list[tuple[float, float]], float]] = []
    for side in (-1.0, 1.0):
        path = [(0.07, -0.52), (0.25, -0.57 - 0.3 * rise), (0.45, -0.62 - rise), (0.68, -0.60 - 1.5 * rise)]
        points = [on.pixel_of(side * u, v) for u, v in path]
        lines.append(([(float(r), float(c)) for r, c in points], 0.034 / on.pixel))
    return tubes(on.shape, lines) * np.float32(0.16)


def vessels(rng: np.random.Generator, chest: Thorax) -> Float32:
    """Vessels fanning out from both hila, thinner outwards, and the fine mesh of the lung."""
    lines: list[tuple[list[tuple[float, float]], float]] = []
    scale = 1 / (120 * chest.on.pixel)
    for side in (-1.0, 1.0):
        hilum = chest.on.pixel_of(side * 0.15, -0.02)
        for angle in np.linspace(-70, 75, 9):
            heading = np.deg2rad(angle + rng.normal(0, 9))
            row, column, width = float(hilum[0]), float(hilum[1]), 3.6 * float(rng.uniform(0.7, 1.2))
            for _ in range(4):
                heading += float(rng.normal(0, 0.16))
                end = (row + 12 * scale * float(np.sin(heading)), column + side * 12 * scale * float(np.cos(heading)))
                lines.append(([(row, column), end], max(width, 0.6)))
                row, column, width = *end, width * 0.66
    fan = tubes(chest.on.shape, lines) * np.float32(0.11)
    for side in (-1.0, 1.0):
        fan += np.float32(0.14) * ellipse(chest.on, (side * 0.15, 0.0), (0.07, 0.13), side * 10, edge=14)
    fan += np.float32(0.022) * smooth_field(rng, chest.on.shape, 5)
    fan *= chest.air
    return fan


def devices(rng: np.random.Generator, on: Frame, density: Float32) -> str:
    """Wires with electrodes, a skin fold, a side marker, drawn into `density` in place; returns their names."""
    names: list[str] = []
    size = on.shape[0]
    if rng.random() < 0.35:
        lines: list[tuple[list[tuple[float, float]], float]] = []
        for _ in range(int(rng.integers(1, 4))):
            row, column = float(rng.uniform(0.2, 0.8)) * size, float(rng.uniform(0.1, 0.9)) * size
            heading, points = float(rng.uniform(0, 2 * np.pi)), [(row, column)]
            for _ in range(12):
                heading += float(rng.normal(0, 0.3))
                row, column = (
                    row + 0.045 * size * float(np.sin(heading)),
                    column + 0.045 * size * float(np.cos(heading)),
                )
                points.append((row, column))
            lines.append((points, 1.0))
            lines.append(([points[0], (points[0][0] + 0.1, points[0][1] + 3.5)], 5.0))
        density += tubes(on.shape, lines) * np.float32(0.28)
        names.append("wires")
    if rng.random() < 0.6:
        row, column = float(rng.uniform(0.05, 0.2)) * size, float(rng.choice([0.06, 0.88])) * size
        stem = [(row, column), (row + 14, column), (row + 14, column + 7)]
        density += tubes(on.shape, [(stem, 2.2)]) * np.float32(0.9)
        names.append("side marker")
    if rng.random() < 0.25:
        side = float(rng.choice([-1, 1]))
        fold = on.u - np.float32(side * rng.uniform(0.35, 0.5)) - np.float32(0.2 * side) * on.v
        ramp = np.clip(fold * np.float32(side * 6), 0, 1)
        density += np.float32(0.10) * ramp * (ramp < 1) * (on.v > -0.4)
        names.append("skin fold")
    return ", ".join(names) or "none"


def expose(rng: np.random.Generator, density: Float32) -> Float32:
    """Scatter and film curve: attenuation to grey in [0, 1], bright where dense."""
    exposure = np.float32(rng.uniform(0.85, 1.2))
    grey: Float32 = np.float32(1.08) - np.exp(-exposure * np.maximum(density, 0))
    grey -= np.float32(0.08)
    grey *= np.float32(1.3)
    np.clip(grey, 0, 1, out=grey)
    return grey
