"""The full-size published CLIP, filled by a rule: its first tensors equal those of the published implementation."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wordsight.models.mla.backbone import load_clip

pytestmark = pytest.mark.slow


def relative(ours: torch.Tensor, golden: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(ours.numpy() - golden) / np.linalg.norm(golden))


@pytest.fixture(scope="module")
def fill(shared: Path) -> Callable[..., np.ndarray[Any, Any]]:
    spec = importlib.util.spec_from_file_location("golden_fill", shared / "goldens" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., np.ndarray[Any, Any]] = module.fill
    return function


def test_vision_stem(shared: Path, tmp_path: Path, fill: Callable[..., np.ndarray[Any, Any]]) -> None:
    keys = json.loads((shared / "goldens" / "mla" / "checkpoint_keys.json").read_text())["openai_clip_vit_l_14_336"]
    weights = tmp_path / "rule.pt"
    torch.save({key: torch.from_numpy(np.asarray(fill(key, shape))) for key, shape in keys.items()}, weights)
    clip = load_clip("ViT-L/14@336px", weights, image_size=240)
    weights.unlink()
    assert (clip.grid, clip.vision_layers, clip.vision_width, clip.text_width) == ((17, 17), 24, 1024, 768)
    golden = np.load(shared / "goldens" / "mla" / "vision.npz")
    positions = clip.vision.positional_embedding
    assert relative(positions[::10, ::16], golden["pos_embed_interpolated__slice"]) < 1e-5
    assert relative(positions[:2], golden["pos_embed_row0_row1"]) < 1e-5
    images = torch.from_numpy(fill("golden/mla/image", [2, 3, 240, 240], "plain") * np.float32(0.3) + np.float32(0.5))
    with torch.no_grad():
        x = clip.vision.embed(images)
        assert relative(x[:, ::12, ::8], golden["after_ln_pre__slice"]) < 1e-5
        x = clip.vision.blocks[0](x)
    assert relative(x[:, ::12, ::8], golden["block1_out__slice"]) < 1e-5
    assert abs(float(x.double().norm()) / golden["block1_out__stats"][2] - 1) < 1e-6
