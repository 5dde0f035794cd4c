"""A random CARZero of a few thousand weights for tests, and the folder of its made-up vocabulary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.settings import BertShape, CarZeroSettings, VitShape

_VOCABULARY = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] there is no a of the left right small large lung lungs heart are clear normal "
    "pleural effusion pneumo ##thorax cardio ##megaly opac ##ity ##ities nod ##ule ##s mass edema cm mm 0 1 2 3 4 5 "
    "10 . , ##5 x ##y nave naive"
)
WORDS = _VOCABULARY.split()
SETTINGS = CarZeroSettings(
    image_encoder=VitShape(width=32, layers=3, heads=4, hidden=48, patch=8, image_size=32),
    text=BertShape(vocabulary=len(WORDS), width=32, layers=4, heads=2, hidden=40, positions=30),
    text_length=24,
    fusion_layers=2,
    fusion_heads=4,
    fusion_hidden=48,
    mlp_sizes=(24, 16),
)


def text_folder(folder: Path) -> Path:
    """Tokenizer and configuration of the tiny BERT in Hugging Face's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}), encoding="utf-8"
    )
    shape = SETTINGS.text
    config: dict[str, Any] = {
        "model_type": "bert",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "max_position_embeddings": shape.positions,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def make_carzero(seed: int = 0, **changes: Any) -> CarZeroNetwork:
    """A tiny network in eval mode whose weights are large enough for everything to matter."""
    network = CarZeroNetwork(replace(SETTINGS, **changes), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5 if "embeddings" not in name else noise * 0.5)
            else:
                parameter.copy_(noise * 0.2 + (1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0))
    return network.eval()
