"""The tiny network in training: how it begins, what it sees of an image, and its losses; see train_tiny_clip.py."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_clip_pictures import CELL, GRID, PATCH, SIZE, Batch, Pool
from wordsight.models.mla.backbone import TextStream

PICTURE, STATISTICS = 76, 18  # numbers that the heads predict of each patch
ROUGHNESS = (1.5, 2.3, 3.2, 4.2, 5.2, 6.2, 7.2, 8.2)  # edges of bands, in half waves a patch
BANDS = (1, 4, 9, 18, 34, 72)  # cosines of rising frequency
NEAR = 0.05  # cosine by which an odd patch should be farther from its nearest than others
CONTENT = 96  # channels that begin with what a patch shows; the other 32 with where it is
ANGLES = (torch.arange(GRID)[:, None] + 0.5) * torch.pi * (torch.arange(8) + 0.5) / 8  # (GRID, 8)
Look = tuple[int, int, float, bool] | None
AROUND: tuple[Look, ...] = ((-1, 0, 0, False), (1, 0, 0, False), (0, -1, 0, False), (0, 1, 0, False))
WIDER: tuple[Look, ...] = ((-2, 0, 1, False), (2, 0, 1, False), (0, -2, 1, False), (0, 2, 1, False))
MIXED: tuple[Look, ...] = ((0, 0, 1.5, False), (0, 0, 1, True), (0, 0, 4, False), None)
LOOKS = (AROUND, WIDER, MIXED, MIXED)


def config(merges: int) -> dict[str, Any]:
    """open_clip's configuration of the network."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIZE, "patch_size": PATCH, "layers": 4, "width": 128, "head_width": 32},
        "text_cfg": {
            "context_length": 32,
            "vocab_size": 512 + merges + 2,
            "width": 128,
            "heads": 4,
            "layers": 2,
        },
    }


class Heads(nn.Module):
    """Per block: where something was pasted (9 cells a patch), the unmarked picture (25 cells of 3 channels, grain) and
    its statistics in and around the patch (18)."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.cells = (PATCH // CELL) ** 2
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.out = nn.ModuleList(nn.Linear(width, self.cells + PICTURE + STATISTICS) for _ in range(layers))

    def forward(self, tokens: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Streams (B, 1 + P, W) -> per block logits (B, P, 9), picture (B, P, 76) and statistics (B, P, 18)."""
        outs = [out(norm(x[:, 1:])) for x, norm, out in zip(tokens, self.norms, self.out, strict=True)]
        return [torch.split(out, (self.cells, PICTURE, STATISTICS), dim=-1) for out in outs]  # type: ignore[misc]


def tokens_of(model: Any, images: Tensor) -> list[Tensor]:
    """The residual stream after every block, (B, 1 + P, W) each."""
    visual = model.visual
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([first, x], dim=1) + visual.positional_embedding)
    out = []
    for block in visual.transformer.resblocks:
        x = block(x)
        out.append(x)
    return out


