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

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wordsight.models.carzero.fusion import DecoderLayer, SimilarityFusion
from wordsight.models.carzero.model import CarZeroNetwork, PairLogits
from wordsight.models.carzero.text_encoder import TextFeatures
from wordsight.models.carzero.workspace import Workspace, Workspaces

GROUP = 32
PAIRS = 2048
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
    out_proj, heads, width = layer.multihead_attn.out_proj, layer.heads, memory.shape[-1]
    (wq, wk, wv), (bq, _, bv) = (part.chunk(3) for part in _input_projection(layer))
    shape, scale = (heads, width // heads, width), (width // heads) ** -0.5
    keys, values = (F.linear(memory, wk), F.linear(memory, wv, bv))
    keys, values = (x.reshape(*x.shape[:2], *shape[:2]).transpose(1, 2) for x in (keys, values))  # (T, H, n, d)
    folded = torch.einsum("thnd,hde->thne", keys, (wq * layer.norm2.weight * scale).view(shape))
    shift = (wq @ layer.norm2.bias + bq).view(shape[:2]) * scale
    offsets = torch.einsum("thnd,hd->thn", keys, shift)
    offsets = offsets if bias is None else offsets + bias
    out = torch.einsum("thnd,hde->thne", values, out_proj.weight.T.reshape(shape))
    out = (out + out_proj.bias / heads).flatten(1, 2)  # the weights of every head sum to 1
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
        self._words: list[int] = self._text.count.tolist()
        self._left = budget
        self._spaces = Workspaces(fixed=True)
        self._kept: dict[tuple[int, int, int, torch.dtype], FoldedLayer] = {}

    def __len__(self) -> int:
        return len(self._text)

    @torch.no_grad()
    def compare(self, image: Tensor, *, maps: bool = False, chunk: int = 256) -> tuple[PairLogits, Tensor | None]:
        """Images (B, 1 + P, D) -> logits of all pairs, and with maps the i2t attention (layers, B, T, tokens).

        chunk: the most texts at a time, which with the images at a time bounds the memory of what is computed per pair.
        """
        with self._spaces.one() as work:
            images = _at_a_time(image, min(chunk, len(self)))
            asked = [self._ask(part, work, maps, chunk) for part in torch.split(image, images)]
            step = min(chunk, max(GROUP, _at_a_time(image, len(image)) // GROUP * GROUP))
            starts = range(0, len(self), step)
            t2i = [self._asked(image[:, 0], slice(start, min(start + step, len(self))), work) for start in starts]
        i2t = torch.cat([logits for logits, _ in asked])
        pairs = PairLogits(i2t[:, self._place], torch.cat(t2i)[self._place])
        weights = [attention for _, attention in asked if attention is not None]
        return pairs, torch.cat(weights, dim=1)[:, :, self._place] if maps else None

    def _ask(self, image: Tensor, work: Workspace, maps: bool, chunk: int) -> tuple[Tensor, Tensor | None]:
        """Images (B, 1 + P, D) -> logits (B, T) of the texts in order of length, and with maps the attention."""
        tokens = ImageTokens(self._network.fusion_module, self._network.image_tokens(image), len(self), work)
        found = [tokens.asked(part, maps=maps) for part in torch.split(self._text.sentence, chunk)]
        weights = [attention for _, attention in found if attention is not None]
        return torch.cat([logits for logits, _ in found], dim=1), torch.cat(weights, dim=2) if maps else None

    def _asked(self, queries: Tensor, rows: slice, work: Workspace) -> Tensor:
        """Queries (B, D) of images -> logits (T', B) of the texts `rows`, which are in order of length."""
        fusion = self._network.fusion_module
        groups = [(start, min(start + GROUP, rows.stop)) for start in range(rows.start, rows.stop, GROUP)]
        count, shape = rows.stop - rows.start, queries.shape
        x = work.take("x", queries, count, *shape)
        for depth, layer in enumerate(fusion.decoder):
            folded = [self._folded(layer, depth, *group) for group in groups]
            if depth == 0:
                _first_layer(layer, x, fusion.decoder_norm(queries), folded, work)
            else:
                _next_layer(layer, x, folded, work)
        return work.logits(fusion, x.flatten(0, 1)).view(count, len(queries))

    def _folded(self, layer: DecoderLayer, depth: int, start: int, stop: int) -> FoldedLayer:
        """One layer's view of the texts start..stop - 1, kept if the budget allows."""
        device = self._text.sentence.device.type
        half = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if half else self._text.sentence.dtype
        key = (depth, start, stop, dtype)
        if key in self._kept:
            return self._kept[key]
        text = self._text[start:stop]
        words = text.words[:, : self._words[stop - 1]]  # in order of length
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


def _first_layer(layer: DecoderLayer, x: Tensor, queries: Tensor, texts: list[FoldedLayer], work: Workspace) -> None:
    """Queries (B, D), the same for all texts -> x (T, B, D), less its mean, which norms would take off."""
    count, width = queries.shape
    normed = F.layer_norm(queries, (width,), eps=layer.norm2.eps)
    centred = queries - queries.mean(-1, keepdim=True)
    before = F.linear(centred * layer.norm3.weight, layer.linear1.weight)
    hidden = work.take("wide", x, len(x), count, layer.linear1.out_features)
    for rows, text in _rows_of(texts):
        scores = torch.matmul(normed, text.keys.flatten(0, 1).T).reshape(count, *text.keys.shape[:2])
        weights = _attention(scores.transpose(0, 1) + text.offsets, layer, x.dtype)  # (T', B, R)
        assert text.hidden is not None
        work.product(x[rows], weights, text.values)
        work.product(hidden[rows], weights, text.hidden)
    x += centred
    hidden += before
    spread = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(width)
    constant = F.linear(layer.norm3.bias, layer.linear1.weight, layer.linear1.bias).to(x.dtype)
    torch.addcmul(constant, hidden, spread.add_(layer.norm3.eps).rsqrt_(), out=hidden)
    work.add_linear(x.flatten(0, 1), hidden.relu_().flatten(0, 1), layer.linear2)


def _next_layer(layer: DecoderLayer, x: Tensor, texts: list[FoldedLayer], work: Workspace) -> None:
    """(T, B, D), in place."""
    normed = F.layer_norm(x, x.shape[-1:], eps=layer.norm2.eps)
    for rows, text in _rows_of(texts):
        scores = torch.bmm(normed[rows], text.keys.transpose(1, 2)) + text.offsets
        work.add_product(x[rows], _attention(scores, layer, x.dtype), text.values)
    work.feed_forward(layer, x.flatten(0, 1))


def _rows_of(texts: list[FoldedLayer]) -> Iterator[tuple[slice, FoldedLayer]]:
    """Groups of texts, and where they lie among all."""
    start = 0
    for text in texts:
        yield slice(start, start + len(text.keys)), text
        start += len(text.keys)


def _at_a_time(like: Tensor, others: int) -> int:
    """How many of one kind to compare with so many of the other: what is computed of them stays in a CPU's cache."""
    return max(PAIRS // max(others, 1), 1) if like.device.type == "cpu" else 2**31


class ImageTokens:
    """Tokens (B, n, D) of images that `sentences` sentences will ask, by whichever way multiplies less."""

    def __init__(self, fusion: SimilarityFusion, tokens: Tensor, sentences: int, work: Workspace | None = None) -> None:
        self._fusion, self._sentences, self._work = fusion, sentences, work or Workspace()
        count, width, heads = tokens.shape[1], tokens.shape[2], next(iter(fusion.decoder)).heads
        remembered = 2 * count * width * width + sentences * 2 * count * width
        asked = sentences * (2 * heads * count * width + 2 * width * width)
        self.remembered = remembered <= asked
        self._normed = fusion.norm_memory(tokens)[0]
        self._kept: dict[DecoderLayer, Tensor] = {}

    def asked(self, sentences: Tensor, *, maps: bool = False) -> tuple[Tensor, Tensor | None]:
        """Sentences (Q, D) -> logits (B, Q), and with maps the attention (layers, B, Q, n), mean of the heads."""
        x, attention = self._fusion.decoder_norm(sentences)[None], []
        for layer in self._fusion.decoder:
            if self.remembered:
                x, looked = self._look(layer, x, self._remember(layer, len(sentences)), maps)
            else:
                x, looked = _ask_tokens(layer, x, self._normed, maps)
            attention += [] if looked is None else [looked]
            self._work.feed_forward(layer, x.flatten(0, 1))
        logits = self._work.logits(self._fusion, x.flatten(0, 1)).view(x.shape[:2])
        return logits, torch.stack(attention) if maps else None

    def _remember(self, layer: DecoderLayer, sentences: int) -> Tensor:
        """Keys and values (2, B, H, n, d) of the tokens; kept if other sentences will ask after these."""
        if layer in self._kept:
            return self._kept[layer]
        weight, bias = _input_projection(layer)
        rows, count, width = self._normed.shape
        both = self._work.linear("memory", self._normed.flatten(0, 1), weight[width:], bias[width:])
        both = both.view(rows, count, 2, layer.heads, -1).permute(2, 0, 3, 1, 4)
        if sentences < self._sentences:
            self._kept[layer] = both = both.clone()
        return both

    def _look(self, layer: DecoderLayer, x: Tensor, memory: Tensor, maps: bool) -> tuple[Tensor, Tensor | None]:
        """Queries (B or 1, Q, D) read keys and values -> (B, Q, D), and with maps the attention (B, Q, n)."""
        weight, bias = _input_projection(layer)
        rows, count, width = len(self._normed), x.shape[1], x.shape[2]
        asked = self._work.linear("narrow", layer.norm2(x).flatten(0, 1), weight[:width], bias[:width])
        asked = asked.view(len(x), count, layer.heads, -1).transpose(1, 2).expand(rows, -1, -1, -1)
        read, attention = layer.attend(asked, memory[0], memory[1], None, maps)
        out = x if len(x) == rows else self._work.take("x", x, rows, count, width).copy_(x)
        self._work.add_linear(out.flatten(0, 1), read.transpose(1, 2).reshape(-1, width), layer.multihead_attn.out_proj)
        return out, attention


def _input_projection(layer: DecoderLayer) -> tuple[Tensor, Tensor]:
    """Weight (3 D, D) and bias (3 D,) of queries, keys and values."""
    weight, bias = layer.multihead_attn.in_proj_weight, layer.multihead_attn.in_proj_bias
    assert weight is not None
    assert bias is not None
    return weight, bias


def _ask_tokens(layer: DecoderLayer, x: Tensor, tokens: Tensor, maps: bool) -> tuple[Tensor, Tensor | None]:
    """Queries (B or 1, Q, D) read normed tokens (B, n, D) -> (B, Q, D), and with maps the attention (B, Q, n)."""
    heads, width = layer.heads, x.shape[-1]
    (wq, wk, wv), (bq, _, bv) = (part.chunk(3) for part in _input_projection(layer))
    rows, count, size = len(tokens), x.shape[1], width // heads
    queries = F.linear(layer.norm2(x), wq, bq).reshape(len(x), count, heads, size) * size**-0.5
    asked = torch.einsum("bqhd,hde->bqhe", queries, wk.reshape(heads, size, width)).flatten(1, 2)
    scores = torch.matmul(asked.expand(rows, -1, -1), tokens.transpose(1, 2))  # (B, Q H, n)
    weights = scores.softmax(-1, dtype=x.dtype)
    read = torch.bmm(weights, tokens).reshape(rows, count, heads, width)
    values = torch.einsum("bqhe,hde->bqhd", read, wv.reshape(heads, size, width)).flatten(2) + bv
    x = x + layer.multihead_attn.out_proj(values)
    return x, weights.reshape(rows, count, heads, -1).mean(dim=2) if maps else None
