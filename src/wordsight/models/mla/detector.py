"""MLA-LP and MVFA as a detector: images in, predictions out; support images and score scales are bound, not mutated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from wordsight.errors import ImageError
from wordsight.imaging import InputSpec, Prepared, mla_input, prepared
from wordsight.models.mla.augment import VARIANTS, augment
from wordsight.models.mla.backbone import Clip, load_clip
from wordsight.models.mla.loss import square
from wordsight.models.mla.memory import MemoryBank, distance_within
from wordsight.models.mla.model import MlaNetwork, Tokens
from wordsight.models.mla.reading import PUBLISHED, Reading
from wordsight.models.mla.scoring import UNSCALED, Mode, RawScores, ScoreScale, combine
from wordsight.models.mla.settings import MlaSettings
from wordsight.models.precision import Precision, autocast, rounded_products
from wordsight.models.runtime import Runtime, resolve_runtime, running
from wordsight.progress import track
from wordsight.types import Float32, Geometry, Image, Prediction, ScoreKind

if TYPE_CHECKING:
    from wordsight.data import SupportSet


@dataclass(frozen=True, eq=False)
class MlaLp:
    """A frozen CLIP with multi-level adapters, prompts, and (few-shot) a memory bank of normal tokens.

    network: the adapted tower. mode: how scores are made (see scoring.Mode). bank: rows of the normal support images,
    of the branch that makes the maps. relative_bank: the same of relative tokens, where the reading asks for them.
    scale: what maps raw values to [0, 1]. reading: how scores are read off the patches. runtime: how the image tower
    runs, see `models.runtime`. info: how it was trained (plain values).
    """

    network: MlaNetwork
    mode: Mode = "zero-shot"
    map_branch: Literal["seg", "det"] = "seg"
    bank: MemoryBank | None = None
    relative_bank: MemoryBank | None = None
    scale: ScoreScale = UNSCALED
    reading: Reading = PUBLISHED
    precision: Precision = "fp32"
    runtime: Runtime = "eager"
    batch_size: int = 8
    info: Mapping[str, Any] = field(default_factory=dict)
    _texts: list[tuple[list[Tensor], Tensor]] = field(default_factory=list, init=False, repr=False)

    # -- making one ------------------------------------------------------------------------------------------------

    @classmethod
    def from_clip(
        cls,
        architecture: str,
        weights: str | Path | None = None,
        *,
        settings: MlaSettings | None = None,
        seed: int = 111,
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
        runtime: Runtime = "eager",
    ) -> MlaLp:
        """Untrained adapters on any open_clip backbone; "tiny" is the network that ships with the package.

        Without `settings` the published ones are used, with levels at quarter depths of the backbone.
        Raises SettingsError or WeightsError when architecture or weights do not fit.
        """
        wanted = settings or MlaSettings()
        clip = load_clip(architecture, weights, image_size=wanted.image_size, activation=wanted.activation, seed=seed)
        if settings is None:
            wanted = replace(wanted, levels=quarter_levels(clip.vision_layers))
        network = MlaNetwork(clip, wanted, seed=seed).eval().to_device(device)
        return cls(network, precision=precision, runtime=resolve_runtime(runtime, device))

    @classmethod
    def load(cls, path: str | Path, *, weights: str | Path | None = None, device: str | torch.device = "cpu") -> MlaLp:
        """A trained run folder; `weights` names the backbone's file where it is not where training found it."""
        from wordsight.models.mla.storage import load_detector

        return load_detector(Path(path), weights=weights, device=device)

    def save(self, folder: str | Path) -> None:
        """Adapters, contexts, bank, scale and settings into a folder; the backbone is named by hash, not stored."""
        from wordsight.models.mla.storage import save_detector

        save_detector(self, Path(folder))

    def fit(self, support: SupportSet, **options: Any) -> MlaLp:
        """Train adapters and contexts on a support set; returns a new detector. Options: see train.mla.fit_few."""
        from wordsight.train.mla import fit_support  # the one upward import: the method knows how to train itself

        return fit_support(self, support, **options)

    # -- what it says of itself --------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """ "mla" with learned prompts, "mvfa" with the fixed ensemble."""
        return "mla" if self.settings.prompts == "learned" else "mvfa"

    @property
    def settings(self) -> MlaSettings:
        """Settings of the network."""
        return self.network.settings

    @property
    def clip(self) -> Clip:
        """The frozen backbone."""
        return self.network.clip

    @property
    def findings(self) -> tuple[str, ...]:
        """The one finding of an anomaly detector."""
        return ("abnormal",)

    @property
    def score_kind(self) -> ScoreKind:
        """Scores are scaled by `scale`."""
        return ScoreKind.SCALED

    @property
    def input_spec(self) -> InputSpec:
        """What `prepare` must do with an image."""
        return mla_input(self.settings.image_size, normalize=self.settings.normalize)

    @property
    def takes_prepared(self) -> bool:
        """True: images may be prepared already."""
        return True

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    # -- images -> raw scores -> predictions ------------------------------------------------------------------------

    def prepared(self, images: Sequence[Image | Prepared]) -> tuple[Tensor, list[Geometry]]:
        """(B, 3, S, S) float32 on the CPU and the way back for each image."""
        ready = [prepared(image, self.input_spec) for image in images]
        return torch.from_numpy(np.stack([image.array for image in ready])), [image.geometry for image in ready]

    @torch.no_grad()
    def text(self) -> Tensor:
        """Unit text features (D, 2), encoded again only if the learned contexts changed since the last call."""
        learner = self.network.prompt_learner
        contexts = [] if learner is None else [p.detach() for p in learner.parameters()]
        for known, text in self._texts:
            if all(a.device == b.device and torch.equal(a, b) for a, b in zip(known, contexts, strict=True)):
                return text
        with autocast(self.device, self.precision):
            text = self.network.text().float()
        self._texts[:] = [([context.clone() for context in contexts], text)]
        return text

    def raw(self, images: Sequence[Image | Prepared]) -> list[RawScores]:
        """Margins, distances and text scores, one per image; the same alone or in a batch.

        Images may be prepared already, by `input_spec`.
        """
        if not images:
            return []
        text = self.text()
        out: list[RawScores] = []
        for start in range(0, len(images), self.batch_size):
            part = images[start : start + self.batch_size]
            arrays, geometries = self.prepared(part)
            out += self.raw_from_arrays(arrays, geometries, [image.source for image in part], text)
        return out

    @torch.no_grad()
    def raw_from_arrays(
        self, arrays: Tensor, geometries: Sequence[Geometry], sources: Sequence[str], text: Tensor
    ) -> list[RawScores]:
        """The same for prepared arrays (B, 3, S, S)."""
        return self.raw_from_tokens(self.tokens(arrays), geometries, sources, text)

    @torch.no_grad()
    def raw_from_tokens(
        self,
        tokens: Tokens,
        geometries: Sequence[Geometry],
        sources: Sequence[str],
        text: Tensor,
        *,
        leave_out: int | None = None,
    ) -> list[RawScores]:
        """The same for adapter features; leave_out: a support image whose rows of the bank do not count."""
        branch = tokens.seg if self.map_branch == "seg" else tokens.det
        margins, det = (
            square(torch.stack([self.network.margin(level.float(), text) for level in levels], dim=1)).cpu().numpy()
            for levels in (branch, tokens.det)
        )
        plain, relative = (self._distances(bank, branch, leave_out) for bank in (self.bank, self.relative_bank))
        rows = zip(margins, det, plain, geometries, sources, relative, strict=True)
        return [RawScores(*row) for row in rows]

    def _distances(
        self, bank: MemoryBank | None, branch: Sequence[Tensor], leave_out: int | None
    ) -> Sequence[Float32 | None]:
        """The distance (g, g) of every image to a bank, None without one and in zero-shot."""
        if bank is None or self.mode == "zero-shot":
            return [None] * len(branch[0])
        with rounded_products(self.device, self.precision):
            nearest = bank.distance([self.network.patches(level) for level in branch], leave_out=leave_out)
        return list(square(nearest).cpu().numpy())

    @torch.no_grad()
    def tokens(self, arrays: Tensor) -> Tokens:
        """Adapter features of prepared arrays, in the detector's precision and runtime."""
        with autocast(self.device, self.precision), running(self.runtime):
            tokens: Tokens = self.network(arrays.to(self.device), seg=self.map_branch == "seg")
        return tokens

    def finish(self, raws: Sequence[RawScores]) -> list[Prediction]:
        """Scores and maps on the detector's scale."""
        if not raws:
            return []
        scores, maps = combine(raws, self.scale, self.mode, self.settings.image_size, self.reading)
        rows = zip(raws, scores, maps, strict=True)
        return [
            Prediction(
                self.findings, score[None], self.score_kind, amap[None], raw.geometry, self.weights_hash, raw.source
            )
            for raw, score, amap in rows
        ]

    def predict(self, images: Sequence[Image | Prepared]) -> list[Prediction]:
        """One prediction per image, see `raw`: score and map on the scale that was set in training."""
        return self.finish(self.raw(images))

    @cached_property
    def weights_hash(self) -> str:
        """Hash of adapters, contexts and the backbone's own hash (hexadecimal, 16 digits)."""
        from wordsight.models.tensor_files import hash_tensors

        return hash_tensors(self.network.state_dict(), self.clip.weights_hash)[:16]

    # -- binding: new detectors from old ----------------------------------------------------------------------------

    def with_scale_from(self, raws: Sequence[RawScores], origin: str = "test") -> MlaLp:
        """The same detector, scaled by the ranges over `raws`; origin "test" is the papers' protocol."""
        return replace(self, scale=ScoreScale.fit(raws, self.settings.image_size, origin, self.reading))

    def with_support(self, images: Sequence[Image], abnormal: Sequence[Image] = ()) -> MlaLp:
        """The same detector with a memory bank of augmented normal images and a score scale of the support.

        abnormal: images that only the scale knows, see `support_raws`; a trained detector needs them for its scale.
        Raises ImageError without images. A detector that was never trained keeps its random adapters.
        """
        if not images:
            raise ImageError("expected at least one normal support image, got none.")
        return self.with_support_arrays(self.prepared(images)[0], self.prepared(abnormal)[0] if abnormal else None)

    def with_support_arrays(self, arrays: Tensor, abnormal: Tensor | None = None, *, scale: bool = True) -> MlaLp:
        """The same from prepared arrays (k, 3, S, S); scale=False leaves the score scale as it is."""
        mode: Mode = "segmentation" if self.map_branch == "seg" else "detection"
        bound = replace(self.with_banks(*self._variants(arrays)), mode=mode)
        return bound.with_scale_from(bound.support_raws(arrays, abnormal), "support") if scale else bound

    def _variants(self, arrays: Tensor) -> tuple[Iterable[Tokens], Tensor]:
        """Adapter features of the eleven variants of each support image: 11 k images, owner = i modulo k."""
        batches = track(torch.split(augment(arrays), self.batch_size), "Memory bank", unit="batches")
        return (self.tokens(batch) for batch in batches), torch.arange(len(arrays)).repeat(VARIANTS)

    @torch.no_grad()
    def with_banks(self, batches: Iterable[Tokens], owner: Tensor, memories: frozenset[bool] | None = None) -> MlaLp:
        """The same detector with banks of the branch that makes the maps, from batches of adapter features.

        owner: (images,) support index. memories: which banks (see Reading.memories), default those of the reading.
        """
        wanted = self.reading.memories if memories is None else memories
        parts = [tokens.seg if self.map_branch == "seg" else tokens.det for tokens in batches]
        levels = [torch.cat([part[i] for part in parts]) for i in range(len(self.settings.levels))]
        kept, prefix = self.settings.class_token_in_bank, self.network.clip.prefix_tokens
        banks = {
            relative: MemoryBank.build(
                levels, owner.to(self.device), class_token=kept, prefix=prefix, relative=relative
            )
            for relative in sorted(wanted)
        }
        return replace(self, bank=banks.get(False), relative_bank=banks.get(True))

    def support_raws(self, normal: Tensor, abnormal: Tensor | None = None) -> list[RawScores]:
        """Raw scores that set the scale where there is nothing but the support, prepared arrays (k, 3, S, S).

        Normal images are scored without their own rows. A trained detector's words say almost nothing of the normal
        images it has learned: without abnormal ones their range would be tiny, and words would drown the memory.
        """
        raws = self.leave_one_out(normal)
        if abnormal is None:
            return raws
        text = self.text()
        for part in torch.split(abnormal, self.batch_size):
            raws += self.raw_from_arrays(part, [self._whole] * len(part), ["support"] * len(part), text)
        return raws

    @torch.no_grad()
    def leave_one_out(self, arrays: Tensor) -> list[RawScores]:
        """Raw scores of the normal support images, each without its own rows.

        A single image would be left with no rows at all: its patches are compared with those of the image itself that
        are more than an eighth of its side away.
        """
        text, out = self.text(), []
        alone = len(arrays) == 1
        for i in range(len(arrays)):
            tokens = self.tokens(arrays[i : i + 1])
            left = None if alone else i
            out += self.raw_from_tokens(tokens, [self._whole], [f"support {i}"], text, leave_out=left)
            if alone:
                out = [self._within(out[0], tokens)]
        return out

    def _within(self, raw: RawScores, tokens: Tokens) -> RawScores:
        """With the distances (g, g) of one image that only itself is remembered of."""
        patches = [self.network.patches(level) for level in (tokens.seg if self.map_branch == "seg" else tokens.det)]
        grid, changes = self.clip.grid, {}
        for name, relative in (("distance", False), ("relative", True)):
            if getattr(raw, name) is not None:
                found = distance_within(patches, grid, max(grid) // 8, relative=relative)
                changes[name] = square(found).cpu().numpy()[0]
        return replace(raw, **changes)

    @property
    def _whole(self) -> Geometry:
        """Of an array that is an image itself."""
        size = self.settings.image_size
        return Geometry((size, size), (size, size), (1.0, 1.0))


def quarter_levels(layers: int) -> tuple[int, ...]:
    """Blocks at a quarter, half, three quarters and the end of a tower: (6, 12, 18, 24) of 24."""
    return tuple(sorted({max(1, round(layers * quarter / 4)) for quarter in (1, 2, 3, 4)}))
