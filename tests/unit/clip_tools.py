"""Tiny CLIPs and every file format that can hold them, for the backbone's tests."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

from wordsight.models.mla.backbone import Clip

VISION = {"image_size": 56, "patch_size": 14, "layers": 3, "width": 32, "head_width": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "layers": 2, "width": 32, "heads": 2}
CONFIG: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}


def reference(config: dict[str, Any], seed: int = 3) -> nn.Module:
    """open_clip's own network with every tensor random (its zeros and ones would hide swapped keys)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        arguments = json.loads(json.dumps(config))
        model: nn.Module = (CustomTextCLIP if arguments.pop("custom_text", False) else CLIP)(**arguments)
        for parameter in model.parameters():
            # values that fp16 holds exactly, so that all formats carry the same numbers
            nn.init.normal_(parameter, std=0.2).data = parameter.data.half().float()
    return model.eval()


def images(size: int = 56, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def features(clip: Clip) -> tuple[torch.Tensor, torch.Tensor]:
    """Image and text features through the streams."""
    x = clip.vision.embed(images(clip.image_size))
    for block in clip.vision.blocks:
        x = block(x)
    return clip.vision.finish(x), clip.text.encode(clip.tokenizer(["no finding", "a lesion in the liver"]))


def assert_same(clip: Clip, model: nn.Module) -> None:
    """Streams give what open_clip's own forward gives."""
    ids = clip.tokenizer(["no finding", "a lesion in the liver"])
    image, text = features(clip)
    with torch.no_grad():
        torch.testing.assert_close(image, model.encode_image(images(clip.image_size)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(text, model.encode_text(ids), rtol=1e-5, atol=1e-5)


def openai_archive(path: Path, state: dict[str, torch.Tensor], traced: bool = False) -> None:
    """A TorchScript archive as OpenAI's: modules with the published names, fp16 matrices, three scalars."""

    class Node(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    root = Node()
    scalars = {"input_resolution": 56, "context_length": 24, "vocab_size": 49408}
    for name, value in scalars.items():
        root.register_buffer(name, torch.tensor(value))
    for key, tensor in state.items():
        *parents, leaf = key.split(".")
        node = root
        for part in parents:
            if not hasattr(node, part):
                node.add_module(part, Node())
            node = getattr(node, part)
        matrix = tensor.ndim >= 2 and "embedding" not in key
        node.register_parameter(leaf, nn.Parameter(tensor.half() if matrix else tensor, requires_grad=False))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of TorchScript
        module = torch.jit.trace(root, torch.zeros(1)) if traced else torch.jit.script(root)
        torch.jit.save(module, str(path))


def transformers_folder(path: Path, act: str = "quick_gelu") -> Any:
    """A folder of transformers' CLIPModel and the model itself."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        projection_dim=16,
        vision_config={
            "image_size": 56, "patch_size": 14, "num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 2,
            "intermediate_size": 100, "hidden_act": act, "projection_dim": 16,
        },
        text_config={
            "max_position_embeddings": 24, "vocab_size": 49408, "num_hidden_layers": 2, "hidden_size": 32,
            "num_attention_heads": 4, "intermediate_size": 128, "hidden_act": act, "projection_dim": 16,
            "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 0,
        },
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = CLIPModel(config).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    return model
