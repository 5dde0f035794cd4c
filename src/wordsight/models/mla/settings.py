"""Settings of MLA-LP and MVFA: defaults are the published ones; every deviation is a named field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from wordsight.errors import SettingsError

Position = Literal["end", "middle", "front"]
DetectionLoss = Literal["sigmoid_of_probability", "probability", "margin"]

OBJECT_NAMES: Mapping[str, str] = {
    "Brain": "Brain",
    "Liver": "Liver",
    "Retina_RESC": "retinal OCT",
    "Retina_OCT2017": "retinal OCT",
    "Chest": "Chest X-ray film",
    "Histopathology": "histopathological image",
}
"""What MVFA's sentences call the object in each set; other sets use their own name."""


@dataclass(frozen=True, slots=True)
class MlaSettings:
    """The network, its prompts and its losses.

    image_size: side of the square input in pixels. levels: residual blocks (from 1) that adapters read and write after.
    mix: share of each adapter branch written into the residual stream (x <- (1 - 2 mix) x + mix seg + mix det);
        0: they only read, and no image block takes part in an update.
    slope: negative slope of the adapters' LeakyReLU. temperature: factor on the cosine of patch and text.
    activation: "gelu" as published (erf GELU, also on weights trained with QuickGELU), "quick_gelu", or "weights" =
    what the backbone was trained with. causal_text: mask the text tower causally as CLIP does (published: no mask).
    normalize: subtract CLIP's pixel mean and divide by its standard deviation (published: neither).
    prompts: "learned" contexts (MLA-LP) or the fixed "ensemble" of sentences about `object_name` (MVFA).
    context: learned vectors per state word. positions: where they stand relative to the state word.
    detection_loss: "sigmoid_of_probability" as published (BCE-with-logits fed a probability), "probability" (BCE on it)
    or "margin" (BCE-with-logits on the mean logit margin). dice_on_normal: keep the dice term where the mask is empty.
    class_token_in_bank: keep class tokens among the rows of the memory bank, as published.
    image_share: share of an image's patches, most abnormal first, that the image-level loss averages (published: all of
    them, 1.0; a small lesion then hardly moves it).
    """

    image_size: int = 240
    levels: tuple[int, ...] = (6, 12, 18, 24)
    mix: float = 0.1
    slope: float = 0.01
    temperature: float = 100.0
    activation: Literal["gelu", "quick_gelu", "weights"] = "gelu"
    causal_text: bool = False
    normalize: bool = False
    prompts: Literal["learned", "ensemble"] = "learned"
    object_name: str = ""
    context: int = 8
    positions: tuple[Position, ...] = ("end",)
    detection_loss: DetectionLoss = "sigmoid_of_probability"
    dice_on_normal: bool = True
    class_token_in_bank: bool = True
    image_share: float = 1.0

    def __post_init__(self) -> None:
        if not self.levels or list(self.levels) != sorted(set(self.levels)) or self.levels[0] < 1:
            raise SettingsError(f"levels: expected increasing block numbers from 1, got {self.levels}.")
        if not 0 <= self.mix < 0.5:
            raise SettingsError(f"mix: expected a share in [0, 0.5), got {self.mix}.")
        if self.image_size < 1 or self.context < 0 or self.temperature <= 0:
            raise SettingsError(
                f"expected image_size >= 1, context >= 0 and temperature > 0, got {self.image_size}, {self.context} "
                f"and {self.temperature}."
            )
        if not 0 < self.image_share <= 1:
            raise SettingsError(f"image_share: expected a share in (0, 1], got {self.image_share}.")
        if not self.positions or set(self.positions) - {"end", "middle", "front"}:
            raise SettingsError(f"positions: expected some of end, middle, front, got {self.positions}.")
        if self.prompts == "ensemble" and not self.object_name:
            raise SettingsError("prompts='ensemble' needs object_name, for example 'Brain' or 'retinal OCT'.")

    @classmethod
    def published(cls) -> MlaSettings:
        """MLA-LP as its authors ran it."""
        return cls()

    @classmethod
    def mvfa(cls, object_name: str) -> MlaSettings:
        """MVFA: the fixed sentence ensemble (with CLIP's causal mask) in place of learned contexts."""
        return cls(prompts="ensemble", object_name=object_name, causal_text=True)

    def corrected(self) -> MlaSettings:
        """The same method with its faults mended: the backbone's own activation, causal text, CLIP's pixel
        normalisation, a detection loss that can reach zero, no dice where there is nothing to overlap with."""
        return replace(
            self,
            activation="weights",
            causal_text=True,
            normalize=True,
            detection_loss="probability",
            dice_on_normal=False,
            class_token_in_bank=False,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with every run."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MlaSettings:
        """Read what `to_json` wrote; unknown names are a SettingsError."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingsError(f"unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
        tuples: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**tuples)
