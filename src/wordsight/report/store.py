"""Evaluations <-> a run folder: results.json, predictions.csv, maps.npz, heatmaps/, report.html."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight import __version__
from wordsight.errors import DataError
from wordsight.evaluate import Evaluation
from wordsight.files import write_text
from wordsight.helpers import Helpers
from wordsight.metrics import Number
from wordsight.progress import track
from wordsight.report.archive import read_arrays, write_arrays
from wordsight.report.html import group_evaluations, metrics_of, render_report, summarise
from wordsight.report.names import SafeNames, replacing
from wordsight.report.pictures import (
    Case,
    GeometryOf,
    Pictures,
    ReadImage,
    case_of,
    colour_limits,
    draw_pictures,
    first_of_each,
    write_heatmap,
)
from wordsight.report.words import draw_name
from wordsight.types import ScoreKind

SCHEMA = 1
COLUMNS = ("name", "label", "score", "group", "dataset", "draw", "path", "evaluation", "heatmap", "window")
MAX_JSON_BYTES = 256 * 2**20
FLOAT16_MAX = float(np.finfo(np.float16).max)
HeatmapJob = tuple[tuple[int, int], str, Callable[[], Case]]
"""(evaluation, image), path relative to the run folder, what is drawn."""


def write_evaluation(
    evaluation: Evaluation | Sequence[Evaluation],
    folder: str | Path,
    *,
    heatmaps: bool = True,
    max_heatmaps: int | None = None,
    keep_maps: bool = True,
    read: ReadImage | None = None,
    geometry: GeometryOf | None = None,
    workers: int = 0,
) -> Path:
    """Write one evaluation, or several draws and data sets, into a run folder; return the path of report.html.

    Written: results.json, predictions.csv, report.html, maps.npz (maps as float16, masks, the page's pictures) and,
    where there are maps, heatmaps/<data set>/<image>.png on the original grid. Either all of it appears or nothing.

    heatmaps: write PNG files, of each evaluation at most max_heatmaps, highest scores first. keep_maps: store maps and
    masks. read: (path, frame) -> Image; default, as the evaluation read it. geometry: image -> how the prepared array
    lies on it; default, the image was squeezed whole into it. An image that can no longer be read shows its map alone.
    workers: processes that draw heatmaps, see `Helpers`; without `read` and `geometry` only.
    Raises DataError if there is nothing to write or the folder cannot be written.
    """
    evaluations = [evaluation] if isinstance(evaluation, Evaluation) else list(evaluation)
    if not evaluations:
        raise DataError("expected at least one evaluation to write, got none. Evaluate a detector first.")
    evaluations = [replace(e, maps=None if e.maps is None else _halved(e.maps)) for e in evaluations]
    folder = Path(folder)
    pictures = draw_pictures(
        evaluations, first_of_each(evaluations, group_evaluations(evaluations)), read=read, geometry=geometry
    )
    with replacing(folder) as new:
        most = max_heatmaps if heatmaps else 0
        jobs = _heatmap_jobs(evaluations, most, read, geometry)
        written = _write_heatmaps(jobs, new, 0 if read or geometry else workers)
        _write_results(evaluations, pictures, written, new / "results.json")
        _write_predictions(evaluations, written, new / "predictions.csv")
        arrays = _arrays(evaluations, pictures, keep_maps)
        if arrays:
            write_arrays(new / "maps.npz", arrays)
        write_text(new / "report.html", render_report(evaluations, pictures))
    if not arrays:
        (folder / "maps.npz").unlink(missing_ok=True)
    return folder / "report.html"


def _halved(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values as float16 keeps them, so that a rebuilt report sees the same; as they are where float16 is too small."""
    largest = float(np.nanmax(np.abs(maps), initial=0.0))
    return maps if largest > FLOAT16_MAX else maps.astype(np.float16).astype(np.float32)


def _arrays(evaluations: Sequence[Evaluation], pictures: Pictures, keep_maps: bool) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, evaluation in enumerate(evaluations):
        if keep_maps and evaluation.maps is not None:
            small = float(np.nanmax(np.abs(evaluation.maps), initial=0.0)) <= FLOAT16_MAX
            arrays[f"maps-{number}"] = evaluation.maps.astype(np.float16) if small else evaluation.maps
        if keep_maps and evaluation.masks is not None:
            arrays[f"masks-{number}"] = evaluation.masks.astype(np.uint8)
    for (number, index, role), png in pictures.files.items():
        arrays[f"picture-{number}-{index}-{role}"] = np.frombuffer(png, dtype=np.uint8)
    return arrays


def _heatmap_jobs(
    evaluations: Sequence[Evaluation], most: int | None, read: ReadImage | None, geometry: GeometryOf | None
) -> list[HeatmapJob]:
    """Of each evaluation at most so many, the highest scores."""
    jobs: list[HeatmapJob] = []
    folders = SafeNames()
    for number, evaluation in enumerate(evaluations):
        if evaluation.maps is None or most == 0:
            continue
        repeated = sum(e.dataset == evaluation.dataset for e in evaluations) > 1
        folder = folders.of(f"{evaluation.dataset} {draw_name(evaluation)}".strip() if repeated else evaluation.dataset)
        limits, names = colour_limits(evaluation.maps), SafeNames()
        places = [f"heatmaps/{folder}/{names.of(name.removesuffix('.png'))}.png" for name in evaluation.names]
        chosen = np.argsort(-evaluation.scores, kind="stable")[:most]
        for i in sorted(int(i) for i in chosen):
            jobs.append(((number, i), places[i], partial(case_of, evaluation, i, limits, read, geometry)))
    return jobs


def _write_heatmaps(jobs: Sequence[HeatmapJob], new: Path, workers: int) -> dict[tuple[int, int], str]:
    """PNG files below `new`; (evaluation, image) -> path relative to the run folder, of those that could be drawn."""
    with Helpers(workers, len(jobs)) as helpers:
        cases = ((case(), new / place) for _, place, case in jobs)
        drawn = track(helpers.ahead(write_heatmap, cases), "Heatmaps", len(jobs))
        return {key: place for (key, place, _), done in zip(jobs, drawn, strict=True) if done}


def _plain(value: Any) -> Any:
    """A JSON value; NaN and infinity, which JSON lacks, as null."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _results(number: int, evaluation: Evaluation, pictures: Pictures, heatmaps: int) -> dict[str, Any]:
    protocol = {str(key): _plain(value) for key, value in evaluation.protocol.items()}
    limits = list(pictures.limits[number]) if number in pictures.limits else None
    return {**evaluation.summary(), "protocol": protocol, "heatmaps": heatmaps, "colour_limits": limits}


def _summaries(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation of every metric over draws, for groups with more than one evaluation."""
    found = []
    for members in group_evaluations(evaluations):
        group = [evaluations[i] for i in members]
        if len(group) < 2:
            continue
        for metric in metrics_of(group):
            spread = summarise(group, metric).to_json()
            found.append({"evaluations": members, "dataset": group[0].dataset, "metric": metric, **spread})
    return found


def _write_results(
    evaluations: Sequence[Evaluation], pictures: Pictures, written: Mapping[tuple[int, int], str], path: Path
) -> None:
    counts = [sum(number == e for number, _ in written) for e in range(len(evaluations))]
    value = {
        "schema": SCHEMA,
        "software": "wordsight",
        "version": __version__,
        "evaluations": [_results(n, e, pictures, counts[n]) for n, e in enumerate(evaluations)],
        "summary": _summaries(evaluations),
        "cases": pictures.cases,
    }
    # ASCII escapes carry file names that are not valid UTF-8 through unharmed.
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _write_predictions(evaluations: Sequence[Evaluation], written: Mapping[tuple[int, int], str], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for number, e in enumerate(evaluations):
            draw = e.protocol.get("draw")
            for i, name in enumerate(e.names):
                # str of a float32 is the shortest text that reads back as the same float32.
                row = (name, int(e.labels[i]), str(e.scores[i]), e.groups[i], e.dataset, "" if draw is None else draw)
                window = e.windows[i] if e.windows else ""
                writer.writerow((*row, e.paths[i], number, written.get((number, i), ""), window))


def read_results(folder: str | Path) -> list[Evaluation]:
    """The evaluations of a run folder, with maps and masks where they were kept (maps as float16 held them).

    Raises DataError if a file is missing, was changed by hand so that the parts do not fit, or has another schema.
    """
    return _read(Path(folder))[0]


def rebuild_report(folder: str | Path) -> Path:
    """Render report.html again from what the run folder holds; the images themselves are not needed.

    Raises DataError as read_results does.
    """
    folder = Path(folder)
    evaluations, pictures = _read(folder)
    write_text(folder / "report.html", render_report(evaluations, pictures))
    return folder / "report.html"


def _read(folder: Path) -> tuple[list[Evaluation], Pictures]:
    path = folder / "results.json"
    raw = _read_json(path)
    rows = _read_rows(folder / "predictions.csv", len(raw["evaluations"]))
    arrays = read_arrays(folder / "maps.npz") if (folder / "maps.npz").exists() else {}
    try:
        evaluations = [_evaluation(n, e, rows[n], arrays) for n, e in enumerate(raw["evaluations"])]
        limits = {
            n: (e["colour_limits"][0], e["colour_limits"][1])
            for n, e in enumerate(raw["evaluations"])
            if e["colour_limits"]
        }
        return evaluations, Pictures(_picture_files(arrays), limits, int(raw["cases"]))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path}: expected what write_evaluation writes, got {error!r}. Evaluate again.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{path}: expected at most {MAX_JSON_BYTES} bytes, got {path.stat().st_size}.")
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Give the folder of an evaluation.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected JSON, got {error}. Evaluate again.") from error
    found = raw.get("schema") if isinstance(raw, dict) else None
    if found != SCHEMA or not isinstance(raw.get("evaluations"), list):
        raise DataError(
            f"{path}: expected results of schema {SCHEMA}, got {found!r}. Use a matching wordsight version."
        )
    return dict(raw)


def _read_rows(path: Path, count: int) -> list[list[dict[str, str]]]:
    """Rows of predictions.csv by evaluation."""
    rows: list[list[dict[str, str]]] = [[] for _ in range(count)]
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as stream:
            for row in csv.DictReader(stream):
                rows[int(row["evaluation"])].append(row)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Evaluate again.") from error
    except (KeyError, ValueError, IndexError, TypeError, csv.Error) as error:
        raise DataError(f"{path}: expected columns {', '.join(COLUMNS)}, got {error!r}. Evaluate again.") from error
    return rows


def _evaluation(
    number: int, raw: Mapping[str, Any], rows: Sequence[Mapping[str, str]], arrays: Mapping[str, NDArray[np.generic]]
) -> Evaluation:
    if len(rows) != raw["counts"]["images"]:
        raise ValueError(f"{len(rows)} predictions for {raw['counts']['images']} images of evaluation {number}")
    maps, masks = arrays.get(f"maps-{number}"), arrays.get(f"masks-{number}")
    for stack in (maps, masks):
        if stack is not None and (stack.ndim != 3 or len(stack) != len(rows)):
            raise ValueError(f"maps or masks of shape {stack.shape} for {len(rows)} images of evaluation {number}")
    column: Callable[[str], tuple[str, ...]] = lambda name: tuple(row[name] for row in rows)  # noqa: E731
    windows = tuple(row.get("window") or "" for row in rows)
    return Evaluation(
        dataset=str(raw["dataset"]),
        method=str(raw["method"]),
        kind=ScoreKind(raw["score_kind"]),
        protocol=dict(raw["protocol"]),
        names=column("name"),
        paths=column("path"),
        labels=np.array([int(v) for v in column("label")], dtype=np.int64),
        scores=np.array([float(v) for v in column("score")], dtype=np.float32),
        groups=column("group"),
        numbers={name: _read_number(n) for name, n in raw["numbers"].items()},
        maps=None if maps is None else maps.astype(np.float32),
        masks=None if masks is None else masks.astype(bool),
        failures=tuple((str(f["path"]), str(f["message"])) for f in raw["failures"]),
        weights=str(raw["weights"]),
        data_hash=str(raw["data_hash"]),
        version=str(raw["version"]),
        interval=str(raw["interval"]),
        windows=windows if any(windows) else (),
    )


def _read_number(raw: Mapping[str, Any]) -> Number:
    value, low, high = (math.nan if raw[k] is None else float(raw[k]) for k in ("value", "low", "high"))
    return Number(value, low, high, int(raw["n"]), str(raw["note"]))


def _picture_files(arrays: Mapping[str, NDArray[np.generic]]) -> dict[tuple[int, int, str], bytes]:
    files = {}
    for name, array in arrays.items():
        if name.startswith("picture-"):
            _, number, index, role = name.split("-")
            files[int(number), int(index), role] = array.tobytes()
    return files
