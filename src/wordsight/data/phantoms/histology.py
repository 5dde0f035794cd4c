"""Histology phantoms: haematoxylin and eosin stained tissue, healthy or with metastasis-like nests.

Two density maps are drawn, haematoxylin (nuclei) and eosin (fibres, cytoplasm), and turned into colour by the law of
Beer and Lambert with the stain vectors of Ruifrok and Johnston, Anal Quant Cytol Histol 2001, varied per image.
A region of interest exists in every image: in healthy tissue it is a germinal centre, a sheet of histiocytes or a
dense lymphocyte cluster; in abnormal tissue it holds large, pale, irregular nuclei without order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.common import SIZE, Float32, Phantom, enlarge, smooth_field
from wordsight.data.phantoms.grain import grain

HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
_H_LEVELS, _E_LEVELS = 128, 64
_H_TOP, _E_TOP = 1.9, 1.5
_PAD = 32
_COARSE = 4
_SHAPES = 28


@dataclass(frozen=True)
class Cell:
    """How one kind of nucleus looks and how densely it lies; lengths in pixels of a 240 pixel image.

    radius: mean; spread: standard deviation of log radius; slender: range of short over long axis; irregular: relative
    wobble of the outline; pale: share of the density lost inside the rim; density: haematoxylin at the rim; spacing:
    mean distance of neighbours; jitter: departure from a lattice in spacings; nucleolus: density of a spot, 0 for none.
    """

    radius: float
    spread: float
    slender: tuple[float, float]
    irregular: float
    pale: float
    density: float
    spacing: float
    jitter: float
    nucleolus: float = 0.0


LYMPHOCYTE = Cell(4.6, 0.09, (0.8, 1.0), 0.0, 0.1, 1.0, 12.2, 0.27)
CLUSTERED = Cell(4.6, 0.09, (0.8, 1.0), 0.0, 0.1, 1.0, 10.2, 0.2)
FIBROBLAST = Cell(8.0, 0.16, (0.22, 0.4), 0.0, 0.15, 0.85, 22.0, 0.4)
CENTROBLAST = Cell(5.6, 0.10, (0.8, 1.0), 0.0, 0.45, 0.8, 14.5, 0.2, 0.25)
HISTIOCYTE = Cell(5.0, 0.14, (0.55, 0.8), 0.0, 0.45, 0.7, 18.0, 0.25)
TUMOUR = Cell(8.2, 0.26, (0.55, 1.0), 0.15, 0.55, 0.95, 18.0, 0.36, 0.75)
BENIGN: Mapping[str, Cell] = {
    "germinal centre": CENTROBLAST,
    "histiocytes": HISTIOCYTE,
    "lymphocyte cluster": CLUSTERED,
}


@dataclass(frozen=True)
class Tissue:
    """The density maps while they are drawn, with a margin of _PAD pixels so that nuclei may cross the border.

    haematoxylin: (size + 2 _PAD, same) float32; eosin: (size, size) float32; region: (size / 4, same) bool, where the
    region of interest lies; stroma: same shape, float32 in [0, 1]; holes: (N, 4) row, column, half height, half width.
    """

    haematoxylin: Float32
    eosin: Float32
    region: NDArray[np.bool_]
    stroma: Float32
    holes: NDArray[np.float64]
    unit: float
    edge: float

    @property
    def size(self) -> int:
        """Width of the image in pixels."""
        return int(self.eosin.shape[0])


def _lattice(rng: np.random.Generator, size: int, spacing: float, jitter: float) -> NDArray[np.float64]:
    """Points of a shaken hexagonal lattice over the image and a little beyond, (N, 2) rows and columns."""
    rows = np.arange(-6.0 + rng.uniform(0, spacing), size + 6, spacing * 0.87)
    columns = np.arange(-6.0, size + 6, spacing)
    points = np.empty((len(rows), len(columns), 2))
    points[..., 0] = rows[:, None]
    points[..., 1] = columns + (np.arange(len(rows)) % 2 * spacing / 2)[:, None]
    points = points.reshape(-1, 2) + rng.normal(0, jitter * spacing, (points.size // 2, 2))
    inside = (points > -6).all(axis=1) & (points < size + 6).all(axis=1)
    return np.asarray(points[inside])


def _at(coarse: NDArray[Any], points: NDArray[np.float64]) -> NDArray[Any]:
    """Values of a coarse map at points, the border held."""
    cells = np.clip(points // _COARSE, 0, coarse.shape[0] - 1).astype(np.intp)
    return np.asarray(coarse[cells[:, 0], cells[:, 1]])


def _outside_holes(points: NDArray[np.float64], holes: NDArray[np.float64]) -> NDArray[np.bool_]:
    if len(holes) == 0:
        return np.ones(len(points), dtype=np.bool_)
    away = (points[:, None] - holes[None, :, :2]) / holes[None, :, 2:]
    return np.asarray(((away * away).sum(axis=2) > 1.1).all(axis=1))


def _nuclei(
    rng: np.random.Generator, tissue: Tissue, points: NDArray[np.float64], cell: Cell, angles: NDArray[np.float64]
) -> None:
    """Draw one nucleus per point; at most _SHAPES are made, and used again turned by 180 degrees and as mirror images.

    Slender nuclei follow the fibres and are turned only.
    """
    if len(points) == 0:
        return
    patches = _shapes(rng, tissue, cell, angles[:_SHAPES])
    width, canvas = patches.shape[1], tissue.haematoxylin
    corners = np.floor(points).astype(np.intp) + (_PAD - width // 2)
    shapes = [*patches, *patches[:, ::-1, ::-1]]
    if cell.slender[0] > 0.5:
        shapes += [*patches[:, ::-1], *patches[:, :, ::-1], *patches.transpose(0, 2, 1)]
    for number, (row, column) in enumerate(corners.tolist()):
        window = canvas[row : row + width, column : column + width]
        np.maximum(window, shapes[number % len(shapes)], out=window)


def _shapes(rng: np.random.Generator, tissue: Tissue, cell: Cell, angles: NDArray[np.float64]) -> Float32:
    """Haematoxylin of single nuclei at the given angles, (N, P, P) with P odd and the nucleus in the middle."""
    count = len(angles)
    spread = np.clip(rng.normal(0, cell.spread, count), -2 * cell.spread, 2 * cell.spread)
    long = np.minimum(cell.radius * np.exp(spread), 14.0) * tissue.unit
    short = long * rng.uniform(*cell.slender, count)
    if cell.slender[0] > 0.5:  # round cells keep their area whatever their shape
        long, short = (axis * np.sqrt(long / short) for axis in (long, short))
    reach = min(int(np.ceil(float(long.max()) * (1 + 1.5 * cell.irregular) + 0.5 * tissue.edge)), _PAD - 8)
    offset = rng.random((2, count, 1, 1), dtype=np.float32)
    steps = np.arange(-reach, reach + 1, dtype=np.float32)
    down, across = steps[:, None] - offset[0], steps[None, :] - offset[1]
    cosine, sine = (f(angles).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    along: Float32 = (cosine * across + sine * down) / long.astype(np.float32)[:, None, None]
    beside: Float32 = (cosine * down - sine * across) / short.astype(np.float32)[:, None, None]
    radius = np.hypot(along, beside)
    if cell.irregular:
        radius *= _wobble(rng, along, beside, cell.irregular)
    patches = radius * radius
    patches *= np.float32(cell.pale)
    patches += np.float32(1 - cell.pale)
    if cell.nucleolus:
        place = rng.uniform(-0.35, 0.35, (2, count, 1, 1)).astype(np.float32)
        spot = (along - place[0]) ** 2 + (beside - place[1]) ** 2
        patches += np.float32(cell.nucleolus) * np.maximum(1 - spot * np.float32(9), 0)
    radius -= np.float32(1)
    radius *= (-short / tissue.edge).astype(np.float32)[:, None, None]
    radius += np.float32(0.5)
    patches *= np.clip(radius, 0, 1, out=radius)
    patches *= (cell.density * np.exp(rng.normal(0, 0.14, count))).astype(np.float32)[:, None, None]
    return patches


def _wobble(rng: np.random.Generator, along: Float32, beside: Float32, irregular: float) -> Float32:
    """A factor on the radius that dents and bulges each outline differently, (N, P, P)."""
    angle = np.arctan2(beside, along)
    factor = np.ones_like(angle)
    for order in (2, 3):
        size = rng.normal(0, irregular / np.sqrt(order - 1), (len(angle), 1, 1)).astype(np.float32)
        phase = rng.uniform(0, 2 * np.pi, (len(angle), 1, 1)).astype(np.float32)
        factor += size * np.cos(np.float32(order) * angle + phase)
    return np.asarray(np.clip(factor, 0.6, 1.7))


def _region(
    rng: np.random.Generator, size: int, unit: float
) -> tuple[NDArray[np.bool_], list[tuple[float, float, float]]]:
    """Three to six neighbouring nests with ragged outlines: coarse map, and (row, column, radius) of each nest."""
    cells = size // _COARSE
    place = np.arange(cells, dtype=np.float32) * _COARSE + _COARSE / 2
    middle = rng.uniform(0.22, 0.78, 2) * size
    field = np.full((cells, cells), -1, dtype=np.float32)
    nests = []
    for _ in range(int(rng.integers(3, 7))):
        centre = np.clip(middle + rng.normal(0, 42 * unit, 2), 18 * unit, size - 18 * unit)
        radius = float(rng.uniform(28, 46) * unit)
        nests.append((float(centre[0]), float(centre[1]), radius))
        distance = np.hypot(place[:, None] - np.float32(centre[0]), place[None, :] - np.float32(centre[1]))
        np.maximum(field, 1 - distance / np.float32(radius), out=field)
    field += np.float32(0.16) * smooth_field(rng, (cells, cells), 5)
    return field > 0, nests


def _fibres(rng: np.random.Generator, size: int, unit: float) -> tuple[Float32, float]:
    """Wavy parallel fibres, (H, W) of about zero mean, and their direction in radians."""
    direction = float(rng.uniform(0, np.pi))
    cells, steps = size // _COARSE, np.arange(size, dtype=np.float32)
    place = np.float32(np.cos(direction)) * steps[:, None] - np.float32(np.sin(direction)) * steps[None, :]
    place = place + np.float32(rng.uniform(4, 12) * unit) * enlarge(
        smooth_field(rng, (cells, cells), 15 * unit), (size, size), bicubic=False
    )
    place *= np.float32(rng.uniform(0.5, 1.0) / unit)
    table = rng.standard_normal(1024).astype(np.float32)
    table = table + np.roll(table, 1) + 0.5 * np.roll(table, 2)
    return table.take(place.astype(np.int16) & 1023), direction


def _holes(rng: np.random.Generator, size: int, unit: float, kind: str) -> NDArray[np.float64]:
    """Fat vacuoles (many, round) or lumina of vessels and sinuses (few, slit-like): (N, 4)."""
    if kind == "fat":
        points = _lattice(rng, size, 44 * unit, 0.08)
        side = rng.uniform(0, 2 * np.pi)
        place = (points - size / 2) @ np.array([np.sin(side), np.cos(side)])
        points = points[place > rng.uniform(-0.1, 0.3) * size]
        radii = rng.uniform(14, 22, (len(points), 1)) * unit * rng.uniform(0.85, 1.15, (len(points), 2))
        return np.concatenate((points, radii), axis=1)
    count = int(rng.integers(1, 4)) if kind == "vessels" else 0
    return np.concatenate((rng.uniform(0, size, (count, 2)), rng.uniform(5, 20, (count, 2)) * unit), axis=1)


def _beside(holes: NDArray[np.float64], region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The holes that leave the region of interest whole."""
    place = np.arange(region.shape[0]) * _COARSE + _COARSE / 2
    rows, columns = (place[axis] for axis in np.nonzero(region))
    away = np.hypot((rows - holes[:, :1]) / holes[:, 2:3], (columns - holes[:, 1:2]) / holes[:, 3:])
    kept: NDArray[np.float64] = holes[(away > 1.2).all(axis=1)]
    return kept


