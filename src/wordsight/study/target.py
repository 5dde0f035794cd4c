"""The images that a study learns from and is measured on: a set in the benchmark's layout, or a table of one's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from wordsight.data import benchmark_records, canonical_name, read_as, read_manifest
from wordsight.data.benchmark import Split, set_folder
from wordsight.data.manifest import read_column
from wordsight.errors import DataError, ImageError, SettingsError
from wordsight.helpers import Helpers
from wordsight.progress import track
from wordsight.study.options import TrainOptions
from wordsight.types import Record


def target_name(options: TrainOptions) -> str:
    """The set's canonical name; of a table the name that was given, else the table's.

    Raises SettingsError without a name, DataError for an unknown one.
    """
    if options.data.is_file():
        return options.target or options.data.stem
    if options.target is None:
        raise SettingsError(f"{options.data}: expected the name of a set in it (--target), got none. Name one.")
    return canonical_name(options.target, options.data)


def check_target(options: TrainOptions, target: str) -> None:
    """Raise DataError if there is no such set, or if a table does not say what to learn from and what to measure on."""
    if not options.data.is_file():
        set_folder(options.data, target)
        return
    if not options.shots:
        raise DataError(
            f"{options.data}: zero-shot training learns from other sets, got a table. Give a folder of them."
        )
    splits = set(read_column(options.data, "split"))
    wanted = {"valid", "test"} if options.evaluate else {"valid"}
    if not wanted <= splits:
        raise DataError(
            f"{options.data}: expected rows of split valid (support and selection) and test (the measurement), got "
            f"{', '.join(sorted(split or '(empty)' for split in splits))}. Correct the column split"
            + ("." if "valid" not in splits else ", or leave the measurement out (--no-evaluate).")
        )


def check_files(records: Iterable[Record], workers: int = 0) -> None:
    """Read every image and mask once. Raises DataError that lists all that cannot be read."""
    unique = list(dict.fromkeys(records))
    with Helpers(workers, len(unique)) as helpers:
        problems = track(helpers.ahead(_problem, unique), "Checking images", len(unique))
        bad = dict(problem for problem in problems if problem is not None)
    if bad:
        reasons = "\n".join(f"  {reason}" for reason in bad.values())
        raise DataError(f"expected images and masks that can be read, got {len(bad)} that cannot:\n{reasons}")


def _problem(record: Record) -> tuple[Path, str] | None:
    """The file of a record that cannot be read, and why."""
    from wordsight.imaging import image_count, read_mask, read_record

    file = record.path
    try:
        read_record(record)
        if record.mask is not None:
            file = record.mask
            read_mask(file, frame=record.frame if image_count(file) > 1 else None)
    except ImageError as error:
        return file, str(error)
    return None


def target_records(options: TrainOptions, target: str, split: Split) -> list[Record]:
    """Records of one split, with the window and the frame asked for. Raises DataError if there are none."""
    if options.data.is_file():
        records = read_manifest(options.data, split=split, dataset=target, allow_outside=options.allow_outside)
    else:
        records = benchmark_records(options.data, target, split)
    return read_as(records, window=options.window, frame=options.frame)
