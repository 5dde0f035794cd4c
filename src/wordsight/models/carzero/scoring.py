"""Similarities of images and texts, and how the sentences of a finding become its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from wordsight.errors import PromptError, SettingsError
from wordsight.models.carzero.asking import AskedTexts
from wordsight.models.carzero.grounding import attention_maps
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.text_encoder import TextFeatures
from wordsight.types import Combination

Similarity = Literal["fusion", "global", "local", "both"]
"""What compares an image with a sentence: the fusion module (CARZero's score), the cosine of the global features, the
best word's cosine with what it attends to (GLoRIA), or the mean of the last two."""
Combine = Combination
_SHARPNESS, _SCALE = 4.0, 5.0


def fusion_logits(network: CarZeroNetwork, image: Tensor, text: TextFeatures, *, chunk: int = 256) -> Tensor:
    """The published score, mean of both directions: images (B, 1 + P, D) and T texts -> (B, T) logits.

    chunk: texts at a time, which bounds the memory. For many batches of images, `AskedTexts` does the texts' part once.
    """
    return AskedTexts(network, text).compare(image, chunk=chunk)[0].mean


def fusion_logits_and_maps(
    network: CarZeroNetwork, image: Tensor, text: TextFeatures | AskedTexts, *, chunk: int = 256
) -> tuple[Tensor, Tensor]:
    """The same logits, and where each sentence looked in each image: (B, T) and (B, T, g, g)."""
    asked = text if isinstance(text, AskedTexts) else AskedTexts(network, text)
    pairs, attention = asked.compare(image, maps=True, chunk=chunk)
    assert attention is not None
    return pairs.mean, attention_maps(attention, network.settings)


def global_similarity(image: Tensor, text: TextFeatures) -> Tensor:
    """Cosine of the image's global token and the sentence: (B, 1 + P, D) and T texts -> (B, T)."""
    return F.normalize(image[:, 0], dim=-1) @ F.normalize(text.sentence, dim=-1).T


def local_similarity(image: Tensor, words: Tensor, lengths: Sequence[int]) -> Tensor:
    """GLoRIA's similarity of words and regions (Huang et al., ICCV 2021): (B, T), 5 times a cosine.

    image: (B, 1 + P, D), the global token first (not used). words: (T, L, D), [CLS] first (skipped), zero vectors
    after the last word. lengths: for each text how many vectors after [CLS] are looked at. With more than it has words
    (as published, see `character_lengths`), zero vectors take part: they change the attention, and no score is below 0.
    Raises PromptError where a length does not lie in 1..L - 1.
    """
    most = words.shape[1] - 1
    wrong = [n for n in lengths if not 1 <= n <= most]
    if wrong:
        raise PromptError(
            f"expected texts with 1 to {most} positions to compare, got {wrong[0]}. Shorten the prompt, or set "
            "word_lengths='words': as published, every character of the text counts as a position."
        )
    columns = [_word_scores(image[:, 1:], text[1 : n + 1]) for text, n in zip(words, lengths, strict=True)]
    return torch.stack(columns, dim=1)


def _word_scores(patches: Tensor, words: Tensor) -> Tensor:
    """(B, P, D) patches and (n, D) words of one text -> (B,)."""
    over_words = (patches @ words.T).softmax(dim=-1)  # (B, P, n)
    over_patches = (_SHARPNESS * over_words).softmax(dim=1)
    context = over_patches.transpose(1, 2) @ patches  # (B, n, D)
    norms = context.norm(dim=-1) * words.norm(dim=-1)
    cosine = (context * words).sum(-1) / norms.clamp(min=1e-8)
    best: Tensor = cosine.amax(dim=1)
    return _SCALE * best


def character_lengths(texts: Sequence[str]) -> list[int]:
    """The published `cap_lens`: characters of the raw text other than "[", taken for a number of words."""
    return [len(text.replace("[", "")) for text in texts]


def word_lengths(text: TextFeatures) -> list[int]:
    """Words without [CLS] and [SEP]; a text without words counts its [SEP]."""
    return [max(n - 2, 1) for n in text.count.tolist()]


def similarity(
    network: CarZeroNetwork, image: Tensor, text: TextFeatures, raw: Sequence[str], kind: Similarity = "fusion"
) -> Tensor:
    """(B, 1 + P, D) images and T texts -> (B, T) of the wanted kind.

    raw: the texts before cleaning, whose characters the published local similarity counts.
    Raises SettingsError for another kind, PromptError for texts that are too long for it.
    """
    if kind == "fusion":
        return fusion_logits(network, image, text)
    if kind == "global":
        return global_similarity(image, text)
    if kind not in ("local", "both"):
        raise SettingsError(f"similarity: expected 'fusion', 'global', 'local' or 'both', got {kind!r}.")
    by_characters = network.settings.word_lengths == "characters"
    lengths = character_lengths(raw) if by_characters else word_lengths(text)
    local = local_similarity(image, text.padded_words(), lengths)
    return local if kind == "local" else (local + global_similarity(image, text)) / 2


def by_finding(scores: Tensor, owner: Tensor, findings: int, combine: Combine = "mean") -> Tensor:
    """Scores of sentences (..., T) -> of findings (..., F), mean or largest of each finding's sentences.

    owner: (T,) int64 finding of each sentence; every finding has one at least.
    """
    if combine not in ("mean", "max"):
        raise SettingsError(f"combine: expected 'mean' or 'max', got {combine!r}.")
    groups = [scores[..., owner == finding] for finding in range(findings)]
    return torch.stack([group.mean(-1) if combine == "mean" else group.amax(-1) for group in groups], dim=-1)


def pair_probability(positive: Tensor, negative: Tensor) -> Tensor:
    """Probability of "There is X" against "There is no X" by softmax over their two logits, in [0, 1]."""
    return torch.sigmoid(positive - negative)
