"""A frozen CLIP of open_clip for adapters to work in: built, filled and checked without network access.

The published MLA-LP and MVFA load OpenAI's ViT-L/14@336px at 240 pixels with resized position embeddings and, since
their configuration does not say otherwise, with the erf GELU although the weights were trained with QuickGELU.
"""

from __future__ import annotations

import copy
import gzip
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from wordsight.errors import PromptError, SettingsError, WeightsError
from wordsight.files import atomic_path, write_json
from wordsight.models.mla import architectures
from wordsight.models.mla.architectures import Activation, Architecture, check_config, find_architecture
from wordsight.models.mla.clip_keys import OPENAI_SCALARS, prepare_state, state_hash
from wordsight.models.mla.streams import OpenClipVision, TextStream, TimmVision, VisionStream
from wordsight.models.mla.tensor_files import TensorFile, read_tensor_file

__all__ = ["Clip", "ClipTokenizer", "TextStream", "VisionStream", "load_clip", "save_clip_bundle"]
_MERGES_LIMIT = 16 * 2**20
_MERGES_HEADER = "#version: wordsight byte-pair merges"


@cache
def _clip_vocabulary() -> Any:
    """CLIP's own byte pairs, parsed once."""
    return SimpleTokenizer()


class ClipTokenizer:
    """CLIP's byte-pair tokenizer: texts -> ids (N, context_length) int64, zero-padded.

    merges: a gzip file of merges in open_clip's format; None is CLIP's own vocabulary of 49,408 ids. Raises PromptError
    for texts that do not fit into the context, which would otherwise lose their end.
    """

    def __init__(self, context_length: int, merges: Path | None = None) -> None:
        self.context_length = context_length
        if merges is None:
            self._bpe = _clip_vocabulary()
        else:
            _check_merges(merges)
            self._bpe = SimpleTokenizer(str(merges))
        self.vocab_size = int(self._bpe.vocab_size)

    def __call__(self, texts: list[str]) -> Tensor:
        """Ids with start and end of text; the end of text is the highest id of its row."""
        ids = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            tokens = [self._bpe.sot_token_id, *self._bpe.encode(text), self._bpe.eot_token_id]
            if len(tokens) > self.context_length:
                raise PromptError(
                    f"expected prompts of at most {self.context_length} tokens, got {len(tokens)} for {text[:60]!r}. "
                    "Shorten the text."
                )
            row[: len(tokens)] = torch.tensor(tokens)
        return ids


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
    tokenizer: ClipTokenizer
    vision: VisionStream
    text: TextStream
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
    image_size: side in pixels; position embeddings are resized to the new patch grid as published.
    activation: "gelu" is the erf GELU as published, whatever the weights were trained with; "quick_gelu"; or "weights"
        = what they were trained with (OpenAI: QuickGELU). It holds for both towers; timm towers keep GELU.

    Raises SettingsError for architectures and settings that do not work, WeightsError for files that do not fit.
    """
    arch = find_architecture(architecture)
    file = _weights_file(arch, weights)
    content = read_tensor_file(file) if file is not None else None
    trained_activation = _trained_activation(arch, weights, content)
    used = _used_activation(arch, activation, trained_activation)
    config = _build_config(arch, image_size, used)
    if content is None or file is None:
        model = _random_model(config, arch.name, seed)
        digest = state_hash(model.state_dict())
    else:
        model = _build(config, arch.name, meta=True)
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        state, digest = prepare_state(content.tensors, expected, _grid(model, image_size)[1], file)
        del content
        model.load_state_dict(state, assign=True)
        _restore_masks(model)
    model.eval().requires_grad_(False)
    tokenizer, vision, text = _parts(arch, model, config)
    patch_size, grid = _grid(model, image_size)
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
        vision_width=int(vision.positional_embedding.shape[-1]),
        vision_layers=len(vision.blocks),
        text_width=int(text.positional_embedding.shape[-1]),
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
    """Attention heads of the image and text towers, which no tensor's shape tells; 0 for timm's own."""
    vision = CLIPVisionCfg(**config["vision_cfg"])
    heads = 0 if vision.timm_model_name else vision.width // vision.head_width
    return heads, CLIPTextCfg(**config["text_cfg"]).heads


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


def _build_config(arch: Architecture, image_size: int, activation: Activation) -> dict[str, Any]:
    """The configuration to build with: our image size and activation, no patch dropout, nothing pretrained."""
    config = copy.deepcopy(dict(arch.config))
    patch = 1 if arch.uses_timm else config["vision_cfg"].get("patch_size", 16)
    if isinstance(image_size, bool) or not isinstance(image_size, int) or not patch <= image_size <= 4096:
        raise SettingsError(
            f"image_size: expected {patch} to 4096 pixels for {arch.name}, got {image_size!r}. Choose another size."
        )
    config["vision_cfg"].update(image_size=image_size, patch_dropout=0.0, output_tokens=False)
    config["text_cfg"].update(output_tokens=False)
    if arch.uses_timm:
        config["vision_cfg"]["timm_model_pretrained"] = False
    config["quick_gelu"] = activation == "quick_gelu"
    if activation == "quick_gelu":
        config["vision_cfg"].pop("act_kwargs", None)
        config["text_cfg"].pop("act_kwargs", None)
    return config


def _build(config: Mapping[str, Any], name: str, *, meta: bool) -> nn.Module:
    """The network of a configuration; on the meta device it costs neither memory nor random numbers."""
    arguments = copy.deepcopy(dict(config))
    custom = arguments.pop("custom_text", False)
    image_size = arguments["vision_cfg"]["image_size"]
    try:
        with torch.device("meta" if meta else "cpu"):
            model: nn.Module = (CustomTextCLIP if custom else CLIP)(**arguments)
            visual: Any = model.visual
            if config["vision_cfg"].get("timm_model_name"):
                visual.set_input_size(image_size)
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError) as error:
        raise SettingsError(
            f"architecture {name!r}: open_clip cannot build it at {image_size} pixels ({error}). "
            "Check the configuration and the image size."
        ) from error
    if config["vision_cfg"].get("timm_model_name") and (
        visual.trunk.num_prefix_tokens != 1 or getattr(visual.trunk, "pos_embed", None) is None
    ):
        raise SettingsError(
            f"architecture {name!r}: expected an image tower with one class token and position embeddings, got "
            f"{visual.trunk.num_prefix_tokens} extra tokens. {architectures.WORKING}"
        )
    return model


def _random_model(config: Mapping[str, Any], name: str, seed: int | None) -> nn.Module:
    """Untrained weights by seed; the global random state stays as it was."""
    if seed is None:
        raise SettingsError(
            f"weights: expected a weights file for {name}, got none. Name the file, or give a seed for an untrained "
            "network."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _build(config, name, meta=False)


def _restore_masks(model: nn.Module) -> None:
    """Causal masks are in no state dict; make those that the meta device left empty."""
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta and name == "attn_mask":
                mask = torch.full(tuple(buffer.shape), float("-inf")).triu_(1)
                module.register_buffer(name, mask, persistent=False)
            elif buffer.is_meta:
                raise SettingsError(f"buffer {name} is in no state dict. {architectures.WORKING}")


def _grid(model: Any, image_size: int) -> tuple[int, tuple[int, int]]:
    """Patch size in pixels and (rows, columns) of patches."""
    if hasattr(model.visual, "trunk"):
        rows, columns = model.visual.trunk.patch_embed.grid_size
        return image_size // rows, (rows, columns)
    rows, columns = model.visual.grid_size
    return model.visual.patch_size[0], (rows, columns)


def _parts(arch: Architecture, model: Any, config: Mapping[str, Any]) -> tuple[ClipTokenizer, VisionStream, TextStream]:
    """The tokenizer, whose vocabulary must be the network's, and both towers as streams."""
    tower = getattr(model, "text", model)
    tokenizer = ClipTokenizer(model.context_length, arch.merges)
    if tokenizer.vocab_size != model.vocab_size:
        raise SettingsError(
            f"architecture {arch.name!r}: expected a vocabulary of {model.vocab_size} ids, got {tokenizer.vocab_size} "
            f"from {arch.merges or 'the CLIP tokenizer'}. Put its {architectures.BUNDLE_MERGES} into the folder."
        )
    vision: VisionStream = TimmVision(model.visual) if arch.uses_timm else OpenClipVision(model.visual)
    text = TextStream(tower, model.context_length, causal=not config["text_cfg"].get("no_causal_mask", False))
    return tokenizer, vision, text


