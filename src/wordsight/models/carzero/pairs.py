"""Logits of all pairs of a batch in memory that does not grow with its square.

The decoder keeps some hundred thousand numbers per pair for the gradient. Here it runs on blocks of pairs and forgets
them; in the backward pass each block is computed again, with the random numbers of dropout it had before (Chen et al.,
"Training Deep Nets with Sublinear Memory Cost", 2016). What remains per pair is one logit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wordsight.errors import SettingsError
from wordsight.models.carzero.fusion import SimilarityFusion
from wordsight.models.carzero.model import CarZeroNetwork, PairLogits
from wordsight.models.carzero.text_encoder import TextFeatures

PAIRS = 1024


def pair_logits(
    network: CarZeroNetwork,
    image: Tensor,
    text: TextFeatures,
    *,
    sentences: Tensor | None = None,
    globals_: Tensor | None = None,
    pairs: int | None = PAIRS,
    recompute: bool = True,
) -> PairLogits:
    """`network.compare` in blocks: images (B, 1 + P, D) and T texts -> logits of all pairs.

    sentences (S, D), globals_ (G, D): queries other than those of these texts and images, so i2t is (B, S) and t2i
    (T, G). pairs: the most pairs of a block, None for all at once. recompute: forget a block's activations and compute
    them again for the gradient; False keeps them. Without dropout the logits and gradients are those of `compare` but
    for rounding; with dropout, blocks draw other numbers than the whole would, the same with and without recompute.
    Raises SettingsError for fewer than one pair.
    """
    asked = text.sentence if sentences is None else sentences
    looked = image[:, 0] if globals_ is None else globals_
    tokens, padding = network.text_tokens(text)
    fusion = network.fusion_module
    i2t = fusion_in_blocks(fusion, network.image_tokens(image), asked, 0, pairs, recompute)
    return PairLogits(i2t, fusion_in_blocks(fusion, tokens, looked, padding, pairs, recompute))


def fusion_in_blocks(
    fusion: SimilarityFusion, tokens: Tensor, queries: Tensor, padding: int, pairs: int | None, recompute: bool = True
) -> Tensor:
    """Memories (M, n, D) with `padding` more zero vectors each, queries (Q, D) -> logits (M, Q), block by block.

    A block is a few memories against all queries, or one memory against some of them; keys and values of a block's
    memories belong to it, so none are kept.
    """
    if pairs is None:
        logits: Tensor = fusion(tokens, queries, padding)
        return logits
    if pairs < 1:
        raise SettingsError(f"pairs: expected at least 1 pair in a block, got {pairs}. Use None for no blocks.")
    width = min(len(queries), pairs)
    # split and cat pass gradients on in one piece, slices would fill a whole tensor of zeros for each
    memories, parts = torch.split(tokens, max(pairs // width, 1)), torch.split(queries, width)
    rows = [torch.cat([_block(fusion, m, q, padding, recompute) for q in parts], dim=1) for m in memories]
    return torch.cat(rows)


def _block(fusion: SimilarityFusion, tokens: Tensor, queries: Tensor, padding: int, recompute: bool) -> Tensor:
    if not (recompute and torch.is_grad_enabled()):
        kept: Tensor = fusion(tokens, queries, padding)
        return kept
    logits: Tensor = checkpoint(fusion, tokens, queries, padding, use_reentrant=False, preserve_rng_state=True)
    return logits
