"""CARZero's weights: the published checkpoint <-> our network <-> safetensors, every key and shape accounted for.

In the published file all names start with "CARZero.". One LayerNorm has two names there, `fusion_module.decoder_norm`
and `fusion_module.decoder.norm`: 434 names, 432 tensors; the second name wins if they differ. The vocabulary's size is
read from the file. Files that initialise training hold one encoder each: M3AE or MAE for images, a BERT for text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from wordsight.errors import SettingsError, WeightsError
from wordsight.files import atomic_path
from wordsight.models.carzero.checkpoint import read_checkpoint, tensor_names
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.settings import BertShape, CarZeroSettings
from wordsight.models.tensor_files import account_for, listed, read_json_file

PREFIX, FORMAT, VERSION = "CARZero.", "wordsight-carzero", 1
NORM, SECOND_NORM = "fusion_module.decoder_norm.", "fusion_module.decoder.norm."
_WORDS = "text_encoder.model.embeddings.word_embeddings.weight"
_METADATA_KEY = "wordsight"
_IMAGE_PREFIXES = ("vision_encoder.", "")
_TEXT_PREFIXES = ("bert.", "")
_COUNTER = ".num_batches_tracked"  # of batch normalisation; nothing reads it, and old files of torchvision lack it
_TEXT_FILES = ("model.safetensors", "pytorch_model.bin")
_HINT = "Choose the settings (image encoder, memory, head, sizes) that these weights were trained with."


def is_carzero(path: str | Path) -> bool:
    """Whether a file holds weights of a CARZero, published or ours, by the names of its tensors; none is read.

    Raises WeightsError if there is no file.
    """
    return any("fusion_module." in name for name in tensor_names(path))


def read_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a published checkpoint or of our safetensors by our names, and our metadata ({} where there is none).

    As published, a name is what follows the last "CARZero."; `position_ids` of older transformers is dropped.
    Raises WeightsError for unreadable files and for two tensors under one name.
    """
    tensors, metadata = read_checkpoint(path)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name.rpartition(PREFIX)[2]
        if short.endswith("embeddings.position_ids"):
            continue
        if short in state:
            raise WeightsError(f"{path}: expected every tensor once, got {short} twice. Check the file.")
        state[short] = tensor
    for name in [name for name in state if name.startswith(SECOND_NORM)]:
        state[name.replace(SECOND_NORM, NORM)] = state.pop(name)
    return state, _metadata(metadata, path)


def _metadata(stored: Mapping[str, str], path: str | Path) -> dict[str, Any]:
    """The JSON object of our safetensors files; {} for other files."""
    if _METADATA_KEY not in stored:
        return {}
    try:
        values = json.loads(stored[_METADATA_KEY])
    except ValueError as error:
        raise WeightsError(f"{path}: expected JSON metadata, got {error}. The file is damaged.") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: expected metadata of format {FORMAT!r}, got those of another file. Check the path."
        )
    if values.get("version") != VERSION:
        raise WeightsError(
            f"{path}: expected version {VERSION} of {FORMAT}, got {values.get('version')!r}. Update this package."
        )
    return values


def settings_for(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, Any],
    given: CarZeroSettings | None = None,
    bert: BertShape | None = None,
) -> CarZeroSettings:
    """Settings of a file: those given, else those stored with it, else the published ones; its own vocabulary in each.

    Without given or stored settings the kind of image encoder and of head are read off the names, and the text
    encoder has the sizes `bert`.
    """
    settings = given
    if settings is None and "settings" in metadata:
        settings = CarZeroSettings.from_json(metadata["settings"])
    if settings is None:
        conv, deep = "img_encoder.model.conv1.weight" in state, "fusion_module.mlp_head.3.weight" in state
        settings = CarZeroSettings(
            image_encoder="resnet50" if conv else "vit_b16",
            head="mlp" if deep or "fusion_module.mlp_head.0.weight" not in state else "linear",
            text=bert or BertShape(),
        )
    words = state.get(_WORDS)
    if words is None or words.ndim != 2:
        return settings
    return replace(settings, text=replace(settings.text, vocabulary=int(words.shape[0])))


def load_network(
    path: str | Path, settings: CarZeroSettings | None = None, *, bert: BertShape | None = None
) -> CarZeroNetwork:
    """A network with the weights of a published checkpoint or of our safetensors, on the CPU in fp32, in eval mode.

    settings: None takes those stored with the file, else the published variant, with a text encoder of the sizes
    `bert`. The vocabulary is always the file's.
    Raises WeightsError that lists missing, unexpected and misshapen tensors.
    """
    state, metadata = read_state(path)
    network = empty_network(settings_for(state, metadata, settings, bert))
    fill(network, state, path)
    return network.eval()


def empty_network(settings: CarZeroSettings) -> CarZeroNetwork:
    """A network without numbers (on the meta device, but for BERT's two index tables), for `fill`."""
    with torch.device("meta"):
        network = CarZeroNetwork(settings)
    embeddings: Any = network.text_encoder.model.embeddings
    embeddings.position_ids = torch.arange(settings.text.positions)[None]
    embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)
    return network


