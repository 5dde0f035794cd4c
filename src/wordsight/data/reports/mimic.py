"""MIMIC-CXR and MIMIC-CXR-JPG as PhysioNet ships them -> a table of images with reports.

Johnson et al., MIMIC-CXR, Scientific Data 6 (2019) 317; https://physionet.org/content/mimic-cxr-jpg.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from wordsight.data.listing import few
from wordsight.data.reports.prepared import (
    MAX_REPORT_BYTES,
    Label,
    Prepared,
    Row,
    Tally,
    Wanted,
    decode_report,
    split_name,
    table_chunks,
    write_prepared,
)
from wordsight.errors import DataError

SUFFIXES = (".jpg", ".dcm", ".png")  # where an image lies in several forms, the first of these
VIEW_CODES: Mapping[str, str] = MappingProxyType(
    {"antero-posterior": "AP", "postero-anterior": "PA", "lateral": "LATERAL", "left lateral": "LL"}
)
_ID = re.compile(r"[0-9]{1,12}")
_DICOM_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,127}")
_VIEW_CODE = "ViewCodeSequence_CodeMeaning"
_REPORT_PLACES = ("mimic-cxr-reports.zip", "mimic-cxr-reports", "reports")


def prepare_mimic(
    folder: Path,
    out: Path,
    *,
    wanted: Wanted | None = None,
    reports: Path | None = None,
    labels: Path | None = None,
) -> Prepared:
    """Write the table of a MIMIC-CXR folder: path, report, split, patient, study, view, and findings if asked for.

    folder: holds `mimic-cxr-<version>-metadata.csv.gz`, `...-split.csv.gz` (optional) and the images,
    `files/p10/p10000032/s50414267/<dicom_id>.jpg` or `.dcm`. reports: the folder or zip file with the texts,
    `files/p10/p10000032/s50414267.txt`; None looks for mimic-cxr-reports(.zip) in `folder`, then in its image tree.
    labels: a `...-chexpert.csv.gz` or `...-negbio.csv.gz` table; its findings become columns (1, 0, -1 or empty).
    A missing ViewPosition is taken from the view code where there is one. Images without text or file are dropped and
    counted. Raises DataError if a table is missing or malformed, or nothing is left.
    """
    folder, wanted, tally = Path(folder), wanted or Wanted(), Tally()
    metadata = _table(folder, "metadata")
    if metadata is None:
        raise DataError(
            f"{folder}: expected the table mimic-cxr-<version>-metadata.csv.gz here, found none. It is shipped with "
            "MIMIC-CXR-JPG; put it, with the table of splits, beside the folder files/."
        )
    findings, known = _findings(labels) if labels is not None else ((), {})
    texts = Texts(reports or _reports_of(folder))
    splits = _splits(_table(folder, "split"))
    rows = _rows(folder, metadata, wanted, tally, texts, splits, known)
    try:
        return write_prepared(rows, Path(out), tally, absolute=wanted.absolute, findings=findings)
    finally:
        texts.close()


class Texts:
    """Reports by patient and study, from a folder or a zip file laid out as PhysioNet's."""

    def __init__(self, place: Path) -> None:
        self._zip: zipfile.ZipFile | None = None
        if place.is_file():
            try:
                self._zip = zipfile.ZipFile(place)
            except (zipfile.BadZipFile, OSError) as error:
                raise DataError(f"{place}: expected a folder or zip file of reports, got {error}.") from error
        elif not place.is_dir():
            raise DataError(f"{place}: no such folder or zip file of reports. Give where files/p10/... lies.")
        self._place = place
        self._files = "files/" if self._zip is not None or (place / "files").is_dir() else ""
        self.read = lru_cache(maxsize=256)(self._read)

    def _read(self, subject: str, study: str) -> str:
        """The text of a study, "" if there is none."""
        name = f"{self._files}p{subject[:2]}/p{subject}/s{study}.txt"
        try:
            if self._zip is not None:
                with self._zip.open(name) as member:
                    return decode_report(member.read(MAX_REPORT_BYTES + 1), name)
            with open(self._place / name, "rb") as file:
                return decode_report(file.read(MAX_REPORT_BYTES + 1), name)
        except (KeyError, FileNotFoundError):
            return ""
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise DataError(f"{self._place}: cannot read report {name} ({error}). Check the files.") from error

    def close(self) -> None:
        """Close the zip file."""
        if self._zip is not None:
            self._zip.close()


