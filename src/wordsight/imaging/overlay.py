"""Heatmaps made visible: a perceptually uniform colour map, overlays, mask outlines, PNG files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from zlib import Z_RLE

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ImageError, MetricError
from wordsight.files import atomic_path
from wordsight.types import Float32, Heatmap, Image

RGB = NDArray[np.uint8]
UNSEEN_BRIGHTNESS = 0.35
LEVELS, DIMMED, STRIPED = 256, 256, 257
BAND = 64

# Dark blue to pale yellow: lightness only rises, so the order survives grey print and every colour-vision deficiency.
_ANCHORS = np.array([(22, 12, 92), (120, 22, 150), (204, 62, 112), (244, 140, 54), (246, 240, 110)], dtype=np.float64)
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def _to_lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 3) sRGB in [0, 255] -> (..., 3) CIELAB under D65 (IEC 61966-2-1, CIE 15)."""
    value = rgb / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _RGB_TO_XYZ.T / _RGB_TO_XYZ.sum(axis=1)
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@lru_cache(maxsize=1)
def _lut() -> NDArray[np.float64]:
    """(256, 3) colours in [0, 255]: the path through the anchors, walked in equal steps of CIELAB distance."""
    fine = np.linspace(0, len(_ANCHORS) - 1, 4001)
    path = np.stack([np.interp(fine, np.arange(len(_ANCHORS)), channel) for channel in _ANCHORS.T], axis=-1)
    steps = np.linalg.norm(np.diff(_to_lab(path), axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    even = np.linspace(0, length[-1], 256)
    return np.stack([np.interp(even, length, channel) for channel in path.T], axis=-1)


def colour_map(values: NDArray[np.floating]) -> RGB:
    """Colours for values in [0, 1]: (H, W) float -> (H, W, 3) uint8, dark blue (0) to pale yellow (1).

    Equal steps of value are equal steps of CIELAB distance and lightness rises throughout, so the map reads the same
    for colour-blind viewers and in grey. Values outside [0, 1] take the end colours; NaN is mid grey.
    """
    index = np.rint(np.clip(np.nan_to_num(values, nan=0.0), 0.0, 1.0) * 255).astype(np.intp)
    colours = np.rint(_lut()).astype(np.uint8)[index]
    colours[np.isnan(values)] = 128
    return np.asarray(colours, dtype=np.uint8)


def to_rgb(image: Image) -> RGB:
    """(H, W, 3) uint8 of an image, grey repeated in the three channels, values outside [0, 1] clipped."""
    pixels = _brightness(image.pixels)
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels


def _brightness(pixels: Float32) -> NDArray[np.uint8]:
    """Pixels in 0..255, values outside [0, 1] clipped, NaN as 0."""
    clipped = np.fmin(np.fmax(pixels, np.float32(0)), np.float32(1))  # of NaN and a number these give the number
    return np.rint(clipped * np.float32(255)).astype(np.uint8)


def scaled(values: NDArray[np.floating], limits: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """Values mapped linearly to [0, 1] between limits (default: their own finite range); NaN stays NaN.

    A map without spread, or without one finite value, is 0 where it is seen. Raises MetricError unless low <= high.
    """
    low, high = _ends(values) if limits is None else limits
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise MetricError(f"expected colour limits (low, high) with low <= high, got {limits}. Swap or leave them out.")
    spread = np.float32(high - low) if high > low else np.float32(np.inf)
    return np.asarray(np.clip((values.astype(np.float32) - np.float32(low)) / spread, 0.0, 1.0), dtype=np.float32)


def _ends(values: NDArray[np.floating]) -> tuple[float, float]:
    """Smallest and largest finite value; 0 and 0 without any."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _stripes(shape: tuple[int, int], start: int, stop: int) -> NDArray[np.bool_]:
    """Diagonal hatching of rows start..stop - 1, about sixteen stripes across the image's short side."""
    period = max(4, round(min(shape) / 16))
    rows, columns = np.ogrid[start : min(stop, shape[0]), : shape[1]]
    return np.asarray((rows + columns) % period < max(1, period // 4))


def overlay(image: Image, heatmap: Heatmap, *, limits: tuple[float, float] | None = None, strength: float = 0.5) -> RGB:
    """The image with the heatmap laid over it, (H, W, 3) uint8 on the image's own grid.

    limits: values at the two ends of the colour map; default the map's own finite range, so give limits wherever
    two overlays are to be compared. strength: opacity at the upper limit, in [0, 1]; it falls to a quarter of that
    at the lower limit, so that quiet regions stay readable. NaN (never seen by the network) is dimmed and hatched.
    Raises MetricError if the shapes differ, or strength or limits make no sense.
    """
    if heatmap.values.shape != image.shape:
        raise MetricError(
            f"{image.source}: expected a heatmap of shape {image.shape} on the image's grid, "
            f"got {heatmap.values.shape}. Map it back with Geometry.to_image first."
        )
    if not 0.0 <= strength <= 1.0:
        raise MetricError(f"expected an overlay strength in [0, 1], got {strength}.")
    ends = _ends(heatmap.values) if limits is None else limits
    drawn = np.empty((*image.shape, 3), dtype=np.uint8)
    table = _blend(strength)
    for start in range(0, len(drawn), BAND):  # what is made on the way fits into the processor's cache
        rows = slice(start, start + BAND)
        value, shade = scaled(heatmap.values[rows], ends), _brightness(image.pixels[rows])
        unseen = np.isnan(value)
        place = np.rint(np.fmax(value, 0) * (LEVELS - 1)).astype(np.intp)
        if unseen.any():
            place[unseen] = DIMMED
            place[unseen & _stripes(image.shape, start, start + BAND)] = STRIPED
        place *= 256
        for channel in range(3):
            one = shade if shade.ndim == 2 else shade[:, :, channel]
            drawn[rows, :, channel] = table[channel].take(place + one)
    return drawn


@lru_cache(maxsize=4)
def _blend(strength: float) -> RGB:
    """(3, 258 * 256): every level of the map over every brightness of a channel; then dimmed; then with a stripe."""
    shade = np.arange(256, dtype=np.float64)
    opacity = strength * (0.25 + 0.75 * np.linspace(0, 1, LEVELS))[:, None, None]
    mixed = shade[:, None] * (1 - opacity) + np.rint(_lut())[:, None] * opacity  # (LEVELS, 256, 3)
    dimmed = np.repeat(shade[:, None] * UNSEEN_BRIGHTNESS, 3, axis=1)
    every = np.concatenate([mixed, dimmed[None], dimmed[None] + 60.0])
    return np.ascontiguousarray(np.rint(np.clip(every, 0, 255)).reshape(-1, 3).T, dtype=np.uint8)


def _grown(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask grown by `steps` pixels in the four directions."""
    grown = mask
    for _ in range(steps):
        padded = np.pad(grown, 1)
        grown = grown | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return grown


def outline(
    rgb: RGB, mask: NDArray[np.bool_], colour: tuple[int, int, int] = (0, 220, 255), *, width: int | None = None
) -> RGB:
    """A copy of the picture with a line just outside the mask, edged in black so that it shows on any ground.

    rgb: (H, W, 3) uint8; mask: (H, W) bool; width: of the line in pixels, default 1/200 of the short side. The mask's
    own pixels are left as they are, so that a small lesion stays visible; a mask over the whole picture has no line.
    Raises MetricError if the shapes differ.
    """
    if rgb.shape != (*mask.shape, 3):
        raise MetricError(f"expected a mask of shape {rgb.shape[:2]} like the picture, got {mask.shape}.")
    line = max(1, round(min(mask.shape) / 200)) if width is None else width
    drawn = rgb.copy()
    inner = _grown(mask.astype(bool), line)
    drawn[_grown(inner, max(1, line // 2)) & ~mask] = 0
    drawn[inner & ~mask] = colour
    return drawn


def write_png(path: str | Path, rgb: RGB) -> None:
    """Write an (H, W) or (H, W, 3) uint8 array as PNG, whole or not at all. Raises ImageError on other arrays."""
    from PIL import Image as Pillow

    if rgb.dtype != np.uint8 or rgb.ndim not in (2, 3) or (rgb.ndim == 3 and rgb.shape[2] != 3) or 0 in rgb.shape:
        raise ImageError(f"expected a (H, W) or (H, W, 3) uint8 array to write, got {rgb.dtype} {rgb.shape}.")
    with atomic_path(path) as temporary:
        # looking for runs alone takes a quarter of the default's time; bytes are fewer of radiographs, more of noise
        Pillow.fromarray(np.ascontiguousarray(rgb)).save(temporary, format="PNG", compress_level=1, compress_type=Z_RLE)
