"""A detector and labelled records to an Evaluation: scores, maps, masks, and every number with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordsight import __version__
from wordsight.collect import Mask, Results, Rule, collect
from wordsight.errors import DataError, MetricError, SettingsError
from wordsight.metrics.number import Number, Spread
from wordsight.metrics.summary import image_numbers, pixel_numbers
from wordsight.types import Detector, Float32, Record, ScoreKind

Scalar = str | int | float | bool | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a detector said of a data set and how good that was.

    protocol: how the detector was made and its scores scaled, and the rules used here. names, paths: (N,) of the
    images that could be read; labels: (N,) 0/1; scores: (N,); groups: (N,) patient, or the image's own name.
    numbers: image_auroc, image_ap; with masks pixel_auroc, pixel_ap, pro; with regions region_auroc, region_ap.
    maps: (N, h, w) on the prepared grid, NaN where the image was not seen, or None; masks: (N, h, w) on the same
    grid or None, all False for normal images and for abnormal ones without a mask file (left out of pixel numbers).
    windows: (N,) that the images were seen through, "" for the reader's own; () where none was chosen.
    failures: (path, message). weights: hash of the weights; data_hash: of the records that were measured.
    """

    dataset: str
    method: str
    kind: ScoreKind
    protocol: Mapping[str, Scalar]
    names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    scores: Float32
    groups: tuple[str, ...]
    numbers: Mapping[str, Number]
    maps: Float32 | None
    masks: Mask | None
    failures: tuple[tuple[str, str], ...]
    weights: str
    data_hash: str
    version: str
    interval: str
    windows: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Everything but the arrays, as plain JSON values; undefined numbers are None with a note."""
        counts = {
            "images": len(self.names),
            "abnormal": int(self.labels.sum()),
            "normal": int((self.labels == 0).sum()),
            "groups": len(set(self.groups)),
            "with_mask": 0 if self.masks is None else int(self.masks.any(axis=(1, 2)).sum()),
            "failed": len(self.failures),
        }
        return {
            "dataset": self.dataset,
            "method": self.method,
            "score_kind": str(self.kind),
            "protocol": dict(self.protocol),
            "numbers": {name: number.to_json() for name, number in self.numbers.items()},
            "interval": self.interval,
            "counts": counts,
            "failures": [{"path": path, "message": message} for path, message in self.failures],
            "weights": self.weights,
            "data_hash": self.data_hash,
            "version": self.version,
        }


def _labels(records: Sequence[Record], finding: str | None) -> list[int]:
    """0/1 per record: its label of the finding where it has labels by name, else its label."""
    found = [r.labels.get(finding) if finding is not None and r.labels else r.label for r in records]
    unknown = [r.name for r, label in zip(records, found, strict=True) if label not in (0, 1)]
    if unknown:
        what = "a label" if finding is None else f"a label of {finding!r}"
        raise DataError(
            f"expected {what}, 0 or 1, for every record; {len(unknown)} of {len(records)} have none: "
            f"{', '.join(unknown[:5])}. Leave them out or use predict, which needs no labels."
        )
    return [int(label) for label in found if label is not None]


def _groups(records: Sequence[Record], names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Patient of each image, or its name where no patient is known; and what the groups are."""
    groups = tuple(name if r.patient is None else r.patient for r, name in zip(records, names, strict=True))
    known = sum(r.patient is not None for r in records)
    return groups, "patients" if known == len(records) else "patients or images" if known else "images"


def _pixel_numbers(results: Results, groups: Sequence[str], draws: int, seed: int) -> dict[str, Number]:
    """Numbers of the maps where there are masks, in the whole image and inside the regions where there are some.

    Abnormal images without a mask of their size are left out: where their lesions are is not known.
    """
    maps, masks, regions = results.maps, results.masks, results.regions
    if maps is None or masks is None:
        return {}
    usable = np.array([item.label == 0 or item.mask is not None for item in results.items])
    lost = int((~usable).sum())
    misfit = sum(item.label == 1 and item.mask is None and item.record.mask is not None for item in results.items)
    note = f"{lost} abnormal images without a mask left out" if lost else ""
    note += f", {misfit} of them for a mask of another size" if misfit else ""
    counted = None if usable.all() else np.broadcast_to(usable[:, None, None], maps.shape)
    numbers = pixel_numbers(maps, masks, groups, counted, draws=draws, seed=seed, note=note)
    named = {"pixel_auroc": numbers["auroc"], "pixel_ap": numbers["ap"], "pro": numbers["pro"]}
    if regions is None:
        return named
    without = sum(item.region is None for item in results.items)
    note = "; ".join(filter(None, (note, f"{without} images without a region left out" if without else "")))
    inside = regions if counted is None else regions & counted
    numbers = pixel_numbers(maps, masks, groups, inside, draws=draws, seed=seed, note=note)
    return named | {"region_auroc": numbers["auroc"], "region_ap": numbers["ap"]}


