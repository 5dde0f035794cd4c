"""How a phantom becomes a picture: shading, grey-value curve, blur and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordsight.data.phantoms.common import Float32, smooth_field
from wordsight.data.phantoms.grain import grain


def blur(image: Float32, passes: int = 1) -> Float32:
    """Smooth a (H, W) image with the binomial kernel (1, 2, 1)/4 along both axes, `passes` times; borders repeat."""
    for _ in range(passes):
        for axis in (0, 1):
            padded = np.concatenate(
                (image.take([0], axis), image, image.take([-1], axis)), axis=axis, dtype=np.float32, casting="same_kind"
            )
            middle = padded[1:-1] if axis == 0 else padded[:, 1:-1]
            before, after = (padded[:-2], padded[2:]) if axis == 0 else (padded[:, :-2], padded[:, 2:])
            image = before + after
            image += middle
            image += middle
            image *= np.float32(0.25)
    return image


@dataclass(frozen=True)
class Acquisition:
    """How an image was taken; `sample` draws one, `scanner` applies it.

    noise: standard deviation in [0, 1] units; bias: relative strength of the shading field; gamma, gain, offset: the
    grey-value curve; blurs: passes of a 3x3 binomial filter; rician: whether noise is Rician (magnitude images).
    """

    noise: float = 0.03
    bias: float = 0.1
    gamma: float = 1.0
    gain: float = 1.0
    offset: float = 0.0
    blurs: int = 0
    rician: bool = False

    @classmethod
    def sample(
        cls,
        rng: np.random.Generator,
        *,
        noise: tuple[float, float] = (0.012, 0.045),
        bias: float = 0.12,
        rician: bool = False,
    ) -> Acquisition:
        """Draw an acquisition with the noise level log-uniform in `noise` and wide contrast, brightness and gamma."""
        return cls(
            noise=float(np.exp(rng.uniform(np.log(noise[0]), np.log(noise[1])))),
            bias=float(bias * rng.uniform(0, 1)),
            gamma=float(np.exp(rng.uniform(-0.3, 0.3))),
            gain=float(rng.uniform(0.62, 1.12)),
            offset=float(rng.uniform(0.0, 0.12)),
            blurs=int(rng.integers(0, 2)),
            rician=rician,
        )

    def attributes(self) -> dict[str, str | float | int]:
        """Words and numbers for Phantom.attributes."""
        level = "weak" if self.noise < 0.018 else "moderate" if self.noise < 0.03 else "strong"
        contrast = "low" if self.gain < 0.8 else "medium" if self.gain < 0.95 else "high"
        return {
            "noise": level,
            "contrast": contrast,
            "brightness": "dark" if self.gamma > 1.12 else "bright" if self.gamma < 0.9 else "medium",
            "sharpness": "soft" if self.blurs else "sharp",
            "shading": round(self.bias, 3),
        }


def scanner(rng: np.random.Generator, image: Float32, how: Acquisition) -> NDArray[np.uint8]:
    """Take a picture of `image` ((H, W) or (H, W, 3) float32 in about [0, 1]): shading, grey curve, blur, noise, uint8.

    Colour images share the shading of all channels and get independent noise per channel.
    """
    shape = (image.shape[0], image.shape[1])
    colour = image.ndim == 3
    shading = smooth_field(rng, shape, shape[0] / 2)
    shading *= np.float32(how.bias)
    shading += np.float32(1)
    picture: Float32 = image * (shading[..., None] if colour else shading)
    np.maximum(picture, 0, out=picture)
    if how.gamma != 1:
        curve = (np.arange(4096, dtype=np.float32) / np.float32(2048)) ** np.float32(how.gamma)
        picture *= np.float32(2048)
        picture = curve.take(picture.astype(np.intp), mode="clip")
    if how.blurs and not colour:
        picture = blur(picture, how.blurs)
    picture *= np.float32(how.gain)
    picture += np.float32(how.offset)
    noise = grain(rng, (shape[0], image.size // shape[0])).reshape(image.shape)
    noise *= np.float32(how.noise)
    if how.rician:
        # The other channel of the coil: the same field displaced is independent of it at every pixel.
        other = np.roll(noise, int(rng.integers(noise.size // 4, noise.size // 2)))
        picture += noise
        picture *= picture
        other *= other
        picture += other
        np.sqrt(picture, out=picture)
    else:
        picture += noise
    picture *= np.float32(255)
    np.clip(picture, 0, 255, out=picture)
    grey: NDArray[np.uint8] = picture.astype(np.uint8)
    return grey
