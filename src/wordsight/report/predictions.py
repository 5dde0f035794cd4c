"""Predictions -> predictions.csv, predictions.json, heatmaps and a page; one image in memory at a time.

Rows go to a journal as they come, and the tables are written from it at the end. With `run`, which says what decides
the numbers, an interrupted work leaves journal and heatmaps in a hidden folder, and the next call goes on from them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wordsight import __version__
from wordsight.errors import DataError
from wordsight.files import write_json, write_text
from wordsight.progress import track
from wordsight.report.drawing import SHOWN_MAPS, Drawing, Panels, Sketch, highest
from wordsight.report.journal import Journal
from wordsight.report.names import SafeNames, remove_if_empty, replacing
from wordsight.report.prediction_page import Head, render_predictions
from wordsight.types import Float32, Image, Prediction, Record, ScoreKind

SCHEMA = 1
COLUMNS = ("name", "path", "label", "kind", "heatmap")
RUN, WAITING, JOURNAL = "predict.json", ".predictions", "rows.jsonl"
THUMBNAIL_BUDGET = 3_300_000
_HEAD = "#detector"
Item = tuple[Record | str, Image, Prediction]


@dataclass(frozen=True, slots=True)
class Planned:
    """A row that waits for what is drawn of it."""

    key: str
    row: Mapping[str, Any]
    sketch: Sketch


@dataclass
class PredictionWriter:
    """Takes predictions one by one; findings, kind and weights are those of the first one.

    folder: where files wait for the end. predicted: whether there is any row with scores.
    """

    folder: Path
    journal: Journal
    drawing: Drawing
    run: Mapping[str, Any]
    head: Head | None = None
    names: SafeNames = field(default_factory=SafeNames)
    folders: dict[str, str] = field(default_factory=dict)
    thumbnails: int = 0
    spent: int = 0
    predicted: bool = False
    _sketched: int = 0

    def __post_init__(self) -> None:
        for row in self.journal.rows():
            if row["key"] == _HEAD:
                self.head = Head(**row["head"])
            elif "scores" in row:
                self.predicted = True
                self.names.reserve(row["file"])
                self._count_panels(row)
        self._sketched = self.thumbnails

    def has(self, key: str) -> bool:
        """Whether the row of a key, and its heatmaps, are there already."""
        row = next(self.journal.rows([key]), None)
        return row is not None and all((self.folder / place).is_file() for place in row.get("heatmaps", {}).values())

    def fail(self, key: str, path: str, message: str) -> None:
        """Note a file that could not be used."""
        self.journal.append(key, {"failure": [path, message]})

    def failures(self, keys: Iterable[str]) -> list[tuple[str, str]]:
        """(path, message) of the files among these that could not be used."""
        rows = (row["failure"] for row in self.journal.rows(keys) if "failure" in row)
        return [(path, message) for path, message in rows]

    def add(self, key: str, item: Item) -> None:
        """Write an image's row and heatmaps. Raises DataError if it is of another detector than the first."""
        source, image, prediction = item
        planned = self.plan(key, source, prediction)
        self.write(planned, planned.sketch.draw(image))

    def plan(self, key: str, source: Record | str, prediction: Prediction) -> Planned:
        """An image's row without its panels, and what is to be drawn; then comes `write`, in the order of the plans.

        Raises DataError if the prediction is of another detector than the first.
        """
        self._same_detector(prediction)
        record = source if isinstance(source, Record) else None
        name, path = (record.name, str(record.path)) if record else (str(source), str(source))
        before = next(self.journal.rows([key]), None)
        file = before["file"] if before and "file" in before else self.names.of(Path(name).name.removesuffix(".png"))
        places = self._places(file, prediction)
        row = {
            "name": name,
            "path": path,
            "label": None if record is None else record.label,
            "scores": [s if math.isfinite(s) else None for s in map(float, prediction.scores)],
            "file": file,
            "heatmaps": places,
            "peaks": self._peaks(prediction),
            "shape": list(prediction.geometry.image_shape),
        }
        return Planned(key, row, self._sketch(places, prediction))

    def write(self, planned: Planned, panels: Panels) -> None:
        """Write a planned row, once its heatmaps are there; panels: for the page, while there is room."""
        row = {**planned.row, "panels": panels if self._has_room() else []}
        self._count_panels(row)
        self.journal.append(planned.key, row)
        self.predicted = True

    def finish(self, keys: Sequence[str] | None = None) -> None:
        """Write tables and page from the rows of these keys, in their order (default: all, as they came)."""
        wanted = [key for key in (list(self.journal) if keys is None else keys) if key != _HEAD]
        if keys is not None:
            self._forget_others(set(wanted))
        with ExitStack() as stack:
            table = stack.enter_context(
                open(self.folder / "predictions.csv", "w", newline="", encoding="utf-8", errors="surrogateescape")
            )
            entries = stack.enter_context(open(self.folder / "predictions.json", "w", encoding="utf-8"))
            rows, count = csv.writer(table), 0
            rows.writerow((*COLUMNS, *([] if self.head is None else map(column_name, self.head.findings))))
            entries.write('{\n  "predictions": [\n')
            for row in self._rows(wanted):
                rows.writerow(self._cells(row))
                entries.write((",\n    " if count else "    ") + json.dumps(self._entry(row), allow_nan=False))
                count += 1
            entries.write("\n  ],\n" + self._tail(count, self.failures(wanted)))
        if self.run:
            about = {"schema": SCHEMA, "software": "wordsight", "version": __version__}
            write_json(self.folder / RUN, {**about, "run": dict(self.run), "images": digest(wanted)})
        map_kind = None if self.head is None else ScoreKind(self.head.map_kind)
        limits = None if map_kind is None else self.drawing.limits_for(map_kind)
        page = render_predictions(
            self.head,
            lambda: self._rows(wanted),
            failures=self.failures(wanted),
            limits=self._limits_words(limits),
            run=self.run,
        )
        write_text(self.folder / "report.html", page)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _same_detector(self, prediction: Prediction) -> None:
        kinds = prediction.kind, prediction.map_kind or prediction.kind
        found = Head(list(prediction.findings), str(kinds[0]), str(kinds[1]), prediction.weights)
        if self.head is None:
            self.head = found
            self.journal.append(_HEAD, {"head": found.to_json()})
        if (found.findings, found.kind) != (self.head.findings, self.head.kind):
            raise DataError(
                f"{prediction.source}: expected scores ({self.head.kind}) for {', '.join(self.head.findings)} "
                f"like the first image, got ({prediction.kind}) {', '.join(prediction.findings)}. "
                "Write each detector's predictions to a folder of their own."
            )

    def _places(self, file: str, prediction: Prediction) -> dict[str, str]:
        """Heatmaps of the highest-scored findings; finding -> path relative to the folder."""
        if prediction.maps is None or not self.drawing.heatmaps:
            return {}
        shown = [prediction.findings[i] for i in highest(prediction, self.drawing.max_findings)]
        return {finding: f"heatmaps/{self._folder(finding)}/{file}.png" for finding in shown}

    def _sketch(self, places: Mapping[str, str], prediction: Prediction) -> Sketch:
        """What is to be drawn; panels for no more images than a page shows."""
        panels = self._has_room() and self._sketched < self.drawing.max_thumbnails
        self._sketched += panels
        files = {finding: self.folder / place for finding, place in places.items()}
        names, values, maps = prediction.findings, prediction.maps, list[tuple[str, Float32, Path | None]]()
        if values is not None:
            shown = highest(prediction, max(len(places), SHOWN_MAPS if panels else 0))
            maps = [(names[i], values[i], files.get(names[i])) for i in shown]
        kind = prediction.map_kind or prediction.kind
        return Sketch(maps, panels, prediction.geometry, kind, self.drawing.limits_for(kind))

    def _folder(self, finding: str) -> str:
        if not self.folders and self.head is not None:
            names = SafeNames()
            self.folders = {f: names.of(f) for f in self.head.findings}
        return self.folders[finding]

    def _peaks(self, prediction: Prediction) -> dict[str, list[float]]:
        """(row, column) of each map's largest cell on the image, of those that have one there."""
        if prediction.maps is None:
            return {}
        numbers = [bool(np.isfinite(values).any()) for values in prediction.maps]
        peaks = {f: prediction.peak(f) for f, any_ in zip(prediction.findings, numbers, strict=True) if any_}
        height, width = prediction.geometry.image_shape
        return {f: [round(y, 1), round(x, 1)] for f, (y, x) in peaks.items() if 0 <= y <= height and 0 <= x <= width}

    def _has_room(self) -> bool:
        """Whether the page takes more panels."""
        return self.thumbnails < self.drawing.max_thumbnails and self.spent < THUMBNAIL_BUDGET

    def _count_panels(self, row: Mapping[str, Any]) -> None:
        if row["panels"]:
            self.thumbnails += 1
            self.spent += sum(len(png) * 3 // 4 for _, png in row["panels"])

    def _limits_words(self, limits: tuple[float, float] | None) -> str:
        if limits is None:
            return ""
        return f"{self.drawing.limits_words or f'{limits[0]:.3g} to {limits[1]:.3g}'}, the same for every map"

    # -- from the journal ----------------------------------------------------------------------------------------------

    def _rows(self, keys: Iterable[str]) -> Iterator[dict[str, Any]]:
        return (row for row in self.journal.rows(keys) if "scores" in row)

    def _forget_others(self, wanted: set[str]) -> None:
        """Remove heatmaps of images that are no longer asked for, or have changed since."""
        others = self._rows(key for key in self.journal if key not in wanted)
        gone = {place for row in others for place in row["heatmaps"].values()}
        if gone:
            gone.difference_update(*(row["heatmaps"].values() for row in self._rows(wanted)))
        for place in gone:
            (self.folder / place).unlink(missing_ok=True)

    def _cells(self, row: Mapping[str, Any]) -> list[Any]:
        assert self.head is not None
        scores = [math.nan if s is None else s for s in row["scores"]]
        top = self.head.findings[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))]
        label = "" if row["label"] is None else row["label"]
        fixed = row["name"], row["path"], label, self.head.kind, row["heatmaps"].get(top, "")
        return [*fixed, *(str(np.float32(s)) for s in scores)]

    def _entry(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What predictions.json says of an image."""
        assert self.head is not None
        entry = {name: row[name] for name in ("name", "path", "label")}
        scores = dict(zip(self.head.findings, row["scores"], strict=True))
        return {**entry, "scores": scores, "heatmaps": row["heatmaps"], "peaks": row["peaks"], "shape": row["shape"]}

    def _tail(self, count: int, failures: Sequence[tuple[str, str]]) -> str:
        """The members of predictions.json that are known at the end."""
        head = self.head
        value = {
            "schema": SCHEMA,
            "software": "wordsight",
            "version": __version__,
            "images": count,
            "findings": head.findings if head else [],
            "kind": head.kind if head else None,
            "map_kind": head.map_kind if head else None,
            "weights": head.weights if head else None,
            "run": dict(self.run),
            "failures": [{"path": path, "message": message} for path, message in failures],
        }
        return json.dumps(value, indent=2, allow_nan=False).removeprefix("{\n") + "\n"


def column_name(finding: str) -> str:
    """The header of a finding's column."""
    return finding if finding not in COLUMNS else f"finding: {finding}"


def digest(keys: Iterable[str]) -> str:
    """What names a list of keys, in its order."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


@contextmanager
def prediction_folder(
    folder: str | Path,
    *,
    run: Mapping[str, Any] | None = None,
    drawing: Drawing | None = None,
    resume: bool = True,
) -> Iterator[PredictionWriter]:
    """A writer into a folder; what its `finish` wrote appears at the end, all or nothing.

    run: what decides the numbers (plain values); with it an interrupted work can go on: what it wrote waits in the
    folder for the next call with an equal run. resume: whether that is taken up here, or dropped.
    Raises DataError if the folder cannot be written or another process writes it.
    """
    folder = Path(folder)
    created, keep = not folder.exists(), True
    if not resume or waiting_run(folder) != run:
        shutil.rmtree(folder / WAITING, ignore_errors=True)
    try:
        with replacing(folder, waiting=None if run is None else WAITING) as new:
            write_json(new.parent / RUN, {"run": run})
            with Journal(new.parent / JOURNAL) as journal:
                writer = PredictionWriter(new, journal, drawing or Drawing(), run or {})
                try:
                    yield writer
                finally:
                    keep = writer.predicted
        if run is None:
            (folder / RUN).unlink(missing_ok=True)  # that of older predictions
    finally:
        if not keep:
            shutil.rmtree(folder / WAITING, ignore_errors=True)
            if created and folder.exists():
                remove_if_empty(folder)


def waiting_run(folder: Path) -> Mapping[str, Any] | None:
    """The run of an interrupted work that waits in a folder, None without one."""
    found = _stored(folder / WAITING / RUN)
    return None if found is None else found["run"]


def finished_run(folder: Path) -> Mapping[str, Any] | None:
    """What a finished folder says: "run", and "images", the digest of its keys; None without any."""
    return _stored(folder / RUN)


def _stored(path: Path) -> Mapping[str, Any] | None:
    """A small JSON object with a member "run"; None where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("run"), dict) else None


def write_predictions(
    predictions: Iterable[Item],
    folder: str | Path,
    *,
    failures: Sequence[tuple[str, str]] = (),
    drawing: Drawing | None = None,
    total: int | None = None,
) -> Path:
    """Write predictions as they come and return the path of report.html; no image is kept in memory.

    Written: predictions.csv (one column per finding), predictions.json, report.html and, where there are maps,
    heatmaps/<finding>/<image>.png on the original grid. Either all of it appears or nothing.

    predictions: (record or name, image, prediction), any iterator. failures: (path, message), looked at when the
    iterator is exhausted, so the caller may fill it while images are read.
    Raises DataError if the findings change on the way or the folder cannot be written.
    """
    with prediction_folder(folder, drawing=drawing) as writer:
        for number, item in enumerate(track(predictions, "Predictions", total)):
            writer.add(str(number), item)
        for number, (path, message) in enumerate(failures):
            writer.fail(f"failure {number}", path, message)
        writer.finish()
    return Path(folder) / "report.html"
