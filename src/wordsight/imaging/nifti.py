"""NIfTI-1 and -2 (.nii, .nii.gz): axial slices in radiological display, read plane by plane.

Slices are counted along the axis closest to foot-head, 0 is nearest the feet; the middle one is the default. Rows run
from anterior to posterior and columns from the patient's right to the left, so the patient's right is at image left.
Of a 4-D file the first volume is read.
"""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ImageError
from wordsight.imaging.source import check_limit, decoding, is_gzip, stream_size
from wordsight.imaging.windows import CT_WINDOWS, ChosenWindow, apply_window, stretch
from wordsight.types import Image

MOST_EXPANSION = 1032
"""Bytes that one byte of a deflate stream can stand for at most (RFC 1951: 258 bytes in 2 bits)."""

_LARGEST_OFFSET = 1 << 26
_LOW_HU = -500.0
_UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the voxels of the first volume lie and how its axes run.

    shape: voxels along the file's three axes. axes, flips: for right, anterior, superior: the file's axis, and whether
    it runs the other way.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    display: tuple[float, float]

    @property
    def slices(self) -> int:
        """Number of axial slices."""
        return self.shape[self.axes[2]]


def _header(stream: BinaryIO, name: str) -> Any:
    """The NIfTI header alone; extensions are never read."""
    import nibabel

    head = stream.read(540)
    is_second = int.from_bytes(head[:4], "little") == 540 or int.from_bytes(head[:4], "big") == 540
    kind: Any = nibabel.Nifti2Header if is_second else nibabel.Nifti1Header
    size = 540 if is_second else 348
    if len(head) < size:
        raise ImageError(f"{name}: expected a NIfTI header of {size} bytes, got {len(head)}. The file is truncated.")
    header = kind(head[:size], check=False)
    if bytes(header["magic"])[:2] == b"ni":
        raise ImageError(
            f"{name}: expected a single .nii file, got half of a .hdr/.img pair. Convert it to .nii first."
        )
    return header


def _dimensions(header: Any, name: str) -> tuple[tuple[int, int, int], int]:
    """The three spatial sizes, and the number of volumes."""
    count = int(header["dim"][0])
    sizes = [int(v) for v in header["dim"][1 : count + 1]] if 1 < count <= 7 else []
    if not sizes or min(sizes) < 1:
        raise ImageError(
            f"{name}: expected 2 to 7 dimensions of at least 1 voxel, got {sizes or count}. Check the file."
        )
    sizes += [1] * (3 - len(sizes))
    return (sizes[0], sizes[1], sizes[2]), math.prod(sizes[3:])


def _orientation(header: Any, name: str) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """File axis and direction for right, anterior, superior, from the affine."""
    from nibabel import orientations

    io_orientation: Any = orientations.io_orientation
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    codes = io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if not np.isfinite(codes).all():
        raise ImageError(f"{name}: expected an invertible affine, got one without orientation. Repair the header.")
    places = {int(axis): (i, flip < 0) for i, (axis, flip) in enumerate(codes)}
    return (places[0][0], places[1][0], places[2][0]), (places[0][1], places[1][1], places[2][1])


def _layout(stream: BinaryIO, name: str, compressed_size: int | None, size: int) -> Layout:
    header = _header(stream, name)
    shape, volumes = _dimensions(header, name)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise ImageError(f"{name}: expected integer or real voxels, got {dtype}. Convert them to a scalar type.")
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and 0 <= offset <= _LARGEST_OFFSET):
        raise ImageError(f"{name}: expected voxels to begin within {_LARGEST_OFFSET} bytes, got offset {offset}.")
    start = max(int(offset), 544 if header["sizeof_hdr"] == 540 else 352)
    needed = start + math.prod(shape) * volumes * dtype.itemsize
    available = size if compressed_size is None else compressed_size * MOST_EXPANSION
    if needed > available:
        raise ImageError(f"{name}: expected {needed} bytes by its header, got at most {available}. It is truncated.")
    slope, intercept = header.get_slope_inter()
    axes, flips = _orientation(header, name)
    unit = _UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    zooms = [abs(float(v)) * unit for v in header["pixdim"][1:4]]
    return Layout(
        shape=shape,
        dtype=dtype,
        offset=start,
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        axes=axes,
        flips=flips,
        spacing=(zooms[0], zooms[1], zooms[2]),
        display=(float(header["cal_min"]), float(header["cal_max"])),
    )


def _opened_voxels(stream: BinaryIO, name: str) -> tuple[BinaryIO | gzip.GzipFile, Layout]:
    stream.seek(0)
    compressed, size = is_gzip(stream.read(3)), stream_size(stream)
    stream.seek(0)
    voxels = gzip.GzipFile(fileobj=stream, mode="rb") if compressed else stream
    return voxels, _layout(voxels, name, size if compressed else None, size)  # type: ignore[arg-type]


def count_nifti(stream: BinaryIO, name: str) -> int:
    """Number of axial slices of the first volume. Raises ImageError for a damaged header."""
    with decoding(name, "NIfTI file"):
        return _opened_voxels(stream, name)[1].slices


