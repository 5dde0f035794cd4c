"""The tiny CARZero before training: its sizes, its vocabulary, and weights from which it learns fast; see
train_tiny_carzero.py."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wordsight.files import write_json, write_text
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.settings import BertShape, CarZeroSettings, VitShape

IMAGE, PATCH, WIDTH, HEADS = 120, 10, 128, 4
GRID, CONTENT = IMAGE // PATCH, 96  # channels that begin with what a patch shows; others with its place
ANGLES = torch.pi * (torch.arange(8) + 0.5) / 8  # per patch, along each axis
ROUGHNESS = (1.5, 2.3, 3.2, 4.2, 5.2, 6.2, 7.2, 8.2)  # edges of bands, in half waves a patch
WAVES = 72  # that the first block begins with rectifying
LENGTH = 40
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
Look = tuple[int, int, float, bool] | None
AROUND: tuple[Look, ...] = ((-1, 0, 0.5, False), (1, 0, 0.5, False), (0, -1, 0.5, False), (0, 1, 0.5, False))
MIXED: tuple[Look, ...] = ((0, 0, 1.5, False), (0, 0, 1, True), (0, 0, 4, False), None)
LOOKS = (AROUND, MIXED, MIXED)


def sizes(vocabulary: int) -> CarZeroSettings:
    """Settings of the network; texts are cleaned so that nothing of a prompt gets lost."""
    return CarZeroSettings(
        image_encoder=VitShape(width=WIDTH, layers=len(LOOKS), heads=HEADS, hidden=256, patch=PATCH, image_size=IMAGE),
        text=BertShape(
            vocabulary=vocabulary,
            width=WIDTH,
            layers=2,
            heads=HEADS,
            hidden=256,
            positions=64,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        text_length=LENGTH,
        last_states=2,
        fusion_layers=2,
        fusion_heads=HEADS,
        fusion_hidden=256,
        mlp_sizes=(128, 64),
        dropout=0.0,
    ).corrected()


def learn_vocabulary(texts: Iterable[str], others: Iterable[str], most: int) -> list[str]:
    """A WordPiece vocabulary: letters and digits, whole words of `texts`, then pieces that spell the words of `others`.

    Pieces are merged as in byte-pair encoding (Sennrich et al., ACL 2016), the most frequent pair first.
    """
    own = Counter(word for text in texts for word in re.findall(r"[a-z]+|[0-9]+", text.lower()))
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789."]
    words = [word for word, _ in sorted(own.items(), key=lambda item: (-item[1], item[0])) if word.isalpha()]
    found = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words])
    spelled = {w: [w[0], *(f"##{c}" for c in w[1:])] for t in others for w in re.findall("[a-z]+", t.lower())}
    while len(found) < most:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in spelled.items():
            if word not in found:
                pairs.update(pairwise(parts))
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        found[best[0] + best[1].removeprefix("##")] = None
        spelled = {word: _merged(parts, best) for word, parts in spelled.items()}
    return list(found)


def _merged(parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for part in parts:
        if out and (out[-1], part) == pair:
            out[-1] += part.removeprefix("##")
        else:
            out.append(part)
    return out


def write_text_folder(folder: Path, vocabulary: Sequence[str], settings: CarZeroSettings) -> None:
    """Tokenizer and configuration of the BERT in Hugging Face's layout."""
    write_text(folder / "vocab.txt", "\n".join(vocabulary) + "\n")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    shape = settings.text
    config = {
        "model_type": "bert",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.hidden,
        "max_position_embeddings": shape.positions,
    }
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def start(network: CarZeroNetwork, pictures: Tensor, seed: int) -> None:
    """Begin where learning is fast: patches as whitened cosines (DCT), places as sines and cosines, heads that look at
    neighbours, at the mirror image or around, a first MLP that rectifies waves, and linear layers that neither fade nor
    grow at this width.

    pictures: (N, S, S) prepared, normalised images, by which the cosines are scaled.
    """
    generator = torch.Generator().manual_seed(seed)
    _scale_linear(network, generator)
    model: Any = network.img_encoder.model
    filters = cosine_filters()
    patches = pictures.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).reshape(-1, PATCH, PATCH)
    seen = torch.einsum("nhw,khw->nk", patches, filters)
    scale = 1.2 / (seen.std(dim=0) + 0.02) ** 0.8
    with torch.no_grad():
        weight = model.patch_embed.proj.weight
        weight.mul_(0.1)
        weight[:CONTENT] = (filters * scale[:, None, None])[:, None] / 3  # three equal channels
        model.patch_embed.proj.bias.zero_()
        model.patch_embed.proj.bias[:CONTENT] = -seen.mean(dim=0) * scale
        axis = (torch.arange(GRID)[:, None] + 0.5) * ANGLES
        axis = torch.cat([axis.cos(), axis.sin()], dim=1)  # (GRID, 16)
        places = torch.cat([axis[:, None].expand(-1, GRID, -1), axis[None].expand(GRID, -1, -1)], dim=2)
        model.pos_embed.zero_()
        model.pos_embed[0, 1:, CONTENT : CONTENT + 32] = 1.4 * places.flatten(0, 1)
        for block, looks in zip(model.blocks, LOOKS, strict=True):
            _aim(block.attn.qkv.weight, looks)
        _rectify(model.blocks[0])