def _table(folder: Path, kind: str) -> Path | None:
    """The one table of a kind in a folder, of whatever version, packed or not; None if there is none."""
    found = sorted(p for p in folder.glob(f"mimic-cxr-*-{kind}.csv*") if p.name.endswith((".csv", ".csv.gz")))
    by_name = {p.name.removesuffix(".gz"): p for p in found}  # packed and unpacked copies are one table
    if len(by_name) > 1:
        raise DataError(f"{folder}: expected one {kind} table, got {few(by_name)}. Keep the version of your images.")
    return next(iter(by_name.values()), None)


def _reports_of(folder: Path) -> Path:
    return next((folder / name for name in _REPORT_PLACES if (folder / name).exists()), folder)


def _splits(table: Path | None) -> dict[str, str]:
    """Study -> split. A study in two splits is refused."""
    splits: dict[str, str] = {}
    for chunk in table_chunks(table, ("study_id", "split")) if table is not None else ():
        for study, split in zip(chunk["study_id"], chunk["split"], strict=True):
            if splits.setdefault(study, split) != split:
                raise DataError(f"{table}: study {study} lies in two splits, {splits[study]} and {split}.")
    return splits


def _findings(table: Path) -> tuple[tuple[str, ...], dict[str, Sequence[Label]]]:
    """Names of the findings, and study -> their labels."""
    names: tuple[str, ...] = ()
    known: dict[str, Sequence[Label]] = {}
    values: dict[str, Label] = {"": None, "1.0": 1, "0.0": 0, "-1.0": -1, "1": 1, "0": 0, "-1": -1}
    for chunk in table_chunks(table):
        if "study_id" not in chunk:
            raise DataError(
                f"{table}: expected a column study_id, got {few(chunk, 20)}. Give a label table of MIMIC-CXR."
            )
        names = tuple(name for name in chunk if name not in ("subject_id", "study_id"))
        unknown = {cell for name in names for cell in chunk[name]} - set(values)
        if unknown:
            raise DataError(f"{table}: expected labels 1, 0, -1 or empty, got {few(sorted(unknown))}.")
        for study, *cells in zip(chunk["study_id"], *(chunk[name] for name in names), strict=True):
            known[study] = tuple(values[cell] for cell in cells)
    return names, known


def _files_of(study: str) -> dict[str, str]:
    """Stem -> file name of the images of a study folder; the first of SUFFIXES wins."""
    try:
        names = os.listdir(study)
    except OSError:
        return {}
    ranked = [
        (SUFFIXES.index(suffix), stem, stem + suffix)
        for stem, suffix in map(os.path.splitext, names)
        if suffix in SUFFIXES
    ]
    return {stem: name for _, stem, name in sorted(ranked, reverse=True)}


def _rows(
    folder: Path,
    metadata: Path,
    wanted: Wanted,
    tally: Tally,
    texts: Texts,
    splits: Mapping[str, str],
    known: Mapping[str, Sequence[Label]],
) -> Iterator[Row]:
    root = os.path.join(os.path.abspath(folder), "files")
    files_of = lru_cache(maxsize=256)(_files_of)
    for chunk in table_chunks(metadata):
        _check_columns(metadata, chunk)
        codes = chunk.get(_VIEW_CODE, [""] * len(chunk["dicom_id"]))
        columns = (chunk["dicom_id"], chunk["subject_id"], chunk["study_id"], chunk["ViewPosition"], codes)
        for image, subject, study, position, code in zip(*columns, strict=True):
            if not (_DICOM_ID.fullmatch(image) and _ID.fullmatch(subject) and _ID.fullmatch(study)):
                raise DataError(f"{metadata}: expected ids, got {image!r}, {subject!r}, {study!r}. Check the table.")
            view = position or VIEW_CODES.get(code, "")
            if not tally.keeps(view, wanted):
                continue
            report = wanted.text_of(texts.read(subject, study))
            if not report:
                tally.drop_unreported(f"s{study}")
                continue
            home = f"{root}/p{subject[:2]}/p{subject}/s{study}"
            name = files_of(home).get(image)
            if name is None:
                tally.dropped["image file missing"] += 1
                continue
            if not position and view:
                tally.notes["view from its code, ViewPosition empty"] += 1
            if study not in splits:
                tally.notes["split unknown"] += 1
            split = split_name(splits.get(study, ""), wanted)
            yield Row(f"{home}/{name}", report, split, f"p{subject}", f"s{study}", view, known.get(study, ()))


def _check_columns(metadata: Path, chunk: Mapping[str, object]) -> None:
    missing = [name for name in ("dicom_id", "subject_id", "study_id", "ViewPosition") if name not in chunk]
    if missing:
        raise DataError(f"{metadata}: expected the columns of MIMIC-CXR's metadata, missing {few(missing)}.")
