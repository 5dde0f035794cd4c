"""Predictions -> predictions.csv, predictions.json, heatmaps and a page; one image in memory at a time."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from wordsight import __version__
from wordsight.errors import DataError
from wordsight.files import write_text
from wordsight.imaging.overlay import overlay, to_rgb, write_png
from wordsight.progress import track
from wordsight.report import words
from wordsight.report.html import MAX_FAILURES, data_uri, render_page
from wordsight.report.names import SafeNames, replacing
from wordsight.report.pictures import encode_png, on_grid, shrunk
from wordsight.types import Heatmap, Image, Prediction, Record, ScoreKind

SCHEMA = 1
COLUMNS = ("name", "path", "label", "kind", "heatmap")
THUMBNAIL = 192
THUMBNAIL_BUDGET = 3_300_000
SHOWN_FINDINGS = 6
Item = tuple[Record | str, Image, Prediction]


@dataclass
class _Page:
    """What the page will hold: bounded by the number of thumbnails and by their bytes."""

    most: int
    images: list[dict[str, Any]] = field(default_factory=list)
    spent: int = 0

    def add(self, name: str, image: Image, prediction: Prediction, limits: tuple[float, float] | None) -> None:
        """Keep a thumbnail with its scores while there is room."""
        if len(self.images) >= self.most or self.spent >= THUMBNAIL_BUDGET:
            return
        order = np.argsort(-prediction.scores, kind="stable")[:SHOWN_FINDINGS]
        pairs = [(words.printable(prediction.findings[i], 80), f"{prediction.scores[i]:.3g}") for i in order]
        small = shrunk(image, THUMBNAIL)
        panels = [("image", encode_png(to_rgb(small), THUMBNAIL))]
        if prediction.maps is not None:
            finding = prediction.findings[int(order[0])]
            values = on_grid(prediction.geometry, small.shape, prediction.maps[int(order[0])])
            drawn = overlay(small, Heatmap(finding, values, prediction.kind), limits=limits)
            panels.append((f"map: {words.printable(finding, 80)}", encode_png(drawn, THUMBNAIL)))
        self.spent += sum(len(png) for _, png in panels)
        shown = words.printable(name, 90)
        uris = [(label, data_uri(png), f"{shown}: {label}") for label, png in panels]
        self.images.append(
            {"name": shown, "panels": uris, "scores": pairs, "more": len(prediction.findings) > len(pairs)}
        )


@dataclass
class _Writer:
    """Rows and pictures of a stream of predictions; findings, kind and weights are those of the first one."""

    folder: Path
    table: TextIO
    entries: TextIO
    limits: tuple[float, float] | None
    findings_drawn: int | None
    page: _Page
    first: Prediction | None = None
    count: int = 0
    names: SafeNames = field(default_factory=SafeNames)
    folders: dict[str, str] = field(default_factory=dict)

    def add(self, item: Item, heatmaps: bool) -> None:
        source, image, prediction = item
        first = self._same_detector(prediction)
        record = source if isinstance(source, Record) else None
        name, path = (record.name, str(record.path)) if record else (str(source), str(source))
        limits = self.limits or _limits(prediction.kind)
        written = self._heatmaps(name, image, prediction, limits) if heatmaps else {}
        scores = [float(s) for s in prediction.scores]
        label = None if record is None else record.label
        top = first.findings[int(np.argmax(prediction.scores))]
        fixed = (name, path, "" if label is None else label, str(prediction.kind), written.get(top, ""))
        csv.writer(self.table).writerow((*fixed, *(str(s) for s in prediction.scores)))
        entry = {
            "name": name,
            "path": path,
            "label": label,
            "scores": {f: s if math.isfinite(s) else None for f, s in zip(first.findings, scores, strict=True)},
            "heatmaps": written,
            "shape": list(image.shape),
        }
        self.entries.write((",\n    " if self.count else "    ") + json.dumps(entry, allow_nan=False))
        self.page.add(name, image, prediction, limits)
        self.count += 1

    def _same_detector(self, prediction: Prediction) -> Prediction:
        if self.first is None:
            self.first = Prediction(
                prediction.findings, prediction.scores, prediction.kind, None, prediction.geometry, prediction.weights
            )
            columns = [f if f not in COLUMNS else f"finding: {f}" for f in prediction.findings]
            csv.writer(self.table).writerow((*COLUMNS, *columns))
        if prediction.findings != self.first.findings or prediction.kind != self.first.kind:
            raise DataError(
                f"{prediction.source}: expected scores ({self.first.kind}) for {', '.join(self.first.findings)} "
                f"like the first image, got ({prediction.kind}) {', '.join(prediction.findings)}. "
                "Write each detector's predictions to a folder of their own."
            )
        return self.first

    def _heatmaps(
        self, name: str, image: Image, prediction: Prediction, limits: tuple[float, float] | None
    ) -> dict[str, str]:
        """PNG files of the highest-scored findings; finding -> path relative to the folder."""
        if prediction.maps is None:
            return {}
        file, written = self.names.of(Path(name).name.removesuffix(".png")), {}
        for i in np.argsort(-prediction.scores, kind="stable")[: self.findings_drawn]:
            finding = prediction.findings[int(i)]
            place = f"heatmaps/{self._folder(finding)}/{file}.png"
            write_png(self.folder / place, overlay(image, prediction.heatmap(finding), limits=limits))
            written[finding] = place
        return written

    def _folder(self, finding: str) -> str:
        if not self.folders and self.first is not None:
            names = SafeNames()
            self.folders = {f: names.of(f) for f in self.first.findings}
        return self.folders[finding]


def _limits(kind: ScoreKind) -> tuple[float, float] | None:
    """Colour limits that a kind of score brings along, None where each map is coloured over its own range."""
    return (0.0, 1.0) if kind in (ScoreKind.PROBABILITY, ScoreKind.SCALED) else None


def write_predictions(
    predictions: Iterable[Item],
    folder: str | Path,
    *,
    failures: Sequence[tuple[str, str]] = (),
    heatmaps: bool = True,
    max_findings: int | None = 3,
    limits: tuple[float, float] | None = None,
    max_thumbnails: int = 200,
    total: int | None = None,
) -> Path:
    """Write predictions as they come and return the path of report.html; no image is kept in memory.

    Written: predictions.csv (one column per finding), predictions.json, report.html and, where there are maps,
    heatmaps/<finding>/<image>.png on the original grid. Either all of it appears or nothing.

    predictions: (record or name, image, prediction), any iterator. failures: (path, message), looked at when the
    iterator is exhausted, so the caller may fill it while images are read. max_findings: per image, PNG files of that
    many highest-scored findings, None for all. limits: ends of the colour map; default 0 and 1 for probabilities and
    scaled scores, otherwise each map's own range. max_thumbnails: images shown in the page; the page says so.
    Raises DataError if the findings change on the way or the folder cannot be written.
    """
    folder = Path(folder)
    with replacing(folder) as new:
        with ExitStack() as stack:
            table = stack.enter_context(
                open(new / "predictions.csv", "w", newline="", encoding="utf-8", errors="surrogateescape")
            )
            entries = stack.enter_context(open(new / "predictions.json", "w", encoding="utf-8"))
            writer = _Writer(new, table, entries, limits, max_findings, _Page(max_thumbnails))
            entries.write('{\n  "predictions": [\n')
            for item in track(predictions, "Predictions", total):
                writer.add(item, heatmaps)
            if writer.first is None:
                csv.writer(table).writerow(COLUMNS)
            entries.write("\n  ],\n" + _tail(writer, failures))
        write_text(new / "report.html", _render(writer, failures))
    return folder / "report.html"


def _tail(writer: _Writer, failures: Sequence[tuple[str, str]]) -> str:
    """The members of predictions.json that are known at the end."""
    first = writer.first
    value = {
        "schema": SCHEMA,
        "software": "wordsight",
        "version": __version__,
        "images": writer.count,
        "findings": list(first.findings) if first else [],
        "kind": str(first.kind) if first else None,
        "weights": first.weights if first else None,
        "failures": [{"path": path, "message": message} for path, message in failures],
    }
    return json.dumps(value, indent=2, allow_nan=False).removeprefix("{\n") + "\n"


def _render(writer: _Writer, failures: Sequence[tuple[str, str]]) -> str:
    first = writer.first
    kind = str(first.kind) if first else ""
    limits = writer.limits or (_limits(first.kind) if first else None)
    values = {
        "title": f"Predictions for {writer.count} image{'' if writer.count == 1 else 's'}",
        "count": writer.count,
        "images": writer.page.images,
        "kind": words.KINDS.get(kind, ""),
        "limits": f"{limits[0]:.3g} to {limits[1]:.3g}, the same for every map" if limits else "",
        "maps": any(len(image["panels"]) > 1 for image in writer.page.images),
        "failures": [words.failure_words(p, m) for p, m in failures[:MAX_FAILURES]],
        "failed": len(failures),
        "version": __version__,
        "weights": words.printable(first.weights) if first else "not recorded",
    }
    return render_page("predictions.html.j2", values)
