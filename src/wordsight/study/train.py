"""Train on one set for several support draws and seeds, measure every run on the test split, write one report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.helpers import helper_count
from wordsight.models.mla.settings import OBJECT_NAMES, MlaSettings
from wordsight.study.backbone import open_clip_for
from wordsight.study.folders import (
    DETECTOR,
    STATE,
    check_folder,
    check_parent,
    protocol_of,
    write_run,
)
from wordsight.study.options import Study, TrainOptions
from wordsight.study.plan import Run, plan_runs
from wordsight.study.target import check_files, target_name, target_records
from wordsight.train.settings import MlaTraining

if TYPE_CHECKING:
    from wordsight.evaluate import Evaluation
    from wordsight.models.mla.backbone import Clip
    from wordsight.models.mla.detector import MlaLp


def train_study(options: TrainOptions) -> Study:
    """Train what the options ask for and measure it on the target's test split.

    A run that its folder already holds finished is loaded, an interrupted one goes on. Data, lists, weights and
    folders are checked before the first training starts. The test split is read only for the measurement, and in
    training only under protocol "published". Raises the errors of data, weights, settings and training.
    """
    target = target_name(options)
    settings, training = options.resolved(target)
    runs = plan_runs(options, target, training)
    check_parent(options.folder(target), several=len(runs) > 1)
    clip, settings = open_clip_for(options.architecture, options.weights, settings, "levels" in options.settings)
    described = [_describe(options, target, run, settings, training, clip) for run in runs]
    for run, values in zip(runs, described, strict=True):
        check_folder(run.folder, values)
    workers = _workers(options, training)
    check_files((r for run in runs if not (run.folder / DETECTOR).is_file() for r in run.records), workers)
    evaluations, notes = [], []
    for run, values in zip(runs, described, strict=True):
        detector, loaded = _trained(options, target, run, values, settings, training, clip)
        if loaded:
            notes.append(f"{run.folder}: was finished before and was not trained again")
        if options.evaluate:
            evaluations.append(_measured(options, target, detector, values, training, workers))
    report = _written(evaluations, options, target, workers)
    return Study(tuple(evaluations), options.folder(target), report, tuple(notes))


def _workers(options: TrainOptions, training: MlaTraining) -> int:
    """Processes that help, for the device of the training."""
    from wordsight.train.engine import find_device

    return helper_count(options.workers, find_device(training.device, training.precision))


def _describe(
    options: TrainOptions, target: str, run: Run, settings: MlaSettings, training: MlaTraining, clip: Clip
) -> dict[str, Any]:
    named = {"target": target, "shots": options.shots, "method": options.method, "profile": options.profile}
    initial = None if options.initial is None else str(options.initial)
    return {
        **named,
        **run.describe(settings, replace(training, seed=run.seed)),
        "initial": initial,
        "window": options.window,
        "frame": options.frame,
        "backbone": clip.weights_hash,
    }


def _trained(
    options: TrainOptions,
    target: str,
    run: Run,
    values: dict[str, Any],
    settings: MlaSettings,
    training: MlaTraining,
    clip: Clip,
) -> tuple[MlaLp, bool]:
    """The run's detector, and whether it was there already."""
    from wordsight.models.mla.detector import MlaLp
    from wordsight.train.engine import find_device

    training = replace(training, seed=run.seed)
    if (run.folder / DETECTOR).is_file():
        device = find_device(training.device, training.precision)
        (run.folder / STATE).unlink(missing_ok=True)
        return MlaLp.load(run.folder, weights=clip.weights, device=device), True
    backbone = {"architecture": clip.architecture, "weights": clip.weights, "hash": clip.weights_hash}
    write_run(run.folder, values, options.to_json(), backbone=backbone, seen=run.seen())
    clip.to(find_device(training.device, training.precision))  # there every run shares it
    detector = _fitted(_untrained(options, clip, settings, run.seed), target, run, training)
    detector.save(run.folder)
    (run.folder / STATE).unlink(missing_ok=True)
    return detector, False


def _untrained(options: TrainOptions, clip: Clip, settings: MlaSettings, seed: int) -> MlaLp:
    """Fresh adapters, or those of a checkpoint to start from."""
    from wordsight.models.mla.detector import MlaLp
    from wordsight.models.mla.model import MlaNetwork
    from wordsight.models.mla.storage import fill_network
    from wordsight.study.checkpoints import read_adapters

    network = MlaNetwork(clip, settings, seed=seed).eval()
    if options.initial is not None:
        fill_network(network, read_adapters(options.initial)[0], Path(options.initial))
    return MlaLp(network)


def _fitted(detector: MlaLp, target: str, run: Run, training: MlaTraining) -> MlaLp:
    from wordsight.train.mla import fit_few, fit_zero

    if run.support is None:
        names = {name: OBJECT_NAMES.get(name, name) for name in (*run.sources, target)}
        return fit_zero(
            detector,
            run.sources,
            training=training,
            test=run.test,
            object_names=names,
            folder=run.folder,
            dataset=target,
        )
    return fit_few(
        detector,
        run.support,
        training=training,
        selection=run.selection,
        test=run.test,
        folder=run.folder,
        dataset=target,
    )


def _measured(
    options: TrainOptions, target: str, detector: MlaLp, values: dict[str, Any], training: MlaTraining, workers: int
) -> Evaluation:
    from wordsight.evaluate import evaluate

    return evaluate(
        replace(detector, batch_size=options.eval_batch),
        target_records(options, target, "test"),
        dataset=target,
        protocol=protocol_of(detector, values),
        batch_size=options.eval_batch,
        bootstrap_draws=options.bootstrap,
        mask_rule=training.mask_rule,
        transductive=training.protocol == "published",
        workers=workers,
    )


def _written(evaluations: list[Evaluation], options: TrainOptions, target: str, workers: int) -> Path | None:
    if not evaluations:
        return None
    from wordsight.report import write_evaluation

    folder = options.folder(target)
    return Path(write_evaluation(evaluations, folder, max_heatmaps=options.heatmaps, workers=workers))
