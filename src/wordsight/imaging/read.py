"""`read_image` and its relatives: one door for every format, chosen by content."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ImageError, SettingsError
from wordsight.imaging.dicom import count_dicom, read_dicom, read_stored
from wordsight.imaging.nifti import count_nifti, read_nifti, read_voxels
from wordsight.imaging.raster import Raster, count_raster, on_black, read_raster
from wordsight.imaging.source import DEFAULT_MAX_PIXELS, Format, check_limit, describe, opened, sniff_stream
from wordsight.imaging.windows import Window, parse_window, stretch
from wordsight.types import Image, Record

Source = str | os.PathLike[str] | bytes


def luminance(values: NDArray[Any]) -> NDArray[Any]:
    """(H, W, 3) -> (H, W) luma of ITU-R BT.601; for uint8 to the integer rounding of Pillow's mode L."""
    if values.ndim == 2:
        return values
    if values.dtype == np.uint8:
        wide = values.astype(np.uint32)
        luma = (wide[..., 0] * 19595 + wide[..., 1] * 38470 + wide[..., 2] * 7471 + 0x8000) >> 16
        return luma.astype(np.uint8)
    return np.asarray(values @ np.array([0.299, 0.587, 0.114]), dtype=np.float64)


def _kind(stream: BinaryIO, name: str) -> Format:
    kind = sniff_stream(stream)
    if kind is None:
        raise ImageError(f"{name}: expected PNG, JPEG, TIFF, BMP, DICOM or NIfTI content, got something else.")
    return kind


def _scaled(raster: Raster, name: str) -> Image:
    values, notes = raster.values, {}
    if raster.full is None:
        low, high = float(values.min()), float(values.max())
        notes["scale"] = f"min-max {low:g}..{high:g}"
        pixels = stretch(values, low, high).astype(np.float32)
    else:
        pixels = values.astype(np.float32) / np.float32(raster.full)
    return Image(pixels, raster.bits, None, raster.photometric, name, notes)


def _from_array(array: NDArray[Any], max_pixels: int) -> Image:
    """An Image from (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) bool, uint8, uint16 or float in [0, 1]; copied."""
    name = "<array>"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: expected shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}.")
    check_limit(name, array.shape[0], array.shape[1], max_pixels)
    values = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype == np.bool_:
        return Image(_opaque(values.astype(np.float32)), bits=1)
    if array.dtype.newbyteorder("=") in (np.uint8, np.uint16):
        native = values.astype(array.dtype.newbyteorder("="))
        native = on_black(native) if native.ndim == 3 and native.shape[2] == 4 else native
        return Image(native.astype(np.float32) / np.float32(np.iinfo(native.dtype).max), bits=8 * native.dtype.itemsize)
    if array.dtype.kind != "f":
        raise ImageError(
            f"{name}: expected bool, uint8, uint16 or float pixels, got {array.dtype}. Convert them first."
        )
    if not np.isfinite(values).all():
        raise ImageError(f"{name}: expected finite pixel values, got NaN or infinity. Replace them first.")
    if values.min() < 0 or values.max() > 1:
        raise ImageError(
            f"{name}: expected float pixels in [0, 1], got {values.min():g} to {values.max():g}. Scale them first."
        )
    return Image(_opaque(values.astype(np.float32)), bits=8 * array.dtype.itemsize)


