"""Resampling that equals published preprocessing: Pillow's bicubic, and OpenCV's INTER_AREA without OpenCV.

INTER_AREA averages the source pixels a target pixel covers when both sides shrink. When a side grows it is a linear
interpolation between pixels whose weight is confined to the last part of each source pixel (OpenCV, imgproc, resize).
8-bit images are rounded to 8 bits in the same arithmetic; float images are not rounded.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from wordsight.types import Float32

Pixels = NDArray[np.uint8] | Float32

_COEFFICIENT_BITS = 11
_NEGLIGIBLE = 1e-3
"""Overlaps below this share of a pixel are dropped, as OpenCV does."""


def bicubic(pixels: Pixels, height: int, width: int) -> Pixels:
    """(H, W) or (H, W, 3) uint8 or float32 -> (height, width[, 3]) of the same type, by Pillow's bicubic.

    8-bit images exactly as PIL.Image.resize((width, height), BICUBIC); float images per channel, clipped to [0, 1].
    """
    if pixels.dtype == np.uint8:
        return np.asarray(PilImage.fromarray(pixels).resize((width, height), PilImage.Resampling.BICUBIC))
    planes = [pixels] if pixels.ndim == 2 else [pixels[..., c] for c in range(pixels.shape[2])]
    resized = [
        np.asarray(PilImage.fromarray(np.ascontiguousarray(p)).resize((width, height), PilImage.Resampling.BICUBIC))
        for p in planes
    ]
    out = resized[0] if pixels.ndim == 2 else np.stack(resized, axis=-1)
    return np.asarray(np.clip(out, 0.0, 1.0), dtype=np.float32)


def nearest(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """(H, W) bool -> (height, width) bool by Pillow's nearest neighbour."""
    image = PilImage.fromarray(mask.astype(np.uint8))
    return np.asarray(image.resize((width, height), PilImage.Resampling.NEAREST), dtype=np.bool_)


def area(pixels: Pixels, height: int, width: int) -> Pixels:
    """(H, W) or (H, W, 3) uint8 or float32 -> (height, width[, 3]) of the same type, as cv2.resize INTER_AREA."""
    if pixels.shape[:2] == (height, width):
        return pixels.copy()
    # OpenCV inverts the ratio twice; the same two roundings are needed to land on the same cells.
    scales = (1.0 / (height / pixels.shape[0]), 1.0 / (width / pixels.shape[1]))
    if min(scales) < 1.0:
        return _enlarged(pixels, (height, width), scales)
    whole = (round(scales[0]), round(scales[1]))
    if all(abs(s - w) < np.finfo(np.float64).eps for s, w in zip(scales, whole, strict=True)):
        return _block_mean(pixels, (height, width), whole)
    return _shrunk(pixels, (height, width), scales)


def _block_mean(pixels: Pixels, size: tuple[int, int], block: tuple[int, int]) -> Pixels:
    """Whole-number shrinking: the mean of each block; blocks of 2 x 2 round half up, others half to even."""
    height, width = size
    cut = pixels[: height * block[0], : width * block[1]]
    blocks = cut.reshape(height, block[0], width, block[1], *pixels.shape[2:])
    if pixels.dtype != np.uint8:
        return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64), dtype=np.float32)
    total = blocks.sum(axis=(1, 3), dtype=np.int64)
    if block == (2, 2):
        return np.asarray((total + 2) >> 2, dtype=np.uint8)
    share = np.float32(1.0 / (block[0] * block[1]))
    return _rounded(total.astype(np.float32) * share)


