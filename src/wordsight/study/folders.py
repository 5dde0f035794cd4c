"""The folder of a run: who it belongs to, whether it is finished, and what its results must say about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight import __version__
from wordsight.errors import DataError, SettingsError, WeightsError
from wordsight.files import write_json

if TYPE_CHECKING:
    from wordsight.models.mla.detector import MlaLp

SCHEMA = 1
RUN, DETECTOR, STATE = "run.json", "detector.json", "state.pt"
Scalar = str | int | float | bool | None


def read_run(folder: Path) -> dict[str, Any] | None:
    """`run.json` of a folder; None where there is none. Raises DataError for a damaged one."""
    path = folder / RUN
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values["schema"], dict(values["run"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: expected the description of a run, got a file that cannot be read.") from error
    if found[0] != SCHEMA:
        raise DataError(f"{path}: expected schema {SCHEMA}, got {found[0]!r}. Use the wordsight version that wrote it.")
    return dict(values)


def check_folder(folder: Path, run: Mapping[str, Any]) -> None:
    """Raise SettingsError if the folder belongs to another run."""
    stored = read_run(folder)
    if stored is None:
        if (folder / DETECTOR).exists():
            raise SettingsError(
                f"{folder}: holds a detector that no training with these settings left there. Choose another --out."
            )
        return
    changed = differences(stored["run"], json.loads(json.dumps(run)))
    if changed:
        raise SettingsError(
            f"{folder}: holds another run, with other {', '.join(changed[:6])}. Choose another --out, or delete the "
            "folder to train again."
        )


def check_parent(folder: Path, several: bool) -> None:
    """Raise SettingsError where a single run and a study of several would share a folder."""
    single = (folder / RUN).exists() or (folder / DETECTOR).exists()
    if several and single:
        raise SettingsError(f"{folder}: holds a single run, got several draws or seeds. Choose another --out.")
    if not several and not single and any(runs_below(folder)):
        raise SettingsError(f"{folder}: holds several draws or seeds, got a single run. Choose another --out.")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the values that differ, nested ones with dots."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}")
    return found


def write_run(folder: Path, run: Mapping[str, Any], command: Mapping[str, Any], **more: Any) -> None:
    """Write `run.json`: what decides the run, the options it was asked for with, and further plain values."""
    write_json(
        folder / RUN,
        {"schema": SCHEMA, "software": "wordsight", "version": __version__, "run": run, "options": command, **more},
    )


def runs_below(folder: Path) -> list[Path]:
    """Finished or started runs directly below a folder, by name with numbers in order."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if (p / DETECTOR).is_file() or (p / RUN).is_file()]
    return sorted(found, key=lambda p: [int(part) if part.isdigit() else -1 for part in p.name.split("-")])


def detector_folders(folder: Path) -> list[Path]:
    """The trained detectors of a run folder or of a study of several. Raises WeightsError that says how to get one."""
    if (folder / DETECTOR).is_file():
        return [folder]
    found = [run for run in runs_below(folder) if (run / DETECTOR).is_file()]
    if found:
        return found
    if not folder.exists():
        raise WeightsError(f"{folder}: no such run folder. Train one with `wordsight train mla`.")
    _refuse_carzero(folder)
    started = (folder / STATE).exists() or (folder / RUN).exists()
    hint = "Run the same `wordsight train mla` again: it goes on where it stopped." if started else "Train one first."
    raise WeightsError(f"{folder}: expected a trained detector ({DETECTOR} inside), found none. {hint}")


def _refuse_carzero(folder: Path) -> None:
    """Raise WeightsError for a CARZero, which is measured by its predictions."""
    from wordsight.models.carzero.storage import CARD, is_carzero_folder

    if is_carzero_folder(folder):
        raise WeightsError(
            f"{folder}: expected a run of MLA-LP or MVFA, got a CARZero ({CARD} inside), which is measured by its "
            f"predictions: `wordsight predict IMAGES --model {folder} --prompts SET --out OUT`, then `wordsight score "
            "OUT/predictions.csv LABELS --protocol SET`."
        )


def protocol_of(detector: MlaLp, run: Mapping[str, Any] | None) -> dict[str, Scalar]:
    """How a detector was made, in the words that results and reports use."""
    info = detector.info
    run = run or {}
    support = run.get("support") or {}
    protocol: dict[str, Scalar] = {
        "selection": str(info.get("protocol", "none")),
        "scale": detector.scale.origin,
        **detector.reading.to_json(),
        "shots": run.get("shots"),
        "draw": run.get("draw"),
        "seed": run.get("seed"),
        "method": detector.name,
        "architecture": Path(detector.clip.architecture).name,
        "profile": run.get("profile"),
        "precision": detector.precision,
        "runtime": None if detector.runtime == "eager" else detector.runtime,
        "epoch": info.get("epoch"),
        "selected": info.get("selected"),
        "support": support.get("origin"),
    }
    protocol["other_than_profile"] = _changes(detector, run)
    if run.get("sources"):
        protocol["trained_on"] = ", ".join(run["sources"])
    return {key: value for key, value in protocol.items() if value is not None}


def _changes(detector: MlaLp, run: Mapping[str, Any]) -> str | None:
    """What a run was trained with where its profile says otherwise; None for nothing, and where it has no settings."""
    if "settings" not in run or "training" not in run:
        return None
    from wordsight.models.mla.detector import quarter_levels
    from wordsight.train.recipes import recipe

    target = str(run.get("target"))
    settings, training = recipe(run["profile"], run["method"], run["shots"], detector.clip.architecture, target=target)
    settings = replace(settings, levels=quarter_levels(detector.clip.vision_layers))
    usual = json.loads(json.dumps({**settings.to_json(), **training.to_json(), "seed": run["training"].get("seed")}))
    used = {**run["settings"], **run["training"]}
    changed = [
        f"{name} {value} instead of {usual.get(name)}" for name, value in used.items() if value != usual.get(name)
    ]
    return "; ".join(changed) or None
