"""The image tower of a CLIP as a residual stream: what goes in, its blocks, what comes out.

Adapters write into the stream between blocks, so the blocks are handed out one by one; nothing outside this module
knows how the installed library arranges a tower.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from wordsight.models.mla.blocks import run_block
from wordsight.models.runtime import compilable, run_module

Block = Callable[[Tensor], Tensor]
run_image_block = compilable(run_block)


class VisionStream(Protocol):
    """An image tower as a residual stream of N + P tokens of width W: N prefix tokens, then patches row by row.

    N is 1 for CLIP's class token, 0 for towers that pool patches (SigLIP), more with register tokens.
    """

    @property
    def prefix_tokens(self) -> int:
        """N: class and register tokens before the patches."""

    @property
    def width(self) -> int:
        """W."""

    @property
    def blocks(self) -> list[Block]:
        """The residual blocks in order, each (B, N + P, W) -> (B, N + P, W)."""

    @property
    def positional_embedding(self) -> Tensor:
        """Learned positions, (N + P, W) or (P, W) where prefix tokens have none; (0, W) without any."""

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> the stream that enters block 1, (B, N + P, W); pixels beyond the last patch are not read."""

    def finish(self, tokens: Tensor) -> Tensor:
        """The stream after the last block, (B, N + P, W) -> image features as pooled by the tower, not normalised."""


class OpenClipVision:
    """VisionStream of open_clip's own VisionTransformer."""

    prefix_tokens = 1

    def __init__(self, visual: Any) -> None:
        self._visual = visual

    @property
    def width(self) -> int:
        """See VisionStream."""
        return int(self.positional_embedding.shape[-1])

    @property
    def blocks(self) -> list[Block]:
        """See VisionStream."""
        return [partial(run_image_block, block) for block in self._visual.transformer.resblocks]

    @property
    def positional_embedding(self) -> Tensor:
        """See VisionStream."""
        positions: Tensor = self._visual.positional_embedding
        return positions

    def embed(self, images: Tensor) -> Tensor:
        """See VisionStream."""
        patches = self._visual.conv1(images).flatten(2).transpose(1, 2)  # (B, P, W), row by row
        class_token = self._visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = torch.cat([class_token, patches], dim=1) + self._visual.positional_embedding
        stream: Tensor = self._visual.ln_pre(x)
        return stream

    def finish(self, tokens: Tensor) -> Tensor:
        """See VisionStream."""
        visual = self._visual
        if visual.attn_pool is not None:
            pooled: Tensor = visual._pool(tokens)[0]
        else:
            x = tokens if visual.final_ln_after_pool else visual.ln_post(tokens)
            pooled = x[:, 1:].mean(dim=1) if visual.pool_type == "avg" else x[:, 0]
            if visual.final_ln_after_pool:
                pooled = visual.ln_post(pooled)
        return pooled if visual.proj is None else pooled @ visual.proj


class TimmVision:
    """VisionStream of timm's VisionTransformer or Eva inside open_clip's TimmModel."""

    def __init__(self, visual: Any) -> None:
        self._trunk, self._head = visual.trunk, visual.head

    @property
    def prefix_tokens(self) -> int:
        """See VisionStream."""
        return int(self._trunk.num_prefix_tokens)

    @property
    def width(self) -> int:
        """See VisionStream."""
        return int(self._trunk.embed_dim)

    @property
    def blocks(self) -> list[Block]:
        """See VisionStream; rotary positions, which depend on the grid alone, are bound to the blocks."""
        blocks = [partial(run_module, block) for block in self._trunk.blocks]
        rotary = getattr(self._trunk, "rope", None)
        if rotary is None:
            return list(blocks)
        angles = rotary.get_embed()
        if getattr(self._trunk, "rope_mixed", False):  # each block has its own
            return [partial(block, rope=own) for block, own in zip(blocks, angles, strict=True)]
        return [partial(block, rope=angles) for block in blocks]

    @property
    def positional_embedding(self) -> Tensor:
        """See VisionStream."""
        positions: Tensor | None = self._trunk.pos_embed
        return torch.empty(0, self.width) if positions is None else positions[0]

    def embed(self, images: Tensor) -> Tensor:
        """See VisionStream."""
        x = self._trunk._pos_embed(self._trunk.patch_embed(images))
        stream: Tensor = self._trunk.norm_pre(x[0] if isinstance(x, tuple) else x)  # Eva adds its rotary positions
        return stream

    def finish(self, tokens: Tensor) -> Tensor:
        """See VisionStream."""
        pooled: Tensor = self._head(self._trunk.forward_head(self._trunk.norm(tokens)))
        return pooled
