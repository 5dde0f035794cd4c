"""CARZero once more, slowly: one image, one text, one pair at a time, in NumPy doubles, from its description alone."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from scipy.special import erf

Array = np.ndarray[Any, np.dtype[np.float64]]


def process(text: str) -> str:
    """The published cleaning, sentence by sentence."""
    sentences: list[str] = []
    for numbered in re.split(r"[0-9]+\.", text.replace("\n", " ")):
        for sentence in numbered.split("."):
            words = re.findall(r"\w+", sentence.replace("\ufffd\ufffd", " ").lower())
            if len(words) > 1:
                kept = ["".join(c for c in word if ord(c) < 128) for word in words]
                sentences.append(" ".join(word for word in kept if word))
    return " ".join(" ".join(sentences).split())


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + erf(x / np.sqrt(2))))


class Twin:
    """Everything by the published names without prefix."""

    def __init__(self, network: Any) -> None:
        self.p = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}
        self.settings = network.settings

    def norm(self, x: Array, name: str, eps: float) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
        return np.asarray(scaled * self.p[f"{name}.weight"] + self.p[f"{name}.bias"])

    def linear(self, x: Array, name: str) -> Array:
        return np.asarray(x @ self.p[f"{name}.weight"].T + self.p[f"{name}.bias"])

    def heads(self, q: Array, k: Array, v: Array, heads: int) -> tuple[Array, Array]:
        """Head after head: (n, D), (m, D), (m, D) -> (n, D) and the mean weights (n, m)."""
        d = q.shape[1] // heads
        outs, weights = [], []
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            w = softmax(q[:, part] @ k[:, part].T / np.sqrt(d))
            outs.append(w @ v[:, part])
            weights.append(w)
        return np.concatenate(outs, axis=1), np.mean(weights, axis=0)

    def bert(self, ids: list[int]) -> list[Array]:
        """Hidden states of the real tokens; padding is masked, so it does not exist here."""
        e, eps = "text_encoder.model.embeddings.", self.settings.text.eps
        x = self.p[f"{e}word_embeddings.weight"][ids] + self.p[f"{e}position_embeddings.weight"][: len(ids)]
        x = self.norm(x + self.p[f"{e}token_type_embeddings.weight"][0], f"{e}LayerNorm", eps)
        states = [x]
        for i in range(self.settings.text.layers):
            name = f"text_encoder.model.encoder.layer.{i}."
            q, k, v = (self.linear(x, f"{name}attention.self.{part}") for part in ("query", "key", "value"))
            read, _ = self.heads(q, k, v, self.settings.text.heads)
            x = self.norm(
                x + self.linear(read, f"{name}attention.output.dense"), f"{name}attention.output.LayerNorm", eps
            )
            hidden = gelu(self.linear(x, f"{name}intermediate.dense"))
            x = self.norm(x + self.linear(hidden, f"{name}output.dense"), f"{name}output.LayerNorm", eps)
            states.append(x)
        return states

    def text(self, pieces: list[str], vocabulary: list[str]) -> tuple[Array, Array]:
        """Sentence (D,) and words (L, D), zero vectors included; pieces with [CLS] and [SEP]."""
        states = self.bert([vocabulary.index(piece) for piece in pieces])
        vectors = sum(states[-self.settings.last_states :])
        assert isinstance(vectors, np.ndarray)
        words: list[Array] = []
        for piece, vector in zip(pieces, vectors, strict=True):
            if piece.startswith("##"):
                words[-1] = words[-1] + vector
            else:
                words.append(vector.copy())
            if piece == "[SEP]":
                break
        length = self.settings.text_length
        rows = np.array(words + [np.zeros(vectors.shape[1])] * (length - len(words)))
        return rows.sum(axis=0) / length, rows

    def image(self, pixels: Array) -> Array:
        """(3, S, S) -> (1 + P, D)."""
        vit, name = self.settings.vit, "img_encoder.model."
        size, patches = vit.patch, []
        kernel, bias = self.p[f"{name}patch_embed.proj.weight"], self.p[f"{name}patch_embed.proj.bias"]
        for r in range(vit.grid):
            for c in range(vit.grid):
                cut = pixels[:, r * size : (r + 1) * size, c * size : (c + 1) * size]
                patches.append((kernel * cut).sum(axis=(1, 2, 3)) + bias)
        x = np.concatenate([self.p[f"{name}cls_token"][0], patches]) + self.p[f"{name}pos_embed"][0]
        for i in range(vit.layers):
            block = f"{name}blocks.{i}."
            q, k, v = np.split(self.linear(self.norm(x, f"{block}norm1", 1e-6), f"{block}attn.qkv"), 3, axis=1)
            x = x + self.linear(self.heads(q, k, v, vit.heads)[0], f"{block}attn.proj")
            hidden = gelu(self.linear(self.norm(x, f"{block}norm2", 1e-6), f"{block}mlp.fc1"))
            x = x + self.linear(hidden, f"{block}mlp.fc2")
        return self.norm(x, f"{name}norm", 1e-6)

    def fusion(self, memory: Array, query: Array) -> tuple[float, Array]:
        """(n, D), (D,) -> logit and attention (layers, n)."""
        name, width = "fusion_module.", len(query)
        m, x = (self.norm(v, f"{name}decoder_norm", 1e-5) for v in (memory, query[None]))
        maps = []
        for i in range(self.settings.fusion_layers):
            layer = f"{name}decoder.layers.{i}."
            w, b = (self.p[f"{layer}multihead_attn.in_proj_{part}"] for part in ("weight", "bias"))
            parts = [slice(j * width, (j + 1) * width) for j in range(3)]
            inputs = (self.norm(x, f"{layer}norm2", 1e-5), m, m)
            q, k, v = (value @ w[part].T + b[part] for value, part in zip(inputs, parts, strict=True))
            read, weights = self.heads(q, k, v, self.settings.fusion_heads)
            x = x + self.linear(read, f"{layer}multihead_attn.out_proj")
            hidden = np.maximum(self.linear(self.norm(x, f"{layer}norm3", 1e-5), f"{layer}linear1"), 0)
            x = x + self.linear(hidden, f"{layer}linear2")
            maps.append(weights[0])
        x = self.norm(x, f"{name}decoder_norm", 1e-5)
        steps = sorted(int(k.split(".")[2]) for k in self.p if re.fullmatch(rf"{name}mlp_head\.\d+\.weight", k))
        for step in steps:
            x = self.linear(x, f"{name}mlp_head.{step}")
            x = x if step == steps[-1] else np.maximum(x, 0)
        return float(x[0, 0]), np.array(maps)

    def pair(self, image: Array, sentence: Array, words: Array) -> tuple[float, float]:
        """i2t and t2i logit of one image and one text."""
        kind = self.settings.memory
        memories = {
            "global": (image[:1], sentence[None]),
            "local": (image[1:], words),
            "global+local": (image, np.concatenate([sentence[None], words])),
        }[kind]
        return self.fusion(memories[0], sentence)[0], self.fusion(memories[1], image[0])[0]


def local_similarity(patches: Array, words: Array, count: int) -> float:
    """GLoRIA's similarity for (P, D) patches and the positions 1..count of (L, D) words."""
    chosen = words[1 : count + 1]
    attention = np.array([softmax(np.array([patch @ word for word in chosen])) for patch in patches])
    best = -np.inf
    for w, word in enumerate(chosen):
        context = softmax(4.0 * attention[:, w]) @ patches
        cosine = context @ word / max(float(np.linalg.norm(context) * np.linalg.norm(word)), 1e-8)
        best = max(best, np.log(np.exp(5 * cosine)))
    return float(best)
