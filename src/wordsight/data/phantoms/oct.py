"""Optical coherence tomography phantoms: retinal B-scans in two styles, with fluid, drusen and membranes.

Grey values are looked up by relative depth between the curves of `oct_layers`, so that every layer follows every bump.
The order of the layers and their relative reflectivity follow Staurenghi et al., Ophthalmology 2014 (the IN·OCT
consensus).
"""

from __future__ import annotations

from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.common import SIZE, Float32, Phantom, same_greys, smooth_field
from wordsight.data.phantoms.grain import grain
from wordsight.data.phantoms.oct_layers import OCT2017, OPL, RESC, Scene, Style, bell, build, uniform, wave

# Relative depth (0 = inner limiting membrane, OPL = outer plexiform layer, 1 = photoreceptor tips) and reflectivity.
_DEPTHS = (0.0, 0.03, 0.13, 0.18, 0.34, 0.38, 0.47, 0.51, 0.57, 0.62, 0.80, 0.83, 0.85, 0.87, 0.90, 0.95, 0.98, 1.0)
_LEVELS = (0.80, 0.85, 0.80, 0.55, 0.58, 0.36, 0.36, 0.58, 0.56, 0.30, 0.27, 0.42, 0.42, 0.32, 0.85, 0.82, 0.45, 0.5)
_TABLE = 256


def _layers(rng: np.random.Generator, scene: Scene, picture: Float32) -> None:
    """Draw the neural retina, in the rows it covers only."""
    retina, size = scene.retina, picture.shape[0]
    first, last = max(int(retina.ilm.min()) - 1, 0), min(int(retina.tips.max()) + 2, size)
    rows = np.arange(first, last, dtype=np.float32)[:, None]
    jitter = np.exp(rng.normal(0, 0.12, len(_LEVELS)))
    table = np.interp(np.linspace(0, 1, _TABLE), _DEPTHS, np.array(_LEVELS) * jitter).astype(np.float32)
    table[0] = scene.vitreous
    upper = (rows - retina.ilm) * (np.float32(OPL * _TABLE) / np.maximum(retina.opl - retina.ilm, 3))
    lower = (rows - retina.opl) * (np.float32((1 - OPL) * _TABLE) / np.maximum(retina.tips - retina.opl, 3))
    lower += np.float32(OPL * _TABLE)
    depth = np.where(upper < OPL * _TABLE, upper, lower)
    outside = upper < 1
    depth += np.float32(0.02 * _TABLE) * smooth_field(rng, (last - first, size), 6 * scene.unit)
    np.clip(depth, 1, _TABLE - 1, out=depth)
    depth[outside] = 0
    picture[first:last] = table.take(depth.astype(np.uint8))


def _choroid(rng: np.random.Generator, scene: Scene, picture: Float32) -> None:
    """Draw what lies under the photoreceptor tips: gaps, epithelium, deposits, and the choroid with its vessels."""
    retina, unit, size = scene.retina, scene.unit, picture.shape[0]
    first = max(int(retina.tips.min()) - 1, 0)
    rows = np.arange(first, size, dtype=np.float32)[:, None]
    block = picture[first:]
    np.copyto(block, retina.gap, where=rows >= retina.tips)
    np.copyto(block, np.float32(rng.uniform(0.85, 1.1)), where=rows >= retina.rpe)
    np.copyto(block, retina.pod, where=rows >= retina.rpe + np.float32(scene.epithelium))
    below = rows - retina.bruch
    reach = np.float32(-1 / (rng.uniform(10, 30) * unit))
    choroid = np.exp(np.maximum(below, 0) * reach)
    # Large choroidal vessels are dark ovals in health: fluid must be told from them by where it lies.
    vessels = smooth_field(rng, (size - first, size), rng.uniform(8, 14) * unit)
    vessels -= np.float32(0.35)
    np.clip(vessels, 0, np.float32(0.8), out=vessels)
    vessels *= np.float32(-rng.uniform(0.1, 0.6))
    vessels += np.float32(1)
    choroid *= vessels
    choroid *= np.float32(rng.uniform(0.45, 0.75))
    choroid += np.float32(scene.vitreous * rng.uniform(0.8, 1.3))
    np.copyto(block, choroid, where=below >= 0)


