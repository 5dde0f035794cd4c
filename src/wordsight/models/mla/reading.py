"""How scores and maps are read off what the network saw of the patches; plain values, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from wordsight.errors import SettingsError, WeightsError


@dataclass(frozen=True, slots=True)
class Reading:
    """How image scores and maps are read off margins and distances; the defaults are the published way.

    memory_weight: share of the memory part in image scores, in [0, 1]. image_share: share of an image, most abnormal
    first, that the scores of sets without masks average (a small lesion hardly moves the mean of all). relative:
    whether the memory compares patches by how they differ from the rest of their image (see memory.relative_tokens),
    in place of by themselves: for images that differ more among each other, as by stain, than by disease. smoothing:
    side, in patches, of the square that is averaged first (one odd patch can be chance, odd neighbours seldom are).
    map_share: share of the map that the scores of sets with masks average, 0 for its maximum alone. map_memory_weight,
    map_relative and map_smoothing: the same as without "map", for the maps that are shown: what finds the image need
    not be what finds its pixels. Raises SettingsError for values out of range.
    """

    memory_weight: float = 0.5
    image_share: float = 1.0
    smoothing: int = 1
    map_share: float = 0.0
    map_memory_weight: float = 0.5
    map_smoothing: int = 1
    relative: bool = False
    map_relative: bool = False

    def __post_init__(self) -> None:
        for name in ("memory_weight", "map_memory_weight", "map_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name}: expected a share in [0, 1], got {getattr(self, name)}.")
        if not 0 < self.image_share <= 1:
            raise SettingsError(f"image_share: expected a share in (0, 1], got {self.image_share}.")
        for name in ("smoothing", "map_smoothing"):
            side = getattr(self, name)
            if side < 1 or side % 2 == 0:
                raise SettingsError(f"{name}: expected an odd number of patches, 1 for none, got {side}.")

    def with_maps_of(self, other: Reading) -> Reading:
        """The scores of this reading, the maps of the other."""
        return replace(
            self,
            map_memory_weight=other.map_memory_weight,
            map_smoothing=other.map_smoothing,
            map_relative=other.map_relative,
        )

    @property
    def alike(self) -> Reading:
        """The scores of this reading, and maps read in the same way."""
        return replace(
            self, map_memory_weight=self.memory_weight, map_smoothing=self.smoothing, map_relative=self.relative
        )

    @property
    def one_map(self) -> bool:
        """Whether scores are read off the map that is shown, up to the weight of the memory."""
        return (self.smoothing, self.relative) == (self.map_smoothing, self.map_relative)

    @property
    def memories(self) -> frozenset[bool]:
        """Which memories it asks: of tokens themselves (False), of relative tokens (True)."""
        return frozenset((self.relative, self.map_relative))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reading:
        """Read what `to_json` wrote; raises WeightsError on anything else."""
        names = [field.name for field in fields(cls)]
        try:
            read: dict[str, Any] = {
                n: bool(values[n]) if "relative" in n else int(values[n]) if "smoothing" in n else float(values[n])
                for n in names
            }
            return cls(**read)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"expected the values {', '.join(names)} of a reading, got {values}.") from error


PUBLISHED = Reading()
