"""Scores and heatmaps for any number of images, one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.data import records_from
from wordsight.errors import DataError, ImageError, SettingsError
from wordsight.study.folders import detector_folders
from wordsight.study.options import PredictOptions, Study
from wordsight.types import Image, Prediction, Record

if TYPE_CHECKING:
    from wordsight.models.mla.detector import MlaLp
    from wordsight.models.mla.scoring import RawScores

Item = tuple[Record | str, Image, Prediction]


def predict_study(options: PredictOptions) -> Study:
    """Predict every image of the source and write table, heatmaps and page; the notes name files that failed.

    Raises DataError if no image could be read, SettingsError for a folder of several runs, and the errors of weights.
    """
    from wordsight.models.mla.detector import MlaLp
    from wordsight.report import write_predictions
    from wordsight.train.engine import make_fabric

    folders = detector_folders(options.run)
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders)
        raise SettingsError(f"{options.run}: holds several detectors ({names}). Name the folder of one of them.")
    if options.eval_batch < 1:
        raise SettingsError(f"batch size: expected 1 image or more, got {options.eval_batch}.")
    records = records_from(options.source, frames="all" if options.all_frames else "first")
    device = make_fabric(options.device, "fp32").device
    detector = MlaLp.load(folders[0], weights=options.weights, device=device)
    detector = replace(detector, batch_size=options.eval_batch)
    failures: list[tuple[str, str]] = []
    out = options.out or Path("predictions") / (options.source.resolve().stem or "images")
    report = write_predictions(
        _predictions(detector, records, failures), out, failures=failures, heatmaps=options.heatmaps, total=len(records)
    )
    notes = tuple(f"{path}: {message.removeprefix(f'{path}: ')}" for path, message in failures)
    return Study((), out, Path(report), notes)


def _predictions(detector: MlaLp, records: list[Record], failures: list[tuple[str, str]]) -> Iterator[Item]:
    """Predictions in the order of the records; what cannot be read or prepared goes to `failures`."""
    look, done = partial(detector.raw, text=detector.text()), 0
    for start in range(0, len(records), detector.batch_size):
        readable = list(_readable(records[start : start + detector.batch_size], failures))
        for record, image, raw in _looked(look, readable, failures):
            done += 1
            yield record, image, detector.finish([raw])[0]
    if not done:
        path, message = failures[0]
        first = f"{path}: {message.removeprefix(f'{path}: ')}"
        raise DataError(f"none of {len(records)} images could be read; the first: {first}")


def _readable(records: list[Record], failures: list[tuple[str, str]]) -> Iterator[tuple[Record, Image]]:
    from wordsight.imaging import read_image

    for record in records:
        try:
            yield record, read_image(record.path, frame=record.frame)
        except (ImageError, OSError) as error:
            failures.append((str(record.path), str(error)))


def _looked(
    look: Callable[[list[Image]], list[RawScores]],
    pairs: list[tuple[Record, Image]],
    failures: list[tuple[str, str]],
) -> Iterator[tuple[Record, Image, RawScores]]:
    """Raw scores of a batch; if it holds an image that cannot be prepared, that one alone is set aside."""
    try:
        raws = look([image for _, image in pairs])
    except ImageError as error:
        if len(pairs) == 1:
            failures.append((str(pairs[0][0].path), str(error)))
            return
        for pair in pairs:
            yield from _looked(look, [pair], failures)
        return
    for (record, image), raw in zip(pairs, raws, strict=True):
        yield record, image, raw
