"""Both encoders in memory that grows with a part of the batch: activations are forgotten and computed again.

For the gradient a ViT-B/16 keeps 63 MiB of an image in bf16, a BERT up to 59 MiB of a text of 97 tokens: 31 GiB for 256
of both. In parts, only those of one part are there at a time, for a third more multiplications (Chen et al., "Training
Deep Nets with Sublinear Memory Cost", 2016).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wordsight.errors import SettingsError
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.text_encoder import TextFeatures
from wordsight.models.carzero.text_input import Tokens


def images_in_parts(network: CarZeroNetwork, images: Tensor, part: int | None) -> Tensor:
    """`network.encode_images`, at most `part` images at a time; None: all at once, and nothing is computed again.

    Without dropout values and gradients are the same but for rounding. A ResNet-50, whose batch normalisation takes all
    images together, always runs at once. Raises SettingsError for parts of less than one image.
    """
    _check(part)
    if part is None or network.settings.vit is None or not torch.is_grad_enabled():
        return network.encode_images(images)
    parts = [checkpoint(network.encode_images, some, use_reentrant=False) for some in torch.split(images, part)]
    return torch.cat(parts)


def texts_in_parts(network: CarZeroNetwork, tokens: Tokens, part: int | None) -> TextFeatures:
    """`network.encode_texts` in the same way, each part as long as its longest text."""
    _check(part)
    if part is None or not torch.is_grad_enabled():
        return network.encode_texts(tokens)

    def encode(*fields: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = network.encode_texts(Tokens(*fields))
        return found.sentence, found.words, found.count

    # tensors one by one: from them `checkpoint` knows whose random numbers dropout has to draw again
    split = zip(*(torch.split(x, part) for x in (tokens.ids, tokens.mask, tokens.word, tokens.words)), strict=True)
    found = [checkpoint(encode, *fields, use_reentrant=False) for fields in split]
    return TextFeatures.joined([TextFeatures(*features, tokens.length) for features in found])


def _check(part: int | None) -> None:
    if part is not None and part < 1:
        raise SettingsError(f"part: expected at least 1 image in a part, got {part}. Use None for all at once.")
