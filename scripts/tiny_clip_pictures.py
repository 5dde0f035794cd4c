"""Pictures, captions and pasted marks that the tiny backbone is trained on; see train_tiny_clip.py.

The phantoms are healthy ones. Marks are generic (spots, rings, rough, smooth or patterned patches, pieces from
elsewhere, bulges) and drawn here, before blur and noise, so that neither betrays them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wordsight.data.phantoms import SETS, draw_phantom
from wordsight.imaging.prepare import CLIP_MEAN, CLIP_STD
from wordsight.progress import progress

Attributes = Mapping[str, str | float | int]
Float32 = NDArray[np.float32]
FIRST_SEED = 1_000_000  # phantoms that users draw have small seeds
SIZE, PATCH, CELL = 240, 15, 5
GRID = SIZE // PATCH
MODALITY = {
    "Brain": "axial brain mri slice",
    "Liver": "axial abdominal ct slice",
    "Retina_RESC": "retinal oct scan",
    "Retina_OCT2017": "retinal oct scan, narrow field",
    "Chest": "frontal chest x ray",
    "Histopathology": "stained tissue section",
}
SAID = {
    "sequence": "{}",
    "ventricles": "{} ventricles",
    "sulci": "{} sulci",
    "head": "{} head",
    "phase": "{} phase",
    "fat": "{} fat",
    "left lobe": "{} second lobe",
    "body": "{} body",
    "fovea": "{} fovea",
    "inspiration": "{} inspiration",
    "chest": "{} chest",
    "tissue": "{} tissue",
    "holes": "{} gaps",
    "noise": "{} noise",
    "contrast": "{} contrast",
    "brightness": "{} exposure",
    "sharpness": "{} picture",
    "border": "{} border",
}  # which attributes become words, and how
MARK_WORDS = (
    "a bright dark soft sharp rough smooth patterned spot ring patch piece from elsewhere bulge small dots "
    "in the upper middle lower left centre right "
)
SKIPPED = ("average", "none", "medium", "absent")
TURNED = {"rotation": 3.0, "tilt": 8.0}


def describe(
    name: str, attributes: Attributes, rng: np.random.Generator, *, most: int = 3, mirrored: bool = False
) -> str:
    """A caption from anatomy and acquisition: "axial brain mri slice, wide ventricles, strong noise, turned left"."""
    phrases = [
        form.format(attributes[key]).lower().replace("-", " ")
        for key, form in SAID.items()
        if key in attributes and attributes[key] not in SKIPPED
    ]
    for key, limit in TURNED.items():
        angle = attributes.get(key)
        if isinstance(angle, int | float) and abs(angle) > limit:
            phrases.append("turned left" if (angle > 0) != mirrored else "turned right")
    chosen = sorted(rng.permutation(len(phrases))[:most].tolist())
    return ", ".join([MODALITY[name], *(phrases[i] for i in chosen)])


@dataclass(frozen=True)
class Pool:
    """Phantoms drawn once: pixels per set, (N, 240, 240[, 3]) uint8, and their attributes."""

    pixels: dict[str, NDArray[np.uint8]]
    attributes: dict[str, list[Attributes]] = field(default_factory=dict)

    @classmethod
    def draw(cls, count: int, seed: int) -> Pool:
        """`count` healthy phantoms of each set: what the network calls unusual, it has never seen."""
        pixels: dict[str, NDArray[np.uint8]] = {}
        attributes: dict[str, list[Attributes]] = {}
        with progress("drawing phantoms", count * len(SETS)) as bar:
            for name in SETS:
                drawn = []
                attributes[name] = []
                for index in range(count):
                    phantom = draw_phantom(name, seed, index, abnormal=False)
                    drawn.append(phantom.pixels)
                    attributes[name].append(phantom.attributes)
                    bar.advance()
                pixels[name] = np.stack(drawn)
        return cls(pixels, attributes)

    def picture(self, name: str, index: int) -> Float32:
        """(240, 240, 3) float32 in [0, 1]."""
        raw = self.pixels[name][index]
        colour = raw if raw.ndim == 3 else np.repeat(raw[..., None], 3, axis=2)
        return colour.astype(np.float32) / np.float32(255)


def _outline(rng: np.random.Generator, radius: float, softness: float) -> Float32:
    """A random blob of about `radius` pixels, (h, h) in [0, 1] with an edge `softness` of the radius wide."""
    half = int(np.ceil(radius * 1.6)) + 1
    rows, columns = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    turn, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(-0.45, 0.45))
    along = (rows * np.cos(turn) + columns * np.sin(turn)) * stretch
    across = (columns * np.cos(turn) - rows * np.sin(turn)) / stretch
    angle = np.arctan2(across, along)
    wobble = sum(rng.normal(0, 0.16 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    distance = np.hypot(along, across) / (radius * (1 + np.clip(wobble, -0.4, 0.5)))
    shape: Float32 = np.clip((1 - distance) / max(softness, 1.0 / radius) + 0.5, 0, 1).astype(np.float32)
    return shape


def _place(rng: np.random.Generator, picture: Float32, tries: int = 6) -> tuple[int, int]:
    """A random pixel, seldom in the black surroundings."""
    height, width = picture.shape[:2]
    row = column = 0
    for _ in range(tries):
        row, column = int(rng.integers(height)), int(rng.integers(width))
        if picture[row, column].mean() > 0.14:
            break
    return row, column


def _tone(rng: np.random.Generator, bright: bool, colour: bool, ease: float) -> Float32:
    """A change of brightness, for colour pictures different in each channel."""
    change = np.exp(rng.uniform(np.log(0.07 + 0.2 * ease), np.log(0.5))) * (1 if bright else -1)
    spread = rng.uniform(0.3, 1.2, 3) if colour else np.ones(3)
    return np.asarray(change * spread, dtype=np.float32)


def _grain(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Float32:
    """Smoothed noise of unit deviation, (h, w, 1)."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape[:2]).astype(np.float32), scale)
    return np.asarray(noise / (noise.std() + 1e-6), dtype=np.float32)[..., None]


