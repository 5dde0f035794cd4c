"""The two towers of a CLIP as residual streams: what goes in, its blocks, what comes out.

Adapters write into the stream between blocks, so the blocks are handed out one by one; nothing outside this module
knows how the installed library arranges a tower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wordsight.errors import PromptError

Block = Callable[[Tensor], Tensor]


class VisionStream(Protocol):
    """An image tower as a residual stream of 1 + P tokens of width W, class token first."""

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> the stream that enters block 1, (B, 1 + P, W); pixels beyond the last patch are not read."""

    @property
    def blocks(self) -> list[Block]:
        """The residual blocks in order, each (B, 1 + P, W) -> (B, 1 + P, W)."""

    @property
    def positional_embedding(self) -> Tensor:
        """(1 + P, W): class token first, then patches row by row."""

    def finish(self, tokens: Tensor) -> Tensor:
        """The stream after the last block, (B, 1 + P, W) -> pooled image features (B, embed_dim), not normalised."""


class OpenClipVision:
    """VisionStream of open_clip's own VisionTransformer."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual

    @property
    def blocks(self) -> list[Block]:
        """See VisionStream."""
        return list(self._visual.transformer.resblocks)

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
        x = tokens if visual.final_ln_after_pool else visual.ln_post(tokens)
        pooled: Tensor = x[:, 1:].mean(dim=1) if visual.pool_type == "avg" else x[:, 0]
        if visual.final_ln_after_pool:
            pooled = visual.ln_post(pooled)
        return pooled if visual.proj is None else pooled @ visual.proj


class TimmVision:
    """VisionStream of a timm vision transformer inside open_clip's TimmModel."""

    def __init__(self, visual: Any) -> None:
        self._trunk, self._head = visual.trunk, visual.head

    @property
    def blocks(self) -> list[Block]:
        """See VisionStream."""
        return list(self._trunk.blocks)

    @property
    def positional_embedding(self) -> Tensor:
        """See VisionStream; without a first row where the class token has no position."""
        positions: Tensor = self._trunk.pos_embed
        return positions[0]

    def embed(self, images: Tensor) -> Tensor:
        """See VisionStream."""
        stream: Tensor = self._trunk.norm_pre(self._trunk._pos_embed(self._trunk.patch_embed(images)))
        return stream

    def finish(self, tokens: Tensor) -> Tensor:
        """See VisionStream."""
        pooled: Tensor = self._head(self._trunk.forward_head(self._trunk.norm(tokens)))
        return pooled


class TextStream:
    """A text tower as a residual stream; learned context vectors replace token embeddings before `run`."""

    def __init__(self, tower: Any, context_length: int, causal: bool) -> None:
        self._tower = tower
        self.context_length = context_length
        self.causal = causal
        """Whether the tower was trained with the causal mask."""

    @property
    def token_embedding(self) -> nn.Embedding:
        """Token ids (B, L) -> (B, L, W)."""
        embedding: nn.Embedding = self._tower.token_embedding
        return embedding

    @property
    def positional_embedding(self) -> Tensor:
        """(context_length, W), for the caller to add before `run`."""
        positions: Tensor = self._tower.positional_embedding
        return positions

    def run(self, x: Tensor, causal: bool) -> Tensor:
        """Token embeddings with the position embedding added, (B, L, W) -> the stream after the last block, same shape.

        causal=False attends all L positions, padding included, as the published MLA-LP encoder does; True is CLIP's
        mask. L is at most context_length. Raises PromptError beyond.
        """
        length = x.shape[1]
        if length > self.context_length:
            raise PromptError(
                f"expected at most {self.context_length} token embeddings, got {length}. Shorten the prompt."
            )
        mask = None
        if causal:
            mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu_(1)
        for block in self._tower.transformer.resblocks:
            x = block(x, attn_mask=mask)
        return x

    def project(self, tokens: Tensor) -> Tensor:
        """End-of-text tokens of the stream, (..., W) -> text features (..., embed_dim), not normalised."""
        x: Tensor = self._tower.ln_final(tokens)
        projection = self._tower.text_projection
        if projection is None:
            return x
        features: Tensor = projection(x) if isinstance(projection, nn.Module) else x @ projection
        return features

    def encode(self, ids: Tensor, causal: bool | None = None) -> Tensor:
        """Token ids (B, L), end of text the highest id, -> text features (B, embed_dim), not normalised.

        causal: None is as the tower was trained.
        """
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.run(x, self.causal if causal is None else causal)
        return self.project(x[torch.arange(len(ids), device=x.device), ids.argmax(dim=-1)])