def _cut_holes(rng: np.random.Generator, tissue: Tissue) -> None:
    """Empty the holes and line each with a thin pink membrane."""
    inner = tissue.haematoxylin[_PAD:-_PAD, _PAD:-_PAD]
    for row, column, tall, wide in tissue.holes:
        top, bottom = max(int(row - 1.3 * tall) - 2, 0), min(int(row + 1.3 * tall) + 3, tissue.size)
        left, right = max(int(column - 1.3 * wide) - 2, 0), min(int(column + 1.3 * wide) + 3, tissue.size)
        if top >= bottom or left >= right:
            continue
        down = (np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(row)) / np.float32(tall)
        across = (np.arange(left, right, dtype=np.float32)[None, :] - np.float32(column)) / np.float32(wide)
        away = (np.sqrt(down * down + across * across) - 1) * np.float32(min(tall, wide))
        keep = np.clip(away + 0.5, 0.03, 1)
        inner[top:bottom, left:right] *= keep
        eosin = tissue.eosin[top:bottom, left:right]
        eosin *= keep
        eosin += np.float32(rng.uniform(0.15, 0.4)) * np.clip(1 - np.abs(away - 1), 0, 1)


def _background(rng: np.random.Generator, tissue: Tissue, direction: float) -> None:
    """Lymphocytes in lymphoid tissue, fibroblasts along the fibres of the stroma."""
    spacing = rng.uniform(0.92, 1.35)
    for cell, wanted in ((LYMPHOCYTE, False), (FIBROBLAST, True)):
        points = _lattice(rng, tissue.size, cell.spacing * spacing * tissue.unit, cell.jitter)
        share = _at(tissue.stroma, points)
        kept = rng.random(len(points)) < (share if wanted else 1.02 - share)
        points = points[kept & ~_at(tissue.region, points) & _outside_holes(points, tissue.holes)]
        angles = rng.uniform(0, np.pi, len(points))
        if wanted:
            angles = direction + rng.normal(0, 0.3, len(points))
        _nuclei(rng, tissue, points, cell, angles)