def reflectivity(rng: np.random.Generator, scene: Scene) -> Float32:
    """Grey values (H, W) without noise: vitreous, layers, gaps, epithelium and choroid, cavities.

    Takes one number from `rng` whatever the scene, so that what follows is the same for healthy and ill.
    """
    own = np.random.Generator(np.random.SFC64(int(rng.integers(2**63))))
    size = len(scene.retina.ilm)
    picture = np.full((size, size), scene.vitreous, dtype=np.float32)
    _layers(own, scene, picture)
    _choroid(own, scene, picture)
    if scene.cavity is not None:
        picture += scene.cavity * (np.float32(scene.cavity_level) - picture)
    return picture


def _vessels(rng: np.random.Generator, scene: Scene, picture: Float32, count: int) -> None:
    """Retinal vessels cut across: a bright cap with a grey lumen in the inner retina and a shadow all the way down."""
    size, unit, retina = picture.shape[0], scene.unit, scene.retina
    columns = np.arange(size, dtype=np.float32)
    for _ in range(count):
        centre, half = float(rng.uniform(0, size)), rng.uniform(2.0, 6.5) * unit
        shade = 1 - np.float32(rng.uniform(0.25, 0.75)) * bell(columns, centre, half)
        row = int(np.interp(centre, columns, retina.ilm) + rng.uniform(3, 9) * unit)
        left, right = max(int(centre - 2.2 * half), 0), min(int(centre + 2.2 * half) + 1, size)
        picture[row:, left:right] *= shade[left:right]
        tall = int(np.ceil(1.5 * half))
        top = max(row - tall, 0)
        down = (np.arange(top, row + tall, dtype=np.float32)[:, None] - row) / np.float32(half)
        ring = np.exp(-4 * (np.hypot(down, (columns[left:right] - centre) / half) - 0.8) ** 2)
        window = picture[top : row + tall, left:right]
        window += np.float32(rng.uniform(0.1, 0.35)) * ring[: window.shape[0]].astype(np.float32)


def _walls(scene: Scene, picture: Float32) -> None:
    """Brighten the two pixels around fluid, where it borders on tissue without being attenuated."""
    wall = scene.mask.copy()
    for _ in range(2):
        grown = wall.copy()
        grown[1:] |= wall[:-1]
        grown[:-1] |= wall[1:]
        grown[:, 1:] |= wall[:, :-1]
        grown[:, :-1] |= wall[:, 1:]
        wall = grown
    wall &= ~scene.mask
    picture[wall] = np.maximum(picture[wall], np.float32(0.9))


def _vitreous_body(rng: np.random.Generator, scene: Scene, picture: Float32) -> str:
    """A posterior hyaloid membrane, floaters, or neither; benign, as in many healthy eyes."""
    size, unit = picture.shape[0], scene.unit
    kind = str(rng.choice(["clear", "hyaloid", "floaters"], p=[0.5, 0.3, 0.2]))
    if kind == "hyaloid":
        columns = np.arange(size)
        place = columns.astype(np.float32) / np.float32(size / 2) - 1
        height = np.abs(wave(rng, place, 8 * unit, (1, 2, 3))) + rng.uniform(2, 8) * unit
        rows = np.clip(scene.retina.ilm - height, 0, size - 2).astype(np.intp)
        picture[rows, columns] += np.float32(rng.uniform(0.15, 0.4))
        picture[rows + 1, columns] += np.float32(rng.uniform(0.1, 0.3))
    elif kind == "floaters":
        top = int(max(scene.retina.ilm.min() - 6 * unit, 4))
        for _ in range(int(rng.integers(2, 9))):
            row, column = int(rng.uniform(1, max(top, 3))), int(rng.uniform(1, size - 3))
            picture[row : row + 2, column : column + 3] += np.float32(rng.uniform(0.15, 0.4))
    return kind


