"""How CARZero is trained: as published, and with its faults mended; every deviation is a named field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from wordsight.errors import SettingsError

Recipe = Literal["published", "corrected"]
Captions = Literal["sentences", "aligned", "both"]
Negatives = Literal["all", "stated"]
Schedule = Literal["constant", "plateau", "cosine"]
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "captions": get_args(Captions),
    "style": ("published", "sections"),
    "negatives": get_args(Negatives),
    "schedule": get_args(Schedule),
    "precision": ("fp32", "bf16", "fp16"),
}
_POSITIVE = ("captions_per_image", "patience", "plateau_patience", "valid_batch", "save_every", "devices")
_SHARES = (
    *("image_rate", "flip", "drop_place", "warmup", "valid_share", "unreadable"),
    *("translate", "brightness", "contrast"),
)
CIRCUMSTANCES = ("device", "workers", "pairs", "part", "unreadable")
"""Fields without influence on what is learned, but for rounding."""


@dataclass(frozen=True, slots=True)
class CarZeroTraining:
    """How to train; defaults are the published ones (Lai et al., CVPR 2024, and its code).

    epochs. batch_sizes: (first epoch, images) pairs; incomplete batches are left out. lr, betas, weight_decay: Adam's,
    the decay in the gradient, after clipping. clip: largest norm of all gradients.
    image_rate: the image encoder's learning rate as a share of lr; 0 leaves the encoder as it is.
    schedule: "constant" (the published plateau rule never fires), "plateau" (lr times plateau_factor after
    plateau_patience epochs without a smaller validation loss), or "cosine" (linear rise over the share `warmup` of all
    steps, then half a cosine to zero). patience: epochs without a smaller validation loss after which training ends.

    captions: "sentences" of the report, "aligned" prompts made of them by rules ("There is no pneumothorax"), or
    "both"; prompts prepared in a column of the table (`report_sets`) take the place of the rules. style: how sentences
    are cut, "published" or "sections" (FINDINGS and IMPRESSION, cleaned like prompts). max_word_num: the published rule
    that drops the rest of a report when its words so far are exactly so many; None: never. captions_per_image: how many
    are drawn for an image in each epoch.
    negatives: "all" other captions of the batch are wrong for an image, equal ones too (published); "stated": only what
    its report contradicts, or states nothing of; equal texts are encoded once, and what a report implies is right.
    contradictions: add to a batch the opposite of its aligned captions, "There is no X" to "There is X".
    drop_place: share of aligned captions drawn without their place, since prompts seldom name one.

    crop: at random, else the centre. flip: share of mirrored images, although captions name sides (published 0.3).
    degrees, translate, scale: of the affine map; brightness, contrast: largest relative change.

    valid_share: share of patients held out for validation where the table has no split "valid". valid_batch: images
    per batch of the validation loss, the same in all epochs, so that losses can be compared.
    unreadable: largest share of the images that may be left out because their files cannot be read; with more the
    training ends, and goes on once they can be read or the share is larger. Those left out are named in the card.
    seed. precision fp32, bf16 or fp16. device; devices: processes, here or by torchrun. workers: processes that decode.
    pairs: the most pairs of a block, see `pair_logits`. part: the most images, and texts, whose activations the
    encoders keep at a time, see `images_in_parts`; None: those of the whole batch. save_every: steps between two
    resumable states.
    """

    epochs: int = 15
    batch_sizes: tuple[tuple[int, int], ...] = ((0, 64), (2, 128), (6, 256))
    lr: float = 5e-5
    image_rate: float = 1.0
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-6
    clip: float = 0.25
    schedule: Schedule = "constant"
    warmup: float = 0.0
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    patience: int = 10
    captions: Captions = "sentences"
    style: Literal["published", "sections"] = "published"
    max_word_num: int | None = 5
    captions_per_image: int = 1
    negatives: Negatives = "all"
    contradictions: bool = False
    drop_place: float = 0.0
    crop: bool = True
    flip: float = 0.3
    degrees: float = 30.0
    translate: float = 0.1
    scale: tuple[float, float] = (0.9, 1.1)
    brightness: float = 0.2
    contrast: float = 0.2
    valid_share: float = 0.02
    valid_batch: int = 64
    unreadable: float = 0.01
    seed: int = 23
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "auto"
    devices: int = 1
    workers: int = 0
    pairs: int | None = 1024
    part: int | None = None
    save_every: int = 500

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise SettingsError(f"{name}: expected one of {', '.join(allowed)}, got {getattr(self, name)!r}.")
        low = [f"{name}={getattr(self, name)}" for name in _POSITIVE if getattr(self, name) < 1]
        low += [f"{name}={getattr(self, name)}" for name in ("lr", "clip") if getattr(self, name) <= 0]
        low += [f"{name}={getattr(self, name)}" for name in ("epochs", "workers", "seed") if getattr(self, name) < 0]
        low += [] if self.part is None or self.part > 0 else [f"part={self.part}"]
        if low:
            raise SettingsError(
                f"expected positive numbers (epochs, workers and seed 0 or more), got {', '.join(low)}."
            )
        shares = [f"{name}={getattr(self, name)}" for name in _SHARES if not 0 <= getattr(self, name) <= 1]
        if shares:
            raise SettingsError(f"expected shares in [0, 1], got {', '.join(shares)}.")
        self._check_batches()

    def _check_batches(self) -> None:
        firsts = [first for first, _ in self.batch_sizes]
        sizes = [size for _, size in self.batch_sizes]
        if firsts[:1] != [0] or sorted(set(firsts)) != firsts or min(sizes) < 2:
            raise SettingsError(
                "batch_sizes: expected (first epoch, images) pairs from epoch 0 in order, of 2 images or more, got "
                f"{self.batch_sizes}."
            )
        odd = [size for size in sizes if size % self.devices]
        if odd:
            raise SettingsError(f"batch_sizes: expected multiples of {self.devices} devices, got {odd[0]}.")
        if self.style == "published" and (self.captions != "sentences" or self.negatives != "all"):
            raise SettingsError(
                "style 'published' has words without sense for alignment. Use captions='sentences' and "
                "negatives='all', or style='sections'."
            )
        if not 0 < self.scale[0] <= self.scale[1]:
            raise SettingsError(f"scale: expected two factors in order, got {self.scale}.")

    @classmethod
    def published(cls) -> CarZeroTraining:
        """As the published code trains."""
        return cls()

    @classmethod
    def corrected(cls) -> CarZeroTraining:
        """No mirrored sides, captions in the words of prompts, only wrong ones as negatives, a rate that falls."""
        return replace(
            cls(),
            flip=0.0,
            captions="both",
            style="sections",
            max_word_num=None,
            captions_per_image=4,
            negatives="stated",
            contradictions=True,
            drop_place=0.5,
            schedule="cosine",
            warmup=0.05,
        )

    @classmethod
    def of(cls, recipe: Recipe) -> CarZeroTraining:
        """By name. Raises SettingsError for another one."""
        if recipe not in get_args(Recipe):
            raise SettingsError(f"recipe: expected {' or '.join(get_args(Recipe))}, got {recipe!r}.")
        return cls.published() if recipe == "published" else cls.corrected()

    def batch_size(self, epoch: int) -> int:
        """Images per batch of an epoch (from 0), over all processes."""
        return next(size for first, size in reversed(self.batch_sizes) if first <= epoch)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with every run."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def deciding(self) -> dict[str, Any]:
        """What decides the result of a run: all but the circumstances."""
        return {name: value for name, value in self.to_json().items() if name not in CIRCUMSTANCES}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def rate(training: CarZeroTraining, step: int, total: int, valid_losses: list[float]) -> float:
    """Learning rate of step `step` of `total`, after epochs with these validation losses."""
    if training.schedule == "constant":
        return training.lr
    if training.schedule == "plateau":
        return training.lr * training.plateau_factor ** _plateaus(valid_losses, training.plateau_patience)
    rise = round(training.warmup * total)
    if step < rise:
        return training.lr * (step + 1) / rise
    return training.lr * (1 + math.cos(math.pi * (step - rise) / max(total - rise, 1))) / 2


def _plateaus(losses: list[float], patience: int) -> int:
    """How often `patience` epochs went by without a smaller loss, counting anew each time."""
    best, waited, found = float("inf"), 0, 0
    for loss in losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited > patience:
            found, waited = found + 1, 0
    return found


def is_stuck(losses: list[float], patience: int) -> bool:
    """Whether the last `patience` epochs had no validation loss below all before them."""
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience
