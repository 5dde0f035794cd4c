"""DICOM images: one frame, modality and VOI transforms (PS3.3 C.11), MONOCHROME1 inverted, identifiers kept apart.

Grey levels are chosen in this order: the caller's window; the file's VOI LUT, then its first window; for CT the
soft-tissue window; for up to 8 stored bits the whole stored range; else the frame's minimum and maximum.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ImageError, ImageTooLarge
from wordsight.imaging.source import check_limit, decoding
from wordsight.imaging.windows import CT_WINDOWS, DEFAULT_CT_WINDOW, ChosenWindow, apply_window, stretch
from wordsight.types import Image

_IDENTIFIERS = {
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
    "sop": "SOPInstanceUID",
    "modality": "Modality",
    "view": "ViewPosition",
}
_PIXEL_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Markers that begin a JPEG or JPEG-LS frame header (ITU-T T.81 table B.1, T.87)."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One frame as stored, before any grey-level transform: (H, W) or (H, W, 3), with its data set."""

    values: NDArray[Any]
    dataset: Any
    frame: int
    frames: int


def _check_deflated(stream: BinaryIO, name: str, max_pixels: int) -> None:
    """Bound the size of a deflated data set before it is inflated in memory."""
    from pydicom import filereader

    stream.seek(0)
    filereader.read_preamble(stream, force=True)
    meta = filereader._read_file_meta_info(stream)
    if meta.get("TransferSyntaxUID") == _DEFLATED:
        inflater, limit, total = zlib.decompressobj(-zlib.MAX_WBITS), 8 * max_pixels + (1 << 24), 0
        while total <= limit and not inflater.eof:
            block = inflater.unconsumed_tail or stream.read(1 << 16)
            if not block:
                break
            total += len(inflater.decompress(block, 1 << 20))
        if total > limit:
            raise ImageTooLarge(
                f"{name}: expected at most {limit} inflated bytes, got more. Raise max_pixels if trusted."
            )
    stream.seek(0)


def _load(stream: BinaryIO, name: str, max_pixels: int, *, pixels: bool = True) -> Any:
    """The data set, with a transfer syntax also where the file lacks a header."""
    import pydicom

    _check_deflated(stream, name, max_pixels)
    dataset = pydicom.dcmread(stream, force=True, stop_before_pixels=not pixels)
    if pixels and not any(keyword in dataset for keyword in _PIXEL_DATA):
        modality, kind = dataset.get("Modality") or "unknown", dataset.get("SOPClassUID")
        what = getattr(kind, "name", None) or "no SOP class"
        raise ImageError(
            f"{name}: expected a DICOM image, got an object without pixel data (modality {modality}, {what}). "
            "Choose the images of the series instead."
        )
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        uid = "1.2.840.10008.1.2" if implicit else f"1.2.840.10008.1.2.{1 if little in (True, None) else 2}"
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
    return dataset


def _frame_count(dataset: Any, name: str) -> int:
    count = int(dataset.get("NumberOfFrames") or 1)
    if count < 1:
        raise ImageError(f"{name}: expected NumberOfFrames of at least 1, got {count}. The header is damaged.")
    return count


def count_dicom(stream: BinaryIO, name: str, max_pixels: int) -> int:
    """Number of frames. Raises ImageError for an object without Rows (a report, a plan) or a damaged header."""
    with decoding(name, "DICOM file"):
        dataset = _load(stream, name, max_pixels, pixels=False)
        if "Rows" not in dataset:
            modality = dataset.get("Modality") or "unknown"
            raise ImageError(f"{name}: expected a DICOM image, got an object without pixel data (modality {modality}).")
        return _frame_count(dataset, name)


def codestream_shape(data: bytes) -> tuple[int, int] | None:
    """(height, width) in the header of a JPEG, JPEG-LS or JPEG 2000 codestream; None if there is none."""
    start = data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start >= 0 and len(data) >= start + 24:
        x1, y1, x0, y0 = struct.unpack(">4I", data[start + 8 : start + 24])
        return y1 - y0, x1 - x0
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in _JPEG_FRAMES:
            height, width = struct.unpack(">2H", data[place + 5 : place + 9])
            return height, width
        place += 2 + int(struct.unpack(">H", data[place + 2 : place + 4])[0])
    return None


