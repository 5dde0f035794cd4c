"""Image -> the array a network takes, with the geometry that leads back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import MetricError, SettingsError
from wordsight.imaging.read import luminance
from wordsight.imaging.resample import area, bicubic, nearest
from wordsight.types import Float32, Geometry, Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_FILTERS: dict[str, Callable[[Any, int, int], NDArray[Any]]] = {"bicubic": bicubic, "area": area}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a network wants to be fed.

    size: (h, w) of the array. fit: "stretch" to `size`, or "letterbox": the longer side to `resize_to` (the other
    rounded down, at least 1), zeros to a square, floor(p / 2) of them before, then the centre `size` of it.
    filter: "bicubic" (Pillow) or "area" (OpenCV's INTER_AREA). colour: RGB, else luminance; channels: 1 or 3, grey
    being repeated. mean, std: per channel or one for all, applied after scaling to [0, 1]; None for none.
    eight_bit: resample images of at most 8 bits in 8 bits, as published; deeper ones always in float.
    Raises SettingsError for settings outside their range or at odds with each other.
    """

    size: tuple[int, int]
    fit: Literal["stretch", "letterbox"] = "stretch"
    resize_to: int | None = None
    filter: Literal["bicubic", "area"] = "bicubic"
    colour: bool = True
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    eight_bit: bool = True

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise SettingsError(f"expected size (h, w) of at least 1 pixel each, got {self.size}.")
        if self.fit not in ("stretch", "letterbox"):
            raise SettingsError(f"expected fit 'stretch' or 'letterbox', got {self.fit!r}.")
        if self.filter not in _FILTERS:
            raise SettingsError(f"expected filter 'bicubic' or 'area', got {self.filter!r}.")
        if (self.fit == "letterbox") != (self.resize_to is not None):
            raise SettingsError(
                f"expected resize_to with 'letterbox' and only there, got {self.resize_to}, {self.fit!r}."
            )
        if self.resize_to is not None and self.resize_to < max(self.size):
            raise SettingsError(f"expected resize_to of at least {max(self.size)}, the size, got {self.resize_to}.")
        if self.channels not in ((3,) if self.colour else (1, 3)):
            raise SettingsError(f"expected 3 channels for colour, 1 or 3 for grey, got {self.channels}.")
        self._check_scaling()

    def _check_scaling(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise SettingsError("expected mean and std together, got one of them.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and (len(values) not in (1, self.channels) or not np.isfinite(values).all()):
                raise SettingsError(f"expected {name} with 1 or {self.channels} finite values, got {values}.")
        if self.std is not None and min(self.std) <= 0:
            raise SettingsError(f"expected std > 0, got {self.std}.")


def mla_input(size: int = 240, normalize: bool = False) -> InputSpec:
    """Input of MLA-LP: RGB squeezed to size x size by Pillow's bicubic, [0, 1]; `normalize` adds CLIP's mean and std.

    The published networks were trained without mean and std.
    """
    if not normalize:
        return InputSpec(size=(size, size))
    return InputSpec(size=(size, size), mean=CLIP_MEAN, std=CLIP_STD)


CARZERO_INPUT = InputSpec(
    size=(224, 224),
    fit="letterbox",
    resize_to=256,
    filter="area",
    colour=False,
    channels=3,
    mean=(0.4978,),
    std=(0.2449,),
)
"""Input of CARZero (`process_img`): grey, long side 256 by area, padded, centre crop 224, one mean and std."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Size after resampling, and where its corner lies in the array (negative: cropped)."""

    resized: tuple[int, int]
    corner: tuple[int, int]


def _plan(shape: tuple[int, int], spec: InputSpec) -> _Plan:
    if spec.resize_to is None:
        return _Plan(spec.size, (0, 0))
    long, height, width = spec.resize_to, *shape
    # The ratio is taken first, in double precision, and the product cut: the published order of roundings.
    if height >= width:
        resized = (long, max(1, int(width * (long / height))))
    else:
        resized = (max(1, int(height * (long / width))), long)
    corner = tuple((long - side) // 2 - round((long - size) / 2) for side, size in zip(resized, spec.size, strict=True))
    return _Plan(resized, (corner[0], corner[1]))


def _placed(values: NDArray[Any], plan: _Plan, size: tuple[int, int]) -> NDArray[Any]:
    """Lay the resampled image into zeros of `size`, cutting what sticks out."""
    if values.shape[:2] == size and plan.corner == (0, 0):
        return values
    out = np.zeros((*size, *values.shape[2:]), dtype=values.dtype)
    spans = []
    for axis in range(2):
        start, stop = plan.corner[axis], plan.corner[axis] + plan.resized[axis]
        inside = slice(max(start, 0), min(stop, size[axis]))
        spans.append((inside, slice(inside.start - start, inside.stop - start)))
    (rows, from_rows), (columns, from_columns) = spans
    out[rows, columns] = values[from_rows, from_columns]
    return out


def _as_wanted(image: Image, spec: InputSpec) -> NDArray[Any]:
    """uint8 or float32 pixels, (H, W) or (H, W, 3) as the specification says."""
    pixels: NDArray[Any] = image.pixels
    if spec.eight_bit and image.bits <= 8:
        pixels = np.rint(pixels * np.float32(255)).astype(np.uint8)
    if spec.colour or pixels.ndim == 2:
        return pixels
    return luminance(pixels) if pixels.dtype == np.uint8 else image.grey()


def prepare(image: Image, spec: InputSpec) -> tuple[Float32, Geometry]:
    """Image -> ((C, h, w) float32 for a network, geometry back to the image). The image is not changed.

    Values are in [0, 1] before mean and std. Grey images become three equal channels where three are wanted.
    """
    plan = _plan(image.shape, spec)
    resized = _FILTERS[spec.filter](_as_wanted(image, spec), *plan.resized)
    placed = _placed(resized, plan, spec.size)
    values = placed.astype(np.float32)
    if placed.dtype == np.uint8:
        values /= np.float32(255)
    planes = np.moveaxis(values, -1, 0) if values.ndim == 3 else np.broadcast_to(values, (spec.channels, *spec.size))
    out: Float32 = np.array(planes, dtype=np.float32, order="C")
    if spec.mean is not None and spec.std is not None:
        out -= np.asarray(spec.mean, dtype=np.float32).reshape(-1, 1, 1)
        out /= np.asarray(spec.std, dtype=np.float32).reshape(-1, 1, 1)
    scale = (plan.resized[0] / image.shape[0], plan.resized[1] / image.shape[1])
    return out, Geometry(image.shape, spec.size, scale, (float(plan.corner[0]), float(plan.corner[1])))


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image as a network takes it, such as another process made it ready.

    array: (C, h, w) float32, and geometry: back to the image, as `prepare` gives them for `spec`. source: of the image.
    """

    array: Float32
    geometry: Geometry
    source: str
    spec: InputSpec


def prepared(image: Image | Prepared, spec: InputSpec) -> Prepared:
    """The image prepared for a network; what is prepared already stays as it is.

    Raises SettingsError for what was prepared for another network.
    """
    if isinstance(image, Image):
        return Prepared(*prepare(image, spec), image.source, spec)
    if image.spec != spec:
        raise SettingsError(
            f"{image.source}: expected an image prepared by {spec}, got one prepared by {image.spec}. Prepare it by "
            "the detector's input_spec."
        )
    return image


def prepare_mask(mask: NDArray[np.bool_], spec: InputSpec) -> NDArray[np.bool_]:
    """(H, W) bool -> (h, w) bool on the array's grid, by Pillow's nearest neighbour; False in the padding.

    Raises MetricError for another shape or type.
    """
    if mask.ndim != 2 or mask.dtype != np.bool_ or 0 in mask.shape:
        raise MetricError(f"expected a mask (H, W) of bool, got {mask.dtype} of shape {mask.shape}.")
    plan = _plan((mask.shape[0], mask.shape[1]), spec)
    return np.asarray(_placed(nearest(mask, *plan.resized), plan, spec.size), dtype=np.bool_)
