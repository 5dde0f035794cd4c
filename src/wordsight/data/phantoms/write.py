"""Write phantom sets to disk in the benchmark's layout, the same bytes whenever and with however many processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wordsight.data.phantoms.common import stream
from wordsight.data.phantoms.jobs import NOTE, claim, run_jobs, worker_count, write_png
from wordsight.data.phantoms.sets import MASKED, SETS, draw_phantom
from wordsight.errors import DataError, SettingsError
from wordsight.files import write_text
from wordsight.progress import progress

VERSION = 2
SPLITS = ("train", "valid", "test")
CLASSES = ("good", "Ungood")
SHOTS = (2, 4, 8, 16)
DRAWS = 5
LARGEST = 100_000_000  # images per class and split: keeps the streams of splits and classes apart
CHUNK = 20

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
    processes = worker_count(workers)
    stream(chosen[0], seed, 0)  # a seed out of range fails before anything is written
    claim(folder, {"version": VERSION, "seed": seed, "names": list(chosen), "counts": counts, "note": NOTE})
    jobs = [job for name in chosen for job in _jobs(folder, name, counts, seed)]
    total = sum(len(job[-1]) for job in jobs)
    with progress("Drawing phantoms", total) as bar:
        for done in run_jobs(_draw_chunk, jobs, total, processes):
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


def _jobs(folder: Path, name: str, counts: dict[str, int], seed: int) -> Iterator[Job]:
    """Split one set into chunks of images."""
    for split, count in counts.items():
        for kind in CLASSES:
            for start in range(0, count, CHUNK):
                yield str(folder), name, split, kind, seed, tuple(range(start, min(start + CHUNK, count)))


def _draw_chunk(job: Job) -> int:
    """Draw and write the images of one job; returns how many."""
    folder, name, split, kind, seed, numbers = job
    home = Path(folder) / f"{name}_AD" / split / kind
    abnormal = kind == "Ungood"
    for number in numbers:
        phantom = draw_phantom(name, seed, stream_index(split, kind, number), abnormal)
        write_png(home / "img" / f"{number:04d}.png", phantom.pixels)
        if abnormal and name in MASKED and phantom.mask is not None:
            write_png(home / "anomaly_mask" / f"{number:04d}.png", phantom.mask.astype(np.uint8) * np.uint8(255))
    return len(numbers)


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