def _check_codestream(dataset: Any, frame: int, frames: int, name: str) -> None:
    """Compressed frames carry a size of their own, which decoders trust: it must be the data set's."""
    from pydicom.encaps import get_frame

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == _DEFLATED or "PixelData" not in dataset:
        return
    shape = codestream_shape(get_frame(dataset.PixelData, frame, number_of_frames=frames))
    if shape is not None and shape != (dataset.Rows, dataset.Columns):
        raise ImageError(
            f"{name}: expected a compressed frame of {dataset.Rows} x {dataset.Columns} as the header says, "
            f"got {shape[0]} x {shape[1]}. The file is damaged."
        )


def _check_header(dataset: Any, name: str, max_pixels: int) -> None:
    """Refuse absent, impossible or too large sizes before anything is decoded."""
    if dataset.get("Rows") is None or dataset.get("Columns") is None:
        raise ImageError(f"{name}: expected Rows and Columns beside pixel data, got none. The header is damaged.")
    check_limit(name, int(dataset.Rows), int(dataset.Columns), max_pixels)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if samples not in (1, 3):
        raise ImageError(f"{name}: expected 1 or 3 samples per pixel, got {samples}. The header is damaged.")


def read_stored(stream: BinaryIO, name: str, frame: int | None, max_pixels: int) -> Stored:
    """Decode one frame (default: the first). Raises ImageTooLarge from the header, ImageError for what is no image."""
    with decoding(name, "DICOM file"):
        dataset = _load(stream, name, max_pixels)
        frames = _frame_count(dataset, name)
        index = 0 if frame is None else frame
        if not 0 <= index < frames:
            raise ImageError(f"{name}: expected a frame from 0 to {frames - 1}, got {frame}. The file has {frames}.")
        _check_header(dataset, name, max_pixels)
        _check_codestream(dataset, index, frames, name)
        from pydicom.pixels.utils import pixel_array

        values = pixel_array(dataset, index=index)
        if values.shape[:2] != (dataset.Rows, dataset.Columns) or values.shape[2:] not in ((), (3,)):
            raise ImageError(f"{name}: expected {dataset.Rows} x {dataset.Columns} pixels, decoded {values.shape}.")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ImageError(f"{name}: expected finite pixel values, got NaN or infinity. Replace them before reading.")
    return Stored(values, dataset, index, frames)


def _macro(stored: Stored, sequence: str) -> Any:
    """A functional group of this frame (its own, else the shared one) in enhanced objects; else the data set."""
    dataset = stored.dataset
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in (*own[stored.frame : stored.frame + 1], *shared[:1]):
        if group.get(sequence):
            return group.get(sequence)[0]
    return dataset


def _first(value: Any) -> float | None:
    """First number of a DICOM value of any multiplicity; None if it is absent or empty."""
    from pydicom.multival import MultiValue

    if isinstance(value, (MultiValue, list, tuple)):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)


def _modality_values(stored: Stored, name: str) -> NDArray[np.float64]:
    """Stored values -> modality values (for CT: HU) by the modality LUT or rescale slope and intercept."""
    from pydicom.pixels.processing import apply_modality_lut

    if stored.dataset.get("ModalityLUTSequence"):
        return np.asarray(apply_modality_lut(stored.values, stored.dataset), dtype=np.float64)
    item = _macro(stored, "PixelValueTransformationSequence")
    slope, intercept = _first(item.get("RescaleSlope")), _first(item.get("RescaleIntercept"))
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope != 0):
        raise ImageError(f"{name}: expected a finite rescale slope other than 0, got {slope} and {intercept}.")
    return stored.values.astype(np.float64) * slope + intercept


def _padding(stored: Stored) -> NDArray[np.bool_] | None:
    """Pixels outside the acquired image (Pixel Padding Value and Range Limit, PS3.3 C.7.5.1.1.2)."""
    low = _first(stored.dataset.get("PixelPaddingValue"))
    if low is None:
        return None
    high = _first(stored.dataset.get("PixelPaddingRangeLimit"))
    low, high = sorted((low, low if high is None else high))
    return np.asarray((stored.values >= low) & (stored.values <= high), dtype=np.bool_)


