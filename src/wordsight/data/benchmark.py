"""The six benchmark sets and any other set in their layout.

`<Name>_AD/{train,valid,test}/{good,Ungood}/{img,anomaly_mask}`. Names, folders and the pairing of masks follow MVFA-AD
and MLA-LP, with one correction: a mask is the file of the same name in the sibling folder, never the result of
replacing text in the whole path or of pairing by position.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from wordsight.data.listing import MASK_FOLDER, child, few, image_files
from wordsight.data.manifest import read_table
from wordsight.errors import DataError, DataWarning, SettingsError
from wordsight.types import Record

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
KINDS = ("good", "Ungood")
"""Folder of each label: KINDS[0] normal, KINDS[1] abnormal."""
SETS: Mapping[str, tuple[str, ...]] = {
    "Brain": ("BrainMRI",),
    "Liver": ("LiverCT",),
    "Retina_RESC": ("RESC",),
    "Retina_OCT2017": ("OCT17", "OCT2017"),
    "Chest": ("ChestXray",),
    "Histopathology": ("HIS",),
}
"""Folder name (without `_AD`) -> other names of the six sets."""
_SUFFIX = "_ad"
_LAYOUT = "<Name>_AD/{train,valid,test}/{good,Ungood}/img with masks in Ungood/anomaly_mask"


def set_names(data: Path) -> list[str]:
    """Names (without `_AD`) of the `<Name>_AD` folders in a data folder, sorted; [] if it is no folder."""
    if not data.is_dir():
        return []
    found = (p.name for p in data.iterdir() if p.name.casefold().endswith(_SUFFIX) and p.is_dir())
    return sorted(n[: -len(_SUFFIX)] for n in found if len(n) > len(_SUFFIX))


def _known_names() -> str:
    return ", ".join("|".join((name, *others)) for name, others in SETS.items())


def canonical_name(name: str, data: Path | None = None) -> str:
    """The folder name (without `_AD`) of a set given by any of its names, in any case, with or without `_AD`.

    data: where sets lie; a folder `<name>_AD` there wins over the other names of the six sets, so that any set in the
    layout can be used by its folder's name. Raises DataError for an unknown name, listing known names and folders.
    """
    bare = name.strip()
    bare = bare[: -len(_SUFFIX)] if bare.casefold().endswith(_SUFFIX) else bare
    folders = set_names(data) if data is not None else []
    if bare in folders:
        return bare
    by_name = {folder.casefold(): folder for folder in reversed(folders)}
    by_name |= {k: v for k, v in _aliases().items() if k not in by_name}
    if bare.casefold() in by_name:
        return by_name[bare.casefold()]
    where = f" Folders in {data}: {', '.join(folders) or 'none of the form <Name>_AD'}." if data is not None else ""
    raise DataError(f"expected the name of a data set, got {name!r}. Known names, any case: {_known_names()}.{where}")


def _aliases() -> dict[str, str]:
    return {other.casefold(): name for name, others in SETS.items() for other in (name, *others)}


def other_names(name: str) -> tuple[str, ...]:
    """A set's canonical name and the further names it has, canonical first."""
    return (name, *SETS.get(name, ()))


def set_folder(data: Path, name: str) -> Path:
    """The folder of a set. Raises DataError that says which folder was looked for and how to get one."""
    folder = child(data, f"{canonical_name(name, data)}_AD")
    if folder is None:
        here = ", ".join(f"{n}_AD" for n in set_names(data))
        state = (
            f"that folder holds {here or 'no <Name>_AD folder'}" if data.is_dir() else "there is no such data folder"
        )
        raise DataError(
            f"looked for {data / (canonical_name(name) + '_AD')}: {state}. Expected the layout {_LAYOUT}. "
            "Give the folder that holds the sets, or make synthetic ones with `wordsight data phantoms DIR`."
        )
    return folder


def mask_folder(folder: Path, split: str) -> Path | None:
    """The folder with the masks of a split of a set folder; None if it is missing or empty."""
    kind = child(child(folder, split) or folder / split, KINDS[1])
    masks = child(kind, MASK_FOLDER) if kind is not None else None
    return masks if masks is not None and image_files(masks)[0] else None


def pair_masks(images: Iterable[Path], masks: Path) -> dict[Path, Path]:
    """Mask of each image: the file of the same name in `masks`. Raises DataError that lists images without one."""
    pairs = {image: masks / image.name for image in images}
    missing = [image for image, mask in pairs.items() if not mask.is_file()]
    if missing:
        raise DataError(
            f"{masks}: expected a mask of the same file name for every abnormal image, missing for "
            f"{few(m.name for m in missing)}. Add the masks, or remove the folder to use image labels alone."
        )
    return pairs


