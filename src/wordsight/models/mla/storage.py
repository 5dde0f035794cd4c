"""A trained detector as a folder: plain JSON, adapters and contexts, and the memory bank; never the frozen backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import wordsight
from wordsight.errors import WeightsError
from wordsight.files import atomic_path, write_json
from wordsight.models.mla.backbone import load_clip
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.memory import MemoryBank
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.reading import Reading
from wordsight.models.mla.scoring import ScoreScale
from wordsight.models.mla.settings import MlaSettings
from wordsight.models.mla.weights import AdapterWeights, read_safetensors, write_safetensors
from wordsight.models.tensor_files import account_for

FORMAT = 1
DETECTOR, ADAPTERS = "detector.json", "adapters.safetensors"
BANK, RELATIVE_BANK = "bank.safetensors", "relative-bank.safetensors"


def save_detector(detector: MlaLp, folder: Path) -> None:
    """Write a detector into a folder; `detector.json` comes last, so a folder that has it is complete."""
    write_safetensors(folder / ADAPTERS, adapter_weights(detector), {"settings": detector.settings.to_json()})
    for name, bank in ((BANK, detector.bank), (RELATIVE_BANK, detector.relative_bank)):
        if bank is not None:
            _save_bank(bank, folder / name)
    clip = detector.clip
    write_json(
        folder / DETECTOR,
        {
            "format": FORMAT,
            "version": wordsight.__version__,
            "method": detector.name,
            "settings": detector.settings.to_json(),
            "mode": detector.mode,
            "map_branch": detector.map_branch,
            "bank": detector.bank is not None,
            "relative_bank": detector.relative_bank is not None,
            "scale": detector.scale.to_json(),
            "reading": detector.reading.to_json(),
            "precision": detector.precision,
            "backbone": {
                "architecture": clip.architecture,
                "weights": clip.weights,
                "seed": clip.seed,
                "hash": clip.weights_hash,
            },
            "weights_hash": detector.weights_hash,
            "info": dict(detector.info),
        },
    )


def read_description(folder: Path) -> dict[str, Any]:
    """`detector.json` of a run folder. Raises WeightsError when it is missing, damaged or of a newer format."""
    path = folder / DETECTOR
    if not path.is_file():
        raise WeightsError(
            f"{folder}: expected a trained detector ({DETECTOR} inside), found none. "
            "Train one with `wordsight train mla`."
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: expected a detector description, got a file that cannot be read.") from error
    if found != FORMAT:
        raise WeightsError(f"{path}: expected format {FORMAT}, got {found}. Use the wordsight version that wrote it.")
    return dict(values)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: expected a safetensors file, got one that cannot be read ({error}).") from error


def _save_bank(bank: MemoryBank, path: Path) -> None:
    rows = {f"rows.{i}": level.cpu().contiguous() for i, level in enumerate(bank.rows)}
    with atomic_path(path) as temporary:
        save_file({**rows, "owner": bank.owner.cpu()}, temporary)


def _load_bank(path: Path, levels: int, *, relative: bool = False) -> MemoryBank:
    stored = _tensors(path)
    return MemoryBank(tuple(stored[f"rows.{i}"] for i in range(levels)), stored["owner"], relative)


def load_detector(folder: Path, *, weights: str | Path | None, device: str | torch.device) -> MlaLp:
    """Rebuild a detector; the backbone is found by its architecture and file, and checked by its hash.

    Raises WeightsError when a file is missing or damaged, or the backbone is another one than in training.
    """
    values = read_description(folder)
    backbone, settings = values["backbone"], MlaSettings.from_json(values["settings"])
    source = weights if weights is not None else backbone["weights"]
    clip = load_clip(
        backbone["architecture"],
        source,
        image_size=settings.image_size,
        activation=settings.activation,
        seed=backbone["seed"],
    )
    if clip.weights_hash != backbone["hash"]:
        raise WeightsError(
            f"{folder}: was trained on a backbone with hash {backbone['hash'][:12]}, got {clip.weights_hash[:12]}. "
            "Name the file of that backbone with --weights."
        )
    network = MlaNetwork(clip, settings)
    fill_network(network, read_safetensors(folder / ADAPTERS)[0], folder / ADAPTERS)
    levels = len(settings.levels)
    bank = _load_bank(folder / BANK, levels).to(device) if values["bank"] else None
    relative_bank = None
    if values["relative_bank"]:
        relative_bank = _load_bank(folder / RELATIVE_BANK, levels, relative=True).to(device)
    return MlaLp(
        network.eval().to_device(device),
        mode=values["mode"],
        map_branch=values["map_branch"],
        bank=bank,
        relative_bank=relative_bank,
        scale=ScoreScale.from_json(values["scale"]),
        reading=Reading.from_json(values["reading"]),
        precision=values["precision"],
        info=values["info"],
    )


def adapter_weights(detector: MlaLp) -> AdapterWeights:
    """What training changed, in the form that checkpoint files hold."""
    network = detector.network
    contexts = None if network.prompt_learner is None else network.prompt_learner.state_dict()
    return AdapterWeights(network.seg_adapters.state_dict(), network.det_adapters.state_dict(), contexts)


def fill_network(network: MlaNetwork, weights: AdapterWeights, path: Path) -> None:
    """Copy adapters and contexts into a network; every key and shape must fit. Raises WeightsError that lists them."""
    state = weights.flat()
    account_for(
        {k: tuple(v.shape) for k, v in network.state_dict().items()},
        {k: tuple(v.shape) for k, v in state.items()},
        path,
        "Choose the backbone, levels and contexts that it was trained with.",
    )
    network.load_state_dict(state)
