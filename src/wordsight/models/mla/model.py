"""Multi-level adapters in the residual stream of a frozen CLIP image tower, and their logits against the text.

References: MVFA (Huang et al., "Adapting Visual-Language Models for Generalizable Anomaly Detection in Medical
Images", CVPR 2024), from which MLA-LP takes the adapters, and MLA-LP (multi-level adapters, learnable prompts).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wordsight.errors import SettingsError
from wordsight.models.mla.backbone import Clip
from wordsight.models.mla.loss import LossParts, training_loss
from wordsight.models.mla.prompts import LearnedPrompts, ensemble_features
from wordsight.models.mla.settings import MlaSettings


class Adapter(nn.Module):
    """Two bias-free linear layers; the middle of the bottleneck is the feature, its output goes into the stream."""

    def __init__(self, width: int, middle: int, slope: float) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(width, middle, bias=False), nn.LeakyReLU(slope))
        self.fc2 = nn.Sequential(nn.Linear(middle, width, bias=False), nn.LeakyReLU(slope))

    def features(self, x: Tensor) -> Tensor:
        """The middle of the bottleneck, (..., W) -> (..., D): what is compared with text and memory."""
        middle: Tensor = self.fc1(x)
        return middle

    def output(self, middle: Tensor) -> Tensor:
        """From the middle back to the stream's width, (..., D) -> (..., W)."""
        out: Tensor = self.fc2(middle)
        return out


@dataclass(frozen=True, slots=True)
class Tokens:
    """Adapter features per level, prefix tokens first: seg and det are L tensors (B, N + P, D).

    Where nothing reads the seg branch, levels whose features do not go into the stream either are left out.
    """

    seg: tuple[Tensor, ...]
    det: tuple[Tensor, ...]


