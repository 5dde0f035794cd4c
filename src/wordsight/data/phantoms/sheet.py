"""One picture that shows what a set looks like."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.reports import FINDINGS, State, draw_report_phantom
from wordsight.data.phantoms.sets import MASKED, draw_phantom

OUTLINE = (255, 64, 32)


def contact_sheet(name: str, seed: int = 0, columns: int = 6, size: int = 240) -> NDArray[np.uint8]:
    """Normal images above, abnormal ones below; sets with masks get a third row with the outlines of the lesions.

    Returns (rows * size, columns * size, 3) uint8 RGB. Raises DataError for an unknown set.
    """
    normal = [_rgb(draw_phantom(name, seed, index, False, size).pixels) for index in range(columns)]
    drawn = [draw_phantom(name, seed, columns + index, True, size) for index in range(columns)]
    rows = [normal, [_rgb(phantom.pixels) for phantom in drawn]]
    if name in MASKED:
        rows.append([_outlined(_rgb(phantom.pixels), phantom.mask) for phantom in drawn])
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def report_sheet(seed: int = 0, columns: int = 6, size: int = 224) -> NDArray[np.uint8]:
    """One row of chest phantoms per finding of `reports.FINDINGS`, in that order; the right half with outlines.

    Each shows that finding alone. Returns (findings * size, columns * size, 3) uint8 RGB.
    """
    rows = []
    for finding in FINDINGS:
        drawn = [draw_report_phantom(seed, index, size, {finding: State.PRESENT}) for index in range(columns)]
        plain = [_rgb(phantom.pixels) for phantom in drawn[: columns // 2]]
        outlined = [_outlined(_rgb(p.pixels), p.findings[finding].mask) for p in drawn[columns // 2 :]]
        rows.append(np.concatenate([*plain, *outlined], axis=1))
    return np.concatenate(rows, axis=0)


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey or RGB to a fresh RGB array."""
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels.copy()


def _outlined(rgb: NDArray[np.uint8], mask: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
    """Colour the pixels just outside the mask."""
    if mask is not None:
        padded = np.pad(mask, 1)
        near = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        rgb[near & ~mask] = OUTLINE
    return rgb
