"""The layers of a retinal B-scan, healthy or lifted and hollowed by lesions, before any pixel is drawn.

The retina is five curves over the columns of the image. A lesion that lifts a layer lifts all layers above it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.common import SIZE, Float32, mottle

Bool = NDArray[np.bool_]

OPL = 0.56
"""Relative depth of the outer plexiform layer: 0 is the inner limiting membrane, 1 the photoreceptor tips."""


@dataclass(frozen=True)
class Style:
    """What sets one scanner and its cut-out apart; pixel values are for a 240 pixel image, pairs are ranges.

    thickness: ilm to photoreceptor tips; depth: row of the retina's lower edge as a fraction of the height; bend and
    tilt: pixels at the border of the image; vessels: number; speckle: standard deviation of the log intensity;
    mean, spread: mean and standard deviation of the finished picture in [0, 1]; corners: share of images with white
    borders; kinds: lesion kinds.
    """

    thickness: tuple[float, float]
    depth: tuple[float, float]
    bend: tuple[float, float]
    tilt: tuple[float, float]
    vessels: tuple[int, int]
    speckle: tuple[float, float]
    smooth: bool
    mean: tuple[float, float]
    spread: tuple[float, float]
    corners: float
    kinds: tuple[str, ...]


RESC = Style(
    thickness=(36, 58),
    depth=(0.38, 0.72),
    bend=(-8, 38),
    tilt=(-22, 22),
    vessels=(0, 4),
    speckle=(0.22, 0.40),
    smooth=False,
    mean=(0.13, 0.32),
    spread=(0.08, 0.15),
    corners=0.0,
    kinds=("intraretinal fluid", "subretinal fluid", "pigment epithelium detachment"),
)
OCT2017 = Style(
    thickness=(50, 84),
    depth=(0.48, 0.76),
    bend=(-6, 22),
    tilt=(-26, 26),
    vessels=(0, 3),
    speckle=(0.14, 0.26),
    smooth=True,
    mean=(0.18, 0.42),
    spread=(0.13, 0.24),
    corners=0.33,
    kinds=("intraretinal fluid", "subretinal fluid", "drusen", "neovascular membrane"),
)


@dataclass(frozen=True)
class Retina:
    """Rows of the layer borders for every column, each (W,) float32, from top to bottom.

    ilm: inner limiting membrane; opl: outer plexiform layer; tips: photoreceptor tips; rpe: top of the pigment
    epithelium; bruch: Bruch's membrane. gap and pod: grey value between tips and rpe, and between rpe and bruch.
    """

    ilm: Float32
    opl: Float32
    tips: Float32
    rpe: Float32
    bruch: Float32
    gap: Float32
    pod: Float32


@dataclass
class Scene:
    """A B-scan while it is drawn: the retina, its cavities and what is known of the lesions.

    cavity: (H, W) coverage in [0, 1] of fluid inside the layers, or None; foci: (H, W)
    added reflectivity, or None; mask: (H, W) exact lesion pixels.
    """

    retina: Retina
    mask: Bool
    vitreous: float
    epithelium: float
    unit: float
    cavity: Float32 | None = None
    cavity_level: float = 0.0
    foci: Float32 | None = None
    lift: float = 1.0
    lesions: list[Mapping[str, Any]] = field(default_factory=list)


def uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(rng.uniform(bounds[0], bounds[1]))


def wave(rng: np.random.Generator, place: Float32, amplitude: float, orders: tuple[int, ...] = (1, 2, 3, 5)) -> Float32:
    """A smooth curve over `place` in [-1, 1] of about the given standard deviation."""
    weights = rng.normal(0, amplitude, len(orders)) / np.sqrt(len(orders) / 2)
    phases = rng.uniform(0, 2 * np.pi, len(orders))
    waves = np.cos(np.pi * np.outer(np.array(orders) / 2, place) + phases[:, None])
    return np.asarray(weights @ waves, dtype=np.float32)


def _dome(columns: Float32, centre: float, half: float, height: float, power: float = 0.9) -> Float32:
    """An arch of the given half width and height, zero outside; power < 1 is steeper at its feet."""
    away = (columns - np.float32(centre)) / np.float32(half)
    return np.asarray(np.float32(height) * np.clip(1 - away * away, 0, None) ** np.float32(power), dtype=np.float32)


def bell(columns: Float32, centre: float, half: float) -> Float32:
    away = (columns - np.float32(centre)) / np.float32(half)
    return np.asarray(np.exp(-away * away), dtype=np.float32)


def _anatomy(rng: np.random.Generator, style: Style, size: int) -> tuple[Retina, dict[str, str | float | int]]:
    """A healthy retina, with or without a fovea, and the words for it."""
    unit = size / SIZE
    columns = np.arange(size, dtype=np.float32)
    place = columns / np.float32(size / 2) - np.float32(1)
    bend, tilt = uniform(rng, style.bend) * unit, uniform(rng, style.tilt) * unit
    thickness = uniform(rng, style.thickness) * unit
    apex = rng.uniform(-0.4, 0.4)
    curve = -bend * (place - apex) ** 2 + tilt * place + wave(rng, place, 1.2 * unit)
    middle = uniform(rng, style.depth) * size
    bruch = np.clip(curve - curve.mean() + middle, thickness * 1.25, size * 0.95).astype(np.float32)
    rpe = bruch - np.float32(rng.uniform(4.0, 5.5) * unit) + wave(rng, place, 0.35 * unit, (6, 9, 13))
    tips = rpe - np.float32(unit)
    swell = 1 + wave(rng, place, 0.07) + rng.uniform(-0.16, 0.16) * place
    inner = np.float32(OPL * thickness) * swell
    outer = np.float32((1 - OPL) * thickness) * (1 + wave(rng, place, 0.04))
    kind = str(rng.choice(["deep", "shallow", "absent"], p=[0.45, 0.3, 0.25]))
    centre = float(rng.uniform(0.22, 0.78) * size)
    # A mound beside the pit is common in health (thick papillomacular bundle) and keeps thickness from telling lesions.
    inner *= 1 + np.float32(rng.uniform(0, 0.35)) * bell(columns, rng.uniform(0, size), rng.uniform(18, 45) * unit)
    if kind != "absent":
        pit = bell(columns, centre, rng.uniform(20, 34) * unit)
        inner *= 1 - np.float32(rng.uniform(0.62, 0.8) if kind == "deep" else rng.uniform(0.3, 0.5)) * pit
        outer *= 1 + np.float32(rng.uniform(0.1, 0.3)) * pit
    opl = tips - outer
    gap, pod = np.full(size, 0.5, dtype=np.float32), np.full(size, 0.75, dtype=np.float32)
    attributes: dict[str, str | float | int] = {
        "fovea": kind,
        "fovea_column": round(centre / unit) if kind != "absent" else -1,
        "thickness": round(thickness / unit, 1),
        "tilt": round(tilt / unit, 1),
        "curvature": round(bend / unit, 1),
    }
    return Retina(np.maximum(opl - inner, 4 * unit), opl, tips, rpe, bruch, gap, pod), attributes


def _lift(retina: Retina, arch: Float32, *, above: float = 0.85) -> tuple[Float32, Float32]:
    """New ilm and opl over something that lifts the outer retina by `arch`; the top never leaves the image."""
    return np.maximum(retina.ilm - above * arch, 3), np.maximum(retina.opl - 0.95 * arch, 5)


def _room(scene: Scene, arch: Float32) -> Float32:
    """The arch at the height of the scene's lesions, within the space between retina and top of the image."""
    room = np.maximum(scene.retina.ilm - 6, 0)
    return np.asarray(np.minimum(np.float32(scene.lift) * arch, room), dtype=np.float32)


