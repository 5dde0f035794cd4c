"""How scores and maps are read off what the network saw of the patches; plain values, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wordsight.errors import SettingsError, WeightsError


@dataclass(frozen=True, slots=True)
class Reading:
    """How scores and maps are read off margins and distances; the defaults are the published way.

    memory_weight: share of the memory part in fused scores and maps, in [0, 1]. image_share: share of an image,
    most abnormal first, that the scores of sets without masks average (a small lesion hardly moves the mean of all).
    smoothing: side, in patches, of the square that is averaged first (one odd patch can be chance, odd neighbours
    seldom are). Raises SettingsError for values out of range.
    """

    memory_weight: float = 0.5
    image_share: float = 1.0
    smoothing: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.memory_weight <= 1:
            raise SettingsError(f"memory_weight: expected a share in [0, 1], got {self.memory_weight}.")
        if not 0 < self.image_share <= 1:
            raise SettingsError(f"image_share: expected a share in (0, 1], got {self.image_share}.")
        if self.smoothing < 1 or self.smoothing % 2 == 0:
            raise SettingsError(f"smoothing: expected an odd number of patches, 1 for none, got {self.smoothing}.")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        """Read what `to_json` wrote; raises WeightsError on anything else."""
        try:
            return cls(float(values["memory_weight"]), float(values["image_share"]), int(values["smoothing"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"expected memory_weight, image_share and smoothing of a reading, got {values}."
            ) from error


PUBLISHED = Reading()