def _expose(rng: np.random.Generator, picture: Float32, style: Style) -> tuple[NDArray[np.uint8], str]:
    """Speckle, grey curve and a mean and spread drawn independently of the content, so that they tell nothing."""
    size = picture.shape[0]
    sigma = np.float32(uniform(rng, style.speckle))
    noise = grain(rng, (size, size))
    if style.smooth:
        noise = noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 0)
        noise *= np.float32(1 / np.sqrt(3))
    noise *= sigma
    # Speckle multiplies and the grey curve is a power: in the logarithm both are cheap.
    logarithm = np.log(np.maximum(picture, np.float32(0.01)))
    logarithm += noise
    logarithm *= np.float32(rng.uniform(0.7, 1.15))
    picture = np.exp(logarithm, out=logarithm)
    gain = uniform(rng, style.spread) / float(picture.std())
    offset = uniform(rng, style.mean) - gain * float(picture.mean())
    picture *= np.float32(255 * gain)
    picture += np.float32(255 * offset)
    word = "weak" if sigma < style.speckle[0] * 1.25 else "strong" if sigma > style.speckle[1] * 0.8 else "moderate"
    return np.clip(picture, 0, 255).astype(np.uint8), word


def _white_border(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> None:
    """Paint white what a shifted and rotated B-scan leaves empty: a wedge at the top, the bottom or both."""
    size = pixels.shape[0]
    rows, place = np.arange(size)[:, None], np.linspace(-1, 1, size)
    slope = rng.uniform(-0.12, 0.12) * size
    side = int(rng.integers(0, 3))
    if side != 1:
        pixels[rows < rng.uniform(-0.06, 0.09) * size + slope * place] = 255
    if side != 0:
        pixels[rows > (1 - rng.uniform(-0.06, 0.14)) * size + slope * place] = 255


def _draw(rng: np.random.Generator, abnormal: bool, style: Style, size: int) -> Phantom:
    twin = deepcopy(rng)
    scene, attributes = build(rng, abnormal, style, size)
    picture = reflectivity(rng, scene)
    if scene.foci is not None:
        picture += scene.foci
        healthy = reflectivity(twin, build(twin, False, style, size)[0])
        picture = same_greys(np.maximum(picture, 0), healthy, 1.6)
    if scene.mask.any():
        _walls(scene, picture)
    vessels = int(rng.integers(style.vessels[0], style.vessels[1] + 1))
    _vessels(rng, scene, picture, vessels)
    attributes["vessels"] = vessels
    attributes["vitreous"] = _vitreous_body(rng, scene, picture)
    shade = 1 + wave(rng, np.linspace(-1, 1, size, dtype=np.float32), 0.12, (1, 3, 6))
    picture *= np.clip(shade, 0.4, 1.6)
    pixels, attributes["noise"] = _expose(rng, picture, style)
    bordered = bool(rng.random() < style.corners)
    if bordered:
        _white_border(rng, pixels)
    if style.corners > 0:
        attributes["border"] = "white" if bordered else "none"
    mask = None if style.smooth else scene.mask
    return Phantom(pixels, mask, int(abnormal), attributes, tuple(scene.lesions))


def draw_resc(rng: np.random.Generator, abnormal: bool, size: int = SIZE) -> Phantom:
    """A retinal B-scan in the style of RESC: wide, dark and grainy, fluid with exact masks.

    Lesion kinds: intraretinal fluid, subretinal fluid, pigment epithelium detachment. size: pixels, at least 64.
    """
    return _draw(rng, abnormal, RESC, size)


def draw_oct2017(rng: np.random.Generator, abnormal: bool, size: int = SIZE) -> Phantom:
    """A retinal B-scan in the style of OCT2017: close, smooth, at times with white borders; no masks.

    Lesion kinds: intraretinal fluid, subretinal fluid, drusen, neovascular membrane. size: pixels, at least 64.
    """
    return _draw(rng, abnormal, OCT2017, size)
