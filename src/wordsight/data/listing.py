"""What lies in a folder: image files by content, and how many frames a file holds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from wordsight.errors import DataError, ImageError
from wordsight.progress import progress
from wordsight.types import Record

_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
Frames = Literal["first", "all"]
MASK_FOLDER = "anomaly_mask"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm", ".nii"})
UNREADABLE = "unreadable"


def child(folder: Path, name: str) -> Path | None:
    """The subfolder of that name, in any case; an exact match wins. None if there is none."""
    exact = folder / name
    if exact.is_dir():
        return exact
    if not folder.is_dir():
        return None
    same = sorted(p for p in folder.iterdir() if p.name.casefold() == name.casefold() and p.is_dir())
    return same[0] if same else None


def few(names: Iterable[object], limit: int = 5) -> str:
    """The first names of a list and how many there are, for messages."""
    texts = [str(n) for n in names]
    rest = f", ... ({len(texts)} in all)" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + rest


def content_of(path: Path) -> str | None:
    """The format that `wordsight.imaging.sniff` finds, None for none, UNREADABLE for a file that cannot be opened."""
    from wordsight.imaging import sniff

    try:
        return sniff(path)
    except ImageError:
        return UNREADABLE


def _unlistable(error: OSError) -> DataError:
    return DataError(
        f"{error.filename}: cannot list this folder ({error.strerror}). Check the path and its permissions."
    )


def _refuse(error: OSError) -> None:
    raise _unlistable(error) from error


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images and other files directly in a folder, both sorted by name, hidden files left out.

    An image is what is one by content, and what its suffix says is one: a damaged or unreadable file stays among the
    images, so that whoever reads it says what is wrong. Raises DataError if the folder cannot be listed.
    """
    try:
        entries = sorted(folder.iterdir(), key=lambda p: p.name)
    except OSError as error:
        raise _unlistable(error) from error
    images: list[Path] = []
    others: list[Path] = []
    for path in entries:
        if not path.name.startswith(".") and path.is_file():
            is_image = path.suffix.lower() in IMAGE_SUFFIXES or content_of(path) is not None
            (images if is_image else others).append(path)
    return images, others


def walk_files(folder: Path) -> Iterator[Path]:
    """Files below a folder, sorted folder by folder; hidden names and mask folders left out.

    Links to folders are followed, each real folder once, so that loops end. Raises DataError for a folder that cannot
    be listed: leaving it out silently would change a data set.
    """
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        status = os.stat(root)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f.casefold() != MASK_FOLDER)
        for name in sorted(files):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _dicom_patient(path: Path) -> tuple[str | None, bool]:
    """(patient or None, whether the object holds an image at all) from a DICOM header.

    Only a header that is complete enough to name its class can say that there is no image.
    """
    import pydicom
    from pydicom.errors import InvalidDicomError

    wanted = ["PatientID", "Rows", "SOPClassUID"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted, force=True)
            patient = str(header.get("PatientID") or "").strip() or None
            directory = header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY_CLASS
            return patient, "Rows" in header or not ("SOPClassUID" in header or directory)
    except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        return None, True


def expand(path: Path, content: str, frames: Frames, known: Record) -> list[Record]:
    """Records of one image file: one with frame None, or with frames="all" one per frame, page or slice.

    content: what `content_of` found. known: a record whose other fields are kept (its path is not used).
    frame None leaves the choice to the reader, which takes the first frame or a volume's middle slice. The patient is
    taken from a DICOM header unless known. A DICOM object without an image (a directory, a report) gives no record; a
    damaged file gives one, so that whoever reads it says what is wrong.
    """
    from wordsight.imaging import image_count

    record = replace(known, path=path)
    if content == "dicom":
        patient, is_image = _dicom_patient(path)
        if not is_image:
            return []
        record = replace(record, patient=known.patient or patient)
    if frames == "first":
        return [record]
    try:
        count = image_count(path)
    except ImageError:
        return [record]
    return [record] if count == 1 else [replace(record, frame=frame) for frame in range(count)]


def image_records(folder: Path, frames: Frames, known: Record) -> list[Record]:
    """Records of all images below a folder by content, in the order of `walk_files`; [] if there are none.

    known: see `expand`.
    """
    records: list[Record] = []
    with progress(f"Looking for images in {folder.name or folder}", unit="files") as bar:
        for path in walk_files(folder):
            content = content_of(path)
            if content is not None:
                records += expand(path, content, frames, known)
            bar.advance()
    return records