def _file_window(stored: Stored, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], str] | None:
    """The file's own VOI LUT or first window applied; None where it has neither."""
    from pydicom.pixels.processing import apply_voi

    luts = stored.dataset.get("VOILUTSequence")
    if luts and luts[0].get("LUTDescriptor") is not None:
        shown = apply_voi(np.rint(values).astype(np.int64), stored.dataset)
        return np.clip(shown / (2.0 ** int(luts[0].LUTDescriptor[2]) - 1.0), 0.0, 1.0), "VOI LUT"
    item = _macro(stored, "FrameVOILUTSequence")
    centre, width = _first(item.get("WindowCenter")), _first(item.get("WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(item.get("VOILUTFunction") or "LINEAR").upper()
    return apply_window(values, centre, width, function), f"file {centre:g}/{width:g} {function}"


def _without_window(
    stored: Stored, values: NDArray[np.float64], padding: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], str]:
    """Grey levels where neither the caller nor the file gives a window."""
    dataset = stored.dataset
    if dataset.get("Modality") == "CT":
        centre, width = CT_WINDOWS[DEFAULT_CT_WINDOW]
        return apply_window(values, centre, width), f"default {DEFAULT_CT_WINDOW} {centre:g}/{width:g}"
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    if bits <= 8 and stored.values.dtype.kind == "u" and np.array_equal(values, stored.values):
        return stretch(values, 0.0, 2.0**bits - 1.0), f"stored range 0..{2**bits - 1}"
    counted = values if padding is None or padding.all() else values[~padding]
    low, high = float(counted.min()), float(counted.max())
    return stretch(values, low, high), f"min-max {low:g}..{high:g}"


def _grey(stored: Stored, window: ChosenWindow | None, name: str) -> tuple[NDArray[np.float64], str]:
    """(H, W) in [0, 1], bright is high, and how the grey levels were chosen."""
    modality = stored.dataset.get("Modality")
    if window is not None and window.named and modality not in (None, "", "CT"):
        raise ImageError(f"{name}: named windows are in HU, for CT; this is {modality}. Give window=(centre, width).")
    values = _modality_values(stored, name)
    padding = _padding(stored)
    if window is not None:
        shown, text = apply_window(values, window.centre, window.width, "LINEAR_EXACT"), f"given {window.text}"
    else:
        shown, text = _file_window(stored, values) or _without_window(stored, values, padding)
    if stored.dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        shown = 1.0 - shown
    if padding is not None:
        shown = np.where(padding, 0.0, shown)
    return shown, text


def _palette(stored: Stored) -> tuple[NDArray[np.float64], int]:
    """(H, W, 3) in [0, 1] through the palette, and the palette's bits."""
    from pydicom.pixels.processing import apply_color_lut

    colours = apply_color_lut(stored.values, stored.dataset)[..., :3]
    return colours / float(np.iinfo(colours.dtype).max), 8 * colours.dtype.itemsize


def _spacing(stored: Stored) -> tuple[float, float] | None:
    """PixelSpacing, else ImagerPixelSpacing (row, column) in mm; None where absent or not positive."""
    item = _macro(stored, "PixelMeasuresSequence")
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        value = item.get(keyword)
        if value is not None and not isinstance(value, str) and len(value) == 2:
            row, column = float(value[0]), float(value[1])
            if math.isfinite(row) and math.isfinite(column) and row > 0 and column > 0:
                return row, column
    return None


def _identifiers(stored: Stored) -> dict[str, str]:
    dataset = stored.dataset
    found = {name: str(dataset.get(keyword) or "") for name, keyword in _IDENTIFIERS.items()}
    found["laterality"] = str(dataset.get("ImageLaterality") or dataset.get("Laterality") or "")
    found["frame"] = str(stored.frame) if stored.frames > 1 else ""
    return {name: value for name, value in found.items() if value}


def read_dicom(stream: BinaryIO, name: str, frame: int | None, window: ChosenWindow | None, max_pixels: int) -> Image:
    """One frame of a DICOM image as it is meant to be seen; see the module for how grey levels are chosen.

    How they were chosen is in identifiers["window"]. YBR and palette colour become RGB; pixel padding becomes 0.
    """
    stored = read_stored(stream, name, frame, max_pixels)
    with decoding(name, "DICOM file"):
        photometric = str(stored.dataset.get("PhotometricInterpretation") or "")
        bits = int(stored.dataset.get("BitsStored") or stored.dataset.BitsAllocated)
        identifiers = _identifiers(stored)
        if photometric == "PALETTE COLOR":
            shown, bits = _palette(stored)
        elif stored.values.ndim == 3:
            shown = np.clip(stored.values / (2.0**bits - 1.0), 0.0, 1.0)
        elif photometric in ("MONOCHROME1", "MONOCHROME2"):
            shown, identifiers["window"] = _grey(stored, window, name)
        else:
            raise ImageError(f"{name}: expected a known photometric interpretation, got {photometric or 'none'!r}.")
        if not np.isfinite(shown).all():
            raise ImageError(f"{name}: expected finite grey levels, got NaN or infinity. The header is damaged.")
        return Image(shown.astype(np.float32), bits, _spacing(stored), photometric, name, identifiers)
