"""A random CLIP of a few thousand weights for tests: 4 image blocks, 2 text blocks, CLIP's own vocabulary."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from wordsight.models.mla.backbone import Clip, load_clip

CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 56, "layers": 4, "width": 32, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def make_clip(image_size: int = 56, seed: int = 0) -> Clip:
    """A tiny untrained CLIP, the same for the same seed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny-test.json"
        path.write_text(json.dumps(CONFIG))
        return load_clip(path, None, image_size=image_size, seed=seed)
