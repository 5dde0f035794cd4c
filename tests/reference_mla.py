"""Slow twins of MLA-LP: every step in the plainest float64 arithmetic, one image and one level at a time.

Written from the definitions, sharing nothing with the package but the weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def double(state: dict[str, Tensor]) -> State:
    return {k: v.detach().double() for k, v in state.items()}


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def erf_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def block(x: Tensor, state: State, name: str, heads: int, mask: Tensor | None, activation=erf_gelu) -> Tensor:
    """One pre-norm residual block on (N, W)."""
    _n, width = x.shape
    h = layer_norm(x, state, f"{name}.ln_1")
    q, k, v = (h @ state[f"{name}.attn.in_proj_weight"].T + state[f"{name}.attn.in_proj_bias"]).chunk(3, dim=-1)
    out = torch.zeros_like(x)
    d = width // heads
    for i in range(heads):
        part = slice(i * d, (i + 1) * d)
        logits = q[:, part] @ k[:, part].T / math.sqrt(d)
        if mask is not None:
            logits = logits + mask
        out[:, part] = torch.softmax(logits, dim=-1) @ v[:, part]
    x = x + out @ state[f"{name}.attn.out_proj.weight"].T + state[f"{name}.attn.out_proj.bias"]
    h = layer_norm(x, state, f"{name}.ln_2")
    h = activation(h @ state[f"{name}.mlp.c_fc.weight"].T + state[f"{name}.mlp.c_fc.bias"])
    return x + h @ state[f"{name}.mlp.c_proj.weight"].T + state[f"{name}.mlp.c_proj.bias"]


def image_tokens(
    image: Tensor,
    clip: State,
    own: State,
    *,
    levels: tuple[int, ...],
    heads: int,
    patch: int,
    activation=erf_gelu,
    mix: float = 0.1,
) -> tuple[list[Tensor], list[Tensor]]:
    """(3, S, S) -> seg and det adapter features (1 + P, D) per level; adapters mix 0.8 / 0.1 / 0.1 into the stream."""
    grid = image.shape[-1] // patch
    patches = []
    kernel = clip["visual.conv1.weight"].flatten(1)
    for row in range(grid):
        for column in range(grid):
            cut = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            patches.append(kernel @ cut.flatten())
    x = torch.stack([clip["visual.class_embedding"], *patches]) + clip["visual.positional_embedding"]
    x = layer_norm(x, clip, "visual.ln_pre")
    seg, det = [], []
    for number in range(1, levels[-1] + 1):
        x = block(x, clip, f"visual.transformer.resblocks.{number - 1}", heads, None, activation)
        if number in levels:
            level = levels.index(number)
            outs = []
            for branch, kept in (("seg_adapters", seg), ("det_adapters", det)):
                middle = F.leaky_relu(x @ own[f"{branch}.{level}.fc1.0.weight"].T, 0.01)
                kept.append(middle)
                outs.append(F.leaky_relu(middle @ own[f"{branch}.{level}.fc2.0.weight"].T, 0.01))
            x = (1 - 2 * mix) * x + mix * outs[0] + mix * outs[1]
    return seg, det


def text_feature(rows: Tensor, end: int, clip: State, *, layers: int, heads: int, causal: bool) -> Tensor:
    """(L, W) token embeddings -> (D,) feature of the end-of-text token, not normalised."""
    x = rows + clip["positional_embedding"]
    mask = None
    if causal:
        length = len(x)
        mask = torch.zeros(length, length, dtype=x.dtype)
        for i in range(length):
            mask[i, i + 1 :] = -math.inf
    for i in range(layers):
        x = block(x, clip, f"transformer.resblocks.{i}", heads, mask)
    return layer_norm(x, clip, "ln_final")[end] @ clip["text_projection"]


def class_text(features: list[Tensor]) -> Tensor:
    mean = torch.stack(features).mean(0)
    return mean / mean.norm()


def patch_logits(tokens: Tensor, text: Tensor) -> Tensor:
    """(1 + P, D), (D, 2) -> (P, 2): 100 times the cosine; the class token is dropped."""
    patches = tokens[1:]
    return 100 * (patches / patches.norm(dim=-1, keepdim=True)) @ text


def enlarge(grid: Tensor, size: int) -> Tensor:
    """Bilinear with aligned corners, pixel by pixel: (g, g) -> (size, size)."""
    g = len(grid)
    out = torch.zeros(size, size, dtype=grid.dtype)
    for r in range(size):
        for c in range(size):
            y, x = r * (g - 1) / (size - 1), c * (g - 1) / (size - 1)
            y0, x0 = min(int(y), g - 2), min(int(x), g - 2)
            dy, dx = y - y0, x - x0
            out[r, c] = (
                grid[y0, x0] * (1 - dy) * (1 - dx)
                + grid[y0, x0 + 1] * (1 - dy) * dx
                + grid[y0 + 1, x0] * dy * (1 - dx)
                + grid[y0 + 1, x0 + 1] * dy * dx
            )
    return out


def losses(
    seg: list[Tensor], det: list[Tensor], text: Tensor, label: int, mask: Tensor | None
) -> dict[str, list[Tensor]]:
    """Per-level det, focal and dice of one image."""
    out: dict[str, list[Tensor]] = {"det": [], "focal": [], "dice": []}
    for tokens in det:
        a = torch.softmax(patch_logits(tokens, text), dim=-1)[:, 1].mean()
        s = torch.sigmoid(a)
        out["det"].append(-torch.log(s) if label else -torch.log(1 - s))
    if mask is None:
        return out
    size = len(mask)
    for tokens in seg:
        z = patch_logits(tokens, text)
        g = round(len(z) ** 0.5)
        maps = torch.stack([enlarge(z[:, c].reshape(g, g), size) for c in range(2)])
        p = torch.softmax(maps, dim=0)
        hot = torch.stack([1 - mask, mask]).clamp(1e-5, 1 - 1e-5)
        pt = (hot * p).sum(0) + 1e-5
        out["focal"].append((-((1 - pt) ** 2) * torch.log(pt)).mean())
        out["dice"].append(1 - (2 * (p[1] * mask).sum() + 1) / (p[1].sum() + mask.sum() + 1))
    return out


def nearest(tokens: Tensor, bank: Tensor) -> Tensor:
    """(1 + P, D) query, (R, D) bank with class tokens -> (P,) smallest cosine distance."""
    out = []
    for patch in tokens[1:]:
        norms = patch.norm().clamp_min(1e-8) * bank.norm(dim=-1).clamp_min(1e-8)
        out.append((1 - bank @ patch / norms).min())
    return torch.stack(out)


def minmax(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min())
