"""Write chest phantoms with reports: pictures, a table of reports and findings, boxes; the same bytes on every call."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wordsight.data.phantoms.common import stream
from wordsight.data.phantoms.jobs import NOTE, claim, run_jobs, worker_count, write_png
from wordsight.data.phantoms.reports import CODES, FINDINGS, NAME, SIZE, SMALLEST, State, Truth, draw_report_phantom
from wordsight.errors import SettingsError
from wordsight.files import atomic_path, write_json
from wordsight.progress import progress

VERSION = 1
SPLITS = ("train", "valid", "test")
LARGEST = 100_000_000  # images per split: keeps the streams of the splits apart
LARGEST_SIZE = 4096
CHUNK = 40
MANIFEST, BOXES, IMAGES = "manifest.csv", "boxes.json", "images"

Job = tuple[str, str, int, int, int, int]  # folder, split, seed, size, first number, end
Row = tuple[dict[str, str | int], dict[str, Any]]  # a row of the table, an entry of the boxes


def write_report_phantoms(
    folder: Path,
    *,
    train: int = 0,
    valid: int = 20,
    test: int = 50,
    seed: int = 0,
    size: int = SIZE,
    workers: int | None = None,
) -> dict[str, int]:
    """Draw chest phantoms with reports into `folder`; returns split -> images, without empty splits.

    Layout: images/<split>-NNNNN.png; manifest.csv with path, report, split, patient and one column per finding (1
    present, 0 absent, -1 uncertain); boxes.json, a list of {"file_name", "syms", "boxes"} as ChestX-Det10 has it, with
    [x1, y1, x2, y2] in pixels of what is present; phantoms.json. No split shares a random stream with another.
    size: pixels, both ways. workers: processes, None for one per usable core; they are spawned, so a script calls this
    under `if __name__ == "__main__":`.
    Raises DataError for a folder that holds anything but the same phantoms, SettingsError for counts and sizes.
    """
    folder = Path(folder)
    counts = {"train": train, "valid": valid, "test": test}
    for split, count in counts.items():
        if not 0 <= count < LARGEST:
            raise SettingsError(f"{split}: expected 0 to {LARGEST - 1} images, got {count}.")
    total = sum(counts.values())
    if not total:
        raise SettingsError("train, valid, test: expected at least one image in all, got none.")
    if not SMALLEST <= size <= LARGEST_SIZE:
        raise SettingsError(f"size: expected {SMALLEST} to {LARGEST_SIZE} pixels, got {size}.")
    processes = worker_count(workers)
    stream(NAME, seed, 0)  # a seed out of range fails before anything is written
    claim(folder, {"version": VERSION, "seed": seed, "names": [NAME], "counts": counts, "size": size, "note": NOTE})
    rows: list[Row] = []
    with progress("Drawing phantoms", total) as bar:
        for done in run_jobs(_draw_chunk, list(_jobs(folder, counts, seed, size)), total, processes):
            rows += done
            bar.advance(len(done))
    write_json(folder / BOXES, [boxes for _, boxes in rows])
    _write_table(folder / MANIFEST, [row for row, _ in rows])
    return {split: count for split, count in counts.items() if count}


def report_stream_index(split: str, number: int) -> int:
    """The stream of image `number` of a split: three disjoint ranges below 2**32."""
    return SPLITS.index(split) * LARGEST + number


def _jobs(folder: Path, counts: Mapping[str, int], seed: int, size: int) -> Iterator[Job]:
    for split, count in counts.items():
        for start in range(0, count, CHUNK):
            yield str(folder), split, seed, size, start, min(start + CHUNK, count)


def _draw_chunk(job: Job) -> list[Row]:
    """Draw and write the images of one job; returns what the table and the boxes say of them."""
    folder, split, seed, size, start, end = job
    rows: list[Row] = []
    for number in range(start, end):
        phantom = draw_report_phantom(seed, report_stream_index(split, number), size)
        name = f"{split}-{number:05d}.png"
        write_png(Path(folder) / IMAGES / name, phantom.pixels)
        row: dict[str, str | int] = {
            "path": f"{IMAGES}/{name}",
            "report": phantom.report,
            "split": split,
            "patient": f"{split}-{number:05d}",
        }
        row.update({finding: CODES[phantom.findings[finding].state] for finding in FINDINGS})
        rows.append((row, _box_entry(name, phantom.findings)))
    return rows


def _box_entry(name: str, findings: Mapping[str, Truth]) -> dict[str, Any]:
    marked = [(f, list(box)) for f, t in findings.items() if t.state is State.PRESENT for box in t.boxes]
    return {"file_name": name, "syms": [f for f, _ in marked], "boxes": [box for _, box in marked]}


def _write_table(path: Path, rows: list[dict[str, str | int]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
