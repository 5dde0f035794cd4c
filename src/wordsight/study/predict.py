"""Scores and heatmaps for any number of images, one batch in memory at a time; interrupted work goes on."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.data import read_as, records_from
from wordsight.data.listing import Frames
from wordsight.data.reading import read_or_say, read_prepared
from wordsight.errors import DataError, SettingsError
from wordsight.helpers import Helpers, helper_count, result
from wordsight.imaging import Prepared
from wordsight.progress import progress
from wordsight.study.detectors import CARZERO, Looker, device_of, open_looker
from wordsight.study.folders import DETECTOR, differences, read_run
from wordsight.study.options import PredictOptions, Study, plain
from wordsight.types import Record

if TYPE_CHECKING:
    from wordsight.report.drawing import Panels, Sketch
    from wordsight.report.predictions import Planned, PredictionWriter

Keyed = tuple[str, Record]
TABLES = ("predictions.csv", "predictions.json")
FEW_DRAWN = 16  # images: with heatmaps, which take longer than reading, fewer already pay for processes


def predict_study(options: PredictOptions) -> Study:
    """Predict every image of the source and write table, heatmaps and page; the notes name files that failed.

    A second call for the same images goes on with those that are missing after an interruption, and does nothing after
    the end. Raises DataError if no image could be read, SettingsError for a folder of several runs or an output folder
    with other predictions, and the errors of weights and prompts.
    """
    from wordsight.report.drawing import Drawing
    from wordsight.report.predictions import prediction_folder

    out, workers = options.folder, helper_count(options.workers, device_of(options))
    frames: Frames = "all" if options.all_frames else "first"
    found = records_from(options.source, frames=frames, allow_outside=options.allow_outside)
    window, frame = _reading(options)
    records = _keyed(read_as(found, window=window, frame=frame))
    looker = open_looker(options)
    run = _run(looker, options) | {"window": window, "frame": frame}
    if not options.overwrite:
        _check_folder(out, run)
        if _is_finished(out, list(records)):
            return Study((), out, out / "report.html", ("all of it was done before; nothing was predicted again",))
    drawing = Drawing(options.heatmaps, options.top, looker.limits, looker.limits_words)
    with prediction_folder(out, run=run, drawing=drawing, resume=not options.overwrite) as writer:
        missing = [item for item in records.items() if not writer.has(item[0])]
        before = len(records) - len(missing)
        notes = [f"{before} of {len(records)} images were done before"] if before else []
        predict_records(looker, missing, writer, maps=options.maps, workers=workers)
        failures = [f"{path}: {message.removeprefix(f'{path}: ')}" for path, message in writer.failures(records)]
        if not writer.predicted:
            raise DataError(f"none of {len(records)} images could be read; the first: {failures[0]}")
        writer.finish(list(records))
    notes += [f"{len(failures)} images could not be read:"] if failures else []
    return Study((), out, out / "report.html", (*notes, *(f"  {failure}" for failure in failures)))


def _reading(options: PredictOptions) -> tuple[str | None, int | None]:
    """Window and frame that were asked for, else those that the run was trained with."""
    folder = Path(options.model).expanduser()
    is_run = options.model != CARZERO and (folder / DETECTOR).is_file()
    run = (read_run(folder) or {}).get("run", {}) if is_run else {}
    frame = None if options.all_frames else run.get("frame")
    return options.window or run.get("window"), frame if options.frame is None else options.frame


def _keyed(records: list[Record]) -> dict[str, Record]:
    """Records by what tells whether a row is theirs: path, frame, label, window, and the file's size and time of
    change."""
    found: dict[str, Record] = {}
    for record in records:
        try:
            status = record.path.stat()
            state: tuple[int, ...] = (status.st_size, status.st_mtime_ns)
        except OSError:
            state = ()
        seen = (str(record.path), record.frame, record.label, state)
        what = repr((*seen, record.window) if record.window else seen).encode("utf-8", "backslashreplace")
        key = wanted = hashlib.sha256(what).hexdigest()[:24]
        count = 1
        while key in found:
            count += 1
            key = f"{wanted}-{count}"
        found[key] = record
    return found


def _run(looker: Looker, options: PredictOptions) -> dict[str, Any]:
    """What decides the numbers and pictures of this work, as JSON would give it back."""
    chosen = {"maps": options.maps, "heatmaps": options.heatmaps, "top": options.top, "all_frames": options.all_frames}
    run: dict[str, Any] = json.loads(json.dumps(plain({**looker.decides, **chosen})))
    return run


def _check_folder(out: Path, run: Mapping[str, Any]) -> None:
    """Raise SettingsError if the folder has predictions that were made otherwise."""
    from wordsight.report.predictions import finished_run, waiting_run

    finished = finished_run(out)
    for what, stored in (("unfinished predictions", waiting_run(out)), ("predictions", finished and finished["run"])):
        names = differences(stored, run) if stored is not None else []
        changed = list(dict.fromkeys("prompts" if name.startswith("prompts.") else name for name in names))
        if changed:
            more = f" and {len(changed) - 6} more" if len(changed) > 6 else ""
            raise SettingsError(
                f"{out}: holds {what} of other settings: {', '.join(changed[:6])}{more} differ. Choose another --out, "
                "or drop them with --overwrite."
            )
    strange = [name for name in TABLES if finished is None and (out / name).exists()]
    if strange:
        raise SettingsError(
            f"{out}: holds {strange[0]}, and nothing says how it was made. Choose another --out, or --overwrite it."
        )


def _is_finished(out: Path, keys: list[str]) -> bool:
    """Whether the folder has predictions of just these images, whole."""
    from wordsight.report.predictions import digest, finished_run

    finished = finished_run(out)
    whole = all((out / name).is_file() for name in (*TABLES, "report.html"))
    return finished is not None and whole and finished.get("images") == digest(keys)


def predict_records(
    looker: Looker, missing: list[Keyed], writer: PredictionWriter, *, maps: bool, workers: int
) -> None:
    """Write predictions of (key, record) in their order; what cannot be read is noted.

    Other processes read the next batch and draw those before while the network looks at this one.
    """
    images = [(record, looker.spec) for _, record in missing]
    drawn: deque[tuple[Record, Planned, Future[Panels | str]]] = deque()
    few = FEW_DRAWN if writer.drawing.heatmaps and maps else None
    with progress("Predictions", len(missing)) as bar, Helpers(workers, len(missing), few=few) as helpers:
        found = helpers.ahead(read_prepared, images, ahead=looker.batch)
        for start in range(0, len(missing), looker.batch):
            part = missing[start : start + looker.batch]
            readable = list(_readable(part, found, writer))
            predictions = looker.look([image for _, image in readable]) if readable else []
            for ((key, record), _), prediction in zip(readable, predictions, strict=True):
                planned = writer.plan(key, record, prediction if maps else replace(prediction, maps=None))
                drawn.append((record, planned, helpers.begin(_draw, (record, planned.sketch))))
            _write(drawn, writer, leave=2 * looker.batch if start + looker.batch < len(missing) else 0)
            bar.advance(len(part))


def _readable(
    part: list[Keyed], images: Iterator[Prepared | str], writer: PredictionWriter
) -> Iterator[tuple[Keyed, Prepared]]:
    """Records of a batch with the next images; what could not be read is noted."""
    for (key, record), image in zip(part, images, strict=False):  # the images of later batches stay where they are
        if isinstance(image, str):
            writer.fail(key, str(record.path), image)
        else:
            yield (key, record), image


def _draw(job: tuple[Record, Sketch]) -> Panels | str:
    """Draw a record's image, which is read again for it; or say why it cannot be read.

    So that the pixels of large images neither wait for the network nor travel between processes.
    """
    record, sketch = job
    if sketch.is_empty:
        return []
    image = read_or_say(record)
    return image if isinstance(image, str) else sketch.draw(image)


def _write(drawn: deque[tuple[Record, Planned, Future[Panels | str]]], writer: PredictionWriter, *, leave: int) -> None:
    """Write the rows of what is drawn, in order; no more than `leave` are left to be drawn."""
    while drawn and (len(drawn) > leave or drawn[0][2].done()):
        record, planned, future = drawn.popleft()
        panels = result(future)
        if isinstance(panels, str):
            writer.fail(planned.key, str(record.path), panels)
        else:
            writer.write(planned, panels)