def _rows(voxels: Any, layout: Layout, plane: int, name: str, rows: slice = slice(None)) -> NDArray[Any]:
    """(ny, nx) voxels of one plane of the file, or some of its rows; nothing else is held in memory."""
    nx, ny, _ = layout.shape
    first, stop, _ = rows.indices(ny)
    size = layout.dtype.itemsize
    voxels.seek(layout.offset + (plane * ny + first) * nx * size)
    wanted = (stop - first) * nx * size
    data = voxels.read(wanted)
    if len(data) < wanted:
        raise ImageError(f"{name}: expected {wanted} bytes for a plane, got {len(data)}. The file is truncated.")
    return np.frombuffer(data, dtype=layout.dtype).reshape(stop - first, nx)


def _slice(voxels: Any, layout: Layout, index: int, name: str) -> NDArray[Any]:
    """(H, W) stored voxels of axial slice `index`, anterior up, the patient's right at image left."""
    right, anterior, superior = layout.axes
    place = layout.slices - 1 - index if layout.flips[2] else index
    planes = range(layout.shape[2])
    # The remaining two file axes, ascending, become (columns, rows) of `flat`.
    if superior == 2:
        flat = _rows(voxels, layout, place, name)
    elif superior == 1:
        flat = np.stack([_rows(voxels, layout, k, name, slice(place, place + 1))[0] for k in planes])
    else:
        flat = np.stack([_rows(voxels, layout, k, name)[:, place].copy() for k in planes])
    shown = flat if right < anterior else flat.T
    # Stored along +right and +anterior both are displayed backwards.
    return shown[:: 1 if layout.flips[1] else -1, :: 1 if layout.flips[0] else -1]


def read_voxels(stream: BinaryIO, name: str, frame: int | None, max_pixels: int) -> tuple[NDArray[Any], Layout, int]:
    """Stored voxels of one axial slice (default: the middle one), the layout, and the slice's number."""
    with decoding(name, "NIfTI file"):
        voxels, layout = _opened_voxels(stream, name)
        count = layout.slices
        index = count // 2 if frame is None else frame
        if not 0 <= index < count:
            raise ImageError(f"{name}: expected a slice from 0 to {count - 1}, got {frame}. The volume has {count}.")
        check_limit(name, layout.shape[layout.axes[1]], layout.shape[layout.axes[0]], max_pixels)
        # A plane of the file is held whole, also where the slice crosses it.
        check_limit(name, layout.shape[1], layout.shape[0], max_pixels)
        values = _slice(voxels, layout, index, name)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ImageError(f"{name}: expected finite voxels, got NaN or infinity. Replace them before reading.")
    return values, layout, index


def _levels(
    stored: NDArray[Any], layout: Layout, window: ChosenWindow | None, name: str
) -> tuple[NDArray[np.float64], str]:
    """[0, 1] and how: window, the header's display range, the stored range of 8-bit voxels, percentiles."""
    values = stored.astype(np.float64) * layout.slope + layout.intercept
    if window is not None:
        return apply_window(values, window.centre, window.width, "LINEAR_EXACT"), f"given {window.text}"
    low, high = layout.display
    if math.isfinite(low) and math.isfinite(high) and high > low:
        return stretch(values, low, high), f"header {low:g}..{high:g}"
    if values.min() <= _LOW_HU:
        raise ImageError(
            f"{name}: values down to {values.min():g} look like CT, which needs a window. "
            f"Give one with window= (or --window), as centre and width or by name: {', '.join(CT_WINDOWS)}."
        )
    if stored.dtype == np.uint8 and layout.slope == 1 and layout.intercept == 0:
        return stretch(values, 0.0, 255.0), "stored range 0..255"
    low, high = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    if not high > low:
        low, high = float(values.min()), float(values.max())
    return stretch(values, low, high), f"percentiles {low:g}..{high:g}"


def read_nifti(stream: BinaryIO, name: str, frame: int | None, window: ChosenWindow | None, max_pixels: int) -> Image:
    """One axial slice as an image; how its grey levels were chosen is in identifiers["window"].

    Without a window: the header's display range (cal_min, cal_max), for plain 8-bit voxels 0..255, else the 0.5 and
    99.5 percentiles of this slice. Values below -500 are taken for Hounsfield units and need a window (ImageError).
    """
    stored, layout, index = read_voxels(stream, name, frame, max_pixels)
    with decoding(name, "NIfTI file"):
        shown, text = _levels(stored, layout, window, name)
        if not np.isfinite(shown).all():
            raise ImageError(f"{name}: expected finite scaled voxels, got NaN or infinity. The header is damaged.")
        row, column = layout.spacing[layout.axes[1]], layout.spacing[layout.axes[0]]
        known = all(math.isfinite(v) and v > 0 for v in (row, column))
        notes = {"frame": str(index), "window": text}
        bits = 8 * stored.dtype.itemsize
        return Image(shown.astype(np.float32), bits, (row, column) if known else None, "NIfTI", name, notes)
