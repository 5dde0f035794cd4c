"""Measure trained runs on labelled images: one evaluation per run, one report for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.data import benchmark_records, canonical_name, records_from
from wordsight.data.benchmark import set_names
from wordsight.errors import DataError, SettingsError
from wordsight.files import file_hash
from wordsight.study.folders import detector_folders, protocol_of, read_run
from wordsight.study.options import EvaluateOptions, Study
from wordsight.types import Record

if TYPE_CHECKING:
    from wordsight.evaluate import Evaluation


def evaluate_study(options: EvaluateOptions) -> Study:
    """Measure every run on the same images and write results and report.

    Images that a run was trained on are left out and counted in its protocol. Raises the errors of weights and data.
    """
    if not options.runs:
        raise SettingsError("expected at least one run folder to evaluate, got none.")
    folders = [folder for run in options.runs for folder in detector_folders(run)]
    dataset, records = find_records(options, read_run(folders[0]))
    evaluations, notes = [], []
    for folder in folders:
        evaluation, note = _measured(options, folder, dataset, records)
        evaluations.append(evaluation)
        notes += [f"{folder}: left out {note}"] if note else []
    from wordsight.report import write_evaluation

    out = options.out or _own_folder(options, dataset, read_run(folders[0]))
    report = write_evaluation(evaluations, out, max_heatmaps=options.heatmaps)
    return Study(tuple(evaluations), out, Path(report), tuple(notes))


def find_records(options: EvaluateOptions, run: dict[str, Any] | None) -> tuple[str, list[Record]]:
    """(name of the set, its records): a set of the data folder, or any source of labelled images.

    Raises DataError if the set is not named and the run does not say it.
    """
    data = options.data
    if data.is_dir() and not set_names(data) and options.target is None:
        return data.resolve().name, records_from(data, split=options.split if _has_splits(data) else None)
    if data.is_file():
        return data.stem, records_from(data, allow_outside=options.allow_outside)
    target = options.target or (run or {}).get("run", {}).get("target")
    if target is None:
        found = ", ".join(set_names(data)) or "none"
        raise DataError(f"{data}: expected the name of the set (--target), got none. Sets there: {found}.")
    name = canonical_name(str(target), data)
    return name, benchmark_records(data, name, options.split)


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
    options: EvaluateOptions, folder: Path, dataset: str, records: Sequence[Record]
) -> tuple[Evaluation, str]:
    """The evaluation of one run, and what to know about it."""
    from wordsight.evaluate import evaluate
    from wordsight.models.mla.detector import MlaLp
    from wordsight.train.engine import find_device

    stored = read_run(folder)
    run = None if stored is None else stored["run"]
    device = find_device(options.device, options.precision or "fp32")
    detector = MlaLp.load(folder, weights=options.weights, device=device)
    detector = replace(detector, precision=options.precision or detector.precision, batch_size=options.eval_batch)
    kept, note = _unused(records, run, folder)
    transductive = options.transductive
    if transductive is None:
        transductive = detector.info.get("protocol") == "published"
    protocol = protocol_of(detector, run)
    if note:
        protocol["left_out"] = note
    evaluation = evaluate(
        detector,
        kept,
        dataset=dataset,
        protocol=protocol,
        batch_size=options.eval_batch,
        bootstrap_draws=options.bootstrap,
        mask_rule="half" if _training(run).get("mask_rule") == "half" else "any",
        transductive=transductive,
    )
    return evaluation, note


def _training(run: dict[str, Any] | None) -> dict[str, Any]:
    return dict((run or {}).get("training", {}))


def _unused(records: Sequence[Record], run: dict[str, Any] | None, folder: Path) -> tuple[list[Record], str]:
    """Records without the run's support images (by content), and what was left out.

    Raises DataError if nothing is left.
    """
    hashes = set(((run or {}).get("support") or {}).get("hashes", []))
    if not hashes:
        return list(records), ""
    kept = [record for record in records if not record.path.is_file() or file_hash(record.path) not in hashes]
    lost = len(records) - len(kept)
    if records and not kept:
        raise DataError(f"{folder}: all {lost} images are among those it was trained on. Give other images.")
    return kept, f"{lost} images that it was trained on" if lost else ""
