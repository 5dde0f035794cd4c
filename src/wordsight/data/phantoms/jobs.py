"""What writing phantoms takes: a folder that is ours, processes that draw, pictures written whole."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.png import encode_png
from wordsight.errors import DataError, SettingsError
from wordsight.files import atomic_path, write_json
from wordsight.helpers import usable_cores

INLINE = 80  # below this many images starting processes costs more than it saves
NOTE = "synthetic: know nothing of patients"

Job = TypeVar("Job")
Done = TypeVar("Done")


def claim(folder: Path, description: dict[str, Any]) -> None:
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


def worker_count(workers: int | None) -> int:
    """Processes to use: as many as asked for, else one per usable core. Raises SettingsError below 1."""
    if workers is None:
        return usable_cores()
    if workers < 1:
        raise SettingsError(f"workers: expected at least 1 process, got {workers}. Leave it out for one per core.")
    return workers


def run_jobs(work: Callable[[Job], Done], jobs: Sequence[Job], images: int, workers: int) -> Iterator[Done]:
    """Do the jobs here or, where it pays, in spawned processes; yields what `work` gives, in the order of the jobs.

    work: a function of a module. images: how many are drawn in all.
    """
    if workers == 1 or images < INLINE:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
            yield from pool.map(work, jobs)
    except BrokenProcessPool as error:
        raise DataError(
            "phantoms: a drawing process ended early. Call write_phantoms under `if __name__ == '__main__':`, "
            "or with workers=1; the folder can be completed by the same call."
        ) from error


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write one picture atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_png(pixels))
