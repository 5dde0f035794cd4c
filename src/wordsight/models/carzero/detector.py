"""CARZero as a detector: images in, predictions out; findings are whatever the bound prompts say."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wordsight.errors import PromptError, PromptWarning, SettingsError
from wordsight.imaging import CARZERO_INPUT, InputSpec, Prepared, prepared
from wordsight.models.carzero.asking import AskedTexts
from wordsight.models.carzero.grounding import Enlarge, enlarge
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.prompt_cache import PromptCache, text_key
from wordsight.models.carzero.scoring import (
    Combine,
    Similarity,
    by_finding,
    fusion_logits_and_maps,
    pair_probability,
    similarity,
)
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.text_encoder import TextFeatures
from wordsight.models.carzero.text_input import TextInput, Tokens, clean, find_text_folder
from wordsight.models.carzero.weights import load_network, state_of, text_shape, write_safetensors
from wordsight.models.precision import Precision, PrecisionChoice, autocast, resolve_precision
from wordsight.models.runtime import Runtime, resolve_runtime, running
from wordsight.models.tensor_files import hash_tensors
from wordsight.types import Float32, Geometry, Heatmap, Image, Prediction, PromptSet, ScoreKind


def input_spec(settings: CarZeroSettings) -> InputSpec:
    """What `prepare` must do with an image; the published letterbox, in proportion for other sizes."""
    size = settings.image_size
    if (size, size) == CARZERO_INPUT.size:
        return CARZERO_INPUT
    return replace(CARZERO_INPUT, size=(size, size), resize_to=round(size * 256 / 224))


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """Encoded images, to be asked as often as wanted: tokens (B, 1 + P, D), the global one first."""

    tokens: Tensor
    geometries: tuple[Geometry, ...]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, rows: slice) -> ImageFeatures:
        return ImageFeatures(self.tokens[rows], self.geometries[rows], self.sources[rows])


@dataclass(frozen=True, slots=True)
class PromptFeatures:
    """Encoded sentences of a prompt set, those that state findings before those that deny them.

    raw: the sentences; positive: how many of them state findings. owner: (T,) int64 finding of each sentence, on the
    CPU. asked: the same texts for the fusion module, which computes its part of them once for all images.
    """

    prompts: PromptSet
    raw: tuple[str, ...]
    positive: int
    text: TextFeatures
    owner: Tensor
    asked: AskedTexts


@dataclass(frozen=True, eq=False)
class CarZero:
    """Images against sentences by cross-attention.

    network, text_input: the encoders and the tokenizer. weights_hash: of all weights. prompts: the bound findings,
    None before `with_prompts`. scores: "logit" of the positive sentences as published, or "pair", the probability of
    "There is X" against "There is no X". combine: mean or max over the sentences of a finding, None for what the
    prompt set says. similarity: what compares image and sentence; all but "fusion" are for comparison. maps: whether
    predictions carry attention maps. enlarge: "smooth" leaves the cells as they are (a heatmap is bilinear between
    their centres), "nearest" repeats each over its pixels, as published. runtime: how the image encoder runs, see
    `models.runtime`.
    """

    network: CarZeroNetwork
    text_input: TextInput
    weights_hash: str
    prompts: PromptFeatures | None = None
    scores: Literal["logit", "pair"] = "logit"
    combine: Combine | None = None
    similarity: Similarity = "fusion"
    maps: bool = True
    enlarge: Enlarge = "smooth"
    precision: Precision = "fp32"
    runtime: Runtime = "eager"
    batch_size: int = 8

    def __post_init__(self) -> None:
        if self.scores not in ("logit", "pair"):
            raise SettingsError(f"scores: expected 'logit' or 'pair', got {self.scores!r}.")
        if self.scores == "pair" and self.similarity != "fusion":
            raise SettingsError(f"scores='pair' needs the logits of similarity='fusion', got {self.similarity!r}.")
        if self.scores == "pair" and self.prompts is not None and self.prompts.prompts.negative is None:
            raise PromptError(
                "scores='pair': expected a sentence that denies each finding, got none. Give the prompt set negative "
                "sentences, for example 'There is no pleural effusion'."
            )

    # -- making one ------------------------------------------------------------------------------------------------

    @classmethod
    def from_network(
        cls,
        network: CarZeroNetwork,
        text: str | Path,
        *,
        device: str | torch.device = "cpu",
        precision: PrecisionChoice = "fp32",
        runtime: Runtime = "eager",
    ) -> CarZero:
        """A detector around a network (in eval mode, moved to the device); text: see `TextInput`.

        precision: of computations, "auto" for the fastest that the device has (`choose_precision`). runtime: "compile"
        speeds the image encoder up where torch.compile works, see `models.runtime`.
        """
        text_input = TextInput(text, network.settings)
        digest = hash_tensors(state_of(network))[:16]
        precise, runs = resolve_precision(precision, device), resolve_runtime(runtime, device)
        return cls(network.eval().to(device), text_input, digest, precision=precise, runtime=runs)

    @classmethod
    def from_published(
        cls,
        weights: str | Path,
        *,
        text: str | Path,
        settings: CarZeroSettings | None = None,
        device: str | torch.device = "cpu",
        precision: PrecisionChoice = "fp32",
        runtime: Runtime = "eager",
        download: bool = False,
    ) -> CarZero:
        """Weights of a published checkpoint (CARZero_best_model.ckpt) or of our safetensors.

        text: the text encoder's folder, for its tokenizer and config.json, or its name on the Hugging Face Hub if it is
        in this computer's cache; download: fetch it there (see `find_text_folder`). settings: None takes those stored
        with the weights, else the published ones. Raises WeightsError for files that are missing or do not fit,
        SettingsError for a text encoder that is no BERT.
        """
        folder = find_text_folder(text, download=download)
        network = load_network(weights, settings, bert=text_shape(folder))
        return cls.from_network(network, folder, device=device, precision=precision, runtime=runtime)

    def save(self, path: str | Path) -> None:
        """All weights and settings into one safetensors file, which `from_published` reads."""
        write_safetensors(path, self.network)

    def with_prompts(self, prompts: PromptSet, *, cache: PromptCache | None = None) -> CarZero:
        """The same detector for these findings; their sentences are encoded once, here, or taken from the cache."""
        return replace(self, prompts=self.encode_prompts(prompts, cache=cache))

    # -- what it says of itself --------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """ "carzero"."""
        return "carzero"

    @property
    def settings(self) -> CarZeroSettings:
        """Settings of the network."""
        return self.network.settings

    @property
    def findings(self) -> tuple[str, ...]:
        """Findings of the bound prompts. Raises PromptError without any."""
        return self._bound(None).prompts.findings

    @property
    def score_kind(self) -> ScoreKind:
        """Logits, probabilities of sentence pairs, or similarities of what is for comparison."""
        if self.similarity != "fusion":
            return ScoreKind.SIMILARITY
        return ScoreKind.LOGIT if self.scores == "logit" else ScoreKind.PROBABILITY

    @property
    def input_spec(self) -> InputSpec:
        """What `prepare` must do with an image; the published letterbox, in proportion for other sizes."""
        return input_spec(self.settings)

    @property
    def takes_prepared(self) -> bool:
        """True: images may be prepared already."""
        return True

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    # -- images and sentences -> features -> scores and maps -----------------------------------------------------------

    @torch.no_grad()
    def encode(self, images: Sequence[Image | Prepared]) -> ImageFeatures:
        """Images to features, in batches; 0.6 MB per image for the published network, kept on the device.

        Images may be prepared already, by `input_spec`.
        """
        tokens, geometries = [], list[Geometry]()
        for start in range(0, len(images), self.batch_size):
            ready = [prepared(image, self.input_spec) for image in images[start : start + self.batch_size]]
            arrays = torch.from_numpy(np.stack([image.array for image in ready])).to(self.device)
            with autocast(self.device, self.precision), running(self.runtime):
                tokens.append(self.network.encode_images(arrays).float())
            geometries += [image.geometry for image in ready]
        none = torch.zeros(0, 1 + self.settings.grid**2, self.settings.width, device=self.device)
        return ImageFeatures(torch.cat([none, *tokens]), tuple(geometries), tuple(image.source for image in images))

    @torch.no_grad()
    def encode_prompts(self, prompts: PromptSet, *, cache: PromptCache | None = None) -> PromptFeatures:
        """Sentences to features; longer ones than the network's text length are cut as published, with a PromptWarning.

        cache: features that were encoded before by the same weights are read from it, others are written to it.
        Raises PromptError for a sentence of which cleaning leaves nothing, since all such sentences look alike.
        """
        groups = [*prompts.positive, *(prompts.negative or ())]
        raw = tuple(sentence for group in groups for sentence in group)
        empty = [sentence for sentence in raw if not clean(sentence, self.settings)]
        if empty:
            raise PromptError(
                f"prompt {empty[0]!r}: expected a sentence, got one of which the text cleaning leaves nothing. Write "
                "more words ('There is cardiomegaly'), or load the network with CarZeroSettings().corrected()."
            )
        self._warn_of_cuts(raw)
        count = len(prompts.findings)
        owner = torch.tensor([place % count for place, group in enumerate(groups) for _ in group])
        tokens = self.text_input(raw)
        if cache is None:
            text = self._encode_tokens(tokens)
        else:
            key = text_key(tokens, self.weights_hash, self.settings, f"{self.precision} {self.device.type}")
            text = cache.get(key, lambda: self._encode_tokens(tokens)).to(self.device)
        asked = AskedTexts(self.network, text)
        return PromptFeatures(prompts, raw, sum(map(len, prompts.positive)), text, owner, asked)

    def _warn_of_cuts(self, sentences: Sequence[str]) -> None:
        """One warning for each sentence that is longer than the network's text length."""
        for sentence in dict.fromkeys(sentences):
            lost = self.text_input.cut(sentence)
            if lost:
                named = f"{sentence[:60]}..." if len(sentence) > 60 else sentence
                warnings.warn(
                    f"prompt {named!r}: longer than the {self.settings.text_length} tokens that this network reads; "
                    f"not read: {lost!r}. Say it in fewer words, or as several sentences of one finding.",
                    PromptWarning,
                    stacklevel=3,
                )

    def _encode_tokens(self, tokens: Tokens) -> TextFeatures:
        """Tokens to features, 64 texts of like length at a time, since each batch is as long as its longest."""
        order = tokens.mask.sum(1).argsort(stable=True)
        with autocast(self.device, self.precision):
            parts = [self.network.encode_texts(tokens[rows].to(self.device)) for rows in torch.split(order, 64)]
        return TextFeatures.joined(parts)[order.argsort().to(self.device)]

    def _bound(self, prompts: PromptSet | PromptFeatures | None) -> PromptFeatures:
        """Given prompts, or the bound ones."""
        if isinstance(prompts, PromptSet):
            return self.encode_prompts(prompts)
        found = prompts or self.prompts
        if found is None:
            raise PromptError(
                "expected prompts, got none: CARZero finds what it is asked for. Bind them with "
                "with_prompts(PromptSet.of('There is pleural effusion')) or give them to the call."
            )
        return found

    def score(self, features: ImageFeatures, prompts: PromptSet | PromptFeatures | None = None) -> Float32:
        """(images, findings) float32: logits, or probabilities with scores="pair".

        prompts: None takes the bound ones. Raises PromptError without any.
        """
        return self._look(features, self._bound(prompts), maps=False)[0]

    def ground(
        self, features: ImageFeatures, prompts: PromptSet | PromptFeatures | None = None
    ) -> list[tuple[Heatmap, ...]]:
        """For every image one heatmap per finding on the image's own grid, NaN where the network never looked.

        Values (ScoreKind.ATTENTION) are shares of attention per cell, mean of the layers and of the finding's
        positive sentences; 1 / cells where attention is even.
        Raises SettingsError for a network whose memory has no local tokens.
        """
        asked = self._bound(prompts)
        maps = self._look(features, asked, maps=True)[1]
        assert maps is not None
        rows = zip(maps, features.geometries, strict=True)
        return [
            tuple(
                Heatmap(finding, geometry.to_image(values), ScoreKind.ATTENTION)
                for finding, values in zip(asked.prompts.findings, of_image, strict=True)
            )
            for of_image, geometry in rows
        ]

    @torch.no_grad()
    def _look(self, features: ImageFeatures, asked: PromptFeatures, *, maps: bool) -> tuple[Float32, Float32 | None]:
        """Scores (B, F), and with `maps` attention: (B, F, g, g), or (B, F, S, S) of repeated cells."""
        count = len(asked.prompts.findings)
        side = self.settings.grid if self.enlarge == "smooth" else self.settings.image_size
        scores, pictures = [torch.zeros(0, count)], [torch.zeros(0, count, side, side)]
        for start in range(0, len(features), self.batch_size):
            image = features[start : start + self.batch_size].tokens
            with autocast(self.device, self.precision):
                sentences, attention = self._compare(image, asked, maps)
            # choosing sentences by a mask makes a GPU wait, once per finding; on the CPU it costs nothing
            scores.append(self._per_finding(sentences.float().cpu(), asked))
            if attention is not None:
                pictures.append(self._maps_per_finding(attention.float().cpu(), asked))
        return torch.cat(scores).numpy(), torch.cat(pictures).numpy() if maps else None

    def _compare(self, image: Tensor, asked: PromptFeatures, maps: bool) -> tuple[Tensor, Tensor | None]:
        """Every sentence against every image: (B, T), and with `maps` (B, T, g, g)."""
        other = None
        if self.similarity != "fusion":
            other = similarity(self.network, image, asked.text, asked.raw, self.similarity)
        if not maps:
            return (asked.asked.compare(image)[0].mean if other is None else other), None
        logits, attention = fusion_logits_and_maps(self.network, image, asked.asked)
        return (logits if other is None else other), attention

    def _per_finding(self, sentences: Tensor, asked: PromptFeatures) -> Tensor:
        """(B, T) -> (B, F)."""
        count, split, combine = len(asked.prompts.findings), asked.positive, self.combine or asked.prompts.how
        positive = by_finding(sentences[:, :split], asked.owner[:split], count, combine)
        if self.scores == "logit":
            return positive
        if asked.prompts.negative is None:
            raise PromptError("scores='pair': expected a sentence that denies each finding, got none. Add them.")
        return pair_probability(positive, by_finding(sentences[:, split:], asked.owner[split:], count, combine))

    def _maps_per_finding(self, attention: Tensor, asked: PromptFeatures) -> Tensor:
        """(B, T, g, g) -> (B, F, g, g) or (B, F, S, S), the mean of each finding's positive sentences."""
        split = asked.positive
        cells = attention[:, :split].permute(0, 2, 3, 1)  # (B, g, g, T)
        means = by_finding(cells, asked.owner[:split], len(asked.prompts.findings)).permute(0, 3, 1, 2)
        return means if self.enlarge == "smooth" else enlarge(means, self.settings.image_size, self.enlarge)

    def predict(self, images: Sequence[Image | Prepared]) -> list[Prediction]:
        """One prediction per image, see `encode`, for the bound prompts; the same alone or in a batch.

        Raises PromptError without prompts.
        """
        asked = self._bound(None)
        parts = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        return [prediction for part in parts for prediction in self.answer(self.encode(part), asked)]

    def answer(self, features: ImageFeatures, prompts: PromptSet | PromptFeatures | None = None) -> list[Prediction]:
        """What `predict` gives, for images that are encoded already. prompts: None takes the bound ones."""
        asked, out = self._bound(prompts), []
        scores, maps = self._look(features, asked, maps=self.maps and self.settings.memory != "global")
        for i, (geometry, source) in enumerate(zip(features.geometries, features.sources, strict=True)):
            amap = None if maps is None else maps[i]
            row = (asked.prompts.findings, scores[i], self.score_kind, amap, geometry, self.weights_hash, source)
            out.append(Prediction(*row, map_kind=ScoreKind.ATTENTION))
        return out
