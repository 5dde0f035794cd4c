"""What every phantom set shares: the Phantom itself, independent random streams, cheap shapes and the scanner.

Speed comes from three habits: random fields are drawn small and enlarged, shapes are drawn inside their bounding boxes,
and everything is float32. Shapes live on a `Frame`, a warped grid in anatomical units, so that rotation, shift, scale,
aspect and an irregular outline cost nothing per shape.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw

from wordsight.errors import SettingsError

Float32 = NDArray[np.float32]
SIZE = 240
WORD = 2**32


@dataclass(frozen=True)
class Phantom:
    """One synthetic image with everything that is known about it.

    pixels: (size, size) uint8 grey or (size, size, 3) uint8 RGB.
    mask: (size, size) bool, all False for a normal image; None for sets without masks.
    label: 0 normal, 1 abnormal. attributes: anatomy and acquisition, never whether abnormal.
    lesions: one mapping per lesion (kind, centre (row, column), size in pixels, contrast), empty for a normal image.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    label: int
    attributes: Mapping[str, str | float | int]
    lesions: tuple[Mapping[str, Any], ...] = field(default=())


def stream(set_name: str, seed: int, index: int) -> np.random.Generator:
    """The random generator of one image: independent of the order and number of the images drawn.

    seed and index: integers in [0, 2**32). Raises SettingsError outside that range.
    """
    for name, value in (("seed", seed), ("index", index)):
        if not 0 <= value < WORD:
            raise SettingsError(f"{name}: expected an integer from 0 to 2**32 - 1, got {value}. Choose another {name}.")
    entropy = [zlib.crc32(set_name.encode("utf-8")), int(seed), int(index)]
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(entropy)))


@lru_cache(maxsize=16)
def grid(height: int, width: int) -> tuple[Float32, Float32]:
    """Row and column coordinates of pixel centres in [-1, 1]: (height, 1) and (1, width) float32, read-only."""
    rows: Float32 = ((np.arange(height, dtype=np.float32) + np.float32(0.5)) / np.float32(height / 2) - 1)[:, None]
    columns: Float32 = ((np.arange(width, dtype=np.float32) + np.float32(0.5)) / np.float32(width / 2) - 1)[None, :]
    rows.flags.writeable = columns.flags.writeable = False
    return rows, columns


@lru_cache(maxsize=256)
def _taps(small: int, large: int, cubic: bool) -> tuple[NDArray[np.intp], Float32]:
    """Interpolation along one axis: indices (taps, large) into `small` values and weights (taps, large)."""
    position = (np.arange(large) + 0.5) * (small / large) - 0.5
    first = np.floor(position).astype(np.intp)
    t = position - first
    if cubic:
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
        offsets = np.arange(-1, 3)
    else:
        weights, offsets = np.stack([1 - t, t]), np.arange(2)
    return np.clip(first + offsets[:, None], 0, small - 1), weights.astype(np.float32)


def _double(values: Float32) -> Float32:
    """Bilinear interpolation to twice the size by slices, several times faster than by taps."""
    height, width = values.shape
    tall, wide = np.empty((2 * height, width), np.float32), np.empty((2 * height, 2 * width), np.float32)
    for small, large in ((values, tall), (tall.T, wide.T)):
        near = small * np.float32(0.75)
        far = small * np.float32(0.25)
        np.add(near[1:], far[:-1], out=large[2::2])
        np.add(near[:-1], far[1:], out=large[1:-1:2])
        large[0], large[-1] = small[0], small[-1]
    return wide


