"""The eleven fixed variants of a support image: original, 4 rotations, 4 translations, 2 flips."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ANGLES = (-math.pi / 8, -math.pi / 16, math.pi / 16, math.pi / 8)
SHIFTS = ((0.1, 0.1), (-0.1, 0.1), (-0.1, -0.1), (0.1, -0.1))
VARIANTS = 1 + len(ANGLES) + len(SHIFTS) + 2


def _sample(images: Tensor, matrix: Tensor) -> Tensor:
    grid = F.affine_grid(matrix.to(images).expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def augment(images: Tensor) -> Tensor:
    """(n, C, H, W) -> (11 n, C, H, W): all images of one variant together, variants in the published order.

    Matrices map output to input coordinates in [-1, 1]. Masks go through the same sampler and stay fractional:
    threshold them where they are used.
    """
    rotations = [
        torch.tensor([[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0]], dtype=torch.float32)
        for a in ANGLES
    ]
    shifts = [torch.tensor([[1.0, 0.0, x], [0.0, 1.0, y]]) for x, y in SHIFTS]
    warped = [_sample(images, matrix) for matrix in (*rotations, *shifts)]
    return torch.cat([images, *warped, images.flip(-1), images.flip(-2)])
