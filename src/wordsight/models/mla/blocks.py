"""Residual attention blocks of open_clip, without the copies its attention makes and, where asked, for one position.

torch's MultiheadAttention copies queries, keys and values into another order before it attends, and their gradients
back, which costs a fifth of a training step through a text tower. The functions here use the same weights; values agree
up to rounding. Blocks of another make (normalised queries, scaled heads) run as their
library wrote them.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor
from torch.nn import functional as F

SHORT = range(32, 129)
"""Lengths at which torch's fused attention on the CPU, with its gradients, is slower than its parts (a sixth at 77)."""


def run_block(block: Any, x: Tensor, *, causal: bool = False) -> Tensor:
    """A pre-norm residual block: (B, N, W) -> (B, N, W). causal: no position looks at later ones."""
    if not _plain(block):
        mask = torch.full((x.shape[1],) * 2, -torch.inf, device=x.device, dtype=x.dtype).triu_(1) if causal else None
        out: Tensor = block(x, attn_mask=mask) if causal else block(x)
        return out
    query, key, value = _projected(block, block.ln_1(x), 0, 3)
    attended = _attend(query, key, value, causal)
    return _finished(block, x, attended.transpose(1, 2).reshape(x.shape))


def run_block_at(block: Any, x: Tensor, positions: Tensor, *, causal: bool = False) -> Tensor:
    """The same at one position of each row alone: (B, N, W), positions (B,) -> (B, W).

    One query reads all N positions (causal: those up to it), so their keys and values are never made: q . (K n + k) is
    (K^T q) . n plus a number that the softmax does not see, and the mean of V n + v is V times the mean of n, plus v.
    """
    rows = torch.arange(len(x), device=x.device)
    if not _plain(block):
        return run_block(block, x, causal=causal)[rows, positions]
    normed, heads = block.ln_1(x), block.attn.num_heads
    key, value = (block.attn.in_proj_weight[i * x.shape[2] :][: x.shape[2]].unflatten(0, (heads, -1)) for i in (1, 2))
    (query,) = _projected(block, normed[rows, positions][:, None], 0, 1)  # (B, heads, 1, W / heads)
    folded = torch.einsum("bhd,hdw->bhw", query[:, :, 0], key)[:, None]  # (B, 1, heads, W): as many queries as heads
    seen = None
    if causal:
        seen = (torch.arange(x.shape[1], device=x.device) <= positions[:, None])[:, None, None]  # (B, 1, 1, N)
    one = normed[:, None]  # the positions themselves are keys and values
    means = F.scaled_dot_product_attention(folded, one, one, attn_mask=seen, scale=query.shape[-1] ** -0.5)[:, 0]
    attended = torch.einsum("bhw,hdw->bhd", means, value).flatten(1) + block.attn.in_proj_bias[2 * x.shape[2] :]
    return _finished(block, x[rows, positions][:, None], attended[:, None])[:, 0]


def _plain(block: Any) -> bool:
    """Whether a block is the one of CLIP: self-attention with one matrix for queries, keys and values."""
    return type(block) is ResidualAttentionBlock and not hasattr(block, "ln_1_kv") and not block.training


def _projected(block: Any, normed: Tensor, first: int, last: int) -> tuple[Tensor, ...]:
    """Some of queries (0), keys (1) and values (2), each (B, heads, N, W / heads)."""
    attention, width = block.attn, normed.shape[-1]
    part = slice(first * width, last * width)
    products = F.linear(normed, attention.in_proj_weight[part], attention.in_proj_bias[part])
    heads = products.view(*normed.shape[:2], last - first, attention.num_heads, width // attention.num_heads)
    # apart along the third axis, not the first: then the three gradients are joined in the order of the product's
    return tuple(part.transpose(1, 2) for part in heads.unbind(dim=2))


def _attend(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> Tensor:
    """Attention of every position to all (causal: to none behind it), each (B, heads, N, W / heads)."""
    learns = query.requires_grad and query.device.type == "cpu"
    if causal or not learns or query.shape[2] not in SHORT:
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    shares: Tensor = (query * query.shape[3] ** -0.5 @ key.mT).softmax(dim=-1)
    return shares @ value


def _finished(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """Output projection, first residual, perceptron and second residual; heads joined: (B, N, W) -> (B, N, W)."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out
