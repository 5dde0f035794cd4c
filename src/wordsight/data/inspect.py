"""Look into a data set before learning from it or trusting a number on it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from wordsight.data.collect import Collector, Masks, Seen, relative_names
from wordsight.data.listing import few
from wordsight.data.shortcuts import SHORTCUT_TEXTS, is_shortcut, shortcut_aurocs
from wordsight.errors import DataError
from wordsight.progress import track
from wordsight.types import Record

LABEL_NAMES: Mapping[int | None, str] = {0: "normal", 1: "abnormal", None: "unknown"}
NO_SPLIT = "(none)"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect_records` found; names are paths relative to the folder that all images share.

    counts: split -> normal/abnormal/unknown -> records. sizes ("height x width"), bits, photometric, spacings ("row x
    column mm" or "unknown"): value -> images. findings: name -> counts of present (1), absent (0), uncertain (-1),
    other and missing, and the share of present among present and absent. patients: distinct known ones.
    duplicates: groups of images with equal pixels. shared_patients: patient -> its splits, where more than one.
    unreadable: (name, message). shortcuts: AUROC of labels from trivial features, see `shortcut_aurocs`.
    warnings: in words, what to know before using the data; empty if nothing stood out.
    """

    records: int
    counts: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, int]
    bits: Mapping[int, int]
    photometric: Mapping[str, int]
    spacings: Mapping[str, int]
    findings: Mapping[str, Mapping[str, float | None]]
    patients: int
    masks: Masks | None
    duplicates: tuple[tuple[str, ...], ...]
    shared_patients: Mapping[str, tuple[str, ...]]
    unreadable: tuple[tuple[str, str], ...]
    shortcuts: Mapping[str, float | None]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `wordsight.files.write_json`."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def table(self) -> list[tuple[str, str]]:
        """Rows (what, value) for a terminal table; warnings are not among them."""
        rows = [("images", f"{self.records} ({len(self.unreadable)} unreadable)")]
        for split, labels in self.counts.items():
            rows.append((f"split {split}", ", ".join(f"{n} {label}" for label, n in labels.items())))
        rows.append(("patients", str(self.patients) if self.patients else "unknown"))
        for what, values in (("size", self.sizes), ("bits", self.bits), ("stored as", self.photometric)):
            rows.append((what, _ranked(values)))
        rows.append(("spacing", _ranked(self.spacings)))
        for name, numbers in self.findings.items():
            share = numbers["prevalence"]
            rows.append((name, f"{numbers['present']:g} present" + ("" if share is None else f" ({share:.1%})")))
        if self.masks is not None:
            rows.append(("masks", f"{self.masks.files}, levels {few(self.masks.levels, 10)}"))
        rows.append(("equal images", f"{len(self.duplicates)} groups"))
        for name, auroc in self.shortcuts.items():
            rows.append((f"AUROC from {name}", "too few images" if auroc is None else f"{auroc:.2f}"))
        return rows


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _ranked(values: Mapping[Any, int]) -> str:
    ordered = sorted(values.items(), key=lambda item: (-item[1], str(item[0])))
    return few([f"{value}: {count}" for value, count in ordered], 4)


def inspect_records(records: Iterable[Record], progress: bool = True) -> Inspection:
    """Read every image and mask once and report what a data set holds and what is wrong with it.

    Files that cannot be read are listed, not raised. Memory grows with the number of records, not with their pixels.
    Raises DataError if there are no records.
    """
    known = list(records)
    if not known:
        raise DataError("expected at least one record to inspect, got none.")
    collector = Collector()
    pairs = list(zip(relative_names(known), known, strict=True))
    for name, record in track(pairs, "Inspecting") if progress else pairs:
        collector.add(name, record)
    seen, masks, unreadable = collector.seen, collector.masks(), tuple(collector.unreadable)
    shared, duplicates, shortcuts = _shared_patients(seen), _duplicates(seen), _shortcuts(seen)
    warnings = [
        *_label_warnings(known, unreadable),
        *_split_warnings(shared, duplicates),
        *_mask_warnings(masks),
        *_shortcut_warnings(shortcuts, seen),
    ]
    return Inspection(
        records=len(known),
        counts=_counts(known),
        sizes=dict(Counter(f"{s.shape[0]} x {s.shape[1]}" for s in seen)),
        bits=dict(Counter(s.bits for s in seen)),
        photometric=dict(Counter(s.photometric for s in seen)),
        spacings=dict(Counter(s.spacing for s in seen)),
        findings=_findings(known),
        patients=len({s.patient for s in seen if s.patient is not None}),
        masks=masks,
        duplicates=tuple(tuple(s.name for s in group) for group in duplicates),
        shared_patients=shared,
        unreadable=unreadable,
        shortcuts=shortcuts,
        warnings=tuple(warnings),
    )