def cells(maps: Tensor, size: int) -> Tensor:
    """(B, C, s, s) -> mean over cells of `size` pixels, grouped by patch: (B, P, C * cells per patch)."""
    pooled = F.avg_pool2d(maps, size)
    return F.unfold(pooled, PATCH // size, stride=PATCH // size).transpose(1, 2)


def picture_target(clean: Tensor) -> Tensor:
    """What a patch shows: 5 x 5 cells of 3 channels around 0, and the log deviation inside cells; (B, P, 76)."""
    coarse = F.avg_pool2d(clean, 3)
    rest = (clean - F.interpolate(coarse, scale_factor=3)).square().mean(1, keepdim=True)
    grain = (F.avg_pool2d(rest, PATCH).flatten(1) + 1e-5).log()[..., None] / 4 + 1
    return torch.cat([(cells(clean, 3) - 0.4) * 3, grain], dim=-1)


def statistics_target(clean: Tensor) -> Tensor:
    """Brightness and log energy in five bands, (B, P, 18): of a patch, of 3 x 3 around it, and against 5 x 5."""
    filters = cosine_filters(CONTENT)[: BANDS[-1]].mean(dim=1, keepdim=True) * 3**0.5
    waves = F.conv2d(clean.mean(dim=1, keepdim=True), filters, stride=PATCH)  # (B, 72, p, p)
    energy = [waves[:, low:high].square().mean(dim=1) for low, high in pairwise(BANDS)]
    own = torch.stack([waves[:, 0] / PATCH * 3 - 1, *((e + 1e-5).log() / 3 + 2 for e in energy)], dim=1)
    near, far = (F.avg_pool2d(own, k, 1, k // 2, count_include_pad=False) for k in (3, 5))
    return torch.cat([own, near, own - far], dim=1).flatten(2).transpose(1, 2)


def nearest_loss(tokens: Tensor, marked: Tensor, plain: Tensor) -> Tensor:
    """Marked patches should lie farther from the unmarked patches of the other pictures than unmarked ones do.

    What the memory bank of the method asks of its features: cosine to the nearest row. tokens (2 B, P, W): the marked
    pictures of one kind, then the same unmarked; marked, plain (B, P) bool.
    """
    after, before = F.normalize(tokens, dim=-1).chunk(2)
    own = torch.eye(len(after), dtype=torch.bool)[:, None, :, None]
    near = [
        torch.einsum("ipw,jqw->ipjq", queries, before).masked_fill(own, -2).flatten(2).amax(dim=2)
        for queries in (after, before)
    ]
    odd, usual = near[0][marked], torch.cat([near[1].flatten(), near[0][plain]])
    if len(odd) == 0:
        return torch.zeros(())
    return F.softplus((odd[:, None] - usual[None, :]) / NEAR).mean() * NEAR * 10


def losses(model: Any, heads: Heads, batch: Batch, ids: Tensor, causal: bool) -> dict[str, Tensor]:
    """All losses of one batch by name. causal: how the text tower reads this time; both ways are in use."""
    count = len(batch.images)
    streams = tokens_of(model, torch.cat([torch.from_numpy(batch.images), torch.from_numpy(batch.before)]))
    visible = (~torch.from_numpy(batch.hidden)).flatten(1)[..., None].float()
    target, pasted = picture_target(torch.from_numpy(batch.clean)), cells(torch.from_numpy(batch.cover)[:, None], CELL)
    marked = visible * (pasted > 0.3)
    covered = marked.mean(dim=-1) > 0.5
    free = (pasted.mean(dim=-1) < 0.02) & visible[..., 0].bool()
    numbers = statistics_target(torch.from_numpy(batch.clean))
    where, pairs, what, around = (torch.zeros(()) for _ in range(4))
    for level, (logits, picture, statistics) in enumerate(heads(streams), 1):
        after, before = logits[:count], logits[count:]
        found = F.binary_cross_entropy_with_logits(after, pasted, reduction="none") * (1 + 2 * pasted)
        where = where + level / 4 * ((found * visible).mean() + F.softplus(before).mean())
        pairs = pairs + level / 4 * (F.softplus(before - after) * marked).sum() / (marked.sum() + 1)
        what = what + level / 4 * F.smooth_l1_loss(picture[:count], target, beta=0.5)
        around = around + level / 4 * F.smooth_l1_loss(statistics[count:], numbers, beta=0.3)
    near = torch.stack([nearest_loss(x[:, 1:], covered, free) for x in streams]).mean()
    visual = model.visual
    image = F.normalize(visual.ln_post(streams[-1][:count, 0]) @ visual.proj, dim=-1)
    text = F.normalize(TextStream(model, ids.shape[1], causal=True).encode(ids, causal=causal), dim=-1)
    logits = model.logit_scale.exp().clamp(max=100) * image @ text.T  # (B, 2 B): the last B texts are strangers
    same = torch.arange(count)
    clip = (F.cross_entropy(logits, same) + F.cross_entropy(logits[:, :count].T, same)) / 2
    return {"clip": clip, "where": where, "pairs": pairs, "what": what, "around": around, "near": near}


def start(model: Any, pool: Pool, seed: int) -> None:
    """Begin where learning is fast: patches seen through whitened cosines (DCT), places as sines and cosines.

    Random filters need thousands of steps to find either; both are trained further.
    """
    rng = np.random.default_rng([seed, 1])
    pictures = np.stack(
        [pool.picture(name, int(i)) for name in pool.pixels for i in rng.integers(len(pool.pixels[name]), size=40)]
    )
    patches = F.unfold(torch.from_numpy(pictures).permute(0, 3, 1, 2), PATCH, stride=PATCH)
    patches = patches.transpose(1, 2).reshape(-1, 3, PATCH, PATCH)
    filters = cosine_filters(CONTENT)
    seen = torch.einsum("nchw,kchw->nk", patches, filters)
    scale = 1.6 / (seen.std(dim=0) + 0.02) ** 0.7
    model.visual.conv1.weight.data[CONTENT:] *= 0.1
    model.visual.conv1.weight.data[:CONTENT] = filters * scale[:, None, None, None]
    axis = torch.cat([ANGLES.cos(), ANGLES.sin()], dim=1)  # (GRID, 16)
    places = torch.cat([axis[:, None].expand(-1, GRID, -1), axis[None].expand(GRID, -1, -1)], dim=2)
    model.visual.positional_embedding.data.mul_(0.1)[1:, CONTENT:] = 1.4 * places.flatten(0, 1)
    model.visual.positional_embedding.data[1:, :CONTENT] -= seen.mean(dim=0) * scale
    for block, looks in zip(model.visual.transformer.resblocks, LOOKS, strict=True):
        weight = block.attn.in_proj_weight.data
        weight[: 2 * weight.shape[1]] *= 0.2
        for head, look in enumerate(looks):
            if look is not None:
                query, key = look_at(*look)
                weight[32 * head : 32 * head + 32, CONTENT:] = query
                weight[weight.shape[1] + 32 * head : weight.shape[1] + 32 * head + 32, CONTENT:] = key
    rectify(model.visual.transformer.resblocks[0])


def rectify(block: Any) -> None:
    """Begin the first block's MLP as rectified waves, summed by frequency and direction: how rough a patch is.

    What a linear view of a patch cannot say, and what random weights take thousands of steps to find.
    """
    block.attn.out_proj.weight.data.mul_(0.3)
    first, second = block.mlp.c_fc.weight.data, block.mlp.c_proj.weight.data
    groups: dict[tuple[int, int], list[int]] = {}
    for k, (row, column) in enumerate(wave_order()[: BANDS[-1]]):
        if k > 0:
            band = sum(math.hypot(row, column) >= edge for edge in ROUGHNESS)
            groups.setdefault((band, min(int(math.atan2(row, column) / (math.pi / 2) * 3), 2)), []).append(k)
    for channel, waves in enumerate(sorted(groups.items())):
        for k in waves[1]:
            units = [2 * k - 2, 2 * k - 1]
            first[units] = 0
            first[units, k] = torch.tensor([1.5, -1.5])
            block.mlp.c_fc.bias.data[units] = 0
            second[:, units] = 0
            second[CONTENT - 1 - channel, units] = len(waves[1]) ** -0.5


def look_at(row: int, column: int, blur: float, mirror: bool) -> tuple[Tensor, Tensor]:
    """Query and key weights (32, 32) on the places of tokens: attention to what lies `row`, `column` patches away.

    blur: radius of the neighbourhood in patches; mirror: counted from the mirror image of the own place.
    """
    angles = ANGLES[1] - ANGLES[0]  # per patch
    gain = 1.5 * torch.exp(-((angles * blur) ** 2) / 4)
    parts = []
    for shift, turned in ((row, False), (column, mirror)):
        offset = angles * shift if not turned else 2 * ANGLES[0] + angles * (GRID - 1 + shift)
        cos, sin = torch.diag(gain * offset.cos()), torch.diag(gain * offset.sin())
        upper, lower = (torch.cat([cos, sin], 1), torch.cat([sin, -cos], 1)) if turned else (
            torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1))  # fmt: skip
        parts.append(torch.cat([upper, lower]))
    return torch.block_diag(*parts), torch.diag(gain.repeat(4))


def cosine_filters(count: int) -> Tensor:
    """Orthonormal cosines of a patch, (K, 3, p, p): lowest frequencies first; a quarter of them opposed colours."""
    position = (torch.arange(PATCH) + 0.5) * torch.pi / PATCH
    waves = (position[None] * torch.arange(PATCH)[:, None]).cos()
    waves = waves / waves.norm(dim=1, keepdim=True)
    planes = torch.stack([waves[r][:, None] * waves[c] for r, c in wave_order()])
    grey, red, blue = (torch.tensor(v) / torch.tensor(v).norm() for v in ((1.0, 1, 1), (1.0, -1, 0), (1.0, 1, -2)))
    few = count // 8
    parts = [(grey, planes[: count - 2 * few]), (red, planes[:few]), (blue, planes[:few])]
    return torch.cat([colour[None, :, None, None] * part[:, None] for colour, part in parts])


def wave_order() -> list[tuple[int, int]]:
    """Frequencies (down, across) of the cosines of a patch, lowest first."""
    every = ((row, column) for row in range(PATCH) for column in range(PATCH))
    return sorted(every, key=lambda rc: (rc[0] ** 2 + rc[1] ** 2, rc))
