"""Fixtures of whole studies: two small phantom sets, a random backbone of a few weights, a run trained on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from study_tools import QUICK


@pytest.fixture(scope="session")
def phantom_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Brain (with masks) and Chest (without): 5 + 5 validation and 3 + 3 test images each."""
    from wordsight.data.phantoms import write_phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, names=("Brain", "Chest"), valid=5, test=3, workers=1)
    return folder


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration and (random) weights of a CLIP of four narrow blocks."""
    from clip_tools import reference
    from tiny_clip import CONFIG
    from wordsight.models.mla.backbone import save_clip_bundle

    folder = tmp_path_factory.mktemp("small-clip")
    save_clip_bundle(folder, CONFIG, reference(CONFIG).state_dict(), None)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.json and the reference weights as tiny.pt; tests read it and leave it as it is."""
    import torch

    from clip_tools import CONFIG, reference

    path = tmp_path_factory.mktemp("clip")
    (path / "tiny.json").write_text(json.dumps(CONFIG))
    torch.save(reference(CONFIG).state_dict(), path / "tiny.pt")
    return path


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, phantom_data: Path, small_clip: Path) -> Path:
    """The folder of `wordsight train mla --target Brain --shots 2`; tests read it and leave it as it is."""
    from wordsight.cli.main import main

    out = tmp_path_factory.mktemp("runs") / "brain"
    where = ["--data", str(phantom_data), "--target", "brain", "--architecture", str(small_clip), "--out", str(out)]
    assert main(["train", "mla", *where, "--shots", "2", *QUICK]) == 0
    return out
