"""Settings of CARZero: defaults are the published ones; every deviation is a named field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from wordsight.errors import SettingsError

Memory = Literal["global", "local", "global+local"]
Head = Literal["linear", "mlp"]
_LIMITS = {"layers": 256, "heads": 256, "vocabulary": 2_000_000}
_SIZE_LIMIT = 65536


def _check_sizes(name: str, shape: Any) -> None:
    """All integers are positive and bounded, heads divide the width."""
    for entry in fields(shape):
        value, limit = getattr(shape, entry.name), _LIMITS.get(entry.name, _SIZE_LIMIT)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if isinstance(entry.default, int) and not (whole and 1 <= value <= limit):
            raise SettingsError(f"{name}.{entry.name}: expected an integer in 1..{limit}, got {value!r}.")
    if shape.width % shape.heads:
        raise SettingsError(f"{name}.heads: expected a divisor of the width {shape.width}, got {shape.heads}.")


@dataclass(frozen=True, slots=True)
class VitShape:
    """A vision transformer with class token and pre-norm blocks; the defaults are ViT-B/16 at 224 pixels.

    hidden: width of the blocks' MLP. patch, image_size: in pixels; the patch divides the image.
    """

    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    patch: int = 16
    image_size: int = 224

    def __post_init__(self) -> None:
        _check_sizes("image", self)
        if self.image_size % self.patch:
            raise SettingsError(
                f"image.image_size: expected a multiple of the patch size {self.patch}, got {self.image_size}."
            )

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch


@dataclass(frozen=True, slots=True)
class BertShape:
    """A BERT text encoder; the defaults are BERT-base with the vocabulary of bert-base-uncased."""

    vocabulary: int = 30522
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    segments: int = 2
    eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        _check_sizes("text", self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BertShape:
        """Sizes of a transformers configuration (config.json). Raises SettingsError for anything but a plain BERT."""
        kind, activation = config.get("model_type", "bert"), config.get("hidden_act", "gelu")
        positions = config.get("position_embedding_type", "absolute")
        if (kind, activation, positions) != ("bert", "gelu", "absolute"):
            raise SettingsError(
                "text: expected a BERT configuration with GELU and absolute positions, got "
                f"model_type {kind!r}, hidden_act {activation!r} and position_embedding_type {positions!r}. "
                "CARZero's text encoder is a BERT."
            )
        keys = {
            "vocabulary": "vocab_size",
            "width": "hidden_size",
            "layers": "num_hidden_layers",
            "heads": "num_attention_heads",
            "hidden": "intermediate_size",
            "positions": "max_position_embeddings",
            "segments": "type_vocab_size",
            "eps": "layer_norm_eps",
            "dropout": "hidden_dropout_prob",
            "attention_dropout": "attention_probs_dropout_prob",
        }
        return cls(**{ours: config[theirs] for ours, theirs in keys.items() if theirs in config})


@dataclass(frozen=True, slots=True)
class CarZeroSettings:
    """The network, its text rules, and what its fusion module attends to.

    image_encoder: "vit_b16" (published), "resnet50", or the sizes of another vision transformer.
    text: sizes of the BERT. text_length: tokens of a text with [CLS], [SEP] and padding; the padding is part of the
    result. last_states: hidden states summed into a word. fusion_layers, fusion_heads, fusion_hidden: of the decoder.
    head: from the decoder to a logit, "mlp" through layers of `mlp_sizes` (published weights) or "linear".
    memory: what a query attends to: the "global" token, the "local" ones, or both, the global one first.
    dropout: of the fusion module in training.

    keep_single_words, keep_numbers, keep_accents: how texts are cleaned. As published all are off: a sentence of one
    word vanishes, "3.5 cm" becomes "5 cm", and an accented letter is deleted.
    word_lengths: how many words the local similarity counts, "characters" of the raw text as published (never
    fewer than the words, so zero vectors take part) or "words".
    """

    image_encoder: Literal["vit_b16", "resnet50"] | VitShape = "vit_b16"
    text: BertShape = field(default_factory=BertShape)
    text_length: int = 97
    last_states: int = 4
    fusion_layers: int = 4
    fusion_heads: int = 4
    fusion_hidden: int = 1024
    head: Head = "mlp"
    mlp_sizes: tuple[int, ...] = (1024, 512, 256)
    memory: Memory = "global+local"
    dropout: float = 0.1
    keep_single_words: bool = False
    keep_numbers: bool = False
    keep_accents: bool = False
    word_lengths: Literal["characters", "words"] = "characters"

    def __post_init__(self) -> None:
        if not isinstance(self.image_encoder, VitShape) and self.image_encoder not in ("vit_b16", "resnet50"):
            raise SettingsError(
                f"image_encoder: expected 'vit_b16', 'resnet50' or a VitShape, got {self.image_encoder!r}."
            )
        for name, allowed in (
            ("head", ("linear", "mlp")),
            ("memory", ("global", "local", "global+local")),
            ("word_lengths", ("characters", "words")),
        ):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"{name}: expected {' or '.join(map(repr, allowed))}, got {getattr(self, name)!r}.")
        self._check_ranges()

    def _check_ranges(self) -> None:
        """Numbers within their ranges, widths that fit together."""
        positive = {n: getattr(self, n) for n in ("fusion_layers", "fusion_heads", "fusion_hidden", "last_states")}
        wrong = [f"{name}={value}" for name, value in positive.items() if value < 1]
        wrong += [f"mlp_sizes={self.mlp_sizes}"] if not self.mlp_sizes or min(self.mlp_sizes) < 1 else []
        if wrong:
            raise SettingsError(f"expected positive sizes, got {', '.join(wrong)}.")
        if not 2 <= self.text_length <= self.text.positions:
            raise SettingsError(
                f"text_length: expected 2..{self.text.positions}, the positions of the BERT, got {self.text_length}."
            )
        if self.last_states > self.text.layers + 1:
            raise SettingsError(
                f"last_states: expected at most {self.text.layers + 1} hidden states, got {self.last_states}."
            )
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout: expected a share in [0, 1), got {self.dropout}.")
        if self.width % self.fusion_heads:
            raise SettingsError(f"fusion_heads: expected a divisor of {self.width}, got {self.fusion_heads}.")
        if self.vit is not None and self.vit.width != self.width:
            raise SettingsError(
                f"expected image and text encoders of equal width, got {self.vit.width} and {self.width}: "
                "a vision transformer is not projected. Choose equal widths."
            )

    @property
    def width(self) -> int:
        """D, the common width of images, texts and fusion."""
        return self.text.width

    @property
    def vit(self) -> VitShape | None:
        """Sizes of the vision transformer; None for a ResNet."""
        if isinstance(self.image_encoder, VitShape):
            return self.image_encoder
        return VitShape() if self.image_encoder == "vit_b16" else None

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return 224 if self.vit is None else self.vit.image_size

    @property
    def grid(self) -> int:
        """Cells along one side of a map; ResNet-50's third stage has 16 pixels per cell."""
        return 14 if self.vit is None else self.vit.grid

    @classmethod
    def published(cls) -> CarZeroSettings:
        """The variant whose weights were published (`mlp_gl`)."""
        return cls()

    def corrected(self) -> CarZeroSettings:
        """The same network with texts cleaned so that nothing of a prompt gets lost; for prompts of any kind."""
        return replace(self, keep_single_words=True, keep_numbers=True, keep_accents=True, word_lengths="words")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with weights."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CarZeroSettings:
        """Read what `to_json` wrote. Raises SettingsError for unknown names and for values of another kind."""
        plain = dict(values)
        try:
            if isinstance(plain.get("image_encoder"), Mapping):
                plain["image_encoder"] = VitShape(**plain["image_encoder"])
            if "text" in plain:
                plain["text"] = BertShape(**plain["text"])
            if "mlp_sizes" in plain:
                plain["mlp_sizes"] = tuple(plain["mlp_sizes"])
            return cls(**plain)
        except TypeError as error:
            raise SettingsError(f"expected settings of CARZero as to_json writes them, got {error}.") from error


VARIANTS: Mapping[str, tuple[Memory, Head]] = {
    "global": ("global", "linear"),
    "local": ("local", "linear"),
    "gl": ("global+local", "linear"),
    "mlp_gl": ("global+local", "mlp"),
}
"""The four published configurations by what their names end on; weights were published for "mlp_gl"."""


def variant(name: str) -> CarZeroSettings:
    """Settings of a published variant, with ViT-B/16 and BERT-base. Raises SettingsError for another name."""
    if name not in VARIANTS:
        raise SettingsError(f"variant: expected one of {', '.join(VARIANTS)}, got {name!r}.")
    memory, head = VARIANTS[name]
    return CarZeroSettings(memory=memory, head=head)
