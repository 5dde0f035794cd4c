"""An open_clip configuration -> its network, empty or random, and the streams and tokenizer to use it by."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from wordsight.errors import SettingsError
from wordsight.models.mla.architectures import BUNDLE_MERGES, Activation, Architecture
from wordsight.models.mla.streams import OpenClipVision, TimmVision, VisionStream
from wordsight.models.mla.text_files import TextFiles, local_config
from wordsight.models.mla.text_streams import TextStream, TextTower, TransformersText
from wordsight.models.mla.tokenizer import ClipTokenizer, FolderTokenizer, Tokenizer, clip_cleaning


def build_config(arch: Architecture, image_size: int, activation: Activation) -> dict[str, Any]:
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
    if config["text_cfg"].get("hf_model_name"):
        config["text_cfg"]["hf_model_pretrained"] = False
        config["custom_text"] = True
    config["quick_gelu"] = activation == "quick_gelu"
    if activation == "quick_gelu":
        config["vision_cfg"].pop("act_kwargs", None)
        config["text_cfg"].pop("act_kwargs", None)
    return config


def empty_model(config: Mapping[str, Any], name: str, files: TextFiles) -> nn.Module:
    """The network on the meta device, where it costs neither memory nor random numbers."""
    return _build(config, name, files, "meta")


def random_model(config: Mapping[str, Any], name: str, files: TextFiles, seed: int | None) -> nn.Module:
    """Untrained weights by seed; the global random state stays as it was."""
    if seed is None:
        raise SettingsError(
            f"weights: expected a weights file for {name}, got none. Name the file, or give a seed for an untrained "
            "network."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _build(config, name, files, "cpu")


def fill_model(
    model: nn.Module, state: Mapping[str, torch.Tensor], config: Mapping[str, Any], name: str, files: TextFiles
) -> nn.Module:
    """A network with these weights, from one that is empty; the state must be complete.

    Causal masks, which no state dict holds, are made here. Towers that compute other tables while they are built
    (rotary and sinusoidal positions) are built once more in memory.
    """
    missing = [
        key
        for key, buffer in model.named_buffers()
        if buffer.is_meta and key not in state and key.rpartition(".")[2] != "attn_mask"
    ]
    if missing:
        model = random_model(config, name, files, 0)
    model.load_state_dict(state, assign=True)
    for module in model.modules():
        mask = dict(module.named_buffers(recurse=False)).get("attn_mask")
        if mask is not None and mask.is_meta:
            made = torch.full(tuple(mask.shape), float("-inf")).triu_(1)
            module.register_buffer("attn_mask", made, persistent=False)
    return model


def _build(config: Mapping[str, Any], name: str, files: TextFiles, device: str) -> nn.Module:
    arguments = copy.deepcopy(dict(config))
    custom = arguments.pop("custom_text", False)
    image_size = arguments["vision_cfg"]["image_size"]
    try:
        with ExitStack() as stack:
            if files.config is not None:
                arguments["text_cfg"]["hf_model_name"] = stack.enter_context(local_config(files.config))
            stack.enter_context(torch.device(device))
            model: nn.Module = (CustomTextCLIP if custom else CLIP)(**arguments)
            visual: Any = model.visual
            if config["vision_cfg"].get("timm_model_name"):
                visual.set_input_size(image_size)
            if files.config is not None and not hasattr(model.text, "proj"):
                raise ValueError("its text tower has another width than embed_dim and no hf_proj_type")
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError, KeyError) as error:
        raise SettingsError(
            f"architecture {name!r}: open_clip cannot build it at {image_size} pixels ({error}). "
            "Check the configuration and the image size."
        ) from error
    return model


def grid_of(model: Any, image_size: int) -> tuple[int, tuple[int, int]]:
    """Patch size in pixels and (rows, columns) of patches."""
    if hasattr(model.visual, "trunk"):
        rows, columns = model.visual.trunk.patch_embed.grid_size
        return image_size // rows, (rows, columns)
    rows, columns = model.visual.grid_size
    return model.visual.patch_size[0], (rows, columns)


def parts_of(
    arch: Architecture, model: Any, config: Mapping[str, Any], files: TextFiles
) -> tuple[Tokenizer, VisionStream, TextTower]:
    """The tokenizer, whose vocabulary must be the network's, and both towers as streams."""
    vision: VisionStream = TimmVision(model.visual) if arch.uses_timm else OpenClipVision(model.visual)
    tower, settings = getattr(model, "text", model), config["text_cfg"]
    context_length = int(settings.get("context_length", 77))
    text: TextTower
    if files.config is not None:
        text = TransformersText(tower, context_length)
    else:
        text = TextStream(tower, context_length, causal=not settings.get("no_causal_mask", False))
    options = settings.get("tokenizer_kwargs") or {}
    if files.tokenizer is not None:
        rows = text.token_embedding.num_embeddings
        return FolderTokenizer(files.tokenizer, context_length, rows, options), vision, text
    tokenizer = ClipTokenizer(context_length, arch.merges, clean=clip_cleaning(options))
    if tokenizer.vocab_size != model.vocab_size:
        raise SettingsError(
            f"architecture {arch.name!r}: expected a vocabulary of {model.vocab_size} ids, got {tokenizer.vocab_size} "
            f"from {arch.merges or 'the CLIP tokenizer'}. Put its {BUNDLE_MERGES} into the folder."
        )
    return tokenizer, vision, text
