"""Write phantom sets to disk in the benchmark's layout, the same bytes whenever and with however many processes."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.common import stream
from wordsight.data.phantoms.png import encode_png
from wordsight.data.phantoms.sets import MASKED, SETS, draw_phantom
from wordsight.errors import DataError, SettingsError
from wordsight.files import atomic_path, write_json, write_text
from wordsight.progress import progress

VERSION = 2
SPLITS = ("train", "valid", "test")
CLASSES = ("good", "Ungood")
SHOTS = (2, 4, 8, 16)
DRAWS = 5
LARGEST = 100_000_000  # images per class and split: keeps the streams of splits and classes apart
CHUNK = 20
INLINE = 80  # below this many images starting processes costs more than it saves
NOTE = "synthetic: know nothing of patients"

Job = tuple[str, str, str, str, int, tuple[int, ...]]  # folder, set, split, class, seed, numbers


def write_phantoms(
    folder: Path,
    *,
    names: Sequence[str] | None = None,
    valid: int = 20,
    test: int = 50,
    train: int = 0,
    seed: int = 0,
    workers: int | None = None,
) -> dict[str, int]:
    """Draw phantom sets into `folder` and return the number of images written per set.

    names: keys of SETS, None for all six. valid, test, train: images per class. workers: processes, None for one per
    usable core; they are spawned, so a script calls this under `if __name__ == "__main__":`.
    Layout: <Name>_AD/{train,valid,test}/{good,Ungood}/img/NNNN.png, Ungood/anomaly_mask/NNNN.png (0 and 255) for sets
    with masks, fewshot_seed/<Name>/<k>-shot.txt and phantoms.json. No split shares a random stream with another.
    Raises DataError for an unknown set or a folder that holds anything but the same phantoms, SettingsError for counts.
    """
    folder = Path(folder)
    chosen = _chosen(names)
    counts = {"train": train, "valid": valid, "test": test}
    for split, count in counts.items():
        if not 0 <= count < LARGEST:
            raise SettingsError(f"{split}: expected 0 to {LARGEST - 1} images per class, got {count}.")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = usable if workers is None else workers
    if workers < 1:
        raise SettingsError(f"workers: expected at least 1 process, got {workers}. Leave it out for one per core.")
    stream(chosen[0], seed, 0)  # a seed out of range fails before anything is written
    _claim(folder, {"version": VERSION, "seed": seed, "names": list(chosen), "counts": counts, "note": NOTE})
    jobs = [job for name in chosen for job in _jobs(folder, name, counts, seed)]
    total = sum(len(job[-1]) for job in jobs)
    with progress("Drawing phantoms", total) as bar:
        for done in _run(jobs, total, workers):
            bar.advance(done)
    for name in chosen:
        _write_shots(folder / "fewshot_seed" / name, name, valid, seed)
    return {name: 2 * sum(counts.values()) for name in chosen}


def stream_index(split: str, kind: str, number: int) -> int:
    """The stream of image `number` of a split and class: six disjoint ranges below 2**32."""
    return (SPLITS.index(split) * len(CLASSES) + CLASSES.index(kind)) * LARGEST + number


def _chosen(names: Sequence[str] | None) -> tuple[str, ...]:
    """Checked set names in the order of SETS, so that the order asked for does not matter."""
    if names is None:
        return tuple(SETS)
    unknown = [name for name in names if name not in SETS]
    if unknown or not names:
        got = ", ".join(map(repr, unknown)) or "none"
        raise DataError(f"phantom sets: expected some of {', '.join(SETS)}, got {got}. Check the spelling.")
    return tuple(name for name in SETS if name in names)


def _claim(folder: Path, description: dict[str, Any]) -> None:
    """Take an empty folder, or one with the same phantoms, by writing phantoms.json; refuse any other."""
    marker = folder / "phantoms.json"
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: expected a folder, got a file. Choose another output folder.")
    if marker.is_file():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found != description:
            raise DataError(
                f"{folder}: holds other phantoms (phantoms.json: another seed, version or count). "
                "Choose another folder or remove this one first."
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: expected an empty folder or earlier phantoms, found other files. Choose another.")
    write_json(marker, description)


def _jobs(folder: Path, name: str, counts: dict[str, int], seed: int) -> Iterator[Job]:
    """Split one set into chunks of images."""
    for split, count in counts.items():
        for kind in CLASSES:
            for start in range(0, count, CHUNK):
                yield str(folder), name, split, kind, seed, tuple(range(start, min(start + CHUNK, count)))


def _run(jobs: list[Job], total: int, workers: int) -> Iterator[int]:
    """Do the jobs here or in spawned processes; yields the number of images finished each time."""
    if workers == 1 or total < INLINE:
        yield from map(_draw_chunk, jobs)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
            yield from pool.map(_draw_chunk, jobs)
    except BrokenProcessPool as error:
        raise DataError(
            "phantoms: a drawing process ended early. Call write_phantoms under `if __name__ == '__main__':`, "
            "or with workers=1; the folder can be completed by the same call."
        ) from error


def _draw_chunk(job: Job) -> int:
    """Draw and write the images of one job; returns how many."""
    folder, name, split, kind, seed, numbers = job
    home = Path(folder) / f"{name}_AD" / split / kind
    abnormal = kind == "Ungood"
    for number in numbers:
        phantom = draw_phantom(name, seed, stream_index(split, kind, number), abnormal)
        _write_png(home / "img" / f"{number:04d}.png", phantom.pixels)
        if abnormal and name in MASKED and phantom.mask is not None:
            _write_png(home / "anomaly_mask" / f"{number:04d}.png", phantom.mask.astype(np.uint8) * np.uint8(255))
    return len(numbers)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write one picture atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(pixels))


def _write_shots(folder: Path, name: str, valid: int, seed: int) -> None:
    """Few-shot lists in the published form: lines `n-0: a.png b.png` and `a-0: ...` for draws 0 to 4, nested in k."""
    for shots in SHOTS:
        if shots > valid:
            return
        lines = []
        for draw in range(DRAWS):
            rng = stream(f"{name}/few-shot", seed, draw)
            for letter in "na":
                order = rng.permutation(valid)[:shots]
                lines.append(f"{letter}-{draw}: " + " ".join(f"{number:04d}.png" for number in order))
        write_text(folder / f"{shots}-shot.txt", "\n".join(lines) + "\n")
