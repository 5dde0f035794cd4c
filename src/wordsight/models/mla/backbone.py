"""A frozen CLIP of open_clip for adapters to work in: built, filled and checked without network access.

The published MLA-LP and MVFA load OpenAI's ViT-L/14@336px at 240 pixels with resized position embeddings and, since
their configuration does not say otherwise, with the erf GELU although the weights were trained with QuickGELU.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import Tensor, nn

from wordsight.errors import SettingsError, WeightsError
from wordsight.files import atomic_path, write_json
from wordsight.models.mla import architectures
from wordsight.models.mla.architectures import Activation, Architecture, check_config, find_architecture
from wordsight.models.mla.building import build_config, empty_model, fill_model, grid_of, parts_of, random_model
from wordsight.models.mla.clip_keys import OPENAI_SCALARS, prepare_state
from wordsight.models.mla.streams import VisionStream
from wordsight.models.mla.text_files import TextFiles, find_text_files
from wordsight.models.mla.text_streams import TextStream, TextTower
from wordsight.models.mla.tokenizer import ClipTokenizer, Tokenizer
from wordsight.models.tensor_files import TensorFile, hash_tensors, read_tensor_file
from wordsight.progress import progress

__all__ = [
    "Clip", "ClipTokenizer", "TextStream", "TextTower", "Tokenizer", "VisionStream", "load_clip", "save_clip_bundle",
]  # fmt: skip
_MERGES_HEADER = "#version: wordsight byte-pair merges"


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP: eval mode, fp32, no parameter requires gradients.

    image_size in pixels; grid = (rows, columns) of patches of patch_size pixels, trailing pixels are never read.
    architecture and weights (None: those of the architecture's folder) are what `load_clip` takes to load the same
    again, paths absolute. trained: False for random weights, which `seed` drew.
    activation: the one in use; trained_activation: the one the weights were trained with, as far as their file or
    architecture says. weights_hash: SHA-256 over names and fp32 values, the same for the same weights in any file
    format and at any image size.
    """

    model: nn.Module
    tokenizer: Tokenizer
    vision: VisionStream
    text: TextTower
    architecture: str
    weights: str | None
    seed: int | None
    image_size: int
    patch_size: int
    grid: tuple[int, int]
    vision_width: int
    vision_layers: int
    text_width: int
    embed_dim: int
    context_length: int
    activation: Activation
    trained_activation: Activation
    trained: bool
    weights_hash: str

    @property
    def prefix_tokens(self) -> int:
        """Class and register tokens before the patches in the image stream."""
        return self.vision.prefix_tokens

    def to(self, device: torch.device | str) -> Clip:
        """Move both towers to a device, in place."""
        self.model.to(device)
        return self


def load_clip(
    architecture: str | Path,
    weights: str | Path | None,
    *,
    image_size: int,
    activation: Literal["gelu", "quick_gelu", "weights"] = "gelu",
    seed: int | None = None,
) -> Clip:
    """A frozen CLIP from local files; nothing is ever downloaded.

    architecture: a name of open_clip's list ("ViT-L-14-336", also "ViT-L/14@336px"), a JSON configuration of
        open_clip, a folder with a configuration and weights, or "tiny", the small backbone of this package.
    weights: OpenAI's TorchScript archive, an open_clip checkpoint, safetensors, or a model folder of open_clip or
        transformers; None takes those of the architecture's folder, or without such random ones drawn by `seed`.
        Configurations that name a tokenizer or a text tower of Hugging Face find its files in the folder of the
        configuration or of the weights, see `wordsight.models.mla.text_files`.
    image_size: side in pixels; position embeddings are resized to the new patch grid as published.
    activation: "gelu" is the erf GELU as published, whatever the weights were trained with; "quick_gelu"; or "weights"
        = what they were trained with (OpenAI: QuickGELU). It holds for open_clip's own towers; those of timm
        and transformers keep theirs.

    Raises SettingsError for architectures and settings that do not work, WeightsError for files that do not fit.
    """
    arch = find_architecture(architecture)
    file = _weights_file(arch, weights)
    with progress(f"Reading {arch.name}", 1, "files"):
        content = read_tensor_file(file) if file is not None else None
    trained_activation = _trained_activation(arch, weights, content)
    used = _used_activation(arch, activation, trained_activation)
    config = build_config(arch, image_size, used)
    files = find_text_files(config["text_cfg"], _folders(arch, file), arch.name)
    if content is None or file is None:
        model = random_model(config, arch.name, files, seed)
        digest = hash_tensors(model.state_dict(), as_float=True)
    else:
        model = empty_model(config, arch.name, files)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        with progress(f"Filling {arch.name}", 1, "networks"):
            state, digest = prepare_state(content.tensors, expected, grid_of(model, image_size)[1], file)
            del content
            model = fill_model(model, state, config, arch.name, files)
    model.eval().requires_grad_(False)
    tokenizer, vision, text = parts_of(arch, model, config, files)
    patch_size, grid = grid_of(model, image_size)
    return Clip(
        model=model,
        tokenizer=tokenizer,
        vision=vision,
        text=text,
        architecture=arch.name,
        weights=None if weights is None else str(Path(weights).resolve()),
        seed=seed if file is None else None,
        image_size=image_size,
        patch_size=patch_size,
        grid=grid,
        vision_width=vision.width,
        vision_layers=len(vision.blocks),
        text_width=text.token_embedding.embedding_dim,
        embed_dim=int(config["embed_dim"]),
        context_length=text.context_length,
        activation=used,
        trained_activation=trained_activation,
        trained=file is not None,
        weights_hash=digest,
    )


