"""Text towers as functions of word embeddings, so that learned context vectors can stand in for words."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wordsight.errors import PromptError
from wordsight.models.mla.blocks import run_block, run_block_at


class TextTower(Protocol):
    """A text tower that takes word embeddings, positions not yet added."""

    context_length: int
    causal: bool
    """Whether the tower was trained with the causal mask."""

    @property
    def token_embedding(self) -> nn.Embedding:
        """Token ids (B, L) -> (B, L, W)."""

    def features(self, x: Tensor, ids: Tensor, causal: bool) -> Tensor:
        """Word embeddings (B, L, W) in place of ids (B, L) -> text features (B, embed_dim), not normalised.

        ids say where the text ends and what is padding. causal=False: see the towers. Raises PromptError for L
        beyond the context length.
        """

    def encode(self, ids: Tensor, causal: bool | None = None) -> Tensor:
        """Token ids (B, L) -> text features (B, embed_dim), not normalised; causal=None is as the tower was trained."""


def _check_length(x: Tensor, most: int) -> None:
    if x.shape[1] > most:
        raise PromptError(f"expected at most {most} token embeddings, got {x.shape[1]}. Shorten the prompt.")


class TextStream:
    """TextTower of CLIP's own text transformer, a residual stream of all L positions."""

    def __init__(self, tower: Any, context_length: int, causal: bool) -> None:
        self._tower = tower
        self.context_length = context_length
        self.causal = causal
        # the network that carries its text tower itself has other names for the same two
        self._pool_type = str(getattr(tower, "text_pool_type", getattr(tower, "pool_type", "argmax")))
        self._eos_id = int(getattr(tower, "text_eos_id", getattr(tower, "eos_id", 2)))

    @property
    def token_embedding(self) -> nn.Embedding:
        """See TextTower."""
        embedding: nn.Embedding = self._tower.token_embedding
        return embedding

    @property
    def positional_embedding(self) -> Tensor:
        """(context_length, W), for the caller to add before `run`."""
        positions: Tensor = self._tower.positional_embedding
        return positions

    def run(self, x: Tensor, causal: bool) -> Tensor:
        """Token embeddings with the position embedding added, (B, L, W) -> the stream after the last block, same shape.

        causal=False attends all L positions, padding included, as the published MLA-LP encoder does; True is the
        tower's own mask: CLIP's, or none where it was trained without. L is at most context_length. Raises PromptError
        beyond.
        """
        _check_length(x, self.context_length)
        for block in self._tower.transformer.resblocks:
            x = run_block(block, x, causal=causal and self.causal)
        return x

    def project(self, tokens: Tensor) -> Tensor:
        """Pooled tokens of the stream, (..., W) -> text features (..., embed_dim), not normalised."""
        x: Tensor = self._tower.ln_final(tokens)
        projection = self._tower.text_projection
        if projection is None:
            return x
        features: Tensor = projection(x) if isinstance(projection, nn.Module) else x @ projection
        return features

    def _pooled_position(self, ids: Tensor) -> Tensor:
        """Position of the token that stands for the text, (B, L) -> (B,), by the tower's own rule."""
        if self._pool_type == "first":
            return torch.zeros_like(ids[:, 0])
        if self._pool_type == "last":
            return torch.full_like(ids[:, 0], ids.shape[1] - 1)
        if self._pool_type == "eos":
            return (ids == self._eos_id).int().argmax(dim=-1)
        return ids.argmax(dim=-1)  # CLIP's end of text is its highest id

    def features(self, x: Tensor, ids: Tensor, causal: bool) -> Tensor:
        """See TextTower; `causal` as in `run`.

        Only what the pooled position reads is computed: with the causal mask no position behind the last pooled one,
        and in the last block that position alone.
        """
        _check_length(x, self.context_length)
        pooled, causal = self._pooled_position(ids), causal and self.causal
        if causal:
            x = x[:, : int(pooled.max()) + 1]
        x = x + self.positional_embedding[: x.shape[1]]
        *blocks, last = self._tower.transformer.resblocks
        for block in blocks:
            x = run_block(block, x, causal=causal)
        return self.project(run_block_at(last, x, pooled, causal=causal))

    def encode(self, ids: Tensor, causal: bool | None = None) -> Tensor:
        """See TextTower."""
        return self.features(self.token_embedding(ids), ids, self.causal if causal is None else causal)


class TransformersText:
    """TextTower of transformers inside open_clip's HFTextEncoder: BERT, RoBERTa, XLM-R, the encoders of mT5 and NLLB.

    These towers are bidirectional and were trained with padding masked. So they run here whatever `causal` says: the
    published rule to attend all positions concerns CLIP's causal mask, which they do not have.
    """

    causal = False

    def __init__(self, tower: Any, context_length: int) -> None:
        self._tower = tower
        self.context_length = context_length

    @property
    def token_embedding(self) -> nn.Embedding:
        """See TextTower."""
        embedding: nn.Embedding = self._tower.transformer.get_input_embeddings()
        return embedding

    def features(self, x: Tensor, ids: Tensor, causal: bool) -> Tensor:
        """See TextTower; positions, token types and the first LayerNorm are added inside, `causal` is not looked at."""
        _check_length(x, self.context_length)
        attended = (ids != self._tower.config.pad_token_id).long()
        # nothing looks at masked padding on the right: contexts of 256 tokens shrink to the longest prompt
        length = int(attended.any(dim=0).nonzero().max()) + 1
        attended = attended[:, :length]
        out = self._tower.transformer(inputs_embeds=x[:, :length], attention_mask=attended)
        features: Tensor = self._tower.proj(self._tower.pooler(out, attended))
        return features

    def encode(self, ids: Tensor, causal: bool | None = None) -> Tensor:
        """See TextTower."""
        return self.features(self.token_embedding(ids), ids, False)