def enlarge(values: Float32, shape: tuple[int, int], *, bicubic: bool = True) -> Float32:
    """Interpolate a small (h, w) field to `shape` = (H, W): cubic B-splines, which soften a little, or bilinear."""
    if not bicubic and shape == (2 * values.shape[0], 2 * values.shape[1]):
        return _double(values)
    indices, weights = _taps(values.shape[1], shape[1], bicubic)
    wide = values[:, indices[0]] * weights[0]
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        wide += values[:, index] * weight
    indices, weights = _taps(values.shape[0], shape[0], bicubic)
    result: Float32 = wide[indices[0]]
    result *= weights[0][:, None]
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        part = wide[index]
        part *= weight[:, None]
        result += part
    return result


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Float32:
    """A smooth random field of about zero mean and unit variance, correlated over about `scale` pixels.

    shape: (H, W). White noise of one value per `scale` pixels is enlarged by cubic B-splines.
    """
    small = (int(np.ceil(shape[0] / scale)) + 1, int(np.ceil(shape[1] / scale)) + 1)
    noise = rng.standard_normal(small, dtype=np.float32)
    # The splines average neighbours; 2.0 restores the variance of the white noise.
    noise *= np.float32(2.0)
    if scale >= 16 and not (shape[0] % 2 or shape[1] % 2):  # so smooth that the last doubling may be bilinear
        return _double(enlarge(noise, (shape[0] // 2, shape[1] // 2)))
    return enlarge(noise, shape)


def mottle(rng: np.random.Generator, shape: tuple[int, int], scale: float, net: float = 0.5) -> Float32:
    """A harsh texture in [-1, 1] of about zero mean that tissue in health lacks: dots, or a net of bright walls.

    shape: (H, W); scale: pixels from dot to dot; net: chance of the net. Its mean over a lesion vanishes, so that the
    brightness of the lesion stays what it was.
    """
    texture = smooth_field(rng, shape, scale)
    if rng.random() < net:
        np.abs(texture, out=texture)
        texture *= np.float32(-3.0)
        texture += np.float32(1.6)
    else:
        texture *= np.float32(1.8)
    np.clip(texture, -1, 1, out=texture)
    texture -= texture.mean()
    return texture


def same_greys(values: Float32, reference: Float32, highest: float, levels: int = 1024) -> Float32:
    """A monotone grey curve that gives `values` the histogram of `reference`, both (H, W) in [0, highest].

    Histogram matching by mid-ranks at `levels` grey levels (Gonzalez and Woods, Digital Image Processing, 3.3).
    """
    step = np.float32(levels / highest)
    index = np.minimum(values * step, levels - 1).astype(np.intp)
    own = np.bincount(index.ravel(), minlength=levels)
    wanted = np.bincount(np.minimum(reference * step, levels - 1).astype(np.intp).ravel(), minlength=levels)
    places = (np.arange(levels) + 0.5) / float(step)
    curve = np.interp(np.cumsum(own) - own / 2, np.cumsum(wanted) - wanted / 2, places)
    greys: Float32 = curve.astype(np.float32).take(index)
    return greys


@dataclass(frozen=True)
class Frame:
    """A warped coordinate system: `u` (across) and `v` (down) are (H, W) float32 anatomical coordinates.

    Anatomical units: the image is [-1, 1] in both directions before rotation, shift, scale and warp.
    pixel: the width of one pixel in anatomical units, the softness of an edge. rows, columns: how to get from (u, v) to
    the pixel, (per u, per v, constant), the warp left out; slack: pixels by which the warp may change that.
    """

    u: Float32
    v: Float32
    pixel: float
    rows: tuple[float, float, float]
    columns: tuple[float, float, float]
    slack: int

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.u.shape[0], self.u.shape[1]

    def pixel_of(self, u: float, v: float) -> tuple[int, int]:
        """The pixel (row, column) of an anatomical point, warp left out; it may lie outside the image."""
        row = self.rows[0] * u + self.rows[1] * v + self.rows[2]
        column = self.columns[0] * u + self.columns[1] * v + self.columns[2]
        return round(row), round(column)

    def window(self, centre: tuple[float, float], reach: float) -> tuple[slice, slice]:
        """The pixels within `reach` (anatomical units, warp allowed for) of a point; may be empty."""
        row, column = self.pixel_of(*centre)
        pixels = int(reach / self.pixel * 1.25) + self.slack
        height, width = self.u.shape
        top, bottom = min(max(row - pixels, 0), height), min(max(row + pixels + 1, 0), height)
        left, right = min(max(column - pixels, 0), width), min(max(column + pixels + 1, 0), width)
        return slice(top, bottom), slice(left, right)

    def cut(self, window: tuple[slice, slice]) -> Frame:
        """The frame of a window."""
        top, left = window[0].start, window[1].start
        rows = (self.rows[0], self.rows[1], self.rows[2] - top)
        columns = (self.columns[0], self.columns[1], self.columns[2] - left)
        return Frame(self.u[window], self.v[window], self.pixel, rows, columns, self.slack)

    def enlarged(self, shape: tuple[int, int]) -> Frame:
        """The same view with more pixels."""
        factor = shape[0] / self.u.shape[0]
        rows, columns = ((a * factor, b * factor, (c + 0.5) * factor - 0.5) for a, b, c in (self.rows, self.columns))
        u, v = (enlarge(values, shape, bicubic=False) for values in (self.u, self.v))
        return Frame(u, v, self.pixel / factor, rows, columns, int(np.ceil(self.slack * factor)))

    def around(self, centre: tuple[float, float], reach: float) -> tuple[tuple[slice, slice], Frame]:
        """The window around a point and the frame there."""
        window = self.window(centre, reach)
        return window, self.cut(window)


def frame(
    rng: np.random.Generator,
    size: int = SIZE,
    *,
    rotation: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    aspect: float = 1.0,
    warp: float = 0.02,
    warp_scale: float = 60.0,
) -> Frame:
    """An anatomical coordinate system seen under a rotation (degrees), shift (across, down), scale and aspect.

    scale > 1 makes the anatomy larger, aspect > 1 wider. warp: standard deviation of the random displacement in
    anatomical units, smooth over `warp_scale` pixels of a 240 pixel image.
    """
    down, across = grid(size, size)
    across, down = across - np.float32(shift[0]), down - np.float32(shift[1])
    angle = float(np.deg2rad(rotation))
    cosine, sine = float(np.cos(angle)), float(np.sin(angle))
    wide, tall = scale * aspect, scale / aspect
    u = np.float32(cosine / wide) * across + np.float32(sine / wide) * down
    v = np.float32(cosine / tall) * down - np.float32(sine / tall) * across
    if warp > 0:
        reach = warp_scale * size / SIZE
        u += np.float32(warp) * smooth_field(rng, (size, size), reach)
        v += np.float32(warp) * smooth_field(rng, (size, size), reach)
    half = size / 2
    rows = (half * sine * wide, half * cosine * tall, half * (shift[1] + 1) - 0.5)
    columns = (half * cosine * wide, -half * sine * tall, half * (shift[0] + 1) - 0.5)
    return Frame(u, v, 2.0 / size / scale, rows, columns, int(3.5 * warp * half * max(wide, tall)) + 3)


def radius_of(
    on: Frame, centre: tuple[float, float], axes: tuple[float, float], angle: float = 0.0, power: float = 2.0
) -> Float32:
    """Elliptic radius: 0 at the centre, 1 on the outline, (H, W) float32; power 4 gives a rounded rectangle.

    centre, axes: anatomical units (across, down); angle in degrees.
    """
    across, down = on.u - np.float32(centre[0]), on.v - np.float32(centre[1])
    if angle:
        turn = np.deg2rad(angle)
        cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        across, down = cosine * across + sine * down, cosine * down - sine * across
    across *= np.float32(1 / axes[0])
    down *= np.float32(1 / axes[1])
    across *= across
    down *= down
    if power == 4.0:
        across *= across
        down *= down
    across += down
    np.sqrt(across, out=across)
    return np.sqrt(across, out=across) if power == 4.0 else across


def soft(radius: Float32, edge: float) -> Float32:
    """Turn an elliptic radius into coverage: 1 inside, 0 outside, a linear ramp of width `edge` centred on radius 1."""
    coverage = radius - np.float32(1.0)
    coverage *= np.float32(-1.0 / max(edge, 1e-6))
    coverage += np.float32(0.5)
    return np.clip(coverage, 0, 1, out=coverage)


def profile(radius: Float32, steps: Sequence[tuple[float, float]], start: float, edge: float = 0.02) -> Float32:
    """Grey values by radius in one pass: `start` at the centre, then each (radius, value) outwards of that radius.

    radius: (H, W) in [0, 2) or beyond, which counts as 2; edge: width of the ramp between two values.
    """
    places = np.arange(1024, dtype=np.float32) / np.float32(512)
    table = np.full(1024, start, np.float32)
    for where, value in steps:
        table += (np.float32(value) - table) * np.clip((places - np.float32(where)) / np.float32(edge) + 0.5, 0, 1)
    return table.take((radius * np.float32(512)).astype(np.intp), mode="clip")


def ellipse(
    on: Frame,
    centre: tuple[float, float],
    axes: tuple[float, float],
    angle: float = 0.0,
    *,
    edge: float = 1.5,
    power: float = 2.0,
) -> Float32:
    """Coverage (H, W) in [0, 1] of an ellipse on a frame; `edge` is the width of its border in pixels."""
    return soft(radius_of(on, centre, axes, angle, power), edge * on.pixel / min(axes))


def blob(
    rng: np.random.Generator,
    size: int,
    centre: tuple[float, float],
    radius: float,
    irregularity: float = 0.25,
    *,
    aspect: float = 1.0,
    edge: float = 2.0,
) -> tuple[tuple[slice, slice], Float32]:
    """An irregular soft lesion: the window it lies in and its coverage there.

    centre: (row, column) in pixels; radius: mean radius in pixels; irregularity: relative wobble of the outline (0 to
    0.5); aspect: across / down before a random turn; edge: width of the border in pixels.
    Returns ((row slice, column slice), coverage (h, w) float32 in [0, 1]); its exact mask is `coverage >= 0.5`.
    """
    reach = int(np.ceil(radius * max(aspect, 1 / aspect) * (1 + 2 * irregularity) + edge)) + 1
    row, column = round(centre[0]), round(centre[1])
    top, bottom = max(row - reach, 0), min(row + reach + 1, size)
    left, right = max(column - reach, 0), min(column + reach + 1, size)
    down = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(centre[0])
    across = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(centre[1])
    turn = rng.uniform(0, np.pi)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    stretch = np.float32(np.sqrt(aspect))
    along, beside = (cosine * across + sine * down) / stretch, (cosine * down - sine * across) * stretch
    distance = np.sqrt(along * along + beside * beside)
    angle = np.arctan2(beside, along)
    outline = np.ones_like(distance)
    for order in (2, 3, 4, 6):
        outline += np.float32(irregularity * rng.normal() * 1.6 / order) * np.cos(
            np.float32(order) * angle + np.float32(rng.uniform(0, 2 * np.pi))
        )
    outline = np.maximum(outline, np.float32(0.4)) * np.float32(radius)
    coverage: Float32 = np.clip((outline - distance) / np.float32(edge) + np.float32(0.5), 0, 1)
    return (slice(top, bottom), slice(left, right)), coverage


def paint(image: Float32, coverage: Float32, value: Float32 | float) -> None:
    """Blend `value` (a number or a field) into `image` in place where `coverage` is 1."""
    difference = value - image
    difference *= coverage
    image += difference


def spot(
    on: Frame,
    image: Float32,
    centre: tuple[float, float],
    axes: tuple[float, float],
    value: float,
    angle: float = 0.0,
    *,
    edge: float = 1.5,
) -> None:
    """Paint a small ellipse of grey `value` into `image` in place, working only in its window."""
    window, here = on.around(centre, max(axes))
    paint(image[window], ellipse(here, centre, axes, angle, edge=edge), value)


def shell(
    on: Frame,
    image: Float32,
    centre: tuple[float, float],
    axes: tuple[float, float],
    values: tuple[float, float],
    angle: float = 0.0,
    *,
    inner: float = 0.7,
    edge: float = 1.5,
) -> None:
    """Paint a small ellipse with the grey of its rim, values[0], and of its inside, values[1], in place."""
    window, here = on.around(centre, max(axes))
    radius, ramp = radius_of(here, centre, axes, angle), edge * on.pixel / min(axes)
    paint(image[window], soft(radius, ramp), values[0])
    paint(image[window], soft(radius * np.float32(1 / inner), ramp / inner), values[1])


def tubes(
    shape: tuple[int, int],
    lines: Sequence[tuple[Sequence[tuple[float, float]], float]],
    *,
    supersample: int = 2,
) -> Float32:
    """Coverage (H, W) in [0, 1] of polylines with round joints: vessels, wires, ribs.

    lines: ((row, column) points in pixels, width in pixels) each.
    """
    canvas = PillowImage.new("L", (shape[1] * supersample, shape[0] * supersample))
    pen = ImageDraw.Draw(canvas)
    for points, width in lines:
        path = [(column * supersample, row * supersample) for row, column in points]
        pen.line(path, fill=255, width=max(round(width * supersample), 1), joint="curve")
    if supersample > 1:
        canvas = canvas.reduce(supersample)
    coverage = np.asarray(canvas, dtype=np.float32)
    return coverage * np.float32(1 / 255)