def _filled(rng: np.random.Generator, old: Float32, bright: bool, colour: bool, ease: float) -> Float32:
    """A tone added to what is there, or in place of a part of its texture."""
    keep = rng.choice([1.0, 0.3, 0.7])
    base = old * keep + old.mean(axis=(0, 1)) * (1 - keep)
    grain = _grain(rng, old.shape, rng.uniform(0.5, 3)) * rng.uniform(0, 0.06)
    return np.asarray(base + _tone(rng, bright, colour, ease) + grain, dtype=np.float32)


def _textured(rng: np.random.Generator, old: Float32, rough: bool) -> Float32:
    """Rougher by grain, or smoother by blurring; the mean stays."""
    if not rough:
        return ndimage.gaussian_filter(old, (rng.uniform(1.2, 4), rng.uniform(1.2, 4), 0))
    grain = _grain(rng, old.shape, rng.choice([0.6, 1.2, 2.5, 4.0]))
    grain = (np.sign(grain) if rng.random() < 0.4 else grain) * rng.uniform(0.05, 0.3)
    return np.asarray(old + grain * (0.3 + old.mean()), dtype=np.float32)


def _patterned(rng: np.random.Generator, old: Float32, colour: bool, ease: float) -> Float32:
    """A random texture laid over the tissue or put in its place: grain, nets, stripes or cells, fine to coarse."""
    scale = float(np.exp(rng.uniform(np.log(0.9), np.log(6.0))))
    stretch = float(np.exp(rng.uniform(-0.7, 0.7))) if rng.random() < 0.4 else 1.0
    noise = rng.standard_normal(old.shape[:2]).astype(np.float32)
    if rng.random() < 0.15:
        rows, columns = np.mgrid[: old.shape[0], : old.shape[1]].astype(np.float32)
        turn = rng.uniform(0, np.pi)
        bent = ndimage.gaussian_filter(noise, 6) * 30
        texture = np.sin((rows * np.cos(turn) + columns * np.sin(turn) + bent) * (1.6 / scale)) * 1.4
    else:
        texture = ndimage.gaussian_filter(noise, (scale * stretch, scale / stretch))
        texture /= texture.std() + 1e-6
    shape = rng.choice(["soft", "hard", "net", "holes"], p=[0.3, 0.3, 0.25, 0.15])
    if shape == "hard":
        texture = np.clip(texture * rng.uniform(1.5, 5), -1, 1)
    elif shape != "soft":
        texture = np.clip((0.8 - np.abs(texture)) * rng.uniform(1.5, 4), -1, 1) * (1 if shape == "net" else -1)
    texture = (texture - texture.mean()).astype(np.float32)[..., None]
    keep = rng.choice([1.0, 0.0, 0.4])
    base = old * keep + old.mean(axis=(0, 1)) * (1 - keep)
    strength = np.exp(rng.uniform(np.log(0.05 + 0.1 * ease), np.log(0.3)))
    tint = rng.uniform(0.4, 1.2, 3) if colour else np.ones(3)
    shift = rng.normal(0, 0.06, 3 if colour else 1)
    return np.asarray(base + shift + texture * strength * tint, dtype=np.float32)


