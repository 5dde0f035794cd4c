"""CARZero (Lai et al., "CARZero: Cross-Attention Alignment for Radiology Zero-Shot Classification", CVPR 2024).

    image --ViT--> 1 + P tokens ----memory--> fusion <--query---- sentence         i2t logits
                   global token ----query---> fusion <--memory--- sentence, words  t2i logits
    text --BERT--> words, sentence

Both fusions are the same module with the same weights; a score is the mean of the two logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wordsight.models.carzero.fusion import Memory, SimilarityFusion
from wordsight.models.carzero.image_encoder import image_encoder
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.text_encoder import TextEncoder, TextFeatures
from wordsight.models.carzero.text_input import Tokens


@dataclass(frozen=True, slots=True)
class PairLogits:
    """Every image against every text: i2t (B, T) sentences asking images, t2i (T, B) images asking texts."""

    i2t: Tensor
    t2i: Tensor

    @property
    def mean(self) -> Tensor:
        """(B, T), the published score."""
        return (self.i2t + self.t2i.T) / 2


class CarZeroNetwork(nn.Module):
    """Two encoders and the fusion module between them. Attribute names are those of the published files."""

    def __init__(self, settings: CarZeroSettings, *, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.text_encoder = TextEncoder(settings.text, settings.last_states)
            self.img_encoder = image_encoder(settings)
            self.fusion_module = SimilarityFusion(settings)

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + P, D), the global token first."""
        tokens: Tensor = self.img_encoder(images)
        return tokens

    def encode_texts(self, tokens: Tokens) -> TextFeatures:
        """T texts -> sentences and words."""
        features: TextFeatures = self.text_encoder(tokens)
        return features

    def image_tokens(self, image: Tensor) -> Tensor:
        """What sentences look at in images (B, 1 + P, D): the tokens that the settings name."""
        kept = {"global": image[:, :1], "local": image[:, 1:], "global+local": image}
        return kept[self.settings.memory]

    def text_tokens(self, text: TextFeatures) -> tuple[Tensor, int]:
        """What images look at in texts: sentence and words, and how many zero vectors follow them."""
        sentence = text.sentence[:, None]
        if self.settings.memory == "global":
            return sentence, 0
        tokens = text.words if self.settings.memory == "local" else torch.cat([sentence, text.words], dim=1)
        return tokens, text.padding

    def image_memory(self, image: Tensor) -> Memory:
        """Keys and values of images (B, 1 + P, D)."""
        return self.fusion_module.remember(self.image_tokens(image))

    def text_memory(self, text: TextFeatures) -> Memory:
        """Keys and values of texts."""
        return self.fusion_module.remember(*self.text_tokens(text))

    def forward(self, images: Tensor, tokens: Tokens) -> PairLogits:
        """(B, 3, S, S) images and T texts -> logits of all pairs."""
        image, text = self.encode_images(images), self.encode_texts(tokens)
        return self.compare(image, text)

    def compare(self, image: Tensor, text: TextFeatures) -> PairLogits:
        """Encoded images (B, 1 + P, D) and texts -> logits of all pairs."""
        i2t = self.fusion_module.compare(self.image_memory(image), text.sentence)
        t2i = self.fusion_module.compare(self.text_memory(text), image[:, 0])
        return PairLogits(i2t, t2i)
