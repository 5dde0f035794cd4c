"""Encoded texts made ready for any number of images: the published logits with fewer multiplications.

Nothing is approximated; products of matrices are taken in another order.

t2i, a few keys per text: a score is (Wq x + bq) k, linear in the normed x, so Wq is multiplied into the keys, and Wo
into the values. Per pair and layer 2 H n D multiplications replace 2 D (D + n); they are done once per text. The first
layer's x is the same for all texts, so its linear1 acts on the few values too, not on every pair.
i2t, many keys per image: with few sentences, Wk and Wv are multiplied into each sentence's queries and reads; with
many, into the image's tokens.

A score that is the same for all keys of a softmax, such as that of the keys' bias, drops out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wordsight.models.carzero.fusion import DecoderLayer, SimilarityFusion
from wordsight.models.carzero.model import CarZeroNetwork, PairLogits
from wordsight.models.carzero.text_encoder import TextFeatures

GROUP = 32
KEPT_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class FoldedLayer:
    """Texts as one decoder layer looks at them; R = heads x keys rows per text, one head after another.

    keys: (T, R, D), with the projection and norm of the queries. offsets: (T, 1, R) added to the scores. values:
    (T, R, D), with the output projection. hidden: (T, R, hidden) of the first layer, the values behind linear1.
    """

    keys: Tensor
    offsets: Tensor
    values: Tensor
    hidden: Tensor | None

    @property
    def size(self) -> int:
        """Bytes."""
        tensors = (self.keys, self.offsets, self.values, *([] if self.hidden is None else [self.hidden]))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def to(self, dtype: torch.dtype) -> FoldedLayer:
        """In another number format."""
        hidden = None if self.hidden is None else self.hidden.to(dtype)
        return FoldedLayer(self.keys.to(dtype), self.offsets.to(dtype), self.values.to(dtype), hidden)


def fold_layer(layer: DecoderLayer, memory: Tensor, bias: Tensor | None, *, first: bool) -> FoldedLayer:
    """Normed memories (T, n, D), and the (n,) logarithms of how many positions each key stands for.

    first: the layer whose queries are the same for all memories; its values have mean 0, which every norm after it
    would take off anyway.
    """
    attention, heads, width = layer.multihead_attn, layer.heads, memory.shape[-1]
    assert attention.in_proj_weight is not None
    assert attention.in_proj_bias is not None
    wq, wk, wv = attention.in_proj_weight.chunk(3)
    bq, _, bv = attention.in_proj_bias.chunk(3)
    shape, scale = (heads, width // heads, width), (width // heads) ** -0.5
    keys, values = (F.linear(memory, wk), F.linear(memory, wv, bv))
    keys, values = (x.reshape(*x.shape[:2], *shape[:2]).transpose(1, 2) for x in (keys, values))  # (T, H, n, d)
    folded = torch.einsum("thnd,hde->thne", keys, (wq * layer.norm2.weight * scale).view(shape))
    shift = (wq @ layer.norm2.bias + bq).view(shape[:2]) * scale
    offsets = torch.einsum("thnd,hd->thn", keys, shift)
    offsets = offsets if bias is None else offsets + bias
    out = torch.einsum("thnd,hde->thne", values, attention.out_proj.weight.T.reshape(shape))
    out = (out + attention.out_proj.bias / heads).flatten(1, 2)  # the weights of every head sum to 1
    hidden = None
    if first:
        out = out - out.mean(-1, keepdim=True)
        hidden = F.linear(out, layer.linear1.weight * layer.norm3.weight)
    return FoldedLayer(folded.flatten(1, 2), offsets.flatten(1)[:, None], out, hidden)


class AskedTexts:
    """Texts that are compared with many images; what depends on them and the weights alone is computed once.

    text: of one network in eval mode, whose weights stay as they are. budget: bytes of folded keys and values that are
    kept (0.2 GB for 192 short prompts of the published network); those beyond it are computed again for every batch.
    Texts are grouped by length, so that a long one costs the short ones nothing.
    """

    def __init__(self, network: CarZeroNetwork, text: TextFeatures, *, budget: int = KEPT_BYTES) -> None:
        self._network = network
        order = text.count.argsort(stable=True)
        self._place = order.argsort()
        self._text = TextFeatures(text.sentence[order], text.words[order], text.count[order], text.length)
        self._left = budget
        self._kept: dict[tuple[int, int, int, torch.dtype], FoldedLayer] = {}

    def __len__(self) -> int:
        return len(self._text)

    @torch.no_grad()
    def compare(self, image: Tensor, *, maps: bool = False, chunk: int = 256) -> tuple[PairLogits, Tensor | None]:
        """Images (B, 1 + P, D) -> logits of all pairs, and with maps the i2t attention (layers, B, T, tokens).

        chunk: texts at a time, which bounds the memory of what is computed per pair.
        """
        tokens = ImageTokens(self._network.fusion_module, self._network.image_tokens(image), len(self))
        i2t, t2i, attention = [], [], []
        for start in range(0, len(self), chunk):
            rows = slice(start, min(start + chunk, len(self)))
            logits, weights = tokens.asked(self._text.sentence[rows], maps=maps)
            i2t.append(logits)
            t2i.append(self._asked(image[:, 0], rows))
            attention += [] if weights is None else [weights]
        pairs = PairLogits(torch.cat(i2t, dim=1)[:, self._place], torch.cat(t2i)[self._place])
        return pairs, torch.cat(attention, dim=2)[:, :, self._place] if maps else None

    def _asked(self, queries: Tensor, rows: slice) -> Tensor:
        """Queries (B, D) of images -> logits (T', B) of the texts `rows`, which are in order of length."""
        fusion = self._network.fusion_module
        groups = [(start, min(start + GROUP, rows.stop)) for start in range(rows.start, rows.stop, GROUP)]
        x = fusion.decoder_norm(queries)
        for depth, layer in enumerate(fusion.decoder):
            folded = [self._folded(layer, depth, *group) for group in groups]
            x = _first_layer(layer, x, folded) if depth == 0 else _next_layer(layer, x, folded)
        return fusion.logits(x)

    def _folded(self, layer: DecoderLayer, depth: int, start: int, stop: int) -> FoldedLayer:
        """One layer's view of the texts start..stop - 1, kept if the budget allows."""
        device = self._text.sentence.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else self._text.sentence.dtype
        key = (depth, start, stop, dtype)
        if key in self._kept:
            return self._kept[key]
        text = self._text[start:stop]
        words = text.words[:, : int(text.count.max())]
        with torch.autocast(device, enabled=False):
            tokens, padding = self._network.text_tokens(TextFeatures(text.sentence, words, text.count, text.length))
            normed, bias = self._network.fusion_module.norm_memory(tokens, padding)
            folded = fold_layer(layer, normed, bias, first=depth == 0).to(dtype)
        if folded.size <= self._left:
            self._left -= folded.size
            self._kept[key] = folded
        return folded


def _attention(scores: Tensor, layer: DecoderLayer, dtype: torch.dtype) -> Tensor:
    """(..., R) scores -> weights that sum to 1 for each head."""
    return scores.reshape(*scores.shape[:-1], layer.heads, -1).softmax(-1, dtype=dtype).flatten(-2)


def _first_layer(layer: DecoderLayer, x: Tensor, texts: list[FoldedLayer]) -> Tensor:
    """Queries (B, D), the same for all texts -> (T, B, D), less what is equal along a row: norms would take it off."""
    normed = F.layer_norm(x, x.shape[-1:], eps=layer.norm2.eps)
    x = x - x.mean(-1, keepdim=True)
    before = F.linear(x, layer.linear1.weight * layer.norm3.weight)
    constant = layer.linear1.weight @ layer.norm3.bias + layer.linear1.bias
    parts, hidden = [], []
    for text in texts:
        scores = torch.matmul(normed, text.keys.flatten(0, 1).T).reshape(len(x), *text.keys.shape[:2])
        weights = _attention(scores.transpose(0, 1) + text.offsets, layer, x.dtype)  # (T', B, R)
        parts.append(x + torch.bmm(weights, text.values))
        assert text.hidden is not None
        hidden.append(before + torch.bmm(weights, text.hidden))
    rows = torch.cat(parts)
    scale = torch.rsqrt(rows.square().mean(-1, keepdim=True) + layer.norm3.eps)
    return rows.add_(layer.linear2(torch.addcmul(constant, torch.cat(hidden).to(x.dtype), scale).relu_()))


def _next_layer(layer: DecoderLayer, x: Tensor, texts: list[FoldedLayer]) -> Tensor:
    """(T, B, D) -> (T, B, D), in place."""
    normed = F.layer_norm(x, x.shape[-1:], eps=layer.norm2.eps)
    start = 0
    for text in texts:
        rows = slice(start, start + len(text.keys))
        scores = torch.bmm(normed[rows], text.keys.transpose(1, 2)) + text.offsets
        x[rows] += torch.bmm(_attention(scores, layer, x.dtype), text.values)
        start = rows.stop
    return x.add_(layer.feed_forward(x))


class ImageTokens:
    """Tokens (B, n, D) of images that `sentences` sentences will ask, by whichever way multiplies less."""

    def __init__(self, fusion: SimilarityFusion, tokens: Tensor, sentences: int) -> None:
        self._fusion = fusion
        count, width, heads = tokens.shape[1], tokens.shape[2], next(iter(fusion.decoder)).heads
        remembered = 2 * count * width * width + sentences * 2 * count * width
        asked = sentences * (2 * heads * count * width + 2 * width * width)
        self._memory = fusion.remember(tokens) if remembered <= asked else None
        self._normed = fusion.norm_memory(tokens)[0] if self._memory is None else None

    def asked(self, sentences: Tensor, *, maps: bool = False) -> tuple[Tensor, Tensor | None]:
        """Sentences (Q, D) -> logits (B, Q), and with maps the attention (layers, B, Q, n), mean of the heads."""
        fusion = self._fusion
        if self._memory is not None:
            x, weights = fusion.decode(self._memory, sentences, maps=maps)
            return fusion.head(x), weights
        assert self._normed is not None
        x, attention = fusion.decoder_norm(sentences)[None], []
        for layer in fusion.decoder:
            x, looked = _ask_tokens(layer, x, self._normed)
            attention += [looked.mean(dim=2)] if maps else []
            x = x + layer.feed_forward(x)
        return fusion.logits(x), torch.stack(attention) if maps else None


def _ask_tokens(layer: DecoderLayer, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Queries (B or 1, Q, D) read normed tokens (B, n, D) -> (B, Q, D) and the attention (B, Q, H, n)."""
    attention, heads, width = layer.multihead_attn, layer.heads, x.shape[-1]
    assert attention.in_proj_weight is not None
    assert attention.in_proj_bias is not None
    wq, wk, wv = attention.in_proj_weight.chunk(3)
    bq, _, bv = attention.in_proj_bias.chunk(3)
    rows, count, size = len(tokens), x.shape[1], width // heads
    queries = F.linear(layer.norm2(x), wq, bq).reshape(len(x), count, heads, size) * size**-0.5
    asked = torch.einsum("bqhd,hde->bqhe", queries, wk.reshape(heads, size, width)).flatten(1, 2)
    scores = torch.matmul(asked.expand(rows, -1, -1), tokens.transpose(1, 2))  # (B, Q H, n)
    weights = scores.softmax(-1, dtype=x.dtype)
    read = torch.bmm(weights, tokens).reshape(rows, count, heads, width)
    values = torch.einsum("bqhe,hde->bqhd", read, wv.reshape(heads, size, width)).flatten(2) + bv
    return x + attention.out_proj(values), weights.reshape(rows, count, heads, -1)