def _bulged(rng: np.random.Generator, old: Float32) -> Float32:
    """Drawn together, blown up or shifted around the middle of the window."""
    half = old.shape[0] / 2
    rows, columns = np.mgrid[: old.shape[0], : old.shape[1]].astype(np.float32)
    pull = np.exp(-(((rows - half) ** 2 + (columns - half) ** 2) / (0.55 * half) ** 2))
    zoom = rng.choice([-0.55, -0.35, 0.5, 0.9]) if rng.random() < 0.6 else 0.0
    shift = rng.uniform(-0.5, 0.5, 2) * half * (zoom == 0)
    where = [rows + pull * (zoom * (rows - half) + shift[0]), columns + pull * (zoom * (columns - half) + shift[1])]
    parts = [ndimage.map_coordinates(old[..., c], where, order=1, mode="nearest") for c in range(old.shape[2])]
    return np.stack(parts, axis=-1).astype(np.float32)


def _region(row: float, column: float) -> str:
    """Words for a place in the whole picture; row, column in [0, 1)."""
    vertical = ("upper", "middle", "lower")[min(int(row * 3), 2)]
    horizontal = ("left", "centre", "right")[min(int(column * 3), 2)]
    return f"in the {vertical} {horizontal}"


def mark(
    rng: np.random.Generator, picture: Float32, donor: Float32, colour: bool, ease: float = 0.0
) -> tuple[Float32, Float32, str]:
    """Put one random mark into a picture (h, w, 3), in place.

    donor: a picture of the same kind and size to take pieces from; ease: 1 for strong changes only.
    Returns the picture, the mark's cover (h, w) in [0, 1] and words about its shape, brightness and place.
    """
    kind = rng.choice(
        ["spot", "ring", "patch", "pattern", "piece", "bulge", "dots"], p=[0.17, 0.06, 0.12, 0.42, 0.15, 0.04, 0.04]
    )
    radius = float(np.exp(rng.uniform(np.log(3.5), np.log(28.0)))) if kind != "dots" else float(rng.uniform(2, 5))
    bright, soft, rough = rng.random() < 0.5, rng.random() < 0.5, rng.random() < 0.5
    cover = np.zeros(picture.shape[:2], dtype=np.float32)
    row, column = _place(rng, picture)
    for i in range(int(rng.integers(2, 5)) if kind == "dots" else 1):
        near = (row, column) if i == 0 else (row + int(rng.integers(-25, 26)), column + int(rng.integers(-25, 26)))
        shape = _outline(rng, radius, 0.8 if soft else 0.2)
        if kind == "ring":
            shape = shape * (1 - np.clip(_shrunk(shape) * 1.6, 0, 1))
        _add(cover, shape, near)
    rows, columns = np.nonzero(cover)
    if len(rows) == 0:
        return picture, cover, ""
    window = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    old, weight = picture[window], cover[window][..., None]
    if kind == "patch":
        new = _textured(rng, old, rough)
    elif kind == "pattern":
        new = _patterned(rng, old, colour, ease)
    elif kind == "piece":
        new = _piece(rng, donor if rng.random() < 0.5 else picture.copy(), old.shape)
    elif kind == "bulge":
        new, weight = _bulged(rng, old), np.ones_like(weight)
    else:
        new = _filled(rng, old, bright, colour, ease)
    changed = np.clip(old + weight * (new - old), 0, 1)
    difference = ndimage.uniform_filter(np.abs(changed - old).mean(axis=2), 5, mode="nearest")
    picture[window] = changed
    cover[window] = np.clip(difference / 0.03, 0, 1) * (cover[window] if kind != "bulge" else 1)
    words = {
        "spot": f"a {'bright' if bright else 'dark'} {'soft' if soft else 'sharp'} spot",
        "ring": f"a {'bright' if bright else 'dark'} ring",
        "patch": f"a {'rough' if rough else 'smooth'} patch",
        "pattern": "a patterned patch",
        "piece": "a piece from elsewhere",
        "bulge": "a bulge",
        "dots": f"small {'bright' if bright else 'dark'} dots",
    }[str(kind)]
    centre = rows.mean() / SIZE, columns.mean() / SIZE
    return picture, cover, f"{words} {_region(*centre)}"