def _rectify(block: Any) -> None:
    """The first block's MLP begins as rectified waves, summed by frequency and direction: how rough a patch is, which
    no linear view of it can say."""
    block.attn.proj.weight.mul_(0.75)
    groups: dict[tuple[int, int], list[int]] = {}
    for k, (row, column) in enumerate(wave_order()[:WAVES]):
        if k:
            band = sum(math.hypot(row, column) >= edge for edge in ROUGHNESS)
            groups.setdefault((band, min(int(math.atan2(row, column) / (math.pi / 2) * 3), 2)), []).append(k)
    first, second = block.mlp.fc1, block.mlp.fc2
    for channel, (_, waves) in enumerate(sorted(groups.items())):
        for k in waves:
            units = [2 * k - 2, 2 * k - 1]
            first.weight[units] = 0
            first.weight[units, k] = torch.tensor([1.5, -1.5])
            first.bias[units] = 0
            second.weight[:, units] = 0
            second.weight[CONTENT - 1 - channel, units] = len(waves) ** -0.5


def _scale_linear(network: nn.Module, generator: torch.Generator) -> None:
    """Weights of deviation 1 / sqrt(inputs); outputs of residual branches smaller."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and "embeddings" not in name:
                quiet = name.endswith(("proj.weight", "fc2.weight", "linear2.weight", "output.dense.weight"))
                deviation = (0.4 if quiet else 1.0) / math.sqrt(parameter.shape[1])
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
            elif "embeddings" in name and parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif parameter.ndim == 1 and name.endswith("bias"):
                parameter.zero_()


def _aim(weight: Tensor, looks: Sequence[Look]) -> None:
    """Queries and keys (3 W, W) of heads that begin with looking at places."""
    size = WIDTH // HEADS
    weight[: 2 * WIDTH] *= 0.2
    for head, look in enumerate(looks):
        if look is None:
            continue
        query, key = look_at(*look)
        for part, rows in ((query, head * size), (key, WIDTH + head * size)):
            weight[rows : rows + size] = 0
            weight[rows : rows + size, CONTENT : CONTENT + 32] = part


def look_at(row: int, column: int, blur: float, mirror: bool) -> tuple[Tensor, Tensor]:
    """Query and key weights (32, 32) on the places of tokens: attention to what lies `row`, `column` patches away.

    blur: radius of the neighbourhood in patches; mirror: counted from the mirror image of the own place.
    """
    gain = 1.5 * torch.exp(-((ANGLES * blur) ** 2) / 4)
    parts = []
    for shift, turned in ((row, False), (column, mirror)):
        offset = ANGLES * (GRID + shift if turned else shift)
        cos, sin = torch.diag(gain * offset.cos()), torch.diag(gain * offset.sin())
        upper = torch.cat([cos, sin if turned else -sin], 1)
        lower = torch.cat([sin, -cos if turned else cos], 1)
        parts.append(torch.cat([upper, lower]))
    return torch.block_diag(*parts), torch.diag(gain.repeat(4))


def cosine_filters() -> Tensor:
    """Orthonormal cosines of a patch, (CONTENT, p, p), lowest frequencies first."""
    position = (torch.arange(PATCH) + 0.5) * torch.pi / PATCH
    waves = (position[None] * torch.arange(PATCH)[:, None]).cos()
    waves = waves / waves.norm(dim=1, keepdim=True)
    return torch.stack([waves[r][:, None] * waves[c] for r, c in wave_order()[:CONTENT]])


def wave_order() -> list[tuple[int, int]]:
    """Frequencies (down, across) of the cosines of a patch, lowest first."""
    every = ((row, column) for row in range(PATCH) for column in range(PATCH))
    return sorted(every, key=lambda rc: (rc[0] ** 2 + rc[1] ** 2, rc))
