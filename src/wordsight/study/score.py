"""Score a file of predictions that anybody made, by the protocol of a chest x-ray benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wordsight.data.peak_file import read_peaks
from wordsight.data.score_file import ScoreFile, read_order, read_scores
from wordsight.data.sources import (
    LabelTable,
    read_chestxdet10,
    read_chestxray14,
    read_chexpert,
    read_chexpert5x200,
    read_openi,
    read_padchest,
)
from wordsight.data.sources.chexpert import COMPETITION
from wordsight.errors import SettingsError
from wordsight.files import file_hash
from wordsight.metrics import (
    FindingTable,
    Number,
    delong_interval,
    delong_test,
    long_tail,
    rank_findings,
    reading_agreement,
    share_of_hits,
)
from wordsight.metrics.findings import pooled_ranking
from wordsight.metrics.intervals import DeLongTest, percentile_interval
from wordsight.study.pointing import Pointing, play


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a benchmark is scored.

    read: label file -> labels. tiers: means over head, medium and tail are part of it. exclusive: each image has one
    finding, so that the share of right answers is part of it. views: the label file tells frontal from lateral. boxes:
    it has boxes, so that the pointing game can be played.
    aliases: other headers of score columns -> finding.
    """

    name: str
    read: Callable[..., LabelTable]
    tiers: bool = False
    exclusive: bool = False
    views: bool = False
    boxes: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)


PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "openi",
            read_openi,
            tiers=True,
            aliases={"Lung Opacity": "Opacity", "Lung Lesion": "Lesion", "Pleural Effusion": "Effusion"},
        ),
        Protocol("padchest", read_padchest, tiers=True),
        Protocol(
            "chestxray14",
            read_chestxray14,
            aliases={"Lung Mass": "Mass", "Lung Nodule": "Nodule", "Pleural Effusion": "Effusion"},
        ),
        Protocol("chexpert5", partial(read_chexpert, findings=COMPETITION), views=True),
        Protocol("chexpert", read_chexpert, views=True),
        Protocol("chexpert5x200", read_chexpert5x200, exclusive=True),
        Protocol("chestxdet10", read_chestxdet10, boxes=True, aliases={"Pleural Effusion": "Effusion"}),
    )
}


def read_labels(protocol: str, path: str | Path, *, frontal: bool = False) -> LabelTable:
    """The label file of a protocol. Raises SettingsError for a name or views that it does not know, and DataError."""
    if protocol not in PROTOCOLS:
        raise SettingsError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    _check_views(protocol, frontal)
    return PROTOCOLS[protocol].read(path, **({"frontal_only": True} if frontal else {}))


def _check_views(protocol: str, frontal: bool) -> None:
    if frontal and not PROTOCOLS[protocol].views:
        raise SettingsError(f"frontal: the label file of {protocol} does not tell views. Leave it out.")


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """Score a file of predictions.

    predictions: CSV, one row per image and one column per finding, see `read_scores`. labels: the benchmark's label
    file. protocol: a name of PROTOCOLS. order: table with the names of the rows, for files without them. against:
    another file of predictions to compare with. out: folder for results.json and scores.csv, None to write nothing.
    draws, seed: of the 95 % bootstrap intervals; 0 draws for none. frontal: leave lateral images out. readings: the
    predictions are yes-or-no readings, 0 or 1. peaks: predictions.json with the points of the maps, for the pointing
    game; tolerance: its second reading, in pixels of the boxes. Raises SettingsError for values out of range.
    """

    predictions: Path
    labels: Path
    protocol: str
    order: Path | None = None
    against: Path | None = None
    out: Path | None = None
    draws: int = 1000
    seed: int = 0
    frontal: bool = False
    readings: bool = False
    peaks: Path | None = None
    tolerance: float = 15.0

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise SettingsError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {self.protocol!r}.")
        if self.draws < 0 or self.seed < 0:
            raise SettingsError(f"draws, seed: expected 0 or more, got {self.draws} and {self.seed}.")
        _check_views(self.protocol, self.frontal)
        if self.readings and self.against is not None:
            raise SettingsError("against: expected scores to compare, got readings. Leave one of the two out.")
        if self.peaks is not None and not PROTOCOLS[self.protocol].boxes:
            raise SettingsError(f"peaks: the label file of {self.protocol} has no boxes to point into. Leave it out.")
        if not 0 <= self.tolerance < float("inf"):
            raise SettingsError(f"tolerance: expected 0 pixels or more, got {self.tolerance}.")


@dataclass(frozen=True, slots=True)
class Difference:
    """AUROC of the predictions minus that of the other file: bootstrap interval, and DeLong's test where it applies."""

    number: Number
    test: DeLongTest | None