def _counts(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for record in sorted(records, key=lambda r: (r.split or "", r.label is None, r.label or 0)):
        labels = counts.setdefault(record.split or NO_SPLIT, {})
        labels[LABEL_NAMES[record.label]] = labels.get(LABEL_NAMES[record.label], 0) + 1
    return counts


def _findings(records: Sequence[Record]) -> dict[str, dict[str, float | None]]:
    result: dict[str, dict[str, float | None]] = {}
    for name in sorted({name for record in records for name in record.labels}):
        counts = Counter(record.labels.get(name) for record in records)
        present, absent, uncertain, missing = (counts[value] for value in (1, 0, -1, None))
        result[name] = {
            "present": present,
            "absent": absent,
            "uncertain": uncertain,
            "other": len(records) - present - absent - uncertain - missing,
            "missing": missing,
            "prevalence": present / (present + absent) if present + absent else None,
        }
    return result


def _shared_patients(seen: Sequence[Seen]) -> dict[str, tuple[str, ...]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for image in seen:
        if image.patient is not None and image.record.split is not None:
            splits[image.patient].add(image.record.split)
    return {patient: tuple(sorted(names)) for patient, names in sorted(splits.items()) if len(names) > 1}


def _duplicates(seen: Sequence[Seen]) -> list[list[Seen]]:
    """Groups of images with equal pixels, in order of their first member."""
    groups: dict[str, list[Seen]] = defaultdict(list)
    for image in seen:
        groups[image.content].append(image)
    return [group for group in groups.values() if len(group) > 1]


def _shortcuts(seen: Sequence[Seen]) -> dict[str, float | None]:
    labelled = [image for image in seen if image.record.label is not None]
    features = np.array([(*image.shape, image.mean, image.std) for image in labelled], dtype=np.float64)
    labels = np.array([image.record.label for image in labelled], dtype=np.int64)
    # Equal images of unknown patients are kept on one side of every fold, too.
    groups = [f"image {i.content}" if i.patient is None else f"patient {i.patient}" for i in labelled]
    return shortcut_aurocs(features, labels, groups)


def _label_warnings(records: Sequence[Record], unreadable: Sequence[tuple[str, str]]) -> Iterator[str]:
    if unreadable:
        names, why = few(n for n, _ in unreadable), unreadable[0][1]
        yield f"{len(unreadable)} of {len(records)} images or masks cannot be read: {names}; the first: {why}"
    by_split: dict[str | None, set[int]] = defaultdict(set)
    for record in records:
        if record.label is not None:
            by_split[record.split].add(record.label)
    for split, labels in by_split.items():
        if len(labels) == 1 and split != "train":
            where = f"split {split}" if split is not None else "the data"
            yield f"{where} holds only {LABEL_NAMES[min(labels)]} images: no AUROC can be computed there"


def _split_warnings(shared: Mapping[str, tuple[str, ...]], duplicates: Sequence[Sequence[Seen]]) -> Iterator[str]:
    if shared:
        yield f"{len(shared)} patients occur in more than one split: {few(shared)}"
    if duplicates:
        yield f"{len(duplicates)} groups of images have equal pixels, such as {few(s.name for s in duplicates[0])}"
    for what, across in (
        ("split", [group for group in duplicates if len({s.record.split for s in group}) > 1]),
        ("label", [group for group in duplicates if len({s.record.label for s in group}) > 1]),
    ):
        if across:
            names = few(s.name for s in across[0])
            yield f"{len(across)} groups of equal images lie in more than one {what}, such as {names}"


def _mask_warnings(masks: Masks | None) -> Iterator[str]:
    if masks is None:
        return
    if masks.not_binary:
        yield (
            f"{len(masks.not_binary)} masks are not binary (levels found: {few(masks.levels, 12)}): "
            "everything above 0 counts as abnormal, unlike with the published threshold of half the largest value"
        )
    if masks.faint:
        yield (
            f"{len(masks.faint)} masks hold levels of at most half the largest value, as 0/1 masks do; the published "
            f"threshold drops these pixels: {few(masks.faint)}"
        )
    for names, what in (
        (masks.empty, "masks of abnormal images mark no pixel"),
        (masks.other_size, "masks or regions differ in size from their image"),
        (masks.without, "abnormal images have no mask although others have one"),
    ):
        if names:
            yield f"{len(names)} {what}: {few(names)}"


def _shortcut_warnings(shortcuts: Mapping[str, float | None], seen: Sequence[Seen]) -> Iterator[str]:
    labels = Counter(image.record.label for image in seen)
    for name, auroc in shortcuts.items():
        if auroc is not None and is_shortcut(auroc, labels[0], labels[1]):
            yield f"label can be predicted from {SHORTCUT_TEXTS[name]}: AUROC {auroc:.2f}"