def _opaque(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Composite (H, W, 4) on black; others as they are."""
    return pixels[..., :3] * pixels[..., 3:] if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels


def read_image(
    source: Source | NDArray[Any],
    *,
    frame: int | None = None,
    window: Window | str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Image:
    """Read a PNG, JPEG, TIFF, BMP, DICOM or NIfTI image, told by its content; or take an array.

    source: path, the bytes of a file, or an array (H, W), (H, W, 1|3|4) of bool, uint8, uint16 or float in [0, 1],
        which is copied.
    frame: DICOM frame (default 0), TIFF page (default 0) or axial NIfTI slice from the feet (default: the middle).
    window: (centre, width) or "centre/width" in the file's modality units, or for CT a name: lung, mediastinum,
        soft-tissue, liver, bone, brain, subdural, stroke. For DICOM grey images and NIfTI; other sources have no units
        and ignore it.
    max_pixels: the largest H x W that is read; checked from the header, before anything is allocated.
    Alpha is composited on black, EXIF orientation applied, MONOCHROME1 inverted. Integer PNG and TIFF are divided by
    their full scale (16 bits: 65535); float TIFF in [0, 1] is kept, other floats and signed integers are scaled by
    minimum and maximum, which photometric and identifiers["scale"] then say.
    Raises ImageError (ImageTooLarge for the limit) for whatever cannot be read, SettingsError for a bad window.
    """
    chosen = parse_window(window)
    if isinstance(source, np.ndarray):
        if frame not in (None, 0):
            raise ImageError(f"<array>: expected frame 0 or none for an array, got {frame}. Index the array instead.")
        return _from_array(source, max_pixels)
    _check_source(source)
    name = describe(source)
    with opened(source) as stream:
        kind = _kind(stream, name)
        if kind == "dicom":
            return read_dicom(stream, name, frame, chosen, max_pixels)
        if kind == "nifti":
            return read_nifti(stream, name, frame, chosen, max_pixels)
        raster = read_raster(stream, kind, name, frame, max_pixels)
    return _scaled(raster, name)


def read_record(record: Record) -> Image:
    """The image of a record: its frame, through its window. Raises as `read_image` does."""
    return read_image(record.path, frame=record.frame, window=record.window)


def _check_source(source: object) -> None:
    if not isinstance(source, (str, os.PathLike, bytes)):
        raise ImageError(f"expected a path, bytes or a NumPy array, got {type(source).__name__}. Convert it first.")


def image_count(source: Source) -> int:
    """Frames of a DICOM, pages of a TIFF or axial slices of a NIfTI file; 1 for other images. Raises ImageError."""
    _check_source(source)
    name = describe(source)
    with opened(source) as stream:
        kind = _kind(stream, name)
        if kind == "dicom":
            return count_dicom(stream, name, DEFAULT_MAX_PIXELS)
        if kind == "nifti":
            return count_nifti(stream, name)
        return count_raster(stream, kind, name)


def read_many(
    items: Iterable[tuple[Path, int | None]], window: Window | str | None = None
) -> Iterator[Image | ImageError]:
    """Read (path, frame) pairs lazily, in order: an Image each, or the ImageError of one that cannot be read.

    A bad window is the caller's mistake, not a file's, and raises SettingsError at once.
    """
    parse_window(window)
    for path, frame in items:
        try:
            yield read_image(path, frame=frame, window=window)
        except ImageError as error:
            yield error


def _mask_values(source: Source, frame: int | None, max_pixels: int) -> tuple[NDArray[Any], float]:
    """Stored values of a mask, (H, W) or (H, W, 3), and the value that counts as 1."""
    name = describe(source)
    with opened(source) as stream:
        kind = _kind(stream, name)
        if kind == "dicom":
            stored = read_stored(stream, name, frame, max_pixels)
            return stored.values, 2.0 ** int(stored.dataset.get("BitsStored") or 8) - 1.0
        if kind == "nifti":
            voxels, _, _ = read_voxels(stream, name, frame, max_pixels)
            return voxels, float(np.iinfo(voxels.dtype).max) if voxels.dtype.kind in "iu" else 1.0
        raster = read_raster(stream, kind, name, frame, max_pixels)
    full = raster.full
    if full is None:
        full = float(np.iinfo(raster.values.dtype).max) if raster.values.dtype.kind in "iu" else 1.0
    return raster.values, full


def read_mask(
    path: Source,
    *,
    rule: Literal["any", "half"] = "any",
    frame: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> NDArray[np.bool_]:
    """Read a mask, (H, W) bool, from any image format, upright as its image is.

    rule: "any": every pixel that is not zero is abnormal. "half": value / full scale > 0.5, as MLA-LP does; a mask
        stored as 0 and 1 then vanishes, and so does level 62 of the benchmark's brain masks.
    frame: as for read_image. Colour counts by its luminance, 8-bit colour rounded as Pillow's mode L, so that the
        colour noise of JPEG around black is 0; transparent is 0. DICOM and NIfTI count by stored values.
    Raises ImageError as read_image does, SettingsError for another rule.
    """
    if rule not in ("any", "half"):
        raise SettingsError(f"expected the mask rule 'any' or 'half', got {rule!r}.")
    _check_source(path)
    values, full = _mask_values(path, frame, max_pixels)
    grey = luminance(values)
    chosen = grey != 0 if rule == "any" else grey / full > 0.5
    return np.ascontiguousarray(chosen, dtype=np.bool_)