def _check_merges(path: Path) -> None:
    """Refuse merges that unpack to more than 16 MiB or are no gzip text."""
    try:
        with gzip.open(path, "rb") as stream:
            content = stream.read(_MERGES_LIMIT + 1)
        content.decode("utf-8")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise WeightsError(f"{path}: expected gzip-packed text of merges, got {error}. Write it again.") from error
    if len(content) > _MERGES_LIMIT:
        raise WeightsError(f"{path}: expected at most {_MERGES_LIMIT} bytes of merges. Check the file.")


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
    vocabulary = CLIPTextCfg(**model_cfg["text_cfg"]).vocab_size
    made = 49408 if merges is None else 512 + len(merges) + 2
    if vocabulary != made:
        raise SettingsError(f"text_cfg.vocab_size: expected {made} for these merges, got {vocabulary}. Correct it.")
    expected_model = _build(
        {**model_cfg, "vision_cfg": {"image_size": 224, **model_cfg["vision_cfg"]}}, folder.name, meta=True
    )
    expected = {name: tuple(tensor.shape) for name, tensor in expected_model.state_dict().items()}
    state, _ = prepare_state(
        state_dict, expected, _grid(expected_model, model_cfg["vision_cfg"]["image_size"])[1], folder
    )
    dtype = torch.float16 if half else torch.float32
    with atomic_path(folder / architectures.BUNDLE_WEIGHTS) as path:
        save_file({name: tensor.to(dtype) for name, tensor in state.items()}, path)
    if merges is not None:
        # no newline at the end: the reader would take an empty line for one more merge
        text = "\n".join([_MERGES_HEADER, *(f"{left} {right}" for left, right in merges)])
        with atomic_path(folder / architectures.BUNDLE_MERGES) as path:
            path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
    write_json(folder / architectures.BUNDLE_CONFIG, {"model_cfg": dict(model_cfg)})