def state_of(network: CarZeroNetwork) -> dict[str, Tensor]:
    """All tensors of a network, each once: 432 of the published one."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(SECOND_NORM)}


def fill(network: CarZeroNetwork, state: Mapping[str, Tensor], source: object) -> None:
    """Give a network these tensors, as fp32. Raises WeightsError unless every name and shape fits."""
    expected = {name: tuple(tensor.shape) for name, tensor in state_of(network).items()}
    account_for(expected, {name: tuple(tensor.shape) for name, tensor in state.items()}, source, _HINT)
    full = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    full |= {name.replace(NORM, SECOND_NORM): tensor for name, tensor in full.items() if name.startswith(NORM)}
    network.load_state_dict(full, assign=True)


def write_published(path: str | Path, network: CarZeroNetwork) -> None:
    """Write the published layout atomically: a dictionary whose `state_dict` has every name with its prefix."""
    state = {f"{PREFIX}{name}": _plain(tensor) for name, tensor in network.state_dict().items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:  # a path would be written into the file
        torch.save({"state_dict": state}, stream)


def write_safetensors(path: str | Path, network: CarZeroNetwork, metadata: Mapping[str, Any] | None = None) -> None:
    """Write our format atomically: each tensor once, settings in the metadata.

    metadata: further JSON values. Raises SettingsError for values that JSON does not have and for reserved names.
    """
    extra = dict(metadata or {})
    reserved = sorted({"format", "version", "settings"} & set(extra))
    if reserved:
        raise SettingsError(f"metadata: expected other names than {listed(reserved)}, which are set here. Rename them.")
    values = {"format": FORMAT, "version": VERSION, "settings": network.settings.to_json(), **extra}
    try:
        text = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"metadata: expected plain JSON values, got {error}. Convert them first.") from error
    with atomic_path(path) as temporary:
        save_file(
            {name: _plain(tensor) for name, tensor in state_of(network).items()}, temporary, {_METADATA_KEY: text}
        )


def _plain(tensor: Tensor) -> Tensor:
    """A detached CPU tensor that owns just its values."""
    return tensor.detach().cpu().contiguous().clone()


def read_image_start(path: str | Path, network: CarZeroNetwork) -> tuple[str, ...]:
    """Start the image encoder from a pretraining file: M3AE ("vision_encoder." before its names), MAE, or a ResNet-50.

    Returns the names in the file that belong to no part of the encoder (decoders, text towers), which are left out.
    The counters of batch normalisation may be missing, as in torchvision's first files.
    Raises WeightsError unless the whole encoder is in the file; the published code accepts a file without any of it.
    """
    tensors, _ = read_checkpoint(path)
    hint = "Name a file of this encoder and image size: M3AE or MAE of ViT-B/16 at 224 pixels, or a ResNet-50."
    return _start(network.img_encoder.model, tensors, _IMAGE_PREFIXES, (), path, hint)


def read_text_start(folder: str | Path, network: CarZeroNetwork) -> tuple[str, ...]:
    """Start the text encoder from a Hugging Face folder of any BERT (model.safetensors or pytorch_model.bin).

    Returns the names in the file that were left out, those of its heads. The pooler, which nothing reads, may be
    missing. Raises WeightsError if there is no such file or it holds another BERT than the settings name.
    """
    path = next((Path(folder) / name for name in _TEXT_FILES if (Path(folder) / name).is_file()), None)
    if path is None:
        raise WeightsError(
            f"{folder}: expected the weights of a BERT, {' or '.join(_TEXT_FILES)}, found neither. "
            "Put them beside the tokenizer."
        )
    tensors, _ = read_checkpoint(path)
    # files of the first BERTs call a norm's gain and offset gamma and beta
    renamed = {re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name): tensor for name, tensor in tensors.items()}
    renamed = {re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name): tensor for name, tensor in renamed.items()}
    hint = "Set the text sizes to those of its config.json (BertShape.from_config)."
    return _start(network.text_encoder.model, renamed, _TEXT_PREFIXES, ("pooler.",), path, hint)


def _start(
    encoder: Any,
    tensors: Mapping[str, Tensor],
    prefixes: tuple[str, ...],
    optional: tuple[str, ...],
    source: object,
    hint: str,
) -> tuple[str, ...]:
    """Copy the encoder's tensors out of a file, with whichever prefix the file has; returns the names left out."""
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    prefix = next((p for p in prefixes if p and any(name.startswith(p) for name in tensors)), "")
    found = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    taken = {name: found[name].float() for name in expected if name in found}
    spare = {name for name in expected if name.startswith(optional) or name.endswith(_COUNTER)}
    needed = {name: shape for name, shape in expected.items() if name in taken or name not in spare}
    account_for(needed, {name: tuple(tensor.shape) for name, tensor in taken.items()}, source, hint)
    encoder.load_state_dict(taken, strict=False)
    used = {f"{prefix}{name}" for name in taken}
    return tuple(name for name in tensors if name not in used)


def text_shape(folder: Path) -> BertShape | None:
    """Sizes of the BERT in a folder's config.json; None without that file. Raises SettingsError for another model."""
    path = folder / "config.json"
    return BertShape.from_config(read_json_file(path)) if path.is_file() else None
