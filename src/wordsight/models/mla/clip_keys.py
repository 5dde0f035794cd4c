"""State dicts of CLIP checkpoints -> open_clip's names, shapes and position grid."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from wordsight.errors import WeightsError
from wordsight.models.tensor_files import account_for, hash_tensors, listed

OPENAI_SCALARS = ("input_resolution", "context_length", "vocab_size")
_TEXT_TOP = ("text_projection", "positional_embedding", "token_embedding.", "transformer.", "ln_final.")
_BLOCK = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)")
_IN_BLOCK = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OUTSIDE = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",  # transformers spells it so
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "visual_projection.weight": "visual.proj",
}
_TRANSPOSED = ("text_projection.weight", "visual_projection.weight")


def is_transformers(names: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of transformers' CLIPModel."""
    return "vision_model.embeddings.class_embedding" in names


def from_transformers(tensors: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """transformers' CLIPModel -> open_clip's CLIP: same numbers, other names, q/k/v stacked into in_proj.

    Raises WeightsError for names that CLIPModel does not have and for incomplete q/k/v.
    """
    out: dict[str, Tensor] = {}
    stacks: dict[str, dict[str, Tensor]] = {}
    strange: list[str] = []
    for name, tensor in tensors.items():
        block = _BLOCK.fullmatch(name)
        if name.endswith("position_ids"):
            continue  # 0, 1, 2, ...: an index that older releases saved
        if name in _OUTSIDE:
            out[_OUTSIDE[name]] = tensor.T if name in _TRANSPOSED else tensor
        elif block is None:
            strange.append(name)
        else:
            tower, index, rest = block.groups()
            prefix = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{index}."
            part, _, kind = rest.rpartition(".")
            if part in _IN_BLOCK:
                out[f"{prefix}{_IN_BLOCK[part]}.{kind}"] = tensor
            elif part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                stacks.setdefault(f"{prefix}attn.in_proj_{kind}", {})[part[10]] = tensor
            else:
                strange.append(name)
    if strange:
        raise WeightsError(f"{source}: expected tensors of a CLIPModel, got also {listed(strange)}. Check the file.")
    for name, parts in stacks.items():
        if set(parts) != set("qkv"):
            raise WeightsError(f"{source}: expected q, k and v for {name}, got {sorted(parts)}. Check the file.")
        out[name] = torch.cat([parts[letter] for letter in "qkv"])
    return out


def fit_names(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Move the text tower under "text." or out of it, as the network has it; drop OpenAI's three scalars."""
    wants_text = any(name.startswith("text.") for name in expected)
    out = {}
    for name, tensor in tensors.items():
        if name in OPENAI_SCALARS and tensor.ndim == 0:
            continue
        if name.endswith(".embeddings.position_ids") and name not in expected:
            continue  # 0, 1, 2, ...: an index that older releases of transformers saved
        if wants_text and name.startswith(_TEXT_TOP):
            name = f"text.{name}"
        elif not wants_text and name.startswith("text."):
            name = name.removeprefix("text.")
        out[name] = tensor
    return out


def resize_positions(positions: Tensor, grid: tuple[int, int], source: object, prefix: int = 1) -> Tensor:
    """Position embedding (prefix + g*g, W) -> (prefix + rows*columns, W) for another patch grid.

    The prefix rows (the class token) are kept; the g x g rest is resized bicubically with antialiasing, align_corners
    off, as the published loader does. Equal counts return the input. Raises WeightsError if the rest is no square.
    """
    rows, width = positions.shape[0] - prefix, positions.shape[1]
    if rows == grid[0] * grid[1]:
        return positions
    side = math.isqrt(max(rows, 0))
    if rows < 1 or side * side != rows:
        raise WeightsError(
            f"{source}: expected position embeddings of a square patch grid, got {rows} rows. Use weights trained on "
            f"square images or an image size with a {grid[0]} x {grid[1]} grid of that many patches."
        )
    patches = positions[prefix:].reshape(1, side, side, width).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:prefix], patches.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], width)])


def fit_positions(
    tensors: dict[str, Tensor], expected: Mapping[str, tuple[int, ...]], grid: tuple[int, int], source: object
) -> dict[str, Tensor]:
    """Resize the image position embedding to the network's grid where only its length differs."""
    for name in ("visual.positional_embedding", "visual.trunk.pos_embed"):
        want, have = expected.get(name), tensors.get(name)
        if want is None or have is None or have.ndim != len(want) or have.shape[-1] != want[-1]:
            continue
        prefix = want[-2] - grid[0] * grid[1]
        resized = resize_positions(have.reshape(have.shape[-2:]), grid, source, prefix)
        tensors = {**tensors, name: resized.reshape(want)}
    return tensors


def prepare_state(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], grid: tuple[int, int], source: Path
) -> tuple[dict[str, Tensor], str]:
    """Tensors of a file -> (the network's complete fp32 state, hash of the weights before resizing).

    Raises WeightsError that lists missing, unexpected and misshapen tensors.
    """
    plain = from_transformers(tensors, source) if is_transformers(tensors) else dict(tensors)
    named = {name: tensor.float().contiguous() for name, tensor in fit_names(plain, expected).items()}
    state = fit_positions(named, expected, grid, source)
    account_for(
        expected,
        {name: tuple(tensor.shape) for name, tensor in state.items()},
        source,
        "Name the architecture these weights were made for.",
    )
    return state, hash_tensors(named, as_float=True)