def _rounded(values: Float32) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _overlaps(cells: int, size: int, scale: float) -> tuple[NDArray[np.intp], Float32]:
    """Source pixels and weights of each target pixel along one axis, padded with weight 0: (taps, size) each."""
    taps: list[list[tuple[int, float]]] = []
    for target in range(size):
        start = target * scale
        end = start + scale
        covered = min(scale, cells - start)
        last = min(math.floor(end), cells - 1)
        first = min(math.ceil(start), last)
        own: list[tuple[int, float]] = []
        if first - start > _NEGLIGIBLE:
            own.append((first - 1, (first - start) / covered))
        own += [(cell, 1.0 / covered) for cell in range(first, last)]
        if end - last > _NEGLIGIBLE:
            own.append((last, min(end - last, 1.0, covered) / covered))
        taps.append(own)
    deepest = max(len(own) for own in taps)
    index = np.zeros((deepest, size), dtype=np.intp)
    weight = np.zeros((deepest, size), dtype=np.float32)
    for target, own in enumerate(taps):
        for k, (cell, share) in enumerate(own):
            index[k, target], weight[k, target] = cell, share
    return index, weight


def _weighted(values: Float32, axis: int, index: NDArray[np.intp], weight: Float32) -> Float32:
    """Sum of taps along an axis in single precision, in ascending order of source pixels."""
    shape = [1] * values.ndim
    shape[axis] = weight.shape[1]
    out: Float32 = np.take(values, index[0], axis=axis) * weight[0].reshape(shape)
    for cells, shares in zip(index[1:], weight[1:], strict=True):
        out += np.take(values, cells, axis=axis) * shares.reshape(shape)
    return out


def _shrunk(pixels: Pixels, size: tuple[int, int], scales: tuple[float, float]) -> Pixels:
    """Shrinking by any ratio: weights are the overlaps, columns first."""
    values = pixels.astype(np.float32)
    for axis in (1, 0):
        index, weight = _overlaps(pixels.shape[axis], size[axis], scales[axis])
        values = _weighted(values, axis, index, weight)
    return _rounded(values) if pixels.dtype == np.uint8 else values


def _linear_taps(cells: int, size: int, scale: float) -> tuple[NDArray[np.intp], NDArray[np.intp], Float32]:
    """Lower pixel, upper pixel and the upper one's weight for enlarging."""
    target = np.arange(size)
    low = np.floor(target * scale).astype(np.intp)
    share = ((target + 1) - (low + 1) * (1.0 / scale)).astype(np.float32)
    share = np.where(share <= 0, np.float32(0), share - np.floor(share)).astype(np.float32)
    share[low >= cells - 1] = 0.0
    low = np.minimum(low, cells - 1)
    return low, np.minimum(low + 1, cells - 1), share


def _enlarged(pixels: Pixels, size: tuple[int, int], scales: tuple[float, float]) -> Pixels:
    """Enlarging in either direction: linear; for 8 bits in OpenCV's fixed point (11 bits a direction)."""
    r0, r1, fr = _linear_taps(pixels.shape[0], size[0], scales[0])
    c0, c1, fc = _linear_taps(pixels.shape[1], size[1], scales[1])
    tail = (1,) * (pixels.ndim - 2)
    if pixels.dtype != np.uint8:
        across, down = fc.reshape(1, -1, *tail), fr.reshape(-1, 1, *tail)
        rows = pixels[:, c0] * (1 - across) + pixels[:, c1] * across
        return np.asarray(rows[r0] * (1 - down) + rows[r1] * down, dtype=np.float32)
    one = np.float32(1 << _COEFFICIENT_BITS)
    across1, across0 = (np.rint(v * one).astype(np.int64).reshape(1, -1, *tail) for v in (fc, 1 - fc))
    down1, down0 = (np.rint(v * one).astype(np.int64).reshape(-1, 1, *tail) for v in (fr, 1 - fr))
    wide = pixels.astype(np.int64)
    rows = (wide[:, c0] * across0 + wide[:, c1] * across1) >> 4
    out = (((rows[r0] * down0) >> 16) + ((rows[r1] * down1) >> 16) + 2) >> 2
    return np.asarray(np.clip(out, 0, 255), dtype=np.uint8)
