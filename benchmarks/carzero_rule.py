"""CARZero in full size without its files: weights filled by rule, made-up prompts; used by the speed benchmarks.

Every tensor comes from a generator seeded by its name, scaled like an initialisation: the scores mean nothing, but the
work is that of the real weights.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.settings import BertShape, CarZeroSettings, VitShape
from wordsight.models.carzero.text_input import Tokens, plan_words
from wordsight.models.carzero.weights import empty_network, fill, state_of

CLS, SEP = 101, 102
SMALL = CarZeroSettings(
    image_encoder=VitShape(width=64, layers=2, heads=4, hidden=128, patch=32),
    text=BertShape(vocabulary=400, width=64, layers=4, heads=4, hidden=128, positions=97),
    fusion_layers=2,
    fusion_hidden=96,
    mlp_sizes=(64, 32),
)


def rule_network(quick: bool) -> CarZeroNetwork:
    """ViT-B/16, BERT-base and the published fusion module in eval mode; `quick`: the same in small."""
    network = empty_network(SMALL if quick else CarZeroSettings.published())
    fill(network, {name: rule(name, tuple(t.shape)) for name, t in state_of(network).items()}, "the rule")
    return network.eval()


def rule(name: str, shape: tuple[int, ...]) -> Tensor:
    """Values of the tensor with this name."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if len(shape) >= 2:
        values *= 0.02 if "embed" in name or "token" in name else float(np.prod(shape[1:])) ** -0.5
    else:
        values = 1 + 0.1 * values if "norm" in name.lower() and name.endswith("weight") else 0.02 * values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def made_up_prompts(count: int, settings: CarZeroSettings, *, seed: int = 0) -> Tokens:
    """Prompts of 3 to 6 words in 1 or 2 pieces each, such as "There is pleural effusion": 5 to 14 tokens of 97."""
    rng = np.random.default_rng(seed)
    vocabulary, length = settings.text.vocabulary, settings.text_length
    continues = torch.zeros(vocabulary, dtype=torch.bool)
    continues[vocabulary // 2 :] = True
    ids, mask = np.zeros((count, length), np.int64), np.zeros((count, length), np.int64)
    for row in range(count):
        pieces = [CLS]
        for _ in range(rng.integers(3, 7)):
            pieces.append(int(rng.integers(SEP + 1, vocabulary // 2)))
            pieces += [int(rng.integers(vocabulary // 2, vocabulary))] if rng.random() < 0.3 else []
        pieces.append(SEP)
        ids[row, : len(pieces)], mask[row, : len(pieces)] = pieces, 1
    return plan_words(torch.from_numpy(ids), torch.from_numpy(mask), continues, SEP)


def prepared_images(count: int, settings: CarZeroSettings, *, seed: int = 0) -> Tensor:
    """(count, 3, S, S) of noise with the mean and spread of prepared radiographs."""
    generator = torch.Generator().manual_seed(seed)
    grey = torch.randn(count, 1, settings.image_size, settings.image_size, generator=generator)
    return grey.expand(-1, 3, -1, -1).contiguous()