def _between(top: Float32, bottom: Float32, size: int) -> Bool:
    """Pixels whose centre lies between two curves, (H, W) bool."""
    rows = np.arange(size, dtype=np.float32)[:, None]
    return np.asarray((rows >= top) & (rows < bottom))


def _note(scene: Scene, kind: str, centre: tuple[float, float], extent: float, contrast: float) -> None:
    place = (round(float(centre[0]), 1), round(float(centre[1]), 1))
    scene.lesions.append(
        {"kind": kind, "centre": place, "size": round(float(extent), 1), "contrast": round(float(contrast), 3)}
    )


def _subretinal_fluid(rng: np.random.Generator, scene: Scene, contrast: float) -> None:
    """Fluid between the photoreceptor tips and the pigment epithelium, a flat dome."""
    retina, size, unit = scene.retina, len(scene.retina.ilm), scene.unit
    columns = np.arange(size, dtype=np.float32)
    centre, half = rng.uniform(0.2, 0.8) * size, rng.uniform(30, 56) * unit
    arch = _room(scene, _dome(columns, centre, half, rng.uniform(11, 20) * unit))
    ilm, opl = _lift(retina, arch)
    tips = retina.tips - arch
    gap = np.where(arch > 1, np.float32(_fluid_level(scene, contrast)), retina.gap)
    scene.retina = replace(retina, ilm=ilm, opl=opl, tips=tips, gap=gap)
    scene.mask |= _between(tips, np.where(arch > 1, retina.rpe, tips), size)
    row = float(np.interp(centre, columns, (tips + retina.rpe) / 2))
    _note(scene, "subretinal fluid", (row, centre), 2 * half, contrast)