def _fill_region(rng: np.random.Generator, tissue: Tissue, cell: Cell, cytoplasm: tuple[float, float]) -> None:
    """Nuclei and cytoplasm of the region of interest; cytoplasm: haematoxylin and eosin added there."""
    points = _lattice(rng, tissue.size, cell.spacing * tissue.unit, cell.jitter)
    points = points[_at(tissue.region, points) & _outside_holes(points, tissue.holes)]
    inner = tissue.haematoxylin[_PAD:-_PAD, _PAD:-_PAD]
    cover = enlarge(tissue.region.astype(np.float32), (tissue.size, tissue.size), bicubic=False)
    inner += np.float32(cytoplasm[0]) * cover
    tissue.eosin[...] += cover * (np.float32(cytoplasm[1]) - np.float32(0.5) * (tissue.eosin - np.float32(0.3)))
    _nuclei(rng, tissue, points, cell, rng.uniform(0, np.pi, len(points)))


def _tumour_cell(rng: np.random.Generator) -> tuple[Cell, float]:
    """How the tumour nuclei of one image look, and how far they depart from benign ones (one in seven: little)."""
    contrast = float(rng.uniform(0.35, 0.5) if rng.random() < 0.15 else rng.uniform(0.75, 1.0))
    radius = 6.4 + contrast * rng.uniform(2.6, 3.8)
    cell = replace(
        TUMOUR,
        radius=radius,
        spread=TUMOUR.spread * (0.4 + 0.6 * contrast),
        irregular=TUMOUR.irregular * (0.3 + 0.7 * contrast),
        pale=float(rng.uniform(0.4, 0.62)),
        nucleolus=TUMOUR.nucleolus * contrast,
        spacing=radius * float(rng.uniform(2.05, 2.4)),
    )
    return cell, contrast