def _weights_file(arch: Architecture, weights: str | Path | None) -> Path | None:
    """The file to read; None for random weights."""
    if weights is None:
        return arch.weights
    path = Path(weights)
    if not path.is_dir():
        return path
    folder = find_architecture(path)
    if folder.weights is None:
        raise WeightsError(f"{path}: expected a weights file in the folder, found none. Download the whole folder.")
    ours, theirs = _heads(arch.config), _heads(folder.config)
    if ours != theirs:
        raise WeightsError(
            f"{path}: expected weights of {arch.name} with {ours} (image, text) heads, got a configuration with "
            f"{theirs}. Name the folder itself as the architecture."
        )
    return folder.weights


def _heads(config: Mapping[str, Any]) -> tuple[int, int]:
    """Attention heads of the image and text towers, which no tensor's shape tells; 0 where another file tells."""
    vision = CLIPVisionCfg(**config["vision_cfg"])
    text = CLIPTextCfg(**config["text_cfg"])
    heads = 0 if vision.timm_model_name else vision.width // vision.head_width
    return heads, 0 if text.hf_model_name else text.heads


def _folders(arch: Architecture, weights: Path | None) -> list[Path]:
    """Where files of the text tower may lie: with the configuration, with the weights."""
    return list(dict.fromkeys(f for f in (arch.folder, weights and weights.resolve().parent) if f is not None))


def _trained_activation(arch: Architecture, weights: str | Path | None, content: TensorFile | None) -> Activation:
    """OpenAI's files tell by their form, folders by their configuration, all others by the architecture."""
    if content and (content.kind == "torchscript" or all(name in content.tensors for name in OPENAI_SCALARS)):
        return "quick_gelu"
    if weights is not None and Path(weights).is_dir():
        return find_architecture(Path(weights)).activation
    return arch.activation


def _used_activation(arch: Architecture, asked: str, trained: Activation) -> Activation:
    if asked not in ("gelu", "quick_gelu", "weights"):
        raise SettingsError(f"activation: expected 'gelu', 'quick_gelu' or 'weights', got {asked!r}. Choose one.")
    if asked == "gelu" and arch.name.endswith("-quickgelu") and not Path(arch.name).is_absolute():
        raise SettingsError(
            f"activation: architecture {arch.name} means QuickGELU, got activation 'gelu'. Use activation='weights', "
            f"or the architecture {arch.name.removesuffix('-quickgelu')} for the erf GELU of the published method."
        )
    used: Activation = trained if asked == "weights" else "quick_gelu" if asked == "quick_gelu" else "gelu"
    if used == "quick_gelu" and arch.uses_timm:
        raise SettingsError(f"activation: timm's image tower of {arch.name} has GELU only. Use activation='gelu'.")
    return used


def save_clip_bundle(
    folder: str | Path,
    model_cfg: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    merges: Sequence[tuple[str, str]] | None,
    *,
    half: bool = True,
) -> None:
    """Write a CLIP as a folder that `load_clip(folder, None, image_size=...)` reads.

    Files: open_clip_config.json, model.safetensors (fp16 if `half`), and with merges merges.txt.gz; the vocabulary then
    has 512 bytes + len(merges) + 2 ids and must equal text_cfg.vocab_size. Each file is written whole or not at all,
    the configuration last. Raises SettingsError or WeightsError where they do not fit together.
    """
    folder = Path(folder)
    check_config(model_cfg, folder.name)
    text_cfg = CLIPTextCfg(**model_cfg["text_cfg"])
    if text_cfg.hf_model_name or text_cfg.hf_tokenizer_name:
        raise SettingsError("text_cfg: expected a text tower with CLIP's byte pairs, got one of a tokenizer folder.")
    vocabulary = text_cfg.vocab_size
    made = 49408 if merges is None else 512 + len(merges) + 2
    if vocabulary != made:
        raise SettingsError(f"text_cfg.vocab_size: expected {made} for these merges, got {vocabulary}. Correct it.")
    side = model_cfg["vision_cfg"].get("image_size", 224)
    sized = {**model_cfg, "vision_cfg": {**model_cfg["vision_cfg"], "image_size": side}}
    expected_model = empty_model(sized, folder.name, TextFiles())
    expected = {name: tuple(tensor.shape) for name, tensor in expected_model.state_dict().items()}
    state, _ = prepare_state(state_dict, expected, grid_of(expected_model, side)[1], folder)
    dtype = torch.float16 if half else torch.float32
    with atomic_path(folder / architectures.BUNDLE_WEIGHTS) as path:
        save_file({name: tensor.to(dtype) for name, tensor in state.items()}, path)
    if merges is not None:
        # no newline at the end: the reader would take an empty line for one more merge
        text = "\n".join([_MERGES_HEADER, *(f"{left} {right}" for left, right in merges)])
        with atomic_path(folder / architectures.BUNDLE_MERGES) as path:
            path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    write_json(folder / architectures.BUNDLE_CONFIG, {"model_cfg": dict(model_cfg)})