@dataclass(frozen=True, eq=False)
class Score:
    """What came out.

    labels: the label table. file: how the predictions were matched. numbers: per finding. means: name -> findings it
    is taken over. pooled: all pairs as one list, and accuracy where findings exclude each other. delong: per finding,
    empty where a group has several images. differences: finding or "macro" -> comparison with the other file.
    hashes: SHA-256 of each file by its role in the options. pointing: None where no peaks were given.
    """

    options: ScoreOptions
    labels: LabelTable
    file: ScoreFile
    numbers: FindingTable
    means: Mapping[str, list[int]]
    pooled: Mapping[str, Number]
    delong: tuple[Number, ...]
    differences: Mapping[str, Difference]
    hashes: Mapping[str, str]
    notes: tuple[str, ...]
    pointing: Pointing | None = None

    @property
    def interval(self) -> str:
        """What the intervals are."""
        count = len(set(self.labels.groups))
        drawn = f"95 % bootstrap over {count} {self.labels.unit}, {self.options.draws} draws, seed {self.options.seed}"
        return drawn if self.options.draws else "none"


def score_predictions(options: ScoreOptions) -> Score:
    """Read labels and predictions and measure; nothing is written (see `write_score`).

    Raises DataError for files that cannot be read or do not fit together, MetricError for readings other than 0 and 1.
    """
    protocol = PROTOCOLS[options.protocol]
    labels = read_labels(options.protocol, options.labels, frontal=options.frontal)
    order = None if options.order is None else read_order(options.order)
    file = read_scores(options.predictions, labels, order=order, aliases=protocol.aliases)
    measure = reading_agreement if options.readings else rank_findings
    numbers = measure(labels.labels, file.scores, labels.groups, draws=options.draws, seed=options.seed)
    means = {"macro": list(range(len(labels.findings)))}
    if protocol.tiers:
        means |= long_tail(numbers.positives)
    differences: dict[str, Difference] = {}
    if options.against is not None:
        other = read_scores(options.against, labels, order=order, aliases=protocol.aliases)
        differences = _compared(options, labels, file, other, numbers)
    pointing, told = _pointing(options, labels, protocol)
    roles = ("predictions", "labels", "order", "against", "peaks")
    files = {role: path for role in roles if (path := getattr(options, role)) is not None}
    return Score(
        options,
        labels,
        file,
        numbers,
        means,
        {} if options.readings else _pooled(options, labels, file, protocol.exclusive),
        () if options.readings else _delong(labels, file),
        differences,
        {role: file_hash(path) for role, path in files.items()},
        (*file.notes, *_notes(options, labels, file), *told),
        pointing,
    )


def _pointing(options: ScoreOptions, labels: LabelTable, protocol: Protocol) -> tuple[Pointing | None, list[str]]:
    """The pointing game where peaks are given, and what to say about it."""
    if options.peaks is None:
        return None, []
    peaks = read_peaks(options.peaks, labels, aliases=protocol.aliases)
    game = play(labels, peaks, tolerance=options.tolerance, draws=options.draws, seed=options.seed)
    return game, [*peaks.notes, *game.notes()]


def _each_alone(labels: LabelTable) -> bool:
    """Whether no group has several images, so that images may be taken as independent."""
    return len(set(labels.groups)) == len(labels.groups)


def _delong(labels: LabelTable, file: ScoreFile) -> tuple[Number, ...]:
    if not _each_alone(labels):
        return ()
    return tuple(delong_interval(labels.labels[:, f], file.scores[:, f]) for f in range(len(labels.findings)))


def _pooled(options: ScoreOptions, labels: LabelTable, file: ScoreFile, exclusive: bool) -> dict[str, Number]:
    found = {f"micro_{name}": number for name, number in pooled_ranking(labels.labels, file.scores).items()}
    if exclusive:
        hits = (file.scores.argmax(axis=1) == labels.labels.argmax(axis=1)).tolist()
        found["accuracy"] = share_of_hits(hits, labels.groups, draws=options.draws, seed=options.seed)
    return found


def _compared(
    options: ScoreOptions, labels: LabelTable, file: ScoreFile, other: ScoreFile, numbers: FindingTable
) -> dict[str, Difference]:
    """Differences in AUROC, per finding and of the means; both files are measured on the same draws."""
    second = rank_findings(labels.labels, other.scores, labels.groups, draws=options.draws, seed=options.seed)
    alone = _each_alone(labels)
    found: dict[str, Difference] = {}
    for f, finding in enumerate(labels.findings):
        pair = (file.scores[:, f], other.scores[:, f])
        test = delong_test(labels.labels[:, f], *pair) if alone else None
        found[finding] = Difference(_difference(numbers, second, [f]), test)
    found["macro"] = Difference(_difference(numbers, second, list(range(len(labels.findings)))), None)
    return found