def _stain(rng: np.random.Generator, tissue: Tissue) -> tuple[NDArray[np.uint8], dict[str, str | float | int]]:
    """Colour the density maps; mean densities are drawn independently of the content, so that they tell nothing."""
    inner = tissue.haematoxylin[_PAD:-_PAD, _PAD:-_PAD]
    strengths = np.exp(rng.normal(0, 0.28, 2)) * np.array([0.42, 0.30])
    vectors = [np.clip(v + rng.normal(0, 0.07, 3), 0.02, None) for v in (HAEMATOXYLIN, EOSIN)]
    vectors = [v / np.linalg.norm(v) for v in vectors]
    white = np.clip(rng.uniform(0.84, 0.99) + rng.normal(0, 0.012, 3), 0, 1)
    h, e = np.linspace(0, _H_TOP, _H_LEVELS), np.linspace(0, _E_TOP, _E_LEVELS)
    blue, pink = (np.exp(-axis[:, None] * v) for axis, v in ((h, vectors[0]), (e, vectors[1])))
    table = (255 * white * blue[:, None] * pink).astype(np.uint8).reshape(-1, 3)
    noise = grain(rng, inner.shape)
    noise *= np.float32(rng.uniform(0.03, 0.12))
    noise += np.float32(1)
    inner *= noise
    scaled = inner * np.float32(strengths[0] / float(inner.mean()) * (_H_LEVELS - 1) / _H_TOP)
    index = np.minimum(scaled, _H_LEVELS - 1).astype(np.uint16)
    index *= _E_LEVELS
    scaled = tissue.eosin * np.float32(strengths[1] / float(tissue.eosin.mean()) * (_E_LEVELS - 1) / _E_TOP)
    index += np.clip(scaled, 0, _E_LEVELS - 1).astype(np.uint16)
    words: dict[str, str | float | int] = {
        "haematoxylin": round(float(strengths[0]), 3),
        "eosin": round(float(strengths[1]), 3),
        "light": round(float(white.mean()), 3),
    }
    return table.take(index, axis=0), words


