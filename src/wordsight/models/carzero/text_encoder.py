"""BERT's last hidden states, summed into words and averaged into a sentence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
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

    def __getitem__(self, rows: slice) -> TextFeatures:
        return TextFeatures(self.sentence[rows], self.words[rows], self.count[rows], self.length)

    @property
    def padding(self) -> int:
        """Positions that hold zero vectors in every text and are not stored."""
        return self.length - int(self.words.shape[1])

    def padded_words(self) -> Tensor:
        """(T, L, D) with all zero vectors, as published."""
        return nn.functional.pad(self.words, (0, 0, 0, self.padding))


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
        self.model = BertModel(config)
        # part of every BERT file, read by nothing here
        self.model.pooler.requires_grad_(False)

    def forward(self, tokens: Tokens) -> TextFeatures:
        """T texts -> words and sentences. Padding is cut off before the BERT, which masks it anyway."""
        longest = max(int(tokens.mask.sum(1).max()), 1) if len(tokens) else 1
        ids, mask = tokens.ids[:, :longest], tokens.mask[:, :longest]
        states = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        pieces = torch.stack(states[-self.last_states :]).sum(0)  # (T, longest, D)
        words = sum_words(pieces, tokens.word[:, :longest], tokens.words)
        return TextFeatures(words.sum(1) / tokens.length, words, tokens.words, tokens.length)


def sum_words(pieces: Tensor, word: Tensor, count: Tensor) -> Tensor:
    """(T, n, D) vectors of pieces -> (T, W, D) sums over the pieces of each word; W is the largest count.

    word: (T, n) word of each piece; W or more for pieces that belong to none.
    """
    most = int(count.max()) if len(count) else 0
    place = word.clamp(max=most)[..., None].expand_as(pieces)
    sums = pieces.new_zeros(pieces.shape[0], most + 1, pieces.shape[2]).scatter_add(1, place, pieces)
    return sums[:, :most]
