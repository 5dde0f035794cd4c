"""Few-shot and zero-shot training of MLA-LP and MVFA, with honest and with published model selection.

The published codes choose the epoch by its score on the test set; here that is protocol "published" and named in every
result. The default, "validation", never looks at the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from wordsight.data import SupportSet
from wordsight.errors import DataError
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.settings import OBJECT_NAMES
from wordsight.train.run import Run
from wordsight.train.samples import samples_from_records, support_arrays
from wordsight.train.settings import MlaTraining
from wordsight.types import Record

__all__ = ["MlaTraining", "fit_few", "fit_support", "fit_zero"]


def fit_support(detector: MlaLp, support: SupportSet, **options: Any) -> MlaLp:
    """`MlaLp.fit`: options are fields of MlaTraining, and selection, test, folder as in `fit_few`."""
    names = {f.name for f in fields(MlaTraining)}
    training = MlaTraining(**{k: v for k, v in options.items() if k in names})
    return fit_few(detector, support, training=training, **{k: v for k, v in options.items() if k not in names})


def fit_few(
    detector: MlaLp,
    support: SupportSet,
    *,
    training: MlaTraining,
    selection: Sequence[Record] = (),
    test: Sequence[Record] = (),
    masked: bool | None = None,
    folder: Path | None = None,
    dataset: str = "",
) -> MlaLp:
    """Few-shot: train on 11 k + 11 k augmented support images, remember the normal ones.

    selection: held-out labelled images for protocol "validation" (without any, a quarter of the support is held out;
    with too few for that, the last epoch is taken). test: only for protocol "published". folder: where the state of an
    unfinished run is kept, which the same call goes on from.
    Returns the trained detector with its bank and score scale. Raises DataError, SettingsError or TrainingError.
    """
    spec = detector.input_spec
    if masked is None:
        masked = any(record.mask is not None for record in support.abnormal)
    normal, abnormal, held, how = _selection_records(support, selection, test, training)
    arrays = support_arrays(normal, abnormal, spec, masked=masked, mask_rule=training.mask_rule)
    detector = replace(
        detector,
        map_branch="seg" if masked else "det",
        mode="segmentation" if masked else "detection",
        precision=training.precision,
    )
    judge = (
        [samples_from_records(held, spec, name=dataset, mask_rule=training.mask_rule, masked=masked)] if held else []
    )
    run = Run(detector, [arrays.samples], judge, training, folder, bank=arrays)
    return run.fit(how)


def fit_zero(
    detector: MlaLp,
    sources: Mapping[str, tuple[Sequence[Record], Sequence[Record]]],
    *,
    training: MlaTraining,
    test: Sequence[Record] = (),
    object_names: Mapping[str, str] | None = None,
    folder: Path | None = None,
    dataset: str = "",
) -> MlaLp:
    """Zero-shot: train on other sets; nothing of the target is seen (but for protocol "published", its test scores).

    sources: set name -> (training records, selection records); batches hold one set each, reshuffled every epoch.
    object_names: what MVFA's sentences call each set's object (default: the published names, else the set's name).
    Returns the trained detector, scaled on the sources' selection images. Raises DataError or TrainingError.
    """
    if not sources:
        raise DataError("zero-shot training needs at least one other set, got none. Put more sets beside the target.")
    spec, rule = detector.input_spec, training.mask_rule
    sets = [samples_from_records(part[0], spec, name=name, mask_rule=rule) for name, part in sources.items()]
    masked = any(s.masked for s in sets)
    detector = replace(
        detector, map_branch="seg" if masked else "det", mode="zero-shot", bank=None, precision=training.precision
    )
    if training.protocol == "published":
        judge, how = [samples_from_records(_need(test, "test"), spec, name=dataset, mask_rule=rule)], "test"
    else:
        held = {name: part[1] for name, part in sources.items() if part[1]}
        judge = [samples_from_records(part, spec, name=name, mask_rule=rule) for name, part in held.items()]
        how = "selection images of the source sets" if judge else "last epoch (the source sets have no held-out images)"
    names = {name: OBJECT_NAMES.get(name, name) for name in (*sources, dataset) if name} | dict(object_names or {})
    return Run(detector, sets, judge, training, folder, object_names=names).fit(how)


def _need(records: Sequence[Record], word: str) -> Sequence[Record]:
    if not records:
        raise DataError(f"protocol 'published' selects on the {word} images, got none. Give them, or use 'validation'.")
    return records


def _selection_records(
    support: SupportSet, selection: Sequence[Record], test: Sequence[Record], training: MlaTraining
) -> tuple[Sequence[Record], Sequence[Record], Sequence[Record], str]:
    """Support to train on (normal, abnormal), images to judge by, and how that is said."""
    if training.protocol == "published":
        return support.normal, support.abnormal, _need(test, "test"), "test"
    if len({record.label for record in selection}) == 2 or training.protocol == "last":
        return support.normal, support.abnormal, selection, "held-out images of the validation split"
    k = min(len(support.normal), len(support.abnormal)) // 4
    if k == 0:
        return support.normal, support.abnormal, (), "last epoch (too few images to hold any out)"
    held = [*support.normal[:k], *support.abnormal[:k]]
    return support.normal[k:], support.abnormal[k:], held, f"{k} + {k} support images held out from training"
