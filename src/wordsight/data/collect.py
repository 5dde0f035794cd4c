"""One pass over images and masks that keeps numbers and hashes, not pixels."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wordsight.errors import ImageError
from wordsight.types import Image, Record

MASK, REGION = " (mask)", " (region)"


@dataclass(frozen=True, slots=True)
class Seen:
    """What is kept of one readable image.

    shape: (height, width). mean, std: of the grey values in [0, 1]. content: hash of the pixels; colour with equal
    channels counts as grey. patient: the record's, else the file's.
    """

    name: str
    record: Record
    shape: tuple[int, int]
    bits: int
    photometric: str
    spacing: str
    mean: float
    std: float
    content: str
    patient: str | None


@dataclass(frozen=True, slots=True)
class Masks:
    """What the masks hold.

    files: masks read. levels: grey level (as stored) -> masks that hold it, background included. not_binary: masks
    with more than one level above 0. faint: masks with levels above 0 but not above half of the largest value, which
    the published threshold drops. empty: masks without any level above 0. other_size: masks whose size is not their
    image's. without: abnormal images without a mask.
    """

    files: int
    levels: Mapping[int, int]
    not_binary: tuple[str, ...]
    faint: tuple[str, ...]
    empty: tuple[str, ...]
    other_size: tuple[str, ...]
    without: tuple[str, ...]


def relative_names(records: Sequence[Record]) -> list[str]:
    """Path of each record relative to the folder that all share, with the frame where there is one."""
    paths = [os.path.abspath(record.path) for record in records]
    base = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [Path(os.path.relpath(path, base)).as_posix() for path in paths]
    return [n if r.frame is None else f"{n}#{r.frame}" for n, r in zip(names, records, strict=True)]


def pixel_hash(image: Image) -> str:
    """SHA-256 of the values in [0, 1] and their shape; colour with three equal channels is hashed as grey."""
    pixels = image.pixels
    if pixels.ndim == 3 and bool((pixels == pixels[..., :1]).all()):
        pixels = pixels[..., 0]
    return hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class MaskLook:
    """shape: (height, width). levels: grey levels as stored, None where the format windows them. marked, faint: whether
    any pixel is above 0, and whether any of these is at most half the largest value."""

    shape: tuple[int, int]
    levels: tuple[int, ...] | None
    marked: bool
    faint: bool


def look_at_mask(file: Path, frame: int | None = None) -> MaskLook:
    """Read a mask; `frame` counts only if the file holds several. Raises ImageError."""
    from wordsight.imaging import image_count, read_image, read_mask, sniff

    frame = frame if frame is not None and image_count(file) > 1 else None
    if sniff(file) in ("dicom", "nifti"):
        marked = read_mask(file, rule="any", frame=frame)
        faint = marked & ~read_mask(file, rule="half", frame=frame)
        return MaskLook((marked.shape[0], marked.shape[1]), None, bool(marked.any()), bool(faint.any()))
    mask = read_image(file, frame=frame)
    top = 2**mask.bits - 1
    levels = tuple(int(v) for v in np.unique(np.rint(mask.grey().astype(np.float64) * top)))
    return MaskLook(mask.shape, levels, levels[-1] > 0, any(0 < 2 * level <= top for level in levels))


class Collector:
    """Add records one by one; then `seen`, `unreadable` and `masks()` hold the result."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.unreadable: list[tuple[str, str]] = []
        self._levels: Counter[int] = Counter()
        self._files = 0
        self._lists: dict[str, list[str]] = {k: [] for k in ("not_binary", "faint", "empty", "other_size", "without")}

    def add(self, name: str, record: Record) -> None:
        """Read a record's image, mask and region; what cannot be read goes to `unreadable`."""
        from wordsight.imaging import read_record

        try:
            image = read_record(record)
        except ImageError as error:
            self.unreadable.append((name, str(error)))
            return
        spacing = image.spacing_mm
        grey = image.grey()
        self.seen.append(
            Seen(
                name,
                record,
                image.shape,
                image.bits,
                image.photometric,
                "unknown" if spacing is None else f"{spacing[0]:.4g} x {spacing[1]:.4g} mm",
                float(grey.mean(dtype=np.float64)),
                float(grey.std(dtype=np.float64)),
                pixel_hash(image),
                record.patient or image.identifiers.get("patient") or None,
            )
        )
        if record.mask is None and record.label == 1:
            self._lists["without"].append(name)
        for file, suffix in ((record.mask, MASK), (record.region, REGION)):
            if file is not None:
                self._add_mask(name + suffix, file, record.frame, image.shape)

    def _add_mask(self, name: str, file: Path, frame: int | None, shape: tuple[int, int]) -> None:
        try:
            mask = look_at_mask(file, frame)
        except ImageError as error:
            self.unreadable.append((name, str(error)))
            return
        if mask.shape != shape:
            self._lists["other_size"].append(name)
        if name.endswith(REGION):
            return
        self._files += 1
        self._levels.update(mask.levels or ())
        not_binary = mask.levels is not None and sum(level > 0 for level in mask.levels) > 1
        for found, key in ((not_binary, "not_binary"), (mask.faint, "faint"), (not mask.marked, "empty")):
            if found:
                self._lists[key].append(name)

    def masks(self) -> Masks | None:
        """What the masks held; None if there was none."""
        if self._files == 0:
            return None
        lists: Mapping[str, tuple[str, ...]] = {key: tuple(names) for key, names in self._lists.items()}
        return Masks(self._files, dict(sorted(self._levels.items())), **lists)