def _detachment(rng: np.random.Generator, scene: Scene, contrast: float) -> None:
    """The pigment epithelium lifted off Bruch's membrane by fluid, a steep dome."""
    retina, size, unit = scene.retina, len(scene.retina.ilm), scene.unit
    columns = np.arange(size, dtype=np.float32)
    centre, half = rng.uniform(0.2, 0.8) * size, rng.uniform(20, 38) * unit
    arch = _room(scene, _dome(columns, centre, half, min(rng.uniform(12, 21) * unit, 0.8 * half), 0.7))
    ilm, opl = _lift(retina, arch)
    pod = np.where(arch > 1, np.float32(_fluid_level(scene, contrast)), retina.pod)
    rpe = retina.rpe - arch
    scene.retina = replace(retina, ilm=ilm, opl=opl, tips=retina.tips - arch, rpe=rpe, pod=pod)
    top = rpe + np.float32(scene.epithelium)
    scene.mask |= _between(top, np.where(arch > 1, retina.bruch, top), size)
    row = float(np.interp(centre, columns, (top + retina.bruch) / 2))
    _note(scene, "pigment epithelium detachment", (row, centre), 2 * half, contrast)


def _drusen(rng: np.random.Generator, scene: Scene, contrast: float) -> None:
    """Several small bumps of the pigment epithelium over medium-grey deposits."""
    retina, size, unit = scene.retina, len(scene.retina.ilm), scene.unit
    columns = np.arange(size, dtype=np.float32)
    middle = rng.uniform(0.25, 0.75) * size
    arch = np.zeros(size, dtype=np.float32)
    for _ in range(int(rng.integers(7, 13))):
        half = rng.uniform(8, 15) * unit
        centre = float(np.clip(rng.normal(middle, 70 * unit), half, size - half))
        height = rng.uniform(0.55, 0.85) * half * (0.5 + 0.5 * contrast)
        np.maximum(arch, _dome(columns, centre, half, height, 0.8), out=arch)
        row = float(np.interp(centre, columns, retina.rpe)) - height / 2
        _note(scene, "drusen", (row, centre), 2 * half, contrast)
    arch = _room(scene, arch)
    ilm, opl = _lift(retina, arch)
    pod = np.where(arch > 0, np.float32(0.5), retina.pod)
    scene.retina = replace(retina, ilm=ilm, opl=opl, tips=retina.tips - arch, rpe=retina.rpe - arch, pod=pod)