class MlaNetwork(nn.Module):
    """The adapted image tower and its prompts; only adapters and contexts are parameters to train."""

    def __init__(self, clip: Clip, settings: MlaSettings, *, seed: int = 111) -> None:
        super().__init__()
        if settings.levels[-1] > clip.vision_layers:
            raise SettingsError(
                f"levels: expected block numbers up to {clip.vision_layers} for {clip.architecture}, "
                f"got {settings.levels}. Set levels to blocks that exist."
            )
        self.settings = settings
        self._clip = (clip,)  # a tuple, so that the frozen backbone is no submodule and stays out of state dicts
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # that of the CPU alone
            count, width, middle = len(settings.levels), clip.vision_width, clip.embed_dim
            self.seg_adapters = nn.ModuleList(Adapter(width, middle, settings.slope) for _ in range(count))
            self.det_adapters = nn.ModuleList(Adapter(width, middle, settings.slope) for _ in range(count))
            self.prompt_learner = (
                LearnedPrompts(
                    clip, settings.context, settings.positions, causal=settings.causal_text, generator_seed=seed
                )
                if settings.prompts == "learned"
                else None
            )
        self._ensembles: dict[str, Tensor] = {}

    @property
    def clip(self) -> Clip:
        """The frozen backbone."""
        return self._clip[0]

    def _adapters(self) -> Iterator[tuple[Adapter, Adapter]]:
        """(seg, det) of every level."""
        for seg, det in zip(self.seg_adapters, self.det_adapters, strict=True):
            assert isinstance(seg, Adapter)
            assert isinstance(det, Adapter)
            yield seg, det

    def stem(self, images: Tensor) -> Tensor:
        """Frozen blocks up to the first adapter: (B, 3, S, S) -> (B, N + P, W). Depends on nothing that is trained."""
        with torch.no_grad():
            x = self.clip.vision.embed(images)
            for block in self.clip.vision.blocks[: self.settings.levels[0]]:
                x = block(x)
        return x

    @property
    def frozen_levels(self) -> int:
        """F, the levels whose stream depends on nothing trained: all where adapters write nothing there, else one."""
        return 1 if self.settings.mix else len(self.settings.levels)

    def frozen(self, images: Tensor) -> Tensor:
        """The stream after the blocks of the first F levels, (B, 3, S, S) -> (B, F, N + P, W), for `adapt`."""
        with torch.no_grad():
            streams = [self.stem(images)]
            for level in range(1, self.frozen_levels):
                streams.append(self._advanced(streams[-1], level))
            return torch.stack(streams, dim=1)

    def _advanced(self, x: Tensor, level: int) -> Tensor:
        """From the level before to the end of a level's block, (B, N + P, W)."""
        for block in self.clip.vision.blocks[self.settings.levels[level - 1] : self.settings.levels[level]]:
            x = block(x)
        return x

    def forward(self, images: Tensor, *, seg: bool = True) -> Tokens:
        """(B, 3, S, S) -> adapter features of every level; seg as in `adapt`."""
        return self.adapt(self.frozen(images), seg=seg)

    def adapt(self, frozen: Tensor, *, seg: bool = True) -> Tokens:
        """What `frozen` gives, (B, F, N + P, W) -> adapter features of every level.

        x <- (1 - 2 mix) x + mix seg + mix det after each level but the last, whose output nothing reads; without mix
        the stream is known at every level, and no block runs here. seg: whether anything reads the seg branch; features
        that go into the stream are made in any case.
        """
        levels, mix = self.settings.levels, self.settings.mix
        streams = list(frozen.unbind(dim=1))
        seg_features, det_features = [], []
        for level, (seg_adapter, det_adapter) in enumerate(self._adapters()):
            x = streams[level]
            writes = len(streams) == level + 1 < len(levels)
            det_features.append(det_adapter.features(x))  # (B, N + P, D)
            if seg or writes:
                seg_features.append(seg_adapter.features(x))
            if writes:
                mixed = mix * seg_adapter.output(seg_features[-1]) + mix * det_adapter.output(det_features[-1])
                streams.append(self._advanced((1 - 2 * mix) * x + mixed, level + 1))
        return Tokens(tuple(seg_features), tuple(det_features))

    def text(self, object_name: str | None = None) -> Tensor:
        """Unit text features (D, 2): column 0 normal, column 1 abnormal.

        object_name: what the fixed sentences speak of (MVFA); learned prompts name no object.
        """
        if self.prompt_learner is not None:
            features: Tensor = self.prompt_learner()
            return features
        name = object_name or self.settings.object_name
        if name not in self._ensembles:
            self._ensembles[name] = ensemble_features(self.clip, name, causal=self.settings.causal_text)
        return self._ensembles[name]

    def patches(self, tokens: Tensor) -> Tensor:
        """Without the N class and register tokens: (B, N + P, D) -> (B, P, D)."""
        return tokens[:, self.clip.prefix_tokens :]

    def margin(self, tokens: Tensor, text: Tensor) -> Tensor:
        """temperature * cos(patch, abnormal) - temperature * cos(patch, normal): (B, N + P, D), (D, 2) -> (B, P)."""
        patches = self.patches(tokens)
        logits: Tensor = self.settings.temperature * (patches / patches.norm(dim=-1, keepdim=True)) @ text  # (B, P, 2)
        return logits[..., 1] - logits[..., 0]

    def pooled(self, images: Tensor) -> Tensor:
        """MVFA's image feature: the mixed stream as the tower pools and projects it, (B, embed_dim); not scored."""
        x = self.stem(images)
        levels, mix = self.settings.levels, self.settings.mix
        ends = [*levels[1:], self.clip.vision_layers]
        for level, (seg, det) in enumerate(self._adapters()):
            x = (1 - 2 * mix) * x + mix * seg.output(seg.features(x)) + mix * det.output(det.features(x))
            for block in self.clip.vision.blocks[levels[level] : ends[level]]:
                x = block(x)
        return self.clip.vision.finish(x)

    def to_device(self, device: torch.device | str) -> MlaNetwork:
        """Move the network, its frozen backbone and cached text features to a device (in place)."""
        self.clip.to(device)
        self.to(device)
        self._ensembles = {name: features.to(device) for name, features in self._ensembles.items()}
        return self

    def loss(self, tokens: Tokens, text: Tensor, label: Tensor, mask: Tensor | None) -> LossParts:
        """Losses of a batch; without masks the seg branch is not looked at."""
        det = [self.margin(level, text) for level in tokens.det]
        seg = [] if mask is None else [self.margin(level, text) for level in tokens.seg]
        return training_loss(det, seg, label, mask, self.settings)