def _tissue(
    rng: np.random.Generator, size: int
) -> tuple[Tissue, list[tuple[float, float, float]], float, dict[str, Any]]:
    """Everything but the nuclei: stroma, fibres, holes, and where the region of interest lies."""
    unit = size / SIZE * float(rng.uniform(0.82, 1.2))
    kind = str(rng.choice(["lymphoid", "mixed", "stromal"], p=[0.4, 0.35, 0.25]))
    gaps = str(rng.choice(["none", "vessels", "fat"], p=[0.35, 0.4, 0.25]))
    region, nests = _region(rng, size, size / SIZE)
    cells = size // _COARSE
    level = {"lymphoid": -1.2, "mixed": 0.0, "stromal": 1.1}[kind]
    stroma = np.clip(0.5 + 1.2 * (smooth_field(rng, (cells, cells), 14) + np.float32(level)), 0, 1)
    fibres, direction = _fibres(rng, size, unit)
    wide = enlarge(stroma, (size, size), bicubic=False)
    eosin = np.float32(0.2) + np.float32(0.3) * wide + np.float32(rng.uniform(0.04, 0.1)) * fibres * (wide + 0.2)
    canvas = np.full((size + 2 * _PAD, size + 2 * _PAD), rng.uniform(0.06, 0.14), dtype=np.float32)
    holes = _beside(_holes(rng, size, unit, gaps), region)
    edge = float(rng.uniform(1.2, 3.0))
    tissue = Tissue(canvas, np.maximum(eosin, 0.02).astype(np.float32), region, stroma, holes, unit, edge)
    words = {
        "tissue": kind,
        "holes": gaps,
        "fibre_direction": round(float(np.rad2deg(direction)), 1),
        "magnification": round(unit * SIZE / size, 2),
        "sharpness": "sharp" if edge < 1.7 else "soft" if edge > 2.4 else "medium",
    }
    return tissue, nests, direction, words


def draw(rng: np.random.Generator, abnormal: bool, size: int = SIZE) -> Phantom:
    """A stained section of lymphoid and connective tissue; abnormal: nests of large, pale, disordered nuclei.

    RGB pixels, no mask. size: pixels, at least 64. The region of interest has a random stream of its own: with the
    same `rng`, healthy and abnormal sections share layout and acquisition.
    """
    own = np.random.Generator(np.random.SFC64(int(rng.integers(2**63))))
    tissue, nests, direction, attributes = _tissue(rng, size)
    kind = str(rng.choice(sorted(BENIGN)))
    lesions: tuple[Mapping[str, Any], ...] = ()
    _background(rng, tissue, direction)
    amounts = (float(rng.uniform(0.02, 0.16)), float(rng.uniform(-0.04, 0.1)))
    if abnormal:
        cell, contrast = _tumour_cell(own)
        lesions = tuple(
            {
                "kind": "metastasis",
                "centre": (round(row, 1), round(column, 1)),
                "size": round(2 * radius, 1),
                "contrast": round(contrast, 3),
            }
            for row, column, radius in nests
        )
        _fill_region(own, tissue, cell, amounts)
    else:
        _fill_region(own, tissue, BENIGN[kind], amounts)
    _cut_holes(rng, tissue)
    pixels, words = _stain(rng, tissue)
    return Phantom(pixels, None, int(abnormal), attributes | words, lesions)