def _membrane(rng: np.random.Generator, scene: Scene, contrast: float) -> None:
    """Neovascular membrane: bright subretinal material over an irregular, broken epithelium, fluid beside it."""
    retina, size, unit = scene.retina, len(scene.retina.ilm), scene.unit
    columns = np.arange(size, dtype=np.float32)
    centre, half = rng.uniform(0.25, 0.75) * size, rng.uniform(28, 50) * unit
    material = _dome(columns, centre, half, rng.uniform(10, 17) * unit, 0.7)
    material *= 1 + wave(rng, columns / np.float32(size / 2) - 1, 0.14, (9, 13, 17))
    under = _dome(columns, centre + rng.normal(0, 4) * unit, 0.8 * half, rng.uniform(3, 8) * unit, 0.6)
    side = centre + float(rng.choice([-1.0, 1.0])) * 0.9 * half
    fluid = _dome(columns, side, rng.uniform(14, 24) * unit, rng.uniform(5, 10) * unit)
    under = _room(scene, under)
    arch = np.minimum(_room(scene, np.maximum(material, fluid)), np.maximum(retina.ilm - under - 6, 0))
    ilm, opl = _lift(retina, arch + under)
    bright = np.float32(scene.vitreous + (0.66 - scene.vitreous) * contrast)
    gap = np.where(material >= fluid, bright, np.float32(_fluid_level(scene, contrast)))
    gap = np.where(arch > 0, gap, retina.gap).astype(np.float32)
    pod = np.where(under > 0, np.float32(0.45), retina.pod)
    rpe = retina.rpe - under
    scene.retina = replace(retina, ilm=ilm, opl=opl, tips=rpe - 1 - arch, rpe=rpe, gap=gap, pod=pod)
    row = float(np.interp(centre, columns, rpe - arch / 2))
    _note(scene, "neovascular membrane", (row, centre), 2 * half, contrast)


def _fluid_level(scene: Scene, contrast: float) -> float:
    """Grey value of fluid: that of the vitreous at contrast 1, that of the darkest layer at contrast 0."""
    return scene.vitreous + (1 - contrast) * 0.26


def _intraretinal_fluid(rng: np.random.Generator, scene: Scene, contrast: float) -> None:
    """Cystoid spaces inside a swollen retina: a cluster of lens-shaped cavities with thin walls between them."""
    size, unit = len(scene.retina.ilm), scene.unit
    columns = np.arange(size, dtype=np.float32)
    middle = rng.uniform(0.2, 0.8) * size
    swelling = bell(columns, middle, rng.uniform(34, 60) * unit)
    old = scene.retina
    inner, outer = old.opl - old.ilm, old.tips - old.opl
    opl = old.opl - np.float32(rng.uniform(5, 11) * unit) * swelling
    ilm = np.maximum(opl - inner - np.float32(rng.uniform(2, 6) * unit) * swelling, 3)
    scene.retina = retina = replace(old, ilm=ilm, opl=opl)
    coverage = np.zeros((size, size), dtype=np.float32)
    column = middle - rng.uniform(26, 50) * unit
    for _ in range(int(rng.integers(4, 8))):
        at = int(np.clip(column, 6 * unit, size - 1 - 6 * unit))
        deep = rng.random() < 0.65 or inner[at] < 14 * unit
        low, high = (opl[at], retina.tips[at] - 0.22 * outer[at]) if deep else (ilm[at] + 0.25 * inner[at], opl[at])
        tall = float(high - low) / 2 * rng.uniform(0.75, 1.0)
        wide = float(np.clip(tall * rng.uniform(0.8, 1.6), 6 * unit, 17 * unit))
        row = float(low + high) / 2
        _cavity(rng, coverage, (row, float(at)), (max(tall, 3.5 * unit), wide))
        _note(scene, "intraretinal fluid", (row, at), 2 * wide, contrast)
        column += wide * 1.25 + rng.uniform(4, 9) * unit
    coverage *= _between(ilm + 2 * unit, retina.tips - 2 * unit, size)
    scene.cavity, scene.cavity_level = coverage, _fluid_level(scene, contrast)
    scene.mask |= coverage >= 0.5


