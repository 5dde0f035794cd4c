"""BERT's last hidden states, summed into words and averaged into a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from wordsight.models.carzero.settings import BertShape
from wordsight.models.carzero.text_input import Tokens


@dataclass(frozen=True, slots=True)
class TextFeatures:
    """What the fusion module sees of T texts.

    sentence: (T, D), the mean over all L positions, zero ones included. words: (T, W, D), [CLS] first, zero vectors
    after a text's last word; positions W..L-1 hold zero vectors in every text and are not stored. count: (T,) int64
    number of words with [CLS] and [SEP]. length: L.
    """

    sentence: Tensor
    words: Tensor
    count: Tensor
    length: int

    def __len__(self) -> int:
        return int(self.sentence.shape[0])

    def __getitem__(self, rows: slice | Tensor) -> TextFeatures:
        return TextFeatures(self.sentence[rows], self.words[rows], self.count[rows], self.length)

    def to(self, device: torch.device | str) -> TextFeatures:
        """The same on a device."""
        return TextFeatures(self.sentence.to(device), self.words.to(device), self.count.to(device), self.length)

    @classmethod
    def joined(cls, parts: Sequence[TextFeatures]) -> TextFeatures:
        """Texts of several batches of one length, at least one; shorter ones get zero vectors."""
        most = max(part.words.shape[1] for part in parts)
        words = [F.pad(part.words, (0, 0, 0, most - part.words.shape[1])) for part in parts]
        sentence, count = torch.cat([part.sentence for part in parts]), torch.cat([part.count for part in parts])
        return cls(sentence, torch.cat(words), count, parts[0].length)

    @property
    def padding(self) -> int:
        """Positions that hold zero vectors in every text and are not stored."""
        return self.length - int(self.words.shape[1])

    def padded_words(self) -> Tensor:
        """(T, L, D) with all zero vectors, as published."""
        return F.pad(self.words, (0, 0, 0, self.padding))


class TextEncoder(nn.Module):
    """A BERT whose last `last_states` hidden states are summed; pieces of a word are summed too."""

    def __init__(self, shape: BertShape, last_states: int = 4) -> None:
        super().__init__()
        self.last_states = last_states
        config = BertConfig(
            vocab_size=shape.vocabulary,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.hidden,
            max_position_embeddings=shape.positions,
            type_vocab_size=shape.segments,
            layer_norm_eps=shape.eps,
            hidden_dropout_prob=shape.dropout,
            attention_probs_dropout_prob=shape.attention_dropout,
        )
        bert: Any = BertModel(config)
        bert.pooler.requires_grad_(False)  # part of every BERT file, read by nothing here
        self.model = bert

    def forward(self, tokens: Tokens) -> TextFeatures:
        """T >= 1 texts -> words and sentences. Padding is cut off before the BERT, which masks it anyway."""
        longest = int(tokens.mask.sum(1).max())
        ids, mask = tokens.ids[:, :longest], tokens.mask[:, :longest]
        states = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        pieces = torch.stack(states[-self.last_states :]).sum(0)  # (T, longest, D)
        words = sum_words(pieces, tokens.word[:, :longest], tokens.words)
        return TextFeatures(words.sum(1) / tokens.length, words, tokens.words, tokens.length)


def sum_words(pieces: Tensor, word: Tensor, count: Tensor) -> Tensor:
    """(T, n, D) vectors of pieces -> (T, W, D) sums over the pieces of each word; W is the largest count.

    word: (T, n) word of each piece; W or more for pieces that belong to none.
    """
    most = int(count.max())
    place = word.clamp(max=most)[..., None].expand_as(pieces)
    sums = pieces.new_zeros(pieces.shape[0], most + 1, pieces.shape[2]).scatter_add(1, place, pieces)
    return sums[:, :most]
