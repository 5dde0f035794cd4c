"""Which CLIP: a name, a configuration file or a folder -> open_clip's configuration, checked before it is built.

Adapters need an image tower that is one residual stream of patch tokens on a square grid, learned prompts a text tower
that takes word embeddings. Of open_clip's towers these are

image   open_clip's VisionTransformer, whatever pools it; timm's VisionTransformer with or without class and
        register tokens (BiomedCLIP, SigLIP, SigLIP 2, MobileCLIP-B); timm's Eva with its rotary positions (EVA01,
        EVA02, PE-Core)
text    open_clip's TextTransformer with any mask and pooling, with CLIP's byte pairs or a tokenizer folder (SigLIP,
        CLIPA, worldwide CLIP); transformers' BERT, RoBERTa, XLM-R, mT5 and NLLB encoders (BiomedCLIP)

and refused are image towers whose blocks change the grid or share more than the stream (ResNet, ConvNeXt, FastViT,
Swin, ViTamin, relative positions) and captioning models (CoCa), whose text tower ends with a class token.
docs/backbones.md has the table and says how each kind was checked.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import open_clip
import timm
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from wordsight.errors import SettingsError, WeightsError
from wordsight.models.mla.text_files import POOLERS
from wordsight.models.tensor_files import read_json_file

Activation = Literal["gelu", "quick_gelu"]
BUNDLE_CONFIG, BUNDLE_WEIGHTS, BUNDLE_MERGES = "open_clip_config.json", "model.safetensors", "merges.txt.gz"
TINY = Path(__file__).parent / "tiny"
WORKING = (
    "Vision transformers of open_clip (ViT-B-16, ViT-L-14-336 and their like) and of timm (BiomedCLIP, SigLIP, EVA, "
    "PE-Core) work, with text transformers of open_clip or of transformers (BERT, RoBERTa, XLM-R, mT5, NLLB)."
)
_WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    BUNDLE_WEIGHTS,
    "pytorch_model.bin",
)
_TOP_KEYS = {
    "embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale", "init_logit_bias",
    "nonscalar_logit_scale",
}  # fmt: skip
_TIMM_MODULES = ("timm.models.vision_transformer", "timm.models.vision_transformer_hybrid", "timm.models.eva")
_TEXT_POOLING = ("argmax", "eos", "first", "last")
_LIMITS = {"layers": 256, "width": 16384, "vocab_size": 2_000_000, "context_length": 8192, "heads": 256}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A checked open_clip configuration and what came with it.

    name: finds it again: a listed name, "tiny" or an absolute path. config: open_clip's model_cfg.
    folder: where the configuration lies; weights, merges: files that lie there, if any.
    activation: the one its weights were trained with, as far as the configuration says.
    """

    name: str
    config: Mapping[str, Any]
    weights: Path | None = None
    merges: Path | None = None
    folder: Path | None = None

    @property
    def activation(self) -> Activation:
        """Activation of both towers by the configuration's quick_gelu flag."""
        return "quick_gelu" if self.config.get("quick_gelu") else "gelu"

    @property
    def uses_timm(self) -> bool:
        """Whether the image tower is timm's."""
        return bool(self.config["vision_cfg"].get("timm_model_name"))


def find_architecture(architecture: str | Path) -> Architecture:
    """Resolve a name of open_clip's list, OpenAI's spelling of it, "tiny", a JSON configuration or a folder.

    A folder holds open_clip_config.json, or config.json of transformers' CLIPModel, and usually weights. Raises
    SettingsError for unknown names (with close matches) and for towers that cannot be iterated block by block,
    WeightsError for folders without a configuration.
    """
    name = str(architecture)
    if name == "tiny":
        if not (TINY / BUNDLE_CONFIG).is_file():
            raise SettingsError(
                f"architecture 'tiny': expected the packaged backbone at {TINY}, found none. This installation came "
                "without it; install the released package or name another architecture and its weights."
            )
        return _from_folder(TINY, "tiny")
    known = open_clip.list_models()
    spelled = name.replace("/", "-").replace("@336px", "-336")
    if not isinstance(architecture, Path) and spelled in known:
        config = open_clip.get_model_config(spelled)
        check_config(config, spelled)
        return Architecture(spelled, config)
    path = Path(architecture)
    if path.is_dir():
        return _from_folder(path, str(path.resolve()))
    if path.is_file():
        return Architecture(str(path.resolve()), _model_config(path, str(path)), folder=path.resolve().parent)
    close = difflib.get_close_matches(spelled, known, n=5, cutoff=0.5)
    raise SettingsError(
        f"architecture {name!r}: expected a name of open_clip's list, a JSON configuration or a folder, found none of "
        f"these. Did you mean {', '.join(close) if close else 'ViT-L-14-336'}? Folders of the Hugging Face Hub must "
        "be downloaded first and named by their local path."
    )


def _from_folder(folder: Path, name: str) -> Architecture:
    config_path = folder / BUNDLE_CONFIG
    if config_path.is_file():
        config = _model_config(config_path, name)
    elif (folder / "config.json").is_file():
        config = _from_transformers(read_json_file(folder / "config.json"), folder / "config.json")
        check_config(config, name)
    else:
        raise WeightsError(
            f"{folder}: expected {BUNDLE_CONFIG} or a transformers config.json in the folder, found neither. "
            "Download the whole model folder, or name an architecture and a weights file."
        )
    merges = folder / BUNDLE_MERGES
    return Architecture(name, config, folder_weights(folder), merges if merges.is_file() else None, folder)