def _shrunk(shape: Float32) -> Float32:
    """The same outline at 65 % of its size, in the middle of the same window."""
    size = shape.shape[0]
    where = (np.arange(size) - size // 2) / 0.65 + size // 2
    rows, columns = np.meshgrid(where, where, indexing="ij")
    return np.asarray(ndimage.map_coordinates(shape, [rows, columns], order=1), dtype=np.float32)


def _add(cover: Float32, shape: Float32, centre: tuple[int, int]) -> None:
    """Lay a shape on a cover around a centre; what falls outside is lost."""
    half = shape.shape[0] // 2
    rows = np.arange(centre[0] - half, centre[0] - half + shape.shape[0])
    columns = np.arange(centre[1] - half, centre[1] - half + shape.shape[1])
    r, c = (rows >= 0) & (rows < cover.shape[0]), (columns >= 0) & (columns < cover.shape[1])
    if r.any() and c.any():
        part = np.s_[rows[r][0] : rows[r][-1] + 1, columns[c][0] : columns[c][-1] + 1]
        cover[part] = np.maximum(cover[part], shape[np.ix_(r, c)])


def _piece(rng: np.random.Generator, source: Float32, shape: tuple[int, ...]) -> Float32:
    """A window of another place, perhaps turned."""
    zoom, turn = float(np.exp(rng.uniform(-0.7, 0.8))), rng.uniform(-np.pi, np.pi)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    rows, columns = (rows - shape[0] / 2) / zoom, (columns - shape[1] / 2) / zoom
    middle = rng.uniform(0.2, 0.8, 2) * source.shape[:2]
    down = rows * np.cos(turn) - columns * np.sin(turn) + middle[0]
    across = columns * np.cos(turn) + rows * np.sin(turn) + middle[1]
    parts = [ndimage.map_coordinates(source[..., c], [down, across], order=1, mode="mirror") for c in range(3)]
    return np.stack(parts, axis=-1).astype(np.float32)


@dataclass(frozen=True)
class Batch:
    """images (B, 3, s, s) as the network sees them, and the same before they were marked; clean (B, 3, s, s) in [0, 1];
    cover (B, s, s); hidden (B, p, p); 2 B captions, the last B of other images."""

    images: Float32
    before: Float32
    clean: Float32
    cover: Float32
    hidden: NDArray[np.bool_]
    captions: list[str]


def _toned(rng: np.random.Generator, picture: Float32, colour: bool) -> Float32:
    """Another exposure of the same picture: gamma, gain, offset, and for colour a tint."""
    out = picture ** np.float32(np.exp(rng.uniform(-0.25, 0.25)))
    gain = rng.uniform(0.75, 1.25, 3) if colour else rng.uniform(0.85, 1.15, 1)
    return np.clip(out * gain.astype(np.float32) + np.float32(rng.uniform(-0.04, 0.06)), 0, 1)


def _taken(rng: np.random.Generator, marked: Float32, clean: Float32, colour: bool) -> tuple[Float32, Float32]:
    """Both pictures with the same blur and noise, so that neither betrays what was pasted."""
    softness = max(float(rng.uniform(-0.4, 0.9)), 0.0)
    noise = rng.standard_normal(clean.shape if colour else (*clean.shape[:2], 1)).astype(np.float32)
    noise *= np.float32(np.exp(rng.uniform(np.log(0.004), np.log(0.03))))
    out = []
    for picture in (marked, clean):
        soft = ndimage.gaussian_filter(picture, (softness, softness, 0)) if softness > 0.25 else picture
        out.append(np.clip(soft + noise, 0, 1))
    return out[0], out[1]


def _hide(rng: np.random.Generator, picture: Float32, chance: float) -> NDArray[np.bool_]:
    """Cover random patches with their picture's mean or noise, in place; returns which."""
    side = picture.shape[0] // PATCH
    hidden: NDArray[np.bool_] = np.zeros((side, side), dtype=bool)
    if rng.random() < chance:
        blocks = rng.random(((side + 1) // 2, (side + 1) // 2)) < rng.uniform(0.1, 0.4)
        hidden = np.kron(blocks, np.ones((2, 2), dtype=bool))[:side, :side]
        pixels = np.kron(hidden, np.ones((PATCH, PATCH), dtype=bool))
        picture[pixels] = picture.mean(axis=(0, 1))
    return hidden


def make_batch(pool: Pool, seed: int, step: int, count: int, ease: float = 0.0) -> Batch:
    """Batch number `step`, images of one set, the sets in turn; the same for the same arguments."""
    rng = np.random.default_rng([seed, step])
    names = list(pool.pixels)
    name = names[step % len(names)]
    colour = pool.pixels[name].ndim == 4
    rows: list[tuple[Float32, Float32, Float32, Float32, NDArray[np.bool_], str]] = []
    for _ in range(count):
        index, other = rng.integers(len(pool.pixels[name]), size=2).tolist()
        flip = -1 if rng.random() < 0.5 else 1
        clean = _toned(rng, pool.picture(name, index), colour)[:, ::flip]
        donor = _toned(rng, pool.picture(name, other), colour)
        seen, cover, words = _marked(rng, clean.copy(), donor, colour, ease)
        caption = describe(name, pool.attributes[name][index], rng, mirrored=flip < 0)
        seen, before = _taken(rng, seen, clean, colour)
        hidden = _hide(rng, seen, 0.15 * (1 - ease))
        if rng.random() < 0.3:
            seen, before = ((part - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD) for part in (seen, before))
        rows.append((seen, before, clean, cover, hidden, f"{caption}, {words}" if words else caption))
    images, unmarked, targets, covers, hiddens, captions = zip(*rows, strict=True)
    return Batch(
        np.stack(images).transpose(0, 3, 1, 2).astype(np.float32),
        np.stack(unmarked).transpose(0, 3, 1, 2).astype(np.float32),
        np.stack(targets).transpose(0, 3, 1, 2).astype(np.float32),
        np.stack(covers),
        np.stack(hiddens),
        [*captions, *_strangers(pool, rng, count)],
    )


def _marked(
    rng: np.random.Generator, picture: Float32, donor: Float32, colour: bool, ease: float
) -> tuple[Float32, Float32, str]:
    """Up to three marks: the picture, their common cover, and words about the first."""
    cover, said = np.zeros(picture.shape[:2], dtype=np.float32), ""
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.1, 0.4, 0.3, 0.2]))):
        picture, part, words = mark(rng, picture, donor, colour, ease)
        cover, said = np.maximum(cover, part), said or words
    return picture, cover, said


def _strangers(pool: Pool, rng: np.random.Generator, count: int) -> list[str]:
    """Captions of other images of any set, which the batch's images should not match."""
    captions = []
    for _ in range(count):
        name = list(pool.pixels)[int(rng.integers(len(pool.pixels)))]
        captions.append(describe(name, pool.attributes[name][int(rng.integers(len(pool.pixels[name])))], rng))
    return captions


def vocabulary(pool: Pool, seed: int, captions: int = 4000) -> Sequence[str]:
    """Words of many captions, repeated as often as they occur."""
    rng = np.random.default_rng(seed)
    names = list(pool.pixels)
    out = (MARK_WORDS * (captions // 8)).split()
    for i in range(captions):
        name = names[i % len(names)]
        index = int(rng.integers(len(pool.attributes[name])))
        out += describe(name, pool.attributes[name][index], rng).replace(",", " ").split()
    return out