def _cavity(
    rng: np.random.Generator, coverage: Float32, centre: tuple[float, float], axes: tuple[float, float]
) -> None:
    """Add one cavity, drawn in its window only; axes: half height and half width in pixels."""
    size = coverage.shape[0]
    top, bottom = max(int(centre[0] - 1.4 * axes[0]) - 2, 0), min(int(centre[0] + 1.4 * axes[0]) + 3, size)
    left, right = max(int(centre[1] - 1.4 * axes[1]) - 2, 0), min(int(centre[1] + 1.4 * axes[1]) + 3, size)
    down = (np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(centre[0])) / np.float32(axes[0])
    across = (np.arange(left, right, dtype=np.float32)[None, :] - np.float32(centre[1])) / np.float32(axes[1])
    angle = np.arctan2(down, across)
    outline = np.ones_like(angle)
    for order in (2, 3, 5):
        outline += np.float32(rng.normal(0, 0.09)) * np.cos(order * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    distance = (outline - np.sqrt(down * down + across * across)) * np.float32(min(axes))
    window = coverage[top:bottom, left:right]
    np.maximum(window, np.clip(distance + np.float32(0.5), 0, 1), out=window)


_LESIONS: Mapping[str, Callable[[np.random.Generator, Scene, float], None]] = {
    "drusen": _drusen,
    "pigment epithelium detachment": _detachment,
    "neovascular membrane": _membrane,
    "subretinal fluid": _subretinal_fluid,
    "intraretinal fluid": _intraretinal_fluid,
}


def _add_lesions(rng: np.random.Generator, scene: Scene, style: Style) -> None:
    """One kind of lesion, sometimes two; about one image in seven is hard (low contrast)."""
    hard = rng.random() < 0.15
    count = 2 if rng.random() < 0.6 else 1
    # From below upwards: what is drawn later must not move what is already masked.
    kinds = sorted(rng.choice(style.kinds, count, replace=False), key=list(_LESIONS).index)
    for kind in kinds:
        contrast = float(rng.uniform(0.45, 0.6) if hard else rng.uniform(0.75, 1.0))
        _LESIONS[str(kind)](rng, scene, contrast)
    if style.smooth:
        scene.foci = _foci(rng, scene)


def _foci(rng: np.random.Generator, scene: Scene) -> Float32:
    """Hyperreflective foci, (H, W) of added reflectivity: coarse bright dots in the retina above and beside lesions."""
    retina, size, unit = scene.retina, len(scene.retina.ilm), scene.unit
    columns = np.arange(size, dtype=np.float32)
    reach = np.zeros(size, dtype=np.float32)
    for lesion in scene.lesions:
        half = 0.5 * float(lesion["size"]) + 45 * unit
        edge = np.clip((half - np.abs(columns - lesion["centre"][1])) / (25 * unit), 0, 1)
        reach = np.maximum(reach, np.float32(lesion["contrast"]) * edge.astype(np.float32))
    dots = mottle(rng, (size, size), float(rng.uniform(4, 5.5)) * unit, net=0.0)
    dots *= _between(retina.ilm + 4 * unit, retina.rpe - unit, size)
    dots *= reach * np.float32(0.32)
    return dots


def build(
    rng: np.random.Generator, abnormal: bool, style: Style, size: int
) -> tuple[Scene, dict[str, str | float | int]]:
    """The layers of one B-scan before any pixel is drawn, and the attributes of its anatomy.

    The lesions have a random stream of their own: with the same `rng`, a normal and an abnormal scene share anatomy.
    """
    own = np.random.Generator(np.random.SFC64(int(rng.integers(2**63))))
    vitreous = float(rng.uniform(0.08, 0.16))
    unit = size / SIZE
    epithelium = float(rng.uniform(3.0, 4.2)) * unit
    retina, attributes = _anatomy(rng, style, size)
    scene = Scene(retina, np.zeros((size, size), dtype=np.bool_), vitreous, epithelium, unit)
    scene.lift = 0.7 if style.smooth else 1.0  # where texture tells, a thick retina need not
    if abnormal:
        _add_lesions(own, scene, style)
    return scene, attributes
