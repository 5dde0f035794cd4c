"""CARZero's augmentation of a prepared 8-bit square: crop, flip, affine map, brightness and contrast, in this order."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import ImageEnhance

from wordsight.train.carzero_settings import CarZeroTraining

Grey = NDArray[np.uint8]


def augment(square: Grey, size: int, training: CarZeroTraining, rng: np.random.Generator) -> Grey:
    """(R, R) -> (size, size), drawn anew: what torchvision's RandomCrop, RandomHorizontalFlip, RandomAffine (nearest
    neighbour, zeros outside) and ColorJitter do to grey images, by Pillow as there.

    Every call draws the same number of values whatever they are, but for the crop.
    """
    room = square.shape[0] - size
    row, column = rng.integers(0, room + 1, 2) if training.crop else (round(room / 2), round(room / 2))
    cut = square[row : row + size, column : column + size]
    if rng.random() < training.flip:
        cut = cut[:, ::-1]
    angle = rng.uniform(-training.degrees, training.degrees)
    shift = np.rint(rng.uniform(-1, 1, 2) * training.translate * size)
    scale = rng.uniform(*training.scale)
    image = affine(Pil.fromarray(np.ascontiguousarray(cut)), angle, (shift[0], shift[1]), scale)
    factors = 1 + rng.uniform(-1, 1, 2) * (training.brightness, training.contrast)
    tools = (ImageEnhance.Brightness, ImageEnhance.Contrast)
    for which in rng.permutation(2):
        image = tools[which](image).enhance(float(factors[which]))
    return np.asarray(image, dtype=np.uint8)


def affine(image: Pil.Image, angle: float, shift: tuple[float, float], scale: float) -> Pil.Image:
    """Turned clockwise by `angle` degrees about the centre, enlarged by `scale`, moved by `shift` (x, y) pixels."""
    if angle == 0 and shift == (0, 0) and scale == 1:
        return image
    cos, sin = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
    centre = image.width / 2, image.height / 2
    x, y = centre[0] + shift[0], centre[1] + shift[1]
    back = (cos, sin, centre[0] - cos * x - sin * y, -sin, cos, centre[1] + sin * x - cos * y)
    return image.transform(image.size, Pil.Transform.AFFINE, back, Pil.Resampling.NEAREST)


def centre(square: Grey, size: int) -> Grey:
    """The middle, as at test time."""
    start = round((square.shape[0] - size) / 2)
    return square[start : start + size, start : start + size]