def folder_weights(folder: Path) -> Path | None:
    """The weights file of a model folder, open_clip's own layout first."""
    return next((folder / name for name in _WEIGHT_NAMES if (folder / name).is_file()), None)


def _model_config(path: Path, name: str) -> dict[str, Any]:
    content = read_json_file(path)
    config = content.get("model_cfg", content)
    check_config(config, name)
    return copy.deepcopy(dict(config))


def _from_transformers(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """transformers' CLIPConfig -> open_clip's model_cfg; values that a file leaves out are CLIPConfig's defaults."""
    if content.get("model_type") != "clip":
        raise SettingsError(f"{path}: expected model_type 'clip', got {content.get('model_type')!r}. {WORKING}")
    from transformers import CLIPConfig

    full: Any = CLIPConfig.from_dict(dict(content))
    vision, text = full.vision_config, full.text_config
    if vision.hidden_act != text.hidden_act or vision.hidden_act not in ("gelu", "quick_gelu"):
        raise SettingsError(
            f"{path}: expected hidden_act 'gelu' or 'quick_gelu' in both towers, got {vision.hidden_act!r} (image) and "
            f"{text.hidden_act!r} (text). {WORKING}"
        )
    # open_clip rounds width * ratio down: the half keeps the product above the wanted width
    return {
        "embed_dim": full.projection_dim,
        "quick_gelu": vision.hidden_act == "quick_gelu",
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": (vision.intermediate_size + 0.5) / vision.hidden_size,
            "norm_kwargs": {"eps": vision.layer_norm_eps},
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "layers": text.num_hidden_layers,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "mlp_ratio": (text.intermediate_size + 0.5) / text.hidden_size,
            "norm_kwargs": {"eps": text.layer_norm_eps},
        },
    }


def check_config(config: Any, name: str) -> None:
    """Raise SettingsError unless the configuration is one whose towers can be built and iterated block by block."""
    if not isinstance(config, Mapping) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise SettingsError(
            f"architecture {name!r}: expected a configuration with embed_dim, vision_cfg and text_cfg, got "
            f"{sorted(config) if isinstance(config, Mapping) else type(config).__name__}. Use open_clip's format."
        )
    vision, text = config["vision_cfg"], config["text_cfg"]
    if not isinstance(vision, Mapping) or not isinstance(text, Mapping):
        raise SettingsError(f"architecture {name!r}: expected vision_cfg and text_cfg to be objects. Fix the JSON.")
    reason = _unsupported(config, vision, text)
    if reason:
        raise SettingsError(f"architecture {name!r}: {reason} cannot carry adapters here. {WORKING}")
    unknown = sorted(set(config) - _TOP_KEYS)
    unknown += [f"vision_cfg.{k}" for k in vision if k not in CLIPVisionCfg.__dataclass_fields__]
    unknown += [f"text_cfg.{k}" for k in text if k not in CLIPTextCfg.__dataclass_fields__]
    if unknown:
        raise SettingsError(
            f"architecture {name!r}: expected open_clip's configuration keys, got unknown {', '.join(unknown)}. "
            "Remove them or correct their spelling."
        )
    _check_numbers(config, vision, text, name)


def _unsupported(config: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> str | None:
    """What about a configuration rules it out, in words; None if nothing does."""
    timm_name, pooler = vision.get("timm_model_name"), text.get("hf_pooler_type")
    reasons = (
        ("multimodal_cfg" in config, "a captioning model (CoCa)"),
        (isinstance(vision.get("layers"), list | tuple), "a ResNet image tower"),
        (bool(timm_name) and not _iterable_timm(str(timm_name)), f"timm's image tower {timm_name!r}"),
        (bool(text.get("embed_cls")), "a text tower with a class token"),
        (text.get("pool_type", "argmax") not in _TEXT_POOLING, f"text pooling {text.get('pool_type')!r}"),
        (bool(text.get("tokenizer_mode")), f"the tokenizer mode {text.get('tokenizer_mode')!r}"),
        (bool(text.get("hf_model_name")) and pooler not in (None, *POOLERS), f"text pooling {pooler!r}"),
    )
    return next((words for applies, words in reasons if applies), None)


def _iterable_timm(name: str) -> bool:
    """Whether timm builds a tower under this name whose blocks need nothing but the stream and its fixed positions."""
    if not timm.is_model(name):
        return False
    module = timm.model_entrypoint(name).__module__
    return module in _TIMM_MODULES


def _check_numbers(config: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any], name: str) -> None:
    """Sizes are positive, bounded integers, and heads divide widths."""
    values = {"embed_dim": (config["embed_dim"], _LIMITS["width"])}
    for tower, section in (("vision_cfg", vision), ("text_cfg", text)):
        for key, limit in _LIMITS.items():
            if key in section:
                values[f"{tower}.{key}"] = (section[key], limit)
    for key, (value, limit) in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
            raise SettingsError(f"architecture {name!r}: expected {key} in 1..{limit}, got {value!r}. Fix the JSON.")
    defaults = CLIPVisionCfg(), CLIPTextCfg()
    width, head = vision.get("width", defaults[0].width), vision.get("head_width", defaults[0].head_width)
    if not vision.get("timm_model_name") and (not isinstance(head, int) or head < 1 or width % head):
        raise SettingsError(
            f"architecture {name!r}: expected vision_cfg.head_width to divide the width {width}, got {head!r}. "
            "Fix the JSON."
        )
    width, heads = text.get("width", defaults[1].width), text.get("heads", defaults[1].heads)
    if width % heads:
        raise SettingsError(
            f"architecture {name!r}: expected text_cfg.heads to divide the width {width}, got {heads}. Fix the JSON."
        )
