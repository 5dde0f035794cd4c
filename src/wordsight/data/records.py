"""Image file, folder, DICOM tree, benchmark set, pair of folders or manifest -> list[Record]."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from wordsight.data.benchmark import KINDS, SPLITS, pair_masks, split_records
from wordsight.data.collect import relative_names
from wordsight.data.listing import MASK_FOLDER, Frames, child, expand, image_records
from wordsight.data.manifest import MANIFEST_SUFFIXES, read_manifest
from wordsight.errors import DataError, ImageError, SettingsError
from wordsight.files import file_hash
from wordsight.progress import progress
from wordsight.types import Record

_READABLE = "PNG, JPEG, TIFF, BMP, DICOM or NIfTI"
_PAIR_NAMES = (KINDS, ("normal", "abnormal"))


def records_from(
    source: str | Path,
    *,
    split: str | None = None,
    dataset: str | None = None,
    frames: Frames = "first",
    allow_outside: bool = False,
) -> list[Record]:
    """Records of an image file, a folder, a DICOM tree, a benchmark set, a pair of folders or a manifest.

    - a `.csv` or `.parquet` file: see `wordsight.data.manifest.read_manifest`; allow_outside is for its paths;
    - another file: one image, by content;
    - a folder with train/valid/test, each with good/ and Ungood/: a benchmark set, one split or all of them;
    - a folder with good/ and Ungood/, or normal/ and abnormal/: labelled images, see `records_from_pair`;
    - any other folder: all images below it by content, sorted, without labels; a DICOM file's patient is kept.
    split, dataset: kept in the records (where the source does not name them itself); split also chooses a benchmark
    set's or a manifest's. frames: the first frame of a multi-frame file, or one record per frame.
    Raises DataError that says what was looked for if nothing is found.
    """
    source = Path(source)
    if not source.exists():
        raise DataError(f"{source}: no such file or folder. Give an image, a folder of images or a manifest.")
    if not source.is_dir():
        if source.suffix.lower() in MANIFEST_SUFFIXES:
            return read_manifest(source, split=split, dataset=dataset, allow_outside=allow_outside)
        return _file_records(source, frames, split, dataset)
    if any(_pair(child(source, s)) is not None for s in SPLITS):
        return _set_records(source, split, dataset)
    pair = _pair(source)
    if pair is not None:
        return records_from_pair(*pair, split=split, dataset=dataset, frames=frames)
    records = image_records(source, frames, Record(source, split=split, dataset=dataset))
    if not records:
        raise DataError(
            f"{source}: looked for images ({_READABLE}, by content, in all subfolders), folders good/ and Ungood/, and "
            "train/, valid/, test/ with these; found none. Give the folder that holds the images."
        )
    return records


def read_as(records: Iterable[Record], *, window: str | None = None, frame: int | None = None) -> list[Record]:
    """The records with this window, and this frame of files that hold several, where they have none of their own.

    Raises SettingsError for a window that `read_image` does not know or a frame below 0.
    """
    from wordsight.imaging.windows import parse_window

    parse_window(window)
    if frame is not None and frame < 0:
        raise SettingsError(f"expected a frame from 0, got {frame}.")
    return [replace(r, window=window if r.window is None else r.window, frame=_frame(r, frame)) for r in records]


def _frame(record: Record, frame: int | None) -> int | None:
    """The record's own frame, else this one if its file holds several (or cannot be read, which its reader says)."""
    from wordsight.imaging import image_count

    if record.frame is not None or frame is None:
        return record.frame
    try:
        return frame if image_count(record.path) > 1 else None
    except ImageError:
        return frame


def records_from_pair(
    normal: str | Path,
    abnormal: str | Path,
    *,
    split: str | None = None,
    dataset: str | None = None,
    frames: Frames = "first",
) -> list[Record]:
    """Labelled records of two folders: images below `normal` get label 0, those below `abnormal` label 1.

    A subfolder `img` holds the images where it exists; `anomaly_mask` beside it holds masks of the same file names.
    Raises DataError if a folder or its images are missing, or an abnormal image has no mask although the folder exists.
    """
    records: list[Record] = []
    for label, folder in enumerate((Path(normal), Path(abnormal))):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder. Give one folder of normal and one of abnormal images.")
        known = Record(folder, label, split=split, dataset=dataset)
        found = image_records(child(folder, "img") or folder, frames, known)
        if not found:
            raise DataError(f"{folder}: looked for images ({_READABLE}, by content) in all subfolders, found none.")
        masks = child(folder, MASK_FOLDER)
        if label == 1 and masks is not None:
            pairs = pair_masks((r.path for r in found), masks)
            found = [replace(r, mask=pairs[r.path]) for r in found]
        records += found
    return records


def _pair(folder: Path | None) -> tuple[Path, Path] | None:
    """The folders of normal and abnormal images in a folder, None unless there are both."""
    if folder is None:
        return None
    for names in _PAIR_NAMES:
        normal, abnormal = (child(folder, name) for name in names)
        if normal is not None and abnormal is not None:
            return normal, abnormal
    return None


def _set_records(folder: Path, split: str | None, dataset: str | None) -> list[Record]:
    splits = [s for s in SPLITS if any(child(child(folder, s) or folder / s, kind) is not None for kind in KINDS)]
    if split is not None and split not in splits:
        raise DataError(f"{folder}: expected one of the splits {', '.join(splits)}, got {split!r}.")
    wanted = splits if split is None else [split]
    records = [record for s in wanted for record in split_records(folder, s)]
    return records if dataset is None else [replace(record, dataset=dataset) for record in records]


def _file_records(path: Path, frames: Frames, split: str | None, dataset: str | None) -> list[Record]:
    from wordsight.imaging import sniff

    content = sniff(path)
    known = Record(path, split=split, dataset=dataset)
    records = expand(path, content, frames, known) if content is not None else []
    if not records:
        raise DataError(f"{path}: expected an image ({_READABLE}) or a manifest (.csv, .parquet), got something else.")
    return records


def hash_records(records: Iterable[Record]) -> str:
    """SHA-256 that names a data set by what it holds: names and contents of files, frames, windows, labels.

    Names are relative to the folder that all images share, so moving or relisting the data does not change the hash.
    Raises DataError if there are no records or a file cannot be read.
    """
    known = list(records)
    if not known:
        raise DataError("expected at least one record to hash, got none.")
    contents: dict[Path, str] = {}
    lines = []
    with progress("Hashing files", len(known)) as bar:
        for name, record in zip(relative_names(known), known, strict=True):
            name = name if record.window is None else f"{name} in window {record.window}"
            for file in (record.path, record.mask, record.region):
                if file is not None and file not in contents:
                    contents[file] = _content(file)
            mask = contents[record.mask] if record.mask is not None else None
            known_of = (name, contents[record.path], mask, record.label, sorted(record.labels.items()))
            lines.append(repr(known_of if record.region is None else (*known_of, contents[record.region])))
            bar.advance()
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _content(file: Path) -> str:
    try:
        return file_hash(file)
    except OSError as error:
        raise DataError(f"{file}: cannot read this file ({error.strerror}). Check the data.") from error
