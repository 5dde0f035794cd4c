"""Text side: learned context vectors around state words (MLA-LP) and the fixed sentence ensemble (MVFA)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wordsight.errors import PromptError
from wordsight.models.mla.backbone import Clip, Tokenizer
from wordsight.models.mla.settings import Position
from wordsight.text.states import (
    ABNORMAL_WORDS,
    ENSEMBLE_ABNORMAL,
    ENSEMBLE_NORMAL,
    ENSEMBLE_SENTENCES,
    NORMAL_WORDS,
)

PLACEHOLDERS = ("X", "x", "a", "the", "of")
"""Words that stand where context vectors go; the first that a tokenizer keeps in one piece, CLIP's and BERT's is X."""


def _placeholder(tokenizer: Tokenizer) -> str:
    for word in PLACEHOLDERS:
        if tokenizer.length(word) == 1 and tokenizer.length(f"{word} {word} {word}") == 3:
            return word
    raise PromptError(f"expected a tokenizer that keeps one of {', '.join(PLACEHOLDERS)} whole. Check its files.")


class LearnedPrompts(nn.Module):
    """`context` learned vectors per state word, which the frozen text tower reads in place of word embeddings.

    causal: False attends all positions, as published; True keeps the mask of CLIP's text tower. Towers of transformers
    (BERT and others) have no such mask and were trained with padding masked; they run so in both cases.

    Calling it gives (D, 2) unit features: per class the mean over its words (and positions) of the text features,
    which are not normalised one by one, divided by its norm.
    """

    def __init__(
        self,
        clip: Clip,
        context: int,
        positions: Sequence[Position] = ("end",),
        *,
        causal: bool = False,
        words: tuple[Sequence[str], Sequence[str]] = (NORMAL_WORDS, ABNORMAL_WORDS),
        generator_seed: int = 111,
    ) -> None:
        super().__init__()
        self._clip = (clip,)
        self._context, self._positions, self._causal = context, tuple(positions), causal
        self._placeholder, self._first = _placeholder(clip.tokenizer), clip.tokenizer.prefix
        generator, place = torch.Generator().manual_seed(generator_seed), clip.text.token_embedding.weight.device
        self.ctx = nn.ParameterDict()
        for name, group in zip(("normal", "abnormal"), words, strict=True):
            if not group:
                raise PromptError(f"expected at least one {name} state word, got none.")
            ids = self._token_ids(clip, group)
            self.register_buffer(f"_{name}_ids", ids, persistent=False)
            # the published network keeps these rows from construction on; the backbone is frozen, so they are the same
            self.register_buffer(
                f"_{name}_rows", clip.text.token_embedding(ids.to(place)).detach().clone(), persistent=False
            )
            setattr(self, f"_{name}_lengths", [self._word_length(clip, word) for word in group])
            for position in self._positions:
                start = 0.02 * torch.randn(len(group), context, clip.text_width, generator=generator)
                self.ctx[f"{name}_{position}"] = nn.Parameter(start)

    def _token_ids(self, clip: Clip, words: Sequence[str]) -> Tensor:
        prefix = " ".join([self._placeholder] * self._context)
        sentences = [f"{prefix} {word}." if prefix else f"{word}." for word in words]
        needed = max(clip.tokenizer.length(sentence) for sentence in sentences) + clip.tokenizer.special
        if needed > clip.context_length:
            raise PromptError(
                f"expected prompts of at most {clip.context_length} tokens, got {needed} with {self._context} context "
                "vectors. Use fewer context vectors or shorter state words."
            )
        return clip.tokenizer(sentences)

    def _word_length(self, clip: Clip, word: str) -> int:
        """Tokens of a state word where it stands in a prompt: byte pairs may differ at the start of a text."""
        return clip.tokenizer.length(f"{self._placeholder} {word}") - 1

    def _assemble(self, name: str, position: Position) -> Tensor:
        """Embeddings of every prompt of a class: (words, context_length, text_width)."""
        rows: Tensor = getattr(self, f"_{name}_rows")
        contexts = self.ctx[f"{name}_{position}"]
        n, first = self._context, self._first
        start, rest = rows[:, :first], rows[:, first + n :]  # rest: word, dot, end of text, padding
        if position == "end":
            return torch.cat([start, contexts, rest], dim=1)
        before = n // 2 if position == "middle" else 0
        prompts = []
        for i, length in enumerate(getattr(self, f"_{name}_lengths")):
            word, tail = rest[i, :length], rest[i, length:]
            prompts.append(torch.cat([start[i], contexts[i, :before], word, contexts[i, before:], tail]))
        return torch.stack(prompts)

    def features(self, name: str) -> Tensor:
        """Text features before mean and normalisation, positions one after the other: (words * positions, D)."""
        return self._encoded((name,))[0]

    def _encoded(self, names: Sequence[str]) -> tuple[Tensor, ...]:
        """`features` of some classes in one pass of the text tower: larger products are faster ones."""
        each = [(name, position) for name in names for position in self._positions]
        ids = [getattr(self, f"_{name}_ids") for name, _ in each]
        rows = [self._assemble(*one) for one in each]
        features = self._clip[0].text.features(torch.cat(rows), torch.cat(ids), self._causal)
        counts = [len(getattr(self, f"_{name}_ids")) * len(self._positions) for name in names]
        return torch.split(features, counts)

    def forward(self) -> Tensor:
        """(D, 2) unit text features, column 0 normal, column 1 abnormal."""
        means = [features.mean(dim=0) for features in self._encoded(("normal", "abnormal"))]
        return torch.stack([mean / mean.norm() for mean in means], dim=1)


@torch.no_grad()
def ensemble_features(clip: Clip, object_name: str, *, causal: bool = True, batch_size: int = 64) -> Tensor:
    """MVFA's fixed prompts: (D, 2) from 7 x 35 normal and 5 x 35 abnormal sentences about `object_name`.

    Each sentence feature is normalised, averaged per class and normalised again.
    """
    columns = []
    for states in (ENSEMBLE_NORMAL, ENSEMBLE_ABNORMAL):
        sentences = [s.format(state.format(object_name)) for state in states for s in ENSEMBLE_SENTENCES]
        ids = clip.tokenizer(sentences).to(clip.text.token_embedding.weight.device)
        unit = torch.cat([clip.text.encode(part, causal) for part in torch.split(ids, batch_size)])
        mean = (unit / unit.norm(dim=-1, keepdim=True)).mean(dim=0)
        columns.append(mean / mean.norm())
    return torch.stack(columns, dim=1)
