"""Open-I (Indiana University chest x-rays): XML reports and images -> a table of images with reports.

Demner-Fushman et al., JAMIA 23 (2016) 304; https://openi.nlm.nih.gov.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from wordsight.data.listing import few, walk_files
from wordsight.data.reports.prepared import (
    Prepared,
    Row,
    Tally,
    Wanted,
    split_name,
    table_chunks,
    write_prepared,
)
from wordsight.errors import DataError
from wordsight.text.openi_reports import MAX_BYTES, OpenIReport, read_openi_report

PROJECTIONS = "indiana_projections.csv"
_IMAGE = re.compile(r"(?:CXR)?0*([0-9]+)(?:_[0-9]+)?_(IM-[0-9-]+)(?:\.dcm)?", re.IGNORECASE)
_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")


def labelled_text(report: OpenIReport) -> str:
    """The sections that say something as "LABEL: text" lines; "" unless there are findings or an impression."""
    if not report.text:
        return ""
    sections = {
        "COMPARISON": report.comparison,
        "INDICATION": report.indication,
        "FINDINGS": report.findings,
        "IMPRESSION": report.impression,
    }
    return "\n".join(f"{label}: {text}" for label, text in sections.items() if text)


def read_openi_reports(place: Path) -> Iterator[OpenIReport]:
    """All reports (*.xml) below a folder or in a .tar, .tgz or .tar.gz file, in the order of their names.

    Archives are read in memory, nothing is unpacked. Raises DataError if there is none or one cannot be read.
    """
    found = False
    for name, content in _tar_files(place) if place.is_file() else _folder_files(place):
        found = True
        try:
            yield read_openi_report(content)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    if not found:
        raise DataError(
            f"{place}: expected XML reports (*.xml), found none. Give the folder ecgen-radiology or its tgz."
        )


def _folder_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder or archive. Give where the reports of Open-I lie.")
    for path in walk_files(folder):
        if path.suffix.lower() == ".xml":
            with open(path, "rb") as file:
                yield str(path), file.read(MAX_BYTES + 1)


def _tar_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive) as opened:
            members = [m for m in opened if m.isfile() and m.name.lower().endswith(".xml")]
            for member in members:
                stream = opened.extractfile(member)
                if stream is not None:
                    yield f"{archive}:{member.name}", stream.read(MAX_BYTES + 1)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{archive}: expected a tar archive of XML reports, got {error}. Check the file.") from error


def image_key(name: str) -> tuple[str, str] | None:
    """(number of the report, image) that all spellings of an image share; None for a name that is none of Open-I's.

    "CXR1_1_IM-0001-3001.png", "CXR1_IM-0001-3001" and "1_IM-0001-3001.dcm.png" give ("1", "IM-0001-3001").
    """
    stem = name if not name.lower().endswith(_SUFFIXES) else name.rsplit(".", 1)[0]
    match = _IMAGE.fullmatch(stem)
    return (match[1], match[2].upper()) if match else None


def prepare_openi(folder: Path, out: Path, *, wanted: Wanted | None = None, reports: Path | None = None) -> Prepared:
    """Write the table of Open-I: path, report (sections kept as "LABEL: text" lines), split, patient, study, view.

    folder: holds the images at any depth and, where known, `indiana_projections.csv` (uid, filename, projection), which
    tells frontal from lateral; without it all views are unknown. reports: folder or tgz of XML files; None looks in
    `folder`. Images without a file and reports without findings and impression are dropped and counted.
    Raises DataError for malformed reports or if nothing is left.
    """
    folder, wanted, tally = Path(folder), wanted or Wanted(), Tally()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder that holds the images of Open-I.")
    rows = _rows(
        _reports_in(folder) if reports is None else Path(reports), _images(folder), _views(folder), wanted, tally
    )
    return write_prepared(rows, Path(out), tally, absolute=wanted.absolute)


def _reports_in(folder: Path) -> Path:
    archives = sorted(
        p for p in folder.iterdir() if "reports" in p.name and p.name.endswith((".tgz", ".tar.gz", ".tar"))
    )
    return archives[0] if archives else folder


def _images(folder: Path) -> dict[tuple[str, str], str]:
    """Key -> absolute path of every image below a folder."""
    found: dict[tuple[str, str], str] = {}
    for path in walk_files(folder):
        key = image_key(path.name) if path.suffix.lower() in _SUFFIXES else None
        if key is not None:
            found.setdefault(key, os.path.abspath(path))
    return found


def _views(folder: Path) -> dict[tuple[str, str], str]:
    """Key -> "Frontal" or "Lateral" from the table of projections, {} without one."""
    table = folder / PROJECTIONS
    views: dict[tuple[str, str], str] = {}
    for chunk in table_chunks(table, ("filename", "projection")) if table.is_file() else ():
        for name, projection in zip(chunk["filename"], chunk["projection"], strict=True):
            key = image_key(name)
            if key is None:
                raise DataError(f"{table}: expected names such as 1_IM-0001-4001.dcm.png, got {few([name])}.")
            views[key] = projection
    return views


def _rows(
    reports: Path,
    images: Mapping[tuple[str, str], str],
    views: Mapping[tuple[str, str], str],
    wanted: Wanted,
    tally: Tally,
) -> Iterator[Row]:
    for report in read_openi_reports(reports):
        text = wanted.text_of(labelled_text(report))
        if not report.images:
            tally.notes["reports without an image"] += 1
        for name in report.images:
            key = image_key(name)
            view = views.get(key, "") if key is not None else ""
            if not tally.keeps(view, wanted):
                continue
            if not text:
                tally.drop_unreported(report.id)
                continue
            path = images.get(key) if key is not None else None
            if path is None:
                tally.dropped["image file missing"] += 1
                continue
            yield Row(path, text, split_name("", wanted), report.id, report.id, view)