def _difference(first: FindingTable, second: FindingTable, findings: list[int]) -> Number:
    """Difference of the mean AUROC; both are undefined for the same findings and draws."""
    mine, theirs = first.mean("auroc", findings), second.mean("auroc", findings)
    if not mine.defined or first.drawn is None or second.drawn is None:
        return Number(mine.value - theirs.value, n=mine.n, note=mine.note)
    gap = first.drawn[0, findings] - second.drawn[0, findings]
    known = ~np.isnan(gap)
    total = np.where(known, gap, 0.0).sum(axis=0)
    drawn = np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan)
    interval = percentile_interval(drawn)
    return Number(mine.value - theirs.value, interval.low, interval.high, mine.n, interval.note)


def _notes(options: ScoreOptions, labels: LabelTable, file: ScoreFile) -> list[str]:
    notes = [f"other file: {options.against}"] if options.against is not None else []
    if options.frontal:
        notes.append(f"frontal images alone: {len(labels.names)}")
    if not options.readings and bool(np.isin(file.scores, (0, 1)).all()):
        notes.append("all scores are 0 or 1: if they are readings, --readings gives sensitivity and specificity")
    return notes


def score_json(score: Score) -> dict[str, Any]:
    """Everything as plain values, as in results.json."""
    from wordsight import __version__

    labels, numbers, options = score.labels, score.numbers, score.options
    findings = {}
    for f, finding in enumerate(labels.findings):
        values: dict[str, Any] = {"positives": int(numbers.positives[f])}
        values |= {metric: numbers.number(metric, f).to_json() for metric in numbers.metrics}
        if score.delong:
            values["auroc_delong"] = score.delong[f].to_json()
        if score.pointing is not None:
            values |= {name: number.to_json() for name, number in score.pointing.findings[f].items()}
        findings[finding] = values
    means = {
        name: {"findings": len(chosen), **{m: numbers.mean(m, chosen).to_json() for m in numbers.metrics}}
        for name, chosen in score.means.items()
    }
    if score.pointing is not None:
        means["macro"] |= {name: number.to_json() for name, number in score.pointing.macro.items()}
    return {
        "schema": 1,
        "software": "wordsight",
        "version": __version__,
        "protocol": {
            "name": options.protocol,
            "dataset": labels.dataset,
            labels.rows: len(labels.names),
            "frontal_only": options.frontal,
            "columns": score.file.columns,
            "rows": score.file.rows,
            "interval": score.interval,
        },
        "files": {k: {"name": getattr(options, k).name, "sha256": v} for k, v in score.hashes.items()},
        "pointing": None if score.pointing is None else score.pointing.about(),
        "findings": findings,
        "means": means,
        "pooled": {name: number.to_json() for name, number in score.pooled.items()},
        "differences": {name: _difference_json(difference) for name, difference in score.differences.items()},
        "notes": list(score.notes),
    }


def _difference_json(difference: Difference) -> dict[str, Any]:
    test = difference.test
    delong = None if test is None else {k: None if np.isnan(v) else v for k, v in (("z", test.z), ("p", test.p))}
    return {"auroc": difference.number.to_json(), "delong": delong}


def score_rows(score: Score) -> list[dict[str, str]]:
    """Rows of scores.csv: one per finding, then one per mean; empty where undefined."""
    numbers, rows = score.numbers, []
    for f, finding in enumerate(score.labels.findings):
        found = {metric: numbers.number(metric, f) for metric in numbers.metrics}
        if score.delong:
            found["auroc_delong"] = score.delong[f]
        if score.pointing is not None:
            found |= score.pointing.findings[f]
        rows.append({"kind": "finding", "name": finding, "positives": str(numbers.positives[f]), **_cells(found)})
    for name, chosen in score.means.items():
        found = {metric: numbers.mean(metric, chosen) for metric in numbers.metrics}
        if score.pointing is not None and name == "macro":
            found |= score.pointing.macro
        rows.append({"kind": "mean", "name": name, "positives": "", **_cells(found)})
    return rows


def _cells(numbers: Mapping[str, Number]) -> dict[str, str]:
    cells: dict[str, str] = {}
    for name, number in numbers.items():
        for suffix, value in (("", number.value), ("_low", number.low), ("_high", number.high)):
            cells[name + suffix] = "" if np.isnan(value) else repr(float(value))
    return cells


def write_score(score: Score, folder: str | Path) -> tuple[Path, Path]:
    """Write results.json and scores.csv into a folder, each whole or not at all; return their paths."""
    import csv
    import io

    from wordsight.files import write_json, write_text

    folder = Path(folder)
    rows = score_rows(score)
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    results, table = folder / "results.json", folder / "scores.csv"
    write_json(results, score_json(score))
    write_text(table, text.getvalue())
    return results, table