def has_masks(records: Iterable[Record]) -> bool:
    """Whether any record has a mask, so that pixels can be scored."""
    return any(record.mask is not None for record in records)


def benchmark_records(
    data: Path,
    name: str,
    split: Split,
    *,
    regions: Path | None = None,
    patient_pattern: str | None = None,
) -> list[Record]:
    """Records of one split: sorted good (label 0, no mask: nothing is abnormal), then sorted Ungood (label 1).

    A set has masks if any of its splits has; then each abnormal image needs one.
    regions: folder with organ masks of the same file names. patient_pattern: regular expression with one group that
    finds the patient in a file name; without it patients come from `<data>/manifests/<Name>_AD.csv` where that exists.
    Raises DataError for unknown names, missing folders, masks or regions; SettingsError for a bad pattern.
    """
    data = Path(data)
    folder = set_folder(data, name)
    patients = _Patients(data, folder.name, patient_pattern)
    return split_records(folder, split, regions=regions, patients=patients)


def split_records(
    folder: Path, split: str, *, regions: Path | None = None, patients: _Patients | None = None
) -> list[Record]:
    """Records of one split of a set folder, whose name need not end in `_AD`; see `benchmark_records`."""
    if split not in SPLITS:
        raise DataError(f"expected split train, valid or test, got {split!r}.")
    where = child(folder, split)
    if where is None:
        raise DataError(f"looked for {folder / split}: no such folder. Expected the layout {_LAYOUT}.")
    dataset = folder.name[: -len(_SUFFIX)] if folder.name.casefold().endswith(_SUFFIX) else folder.name
    masked = any(mask_folder(folder, s) is not None for s in SPLITS)
    records: list[Record] = []
    for label, kind in enumerate(KINDS):
        images_folder = child(child(where, kind) or where / kind, "img")
        images, others = image_files(images_folder) if images_folder is not None else ([], [])
        if others:
            text = f"{images_folder}: left out {few(o.name for o in others)}, by content no image"
            warnings.warn(text, DataWarning, stacklevel=2)
        masks: dict[Path, Path] = {}
        if label == 1 and masked and images_folder is not None:
            masks = pair_masks(images, child(images_folder.parent, MASK_FOLDER) or images_folder.parent / MASK_FOLDER)
        organs = _region_files(images, regions)
        for image in images:
            patient = patients.of(split, kind, image.name) if patients is not None else None
            records.append(Record(image, label, masks.get(image), organs.get(image), patient, split, dataset))
    if not records:
        raise DataError(f"{where}: expected images in good/img or Ungood/img, found none. Layout: {_LAYOUT}.")
    return records


def _region_files(images: list[Path], regions: Path | None) -> dict[Path, Path]:
    if regions is None:
        return {}
    pairs = {image: regions / image.name for image in images}
    missing = [image.name for image, region in pairs.items() if not region.is_file()]
    if missing:
        raise DataError(
            f"{regions}: expected a region mask of the same file name for every image, missing for {few(missing)}. "
            "Give the folder that holds them."
        )
    return pairs


class _Patients:
    """Patient of a file: by pattern, else from the data folder's manifest, else unknown."""

    def __init__(self, data: Path, folder_name: str, pattern: str | None) -> None:
        self._pattern = _compiled(pattern)
        self._table = {} if pattern is not None else _manifest_patients(data / "manifests" / f"{folder_name}.csv")

    def of(self, split: str, kind: str, file: str) -> str | None:
        if self._pattern is not None:
            match = self._pattern.search(file)
            if match is None or not match[1]:
                raise DataError(f"no patient found in {file!r} by the pattern {self._pattern.pattern!r}. Correct it.")
            return match[1]
        keys = ((split, kind.casefold(), file), (split, "", file))
        return next((self._table[k] for k in keys if k in self._table), None)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise SettingsError(f"patient pattern {pattern!r}: expected a regular expression ({error}).") from error
    if compiled.groups != 1:
        raise SettingsError(f"patient pattern {pattern!r}: expected one group in parentheses, got {compiled.groups}.")
    return compiled


def _manifest_patients(path: Path) -> dict[tuple[str, str, str], str]:
    """(split, kind or "", file) -> patient from a set's table; {} without a table or without a patient column."""
    if not path.is_file():
        return {}
    table = read_table(path)
    column = next((c for c in ("patient", "volume") if c in table), None)
    if column is None or not {"split", "file"} <= table.keys():
        return {}
    kinds = table.get("kind", [""] * len(table["file"]))
    rows = zip(table["split"], kinds, table["file"], table[column], strict=True)
    return {(split, kind.casefold(), file): patient for split, kind, file, patient in rows if patient}
