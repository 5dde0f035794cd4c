"""Named findings of the chest, each drawn into the attenuation by itself, with its exact mask and words for its place.

Sides are the patient's: the right lung is at the left of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.common import Float32, blob, ellipse, mottle, radius_of, smooth_field, soft, tubes
from wordsight.data.phantoms.thorax import Chest

Mask = NDArray[np.bool_]
Cover = tuple[tuple[slice, slice], Float32]
RIGHT, LEFT = -1.0, 1.0
SIDES: Mapping[float, str] = MappingProxyType({RIGHT: "right", LEFT: "left"})
ZONES = ("upper", "mid", "lower")
APEX = -0.65  # where the lungs begin, in anatomical units
WIDTH_MM = 400.0  # what an image without magnification spans


@dataclass
class Scene:
    """A chest while findings are drawn: `density` grows in place, `free` is the (H, W) share of lung still open."""

    chest: Chest
    density: Float32
    free: Float32

    @classmethod
    def of(cls, chest: Chest) -> Scene:
        """The chest without findings; what lies behind the heart is not free."""
        return cls(chest, chest.density, chest.thorax.air * (np.float32(1) - chest.silhouette))

    def copy(self) -> Scene:
        """Another scene that can be drawn on without changing this one."""
        return replace(self, density=self.density.copy(), free=self.free.copy())

    @property
    def size(self) -> int:
        """Width of the image in pixels."""
        return int(self.density.shape[0])

    def cover(self, coverage: Float32, strength: float = 1.0) -> None:
        """Take what a finding covers out of the free lung."""
        self.free *= np.float32(1) - np.float32(strength) * coverage


@dataclass(frozen=True)
class Drawn:
    """What was drawn: its mask (H, W), side, zone of the lung, grade (small, ...) and size, where these say anything.

    bilateral: whether the two halves of the mask are one finding of both lungs.
    """

    mask: Mask
    side: str = ""
    zone: str = ""
    grade: str = ""
    size_mm: int = 0
    bilateral: bool = False


Draw = Callable[[np.random.Generator, Scene, float], Drawn]


def _side(rng: np.random.Generator) -> float:
    return float(rng.choice([RIGHT, LEFT]))


def _patch(scene: Scene, cover: Cover, density: Float32) -> Mask:
    """Add a local finding where there is lung; returns its mask."""
    window, coverage = cover
    inside = coverage * scene.chest.thorax.air[window]
    scene.density[window] += inside * density
    scene.free[window] *= np.float32(1) - coverage
    mask = np.zeros(scene.density.shape, np.bool_)
    mask[window] = inside >= 0.5
    return mask


def _place(
    rng: np.random.Generator, scene: Scene, reach: float, zones: tuple[str, ...] = ZONES
) -> tuple[tuple[int, int], str, str]:
    """A pixel with `reach` pixels of free lung around it, its side and zone; side and zone are drawn first.

    Where the lungs are too full for that: the other zones or side, then less room, then any lung.
    """
    step = max(scene.size // 56, 1)
    on, domes = scene.chest.thorax.on, scene.chest.thorax.domes
    free, air, u, v = (a[::step, ::step] for a in (scene.free, scene.chest.thorax.air, on.u, on.v))
    cells = round(reach / step)
    padded, (height, width) = np.pad(free, cells), free.shape
    offsets = (0, cells, 2 * cells)
    room = np.minimum.reduce([padded[r : r + height, c : c + width] for r in offsets for c in offsets])
    side, zone = _side(rng), str(rng.choice(zones))
    floor = np.where(u > 0, np.float32(domes[1]), np.float32(domes[0]))
    third = np.clip((v - np.float32(APEX)) / (floor - np.float32(APEX)) * 3, 0, 2.99).astype(np.int8)
    allowed = np.isin(third, [ZONES.index(name) for name in zones])
    here = (u * np.float32(side) > 0) & (third == ZONES.index(zone))
    for place in (here & (room > 0.9), allowed & (room > 0.9), allowed & (free > 0.9), air > 0.9):
        rows, columns = np.nonzero(place)
        if rows.size:
            break
    pick = int(rng.integers(rows.size))
    row, column = int(rows[pick]), int(columns[pick])
    name = SIDES[LEFT if u[row, column] > 0 else RIGHT]
    return (row * step, column * step), name, ZONES[int(third[row, column])]


def effusion(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """Fluid at the base of one lung, rising towards the side wall (the meniscus)."""
    on, side = scene.chest.thorax.on, _side(rng)
    grade = str(rng.choice(["small", "moderate", "large"], p=[0.4, 0.35, 0.25])) if clear >= 0.6 else "small"
    low, high = {"small": (0.06, 0.13), "moderate": (0.18, 0.30), "large": (0.40, 0.58)}[grade]
    across = np.clip((np.float32(side) * on.u - np.float32(0.15)) * np.float32(1 / 0.5), 0, 1)
    floor = scene.chest.thorax.domes[int(side > 0)]
    level = np.float32(floor - rng.uniform(low, high)) - np.float32(rng.uniform(0.2, 0.35)) * across * across * across
    fluid = np.clip((on.v - level) * np.float32(22), 0, 1) * (on.u * np.float32(side) > 0)
    fluid *= scene.chest.thorax.air
    strength = np.float32(clear * rng.uniform(0.5, 0.75))
    # Fluid and heart are as dense as each other: the border between them is lost.
    beside = np.float32(1) - np.float32(0.85) * scene.chest.silhouette
    scene.density += fluid * (strength * beside - np.float32(0.7 * min(clear, 1)) * scene.chest.vessels)
    scene.cover(fluid)
    return Drawn(fluid >= 0.5, SIDES[side], grade=grade)


def pneumothorax(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """Black air without vessels around a lung that has come away from the wall; its edge is a fine white line."""
    on, side = scene.chest.thorax.on, _side(rng)
    small = clear < 0.6 or bool(rng.random() < 0.5)
    narrow = float(rng.uniform(0.86, 0.92) if small else rng.uniform(0.58, 0.74))
    drop = float(rng.uniform(0.13, 0.20) if small else rng.uniform(0.08, 0.16))
    tall = 0.72 if small else float(rng.uniform(0.56, 0.66))
    lung = radius_of(on, (side * (0.37 - 0.29 * (1 - narrow)), 0.02 + drop), (0.29 * narrow, tall), side * -5)
    lowest = -0.02 if small else scene.chest.thorax.domes[int(side > 0)] - 0.08
    pleura = np.clip((np.float32(lowest) - on.v) * np.float32(9), 0, 1) * (on.u * np.float32(side) > 0.06)
    pleura *= scene.free
    space = pleura * (np.float32(1) - soft(lung, 0.05))
    scene.density -= space * (
        np.float32(min(clear, 1)) * scene.chest.vessels + np.float32(clear * rng.uniform(0.17, 0.24))
    )
    line = np.clip(np.float32(1.6) - np.abs(lung - np.float32(1)) * np.float32(0.29 * narrow / on.pixel), 0, 1)
    scene.density += line * pleura * np.float32(clear * rng.uniform(0.16, 0.24))
    scene.cover(space)
    return Drawn(space >= 0.5, SIDES[side], "apical" if small else "", "small" if small else "large")


def hernia(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """A hiatal hernia: a round pouch behind the heart with gas above its fluid level."""
    on = scene.chest.thorax.on
    centre = (float(rng.uniform(-0.04, 0.14)), min(scene.chest.thorax.domes) - float(rng.uniform(0.03, 0.12)))
    radius = float(rng.uniform(0.14, 0.20))
    pouch = radius_of(on, centre, (radius * float(rng.uniform(1.0, 1.25)), radius))
    body, core = soft(pouch, 0.10), soft(pouch * np.float32(1 / 0.84), 0.14)
    level = centre[1] + float(rng.uniform(-0.35, 0.25)) * radius
    gas = core * np.clip((np.float32(level) - on.v) * np.float32(0.4 / on.pixel), 0, 1)
    scene.density += np.float32(clear) * (np.float32(0.20) * body - np.float32(rng.uniform(0.45, 0.6)) * gas)
    scene.cover(body)
    return Drawn(body >= 0.5, grade="small" if radius < 0.165 else "moderate")


def pacemaker(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """A generator below one collar bone and its lead through the upper caval vein into the right ventricle."""
    on, size = scene.chest.thorax.on, scene.size
    side = LEFT if rng.random() < 0.7 else RIGHT
    centre = (side * float(rng.uniform(0.36, 0.58)), float(rng.uniform(-0.52, -0.24)))
    can = ellipse(on, centre, (0.10, 0.08), float(rng.uniform(-30, 30)), edge=1.5, power=4.0)
    tip = (0.04 + float(rng.uniform(0.6, 1.1)) * 0.27 * scene.chest.thorax.heart / 0.29, min(scene.chest.thorax.domes))
    course = [
        (centre[0] - side * 0.05, centre[1]),
        (side * 0.22, centre[1] - 0.14),
        (side * 0.08, -0.40),
        (-0.08, -0.26),
        (-0.10, 0.04),
        (-0.06, tip[1] - 0.14),
        (tip[0], tip[1] - float(rng.uniform(0.08, 0.16))),
    ]
    points = np.array([on.pixel_of(u + float(rng.normal(0, 0.008)), v) for u, v in course], np.float64)
    for _ in range(3):  # corner cutting (Chaikin 1974) bends the wire
        cut = np.stack([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], axis=1)
        points = np.concatenate([points[:1], cut.reshape(-1, 2), points[-1:]])
    lead = tubes(on.shape, [([(float(r), float(c)) for r, c in points], 2.0 * size / 224)])
    device = np.maximum(can, lead * np.float32(0.6))
    scene.density += np.float32(0.9 * clear) * device
    scene.cover(can)
    return Drawn((can >= 0.5) | (lead >= 0.5), SIDES[side])


def mass(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """A large, dense, lobulated and sharply bounded lesion."""
    radius = float(rng.uniform(0.065, 0.10)) * scene.size
    centre, side, zone = _place(rng, scene, 0.8 * radius)
    shape = blob(
        rng, scene.size, centre, radius, 0.14, aspect=float(np.exp(rng.normal(0, 0.12))), edge=0.02 * scene.size
    )
    value = np.float32(clear * rng.uniform(0.44, 0.6))
    return Drawn(_patch(scene, shape, np.full_like(shape[1], value)), side, zone, size_mm=_mm(scene, radius))


def nodule(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """A small, round, sharply bounded spot."""
    radius = float(rng.uniform(0.030, 0.0375)) * scene.size
    centre, side, zone = _place(rng, scene, 2 * radius)
    shape = blob(rng, scene.size, centre, radius, 0.05, edge=0.012 * scene.size)
    value = np.float32(clear * rng.uniform(0.5, 0.66))
    return Drawn(_patch(scene, shape, np.full_like(shape[1], value)), side, zone, size_mm=_mm(scene, radius))


def _mm(scene: Scene, radius: float) -> int:
    """Diameter in millimetres of a radius in pixels."""
    return round(2 * radius / scene.size * WIDTH_MM)


def consolidation(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """A cloudy patch of airless lung with open bronchi in it."""
    size = scene.size
    radius = float(rng.uniform(0.09, 0.14)) * size
    centre, side, zone = _place(rng, scene, 0.5 * radius)
    window, cloud = blob(rng, size, centre, radius, 0.3, aspect=float(np.exp(rng.normal(0, 0.2))), edge=0.05 * size)
    patches = np.float32(1) + np.float32(0.22) * smooth_field(rng, cloud.shape, size / 32)
    bronchi = _branches(rng, cloud.shape, radius)
    value = (patches - np.float32(0.45) * bronchi) * np.float32(clear * rng.uniform(0.40, 0.55))
    return Drawn(_patch(scene, (window, cloud), value), side, zone)


def _branches(rng: np.random.Generator, shape: tuple[int, int], radius: float) -> Float32:
    """A few forked lines through the middle of a window: bronchi that still hold air."""
    lines: list[tuple[list[tuple[float, float]], float]] = []
    for _ in range(int(rng.integers(2, 4))):
        angle = float(rng.uniform(0, 2 * np.pi))
        start = (shape[0] / 2 - 0.5 * radius * np.sin(angle), shape[1] / 2 - 0.5 * radius * np.cos(angle))
        for turn in (-0.3, 0.3):
            end = (start[0] + radius * np.sin(angle + turn), start[1] + radius * np.cos(angle + turn))
            lines.append(([(float(start[0]), float(start[1])), (float(end[0]), float(end[1]))], max(radius / 20, 1.0)))
    return tubes(shape, lines)


def atelectasis(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """A plate of collapsed lung: a long, straight, dense band, level or slightly oblique."""
    on, size = scene.chest.thorax.on, scene.size
    length = float(rng.uniform(0.17, 0.27)) * size
    (row, column), side, zone = _place(rng, scene, 0.03 * size, ("mid", "lower"))
    angle = float(np.deg2rad(rng.uniform(-22, 22)))
    rows, columns = np.ogrid[: on.shape[0], : on.shape[1]]
    down, across = (rows - row).astype(np.float32), (columns - column).astype(np.float32)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    along, beside = cosine * across + sine * down, np.abs(cosine * down - sine * across)
    taper = np.sqrt(np.clip(1 - (along * np.float32(2 / length)) ** 2, 0, 1))
    thick = np.float32(rng.uniform(0.014, 0.020) * size)
    band = np.clip((thick * taper - beside) * np.float32(0.5) + np.float32(0.5), 0, 1) * (taper > 0)
    band *= scene.chest.thorax.air * (np.float32(1) - scene.chest.silhouette) * (on.u * on.u[row, column] > 0)
    scene.density += band * np.float32(clear * rng.uniform(0.42, 0.56))
    scene.cover(band)
    return Drawn(band >= 0.5, side, zone)


def edema(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """Fluid in both lungs: haze around the hila like wings, full vessels and a mesh of thick septa."""
    on, size = scene.chest.thorax.on, scene.size
    haze = np.zeros(on.shape, np.float32)
    reach = float(rng.uniform(0.9, 1.15))
    for side in (RIGHT, LEFT):
        wing = radius_of(on, (side * 0.26, 0.0), (0.27 * reach, 0.42 * reach), side * 12)
        haze += np.clip((np.float32(1.1) - wing) * np.float32(2.2), 0, 1)
    haze *= scene.chest.thorax.air
    mesh = mottle(rng, on.shape, size / 80, net=1.0)
    level, septa = np.float32(rng.uniform(0.08, 0.16)), np.float32(rng.uniform(0.12, 0.18))
    fluid = level + septa * mesh + np.float32(0.6) * scene.chest.vessels
    scene.density += haze * fluid * np.float32(clear)
    return Drawn(haze >= 0.5, "bilateral", bilateral=True)


def _cardiomegaly(rng: np.random.Generator, scene: Scene, clear: float) -> Drawn:
    """A big heart is built with the chest; here it is only named."""
    return Drawn(scene.chest.silhouette >= 0.5, grade="mild" if scene.chest.thorax.heart < 0.64 * 0.66 else "marked")


DRAWN_BY: Mapping[str, Draw] = MappingProxyType(
    {
        "Cardiomegaly": _cardiomegaly,
        "Effusion": effusion,
        "Pneumothorax": pneumothorax,
        "Hernia": hernia,
        "Pacemaker": pacemaker,
        "Mass": mass,
        "Consolidation": consolidation,
        "Nodule": nodule,
        "Atelectasis": atelectasis,
        "Edema": edema,
    }
)
"""Findings in the order in which they are drawn: what covers much first, so that the small ones find open lung."""
