"""Image -> one global token and a grid of local ones: ViT-B/16 as published, another vision transformer, ResNet-50."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.workspace import Workspace, Workspaces, in_new_memory
from wordsight.models.runtime import compiling, laid_out, run_module

IMAGES = 8


class VitEncoder(nn.Module):
    """A vision transformer's normed tokens as they are: class token first, patches row by row from the top left."""

    def __init__(self, settings: CarZeroSettings) -> None:
        super().__init__()
        shape = settings.vit
        assert shape is not None
        self.model = VisionTransformer(
            img_size=shape.image_size,
            patch_size=shape.patch,
            embed_dim=shape.width,
            depth=shape.layers,
            num_heads=shape.heads,
            mlp_ratio=shape.hidden / shape.width,
            num_classes=0,
            global_pool="",
        )
        assert self.model.pos_embed is not None
        self.model.pos_embed.requires_grad_(False)  # frozen in the published training
        self._spaces = Workspaces()

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + P, D)."""
        if torch.is_grad_enabled() or in_new_memory(images) or compiling():
            return self._block_by_block(images)
        with self._spaces.one() as work:
            return torch.cat([self._in_place(part, work) for part in torch.split(images, IMAGES)])

    def _block_by_block(self, images: Tensor) -> Tensor:
        """What `model.forward_features` computes, with blocks that can be compiled."""
        model: Any = self.model
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        for block in model.blocks:
            x = run_module(block, x)
        tokens: Tensor = model.norm(x)
        return tokens

    def _in_place(self, images: Tensor, work: Workspace) -> Tensor:
        """The same in memory that is used again: 3 to 5 % faster on the CPU."""
        net: Any = self.model
        patches = net.patch_embed(images)
        x = torch.cat([net.cls_token.expand(len(images), -1, -1), patches], dim=1).add_(net.pos_embed)
        rows = x.flatten(0, 1)
        for block in net.blocks:
            attention, mlp = block.attn, block.mlp
            joined = work.linear("wide", block.norm1(rows), attention.qkv.weight, attention.qkv.bias)
            heads = joined.view(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
            read = F.scaled_dot_product_attention(heads[0], heads[1], heads[2])
            work.add_linear(rows, read.transpose(1, 2).reshape(rows.shape), attention.proj)
            hidden = work.linear("wide", block.norm2(rows), mlp.fc1.weight, mlp.fc1.bias)
            work.add_linear(rows, torch.ops.aten.gelu_(hidden), mlp.fc2)
        tokens: Tensor = net.norm(x)
        return tokens


class ResNetEncoder(nn.Module):
    """ResNet-50: local tokens from the third stage, the global one from the pooled fourth, both projected to D."""

    def __init__(self, settings: CarZeroSettings) -> None:
        super().__init__()
        self.model: Any = timm.create_model("resnet50", pretrained=False, num_classes=0)
        self.global_embedder = nn.Linear(2048, settings.width)
        self.local_embedder = nn.Conv2d(1024, settings.width, kernel_size=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + P, D)."""
        net = self.model
        x = net.maxpool(net.act1(net.bn1(net.conv1(laid_out(images)))))
        third = net.layer3(net.layer2(net.layer1(x)))  # (B, 1024, S / 16, S / 16)
        pooled = net.layer4(third).mean(dim=(2, 3))  # (B, 2048)
        patches = self.local_embedder(third).flatten(2).transpose(1, 2)  # (B, P, D)
        return torch.cat([self.global_embedder(pooled)[:, None], patches], dim=1)


def image_encoder(settings: CarZeroSettings) -> VitEncoder | ResNetEncoder:
    """The encoder that the settings name, randomly initialised."""
    return ResNetEncoder(settings) if settings.vit is None else VitEncoder(settings)
