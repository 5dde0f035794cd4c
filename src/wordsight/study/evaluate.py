"""Measure trained runs on labelled images: one evaluation per run, one report for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.data import benchmark_records, canonical_name, read_as, records_from
from wordsight.data.benchmark import set_names
from wordsight.errors import DataError, SettingsError
from wordsight.files import file_hash
from wordsight.helpers import helper_count
from wordsight.progress import progress
from wordsight.study.detectors import computing, device_of
from wordsight.study.folders import detector_folders, protocol_of, read_run
from wordsight.study.options import EvaluateOptions, Study
from wordsight.types import Record

if TYPE_CHECKING:
    from wordsight.evaluate import Evaluation


def evaluate_study(options: EvaluateOptions) -> Study:
    """Measure every run on the same images and write results and report.

    Images that any of the runs was trained on or chosen by are left out for all of them, and counted in the protocol.
    Raises the errors of weights and data.
    """
    if not options.runs:
        raise SettingsError("expected at least one run folder to evaluate, got none.")
    folders = [folder for run in options.runs for folder in detector_folders(run)]
    dataset, records = find_records(options, read_run(folders[0]))
    kept, left_out = _Known.of(folders, dataset).leave_out(records, len(folders))
    evaluations = [_measured(options, folder, dataset, kept, left_out) for folder in folders]
    notes = (f"left out {left_out}",) if left_out else ()
    from wordsight.report import write_evaluation

    workers = helper_count(options.workers, device_of(options))
    out = options.out or _own_folder(options, dataset, read_run(folders[0]))
    report = write_evaluation(evaluations, out, max_heatmaps=options.heatmaps, workers=workers)
    return Study(tuple(evaluations), out, Path(report), notes)


def find_records(options: EvaluateOptions, run: dict[str, Any] | None) -> tuple[str, list[Record]]:
    """(name of the set, its records): a set of the data folder, or any source of labelled images.

    Raises DataError if the set is not named and the run does not say it, SettingsError for regions or a patient pattern
    of other data than a set.
    """
    data = options.data
    by_layout = {"--regions": options.regions, "--patient-pattern": options.patient_pattern}
    given = [flag for flag, value in by_layout.items() if value is not None]
    if given and (data.is_file() or (not set_names(data) and options.target is None)):
        raise SettingsError(
            f"{data}: expected a folder of sets (<Name>_AD) with {' and '.join(given)}, got other data. A "
            "manifest has columns region and patient for these."
        )
    if data.is_dir() and not set_names(data) and options.target is None:
        return data.resolve().name, records_from(data, split=options.split if _has_splits(data) else None)
    if data.is_file():
        return data.stem, records_from(data, split=options.split, allow_outside=options.allow_outside)
    target = options.target or (run or {}).get("run", {}).get("target")
    if target is None:
        found = ", ".join(set_names(data)) or "none"
        raise DataError(f"{data}: expected the name of the set (--target), got none. Sets there: {found}.")
    name = canonical_name(str(target), data)
    pattern = options.patient_pattern
    return name, benchmark_records(data, name, options.split, regions=options.regions, patient_pattern=pattern)


def _has_splits(folder: Path) -> bool:
    return any((folder / split).is_dir() for split in ("train", "valid", "test"))


def _own_folder(options: EvaluateOptions, dataset: str, run: dict[str, Any] | None) -> Path:
    """The first run's folder for the test split it was trained for, else a folder inside it."""
    first = options.runs[0]
    trained_for = (run or {}).get("run", {}).get("target", dataset)
    if len(options.runs) == 1 and dataset == trained_for and options.split == "test" and options.data.is_dir():
        return first
    return first / f"evaluation-{dataset}-{options.split}".lower()


def _measured(
    options: EvaluateOptions, folder: Path, dataset: str, records: Sequence[Record], left_out: str
) -> Evaluation:
    """The evaluation of one run."""
    from wordsight.evaluate import evaluate
    from wordsight.models.mla.detector import MlaLp

    stored = read_run(folder)
    run = None if stored is None else stored["run"]
    detector = MlaLp.load(folder, weights=options.weights, device=device_of(options))
    detector = replace(computing(detector, options), batch_size=options.eval_batch)
    window, frame = (run or {}).get("window"), (run or {}).get("frame")
    frame = frame if options.frame is None else options.frame
    records = read_as(records, window=options.window or window, frame=frame)
    transductive = options.transductive
    if transductive is None:
        transductive = detector.info.get("protocol") == "published"
    protocol = protocol_of(detector, run)
    if left_out:
        protocol["left_out"] = left_out
    return evaluate(
        detector,
        records,
        dataset=dataset,
        protocol=protocol,
        batch_size=options.eval_batch,
        bootstrap_draws=options.bootstrap,
        mask_rule="half" if _training(run).get("mask_rule") == "half" else "any",
        transductive=transductive,
        workers=options.workers,
    )


def _training(run: dict[str, Any] | None) -> dict[str, Any]:
    return dict((run or {}).get("training", {}))


@dataclass(frozen=True, slots=True)
class _Known:
    """What runs have learned from: contents (SHA-256) of the images they were trained on and chosen by."""

    trained: frozenset[str]
    chosen: frozenset[str]

    @classmethod
    def of(cls, folders: Sequence[Path], dataset: str) -> _Known:
        """Of all runs together, so that the draws of a study are measured on the same images.

        Raises DataError for a run that was trained on this set and does not say on which of its images.
        """
        trained: set[str] = set()
        chosen: set[str] = set()
        for folder in folders:
            stored = read_run(folder) or {}
            run, seen = stored.get("run", {}), stored.get("seen")
            if seen is None and dataset in (run.get("sources") or {}):
                raise DataError(
                    f"{folder}: was trained on images of {dataset}, and does not say on which. Train it again with "
                    "this version, or measure it on another set."
                )
            trained |= {*((run.get("support") or {}).get("hashes", [])), *(seen or {}).get("trained", [])}
            chosen |= {*(seen or {}).get("chosen", [])}
        return cls(frozenset(trained), frozenset(chosen - trained))

    def leave_out(self, records: Sequence[Record], runs: int) -> tuple[list[Record], str]:
        """The records without the known ones, and what was left out. Raises DataError if nothing is left."""
        if not self.trained and not self.chosen:
            return list(records), ""
        kept: list[Record] = []
        lost = [0, 0]
        with progress("looking for training images", len(records), "files") as bar:
            for record in records:
                content = file_hash(record.path) if record.path.is_file() else ""
                if content in self.trained or content in self.chosen:
                    lost[content in self.chosen] += 1
                else:
                    kept.append(record)
                bar.advance()
        who = "it was" if runs == 1 else f"one of the {runs} runs was"
        said = [f"{n} images that {who} {how}" for n, how in zip(lost, ("trained on", "chosen by"), strict=True) if n]
        note = " and ".join(said)
        if records and not kept:
            raise DataError(f"nothing is left of {len(records)} images without {note}. Give other images.")
        return kept, note
