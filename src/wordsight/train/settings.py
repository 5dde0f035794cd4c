"""How MLA-LP and MVFA are trained: defaults are the published ones, but for the honest protocol."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal

from wordsight.errors import SettingsError
from wordsight.models.mla.reading import Reading

Protocol = Literal["validation", "last", "published"]
When = Literal["after_epoch", "from_start", "before_epoch", "fifths"]


@dataclass(frozen=True, slots=True)
class MlaTraining:
    """How to train; defaults are MLA-LP's published few-shot settings, except for the honest protocol.

    epochs; batch_size: images per update; adapter_lr, context_lr: Adam's learning rates; betas: Adam's;
    protocol: "validation" (model and score scale chosen on held-out images), "last" (no selection) or "published"
    (best epoch by its score on the test set, min-max over the test set: optimistic, for comparison with the papers);
    evaluate_when / evaluate_every: when candidates are scored ("from_start": the untrained detector is a candidate
    too, with the largest memory weight; "before_epoch" and "fifths" as the published zero-shot codes do; every n-th
    epoch);
    memory_weights, image_shares, map_shares, smoothings, relatives: ways of reading scores and maps (see
    reading.Reading) to choose from by the same selection, the first of each where nothing is selected (published: 0.5,
    1.0, 0, 1 and False alone); scores are judged by image AUROC, maps by pixel AUROC, each on its own. relatives are
    chosen from for sets without masks; with masks the first counts, since what the highest values of a map find differs
    from its own surroundings anyway. margin: by how many standard errors of the best image AUROC so far a later epoch
    must beat it, where no masks steady the choice (Breiman et al., Classification and Regression Trees, 1984, section
    3.4.3: among those within one standard error take the simplest; published: 0). mask_rule: "any" grey level above
    zero is abnormal, or "half" as published (> 0.5); seed: shuffling; precision fp32, bf16 or fp16; device; cache_gb:
    memory for frozen activations (with mix 0: of every level), in GiB; cache_disk_gb: the same in a temporary file,
    which takes what the memory does not (at most half of the disk's free space).
    """

    epochs: int = 50
    batch_size: int = 1
    adapter_lr: float = 1e-4
    context_lr: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    protocol: Protocol = "validation"
    evaluate_when: When = "after_epoch"
    evaluate_every: int = 1
    memory_weights: tuple[float, ...] = (0.5,)
    image_shares: tuple[float, ...] = (1.0,)
    map_shares: tuple[float, ...] = (0.0,)
    smoothings: tuple[int, ...] = (1,)
    relatives: tuple[bool, ...] = (False,)
    margin: float = 0.0
    mask_rule: Literal["any", "half"] = "any"
    seed: int = 111
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: str = "auto"
    cache_gb: float = 2.0
    cache_disk_gb: float = 8.0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or self.evaluate_every < 1:
            raise SettingsError(
                f"expected epochs >= 0, batch_size >= 1 and evaluate_every >= 1, got {self.epochs}, "
                f"{self.batch_size} and {self.evaluate_every}."
            )
        if self.margin < 0:
            raise SettingsError(f"margin: expected 0 standard errors or more, got {self.margin}.")
        if self.adapter_lr <= 0 or self.context_lr <= 0:
            raise SettingsError(f"expected learning rates > 0, got {self.adapter_lr} and {self.context_lr}.")
        if self.cache_gb < 0 or self.cache_disk_gb < 0:
            raise SettingsError(
                f"expected cache_gb and cache_disk_gb of 0 GiB or more, got {self.cache_gb} and {self.cache_disk_gb}."
            )
        for name in ("memory_weights", "image_shares", "map_shares", "smoothings", "relatives"):
            if not getattr(self, name):
                raise SettingsError(f"{name}: expected at least one value, got none.")
        self.score_readings()
        if self.protocol not in ("validation", "last", "published"):
            raise SettingsError(f"protocol: expected validation, last or published, got {self.protocol!r}.")

    @classmethod
    def published(cls, method: Literal["mla", "mvfa"], shots: int) -> MlaTraining:
        """Settings of the papers' own scripts; shots = 0 is zero-shot (trained on the other sets)."""
        common = cls(protocol="published", mask_rule="half")
        if method == "mla":
            return common if shots else replace(common, batch_size=8, evaluate_when="before_epoch")
        return replace(common, adapter_lr=1e-3) if shots else replace(common, evaluate_when="fifths")

    def score_readings(self) -> tuple[Reading, ...]:
        """Every way to read image scores, the first of each setting first, maps as the first. Raises SettingsError."""
        maps = self.map_readings()[0]
        ways = product(self.relatives, self.memory_weights, self.image_shares, self.smoothings, self.map_shares)
        return tuple(
            Reading(weight, share, side, map_share, relative=relative).with_maps_of(maps)
            for relative, weight, share, side, map_share in ways
            if weight or relative == self.relatives[0]
        )

    def map_readings(self) -> tuple[Reading, ...]:
        """Every way to read maps, the first of each setting first. Raises SettingsError."""
        ways, relative = product(self.memory_weights, self.smoothings), self.relatives[0]
        return tuple(
            Reading(map_memory_weight=weight, map_smoothing=side, map_relative=relative) for weight, side in ways
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with every run."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