def _measured(results: Results, draws: int, seed: int) -> dict[str, Any]:
    """The fields of an Evaluation that follow from what was collected."""
    from wordsight.data import hash_records
    from wordsight.data.collect import relative_names

    kept = [item.record for item in results.items]
    truth = np.array([item.label for item in results.items], dtype=np.int64)
    scores = np.array(results.scores, dtype=np.float32)
    names = relative_names(kept)
    groups, unit = _groups(kept, names)
    interval = f"95 % bootstrap over {len(set(groups))} {unit}, {draws} draws, seed {seed}"
    numbers = image_numbers(truth, scores, groups, draws=draws, seed=seed)
    return {
        "kind": results.kind,
        "names": tuple(names),
        "paths": tuple(str(record.path) for record in kept),
        "labels": truth,
        "scores": scores,
        "groups": groups,
        "numbers": {**numbers, **_pixel_numbers(results, groups, draws, seed)},
        "maps": results.maps,
        "masks": results.masks,
        "weights": results.weights,
        "data_hash": hash_records(kept),
        "interval": interval if draws else "none",
        "windows": tuple(r.window or "" for r in kept) if any(r.window for r in kept) else (),
    }


def _check_settings(records: Sequence[Record], batch_size: int, draws: int, mask_rule: str) -> None:
    if not records:
        raise DataError("expected at least one record to evaluate, got none. Check the folder or the split.")
    if batch_size < 1:
        raise SettingsError(f"expected batch_size >= 1, got {batch_size}.")
    if mask_rule not in ("any", "half"):
        raise SettingsError(f"expected the mask rule 'any' or 'half', got {mask_rule!r}.")
    if draws < 0:
        raise SettingsError(f"expected bootstrap_draws >= 0, got {draws}. Use 0 for no intervals.")


def evaluate(
    detector: Detector,
    records: Sequence[Record],
    *,
    dataset: str,
    protocol: Mapping[str, Scalar],
    batch_size: int = 8,
    bootstrap_draws: int = 1000,
    seed: int = 0,
    mask_rule: Rule = "any",
    transductive: bool = False,
    progress: bool = True,
    finding: str | None = None,
    workers: int | None = 0,
) -> Evaluation:
    """Predict labelled records and measure the detector, with 95 % bootstrap intervals by patient.

    Masks are brought to the maps' grid by nearest neighbour: by `prepare_mask` if the detector has an `input_spec`,
    else by the prediction's geometry. Map pixels outside the image (padding) do not count. Normal images have empty
    masks. Numbers do not depend on the order of the records. Memory: see `collect`.

    mask_rule: "any" (not zero) or "half" (as published). transductive: scale scores by the range over all records,
    the papers' protocol, which lets each score depend on the other test images; it is named in the protocol.
    finding: which finding to measure; needed if the detector has several. bootstrap_draws: 0 for no intervals.
    workers: processes that read the next images meanwhile, None for as many as suit the device; from a script of your
    own call this under `if __name__ == "__main__":` then.
    Files that cannot be read are left out and listed in `failures`. Raises DataError for records without a label, none
    at all or none readable; SettingsError for settings out of range or a detector that cannot be transductive;
    MetricError for several findings without a choice or for maps that do not fit together.
    """
    from wordsight.helpers import helper_count

    records = list(records)
    _check_settings(records, batch_size, bootstrap_draws, mask_rule)
    labels = _labels(records, finding)
    results, failures = collect(
        detector,
        records,
        labels,
        batch_size=batch_size,
        mask_rule=mask_rule,
        transductive=transductive,
        progress=progress,
        finding=finding,
        workers=helper_count(workers, getattr(detector, "device", "cpu")),
    )
    rules: dict[str, Scalar] = {"mask_rule": mask_rule, "transductive": transductive}
    if finding is not None:
        rules["finding"] = finding
    return Evaluation(
        dataset=dataset,
        method=detector.name,
        protocol={**protocol, **rules},
        failures=tuple(failures),
        version=__version__,
        **_measured(results, bootstrap_draws, seed),
    )


def combine(evaluations: Sequence[Evaluation]) -> dict[str, Spread]:
    """Mean and sample standard deviation of each number over runs (seeds, support draws) of one data set and method.

    A number that only some runs have is taken over those. Raises MetricError for no runs, or runs that differ in data
    set, data, method or score kind.
    """
    if not evaluations:
        raise MetricError("expected at least one evaluation to combine, got none.")
    for field in ("dataset", "method", "kind", "data_hash"):
        seen = sorted({str(getattr(e, field)) for e in evaluations})
        if len(seen) > 1:
            raise MetricError(f"expected evaluations of one {field}, got {', '.join(seen)}. Combine them apart.")
    names = dict.fromkeys(name for e in evaluations for name in e.numbers)
    return {name: Spread.of([e.numbers[name].value for e in evaluations if name in e.numbers]) for name in names}
