"""Which CLIP a study works on: trained weights are found or asked for, never drawn at random."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.errors import WeightsError
from wordsight.models.mla.settings import MlaSettings

if TYPE_CHECKING:
    from wordsight.models.mla.backbone import Clip

OPENAI = "ViT-L-14-336"
OPENAI_FILE = Path("CLIP") / "ckpt" / "ViT-L-14-336px.pt"
"""Where the published codes look for OpenAI's weights, below the working directory."""


def find_weights(architecture: str, weights: Path | None) -> Path | None:
    """The weights file for an architecture; None where the architecture brings its own.

    Without a file, ViT-L-14-336 is looked for at CLIP/ckpt/ViT-L-14-336px.pt as the published codes do. Raises
    WeightsError that says which file to put where.
    """
    if weights is not None:
        if not weights.exists():
            raise WeightsError(f"{weights}: no such weights file. Correct --weights; nothing is ever downloaded.")
        return weights
    if architecture.replace("/", "-").replace("@336px", "-336") == OPENAI:  # answered before torch is loaded
        if OPENAI_FILE.is_file():
            return OPENAI_FILE
        raise WeightsError(
            f"architecture {OPENAI}: looked for OpenAI's weights at {OPENAI_FILE.absolute()}, found none. Download "
            "ViT-L-14-336px.pt and put it there, or name it with --weights; --architecture tiny needs no file."
        )
    from wordsight.models.mla.architectures import find_architecture

    if find_architecture(architecture).weights is not None:
        return None
    raise WeightsError(
        f"architecture {architecture}: expected its trained weights, got none. Name their file with --weights; "
        "--architecture tiny needs no file."
    )


def open_clip_for(
    architecture: str, weights: Path | None, settings: MlaSettings, levels_given: bool
) -> tuple[Clip, MlaSettings]:
    """The frozen CLIP, and the settings with levels at its quarter depths unless they were given."""
    file = find_weights(architecture, weights)
    from wordsight.models.mla.backbone import load_clip
    from wordsight.models.mla.detector import quarter_levels

    clip = load_clip(architecture, file, image_size=settings.image_size, activation=settings.activation)
    if not levels_given:
        settings = replace(settings, levels=quarter_levels(clip.vision_layers))
    return clip, settings
