"""Residual attention blocks of open_clip, without the copies its attention makes and, where asked, for one position.

torch's MultiheadAttention copies queries, keys and values into another order before it attends, and their gradients
back, which costs a fifth of a training step through a text tower. The functions here use the same weights in the same
order of operations; values agree up to rounding. Blocks of another make (normalised queries, scaled heads) run as their
library wrote them.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor
from torch.nn import functional as F


def run_block(block: Any, x: Tensor, *, causal: bool = False) -> Tensor:
    """A pre-norm residual block: (B, N, W) -> (B, N, W). causal: no position looks at later ones."""
    if not _plain(block):
        mask = torch.full((x.shape[1],) * 2, -torch.inf, device=x.device, dtype=x.dtype).triu_(1) if causal else None
        out: Tensor = block(x, attn_mask=mask) if causal else block(x)
        return out
    query, key, value = _projected(block, block.ln_1(x), 0, 3)
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return _finished(block, x, attended)


def run_block_at(block: Any, x: Tensor, positions: Tensor, *, causal: bool = False) -> Tensor:
    """The same at one position of each row alone: (B, N, W), positions (B,) -> (B, W).

    Keys and values come from all N positions (causal: from those up to the one asked for); the query, the attention's
    output and the perceptron, 10 of a block's 12 W^2 products per token, from one.
    """
    rows = torch.arange(len(x), device=x.device)
    if not _plain(block):
        return run_block(block, x, causal=causal)[rows, positions]
    normed = block.ln_1(x)
    (query,) = _projected(block, normed[rows, positions][:, None], 0, 1)
    key, value = _projected(block, normed, 1, 3)
    seen = None
    if causal:
        seen = (torch.arange(x.shape[1], device=x.device) <= positions[:, None])[:, None, None]  # (B, 1, 1, N)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
    return _finished(block, x[rows, positions][:, None], attended)[:, 0]


def _plain(block: Any) -> bool:
    """Whether a block is the one of CLIP: self-attention with one matrix for queries, keys and values."""
    return type(block) is ResidualAttentionBlock and not hasattr(block, "ln_1_kv") and not block.training


def _projected(block: Any, normed: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Some of queries (0), keys (1) and values (2), each (B, heads, N, W / heads)."""
    attention, width = block.attn, normed.shape[-1]
    part = slice(first * width, last * width)
    products = F.linear(normed, attention.in_proj_weight[part], attention.in_proj_bias[part])
    heads = products.view(*normed.shape[:2], last - first, attention.num_heads, width // attention.num_heads)
    return heads.permute(2, 0, 3, 1, 4).unbind()


def _finished(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Output projection, first residual, perceptron and second residual: (B, heads, N, W / heads) -> (B, N, W)."""
    joined = attended.transpose(1, 2).reshape(x.shape)
    x = x + block.ls_1(block.attn.out_proj(joined))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out
