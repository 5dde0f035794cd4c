"""CARZero's speed, ViT-B/16 + BERT-base + fusion in full size with weights filled by rule: no file is needed.

    python benchmarks/carzero_speed.py [--quick] [--profile] [--json numbers.json]

From prepared images to scores, prompts encoded before, in batches of 8: the bare timm ViT-B/16, the same network as the
library runs it (on the CPU in memory used again), the library, and the published order written plainly (one image at a
time, the text side's projections redone for each, texts padded to 97 positions, every layer on all pairs with
torch.nn.MultiheadAttention). Then the fusion module alone, and the text encoder alone. The published order is timed on
fewer images; times are per image.

Multiplications per image in 10^9 at D = 768, with h = 4 heads, n = 197 image tokens, k = 9 keys of a short text and T
prompts, which say what an exact order can reach:

| part | T = 14 | T = 192 |
|---|---|---|
| ViT-B/16 | 17.56 | 17.56 |
| image keys and values with their reading, 4 layers | 0.13 | 1.16 |
| i2t: projections, feed-forward and head of T pairs | 0.17 | 2.28 |
| t2i: folded attention, feed-forward and head of T pairs | 0.10 | 1.38 |
| library in the bare ViT | 1.02 | 1.27 |
| published: keys and values of the 98 text positions | 6.47 | 88.79 |
| published: the rest of the fusion module | 1.30 | 6.06 |
| published in the library | 1.4 | 5.0 |
| fusion module alone, published in the library | 19 | 20 |

With many prompts, four fifths of what remains are projections, feed-forwards and heads of single pairs, each behind a
norm that mixes image and text: no product of matrices is left that pairs could share. What lies below 1.27 is saved
around the products: new pages of memory, copies of biases, strides that crowd a cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise

import torch
from carzero_rule import made_up_prompts, prepared_images, rule_network
from suite import Case, Variant, run_suite, suite_parser
from torch import Tensor

from wordsight.models.carzero.asking import AskedTexts
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.text_encoder import TextFeatures, sum_words
from wordsight.models.carzero.text_input import Tokens

BATCH = 8


def published_fusion(network: CarZeroNetwork, memory: Tensor, queries: Tensor) -> Tensor:
    """Memories (M, n, D), every position spelled out, and queries (Q, D) -> (M, Q), as PyTorch's layers compute it."""
    fusion = network.fusion_module
    normed = fusion.decoder_norm(memory).transpose(0, 1)  # (n, M, D), sequence first
    x = fusion.decoder_norm(queries)[:, None].repeat(1, len(memory), 1)  # (Q, M, D)
    for layer in fusion.decoder:
        x = x + layer.multihead_attn(layer.norm2(x), normed, normed)[0]
        x = x + layer.linear2(torch.relu(layer.linear1(layer.norm3(x))))
    logits: Tensor = fusion.mlp_head(fusion.decoder_norm(x)).squeeze(-1)
    return logits.T


def published_scores(network: CarZeroNetwork, tokens: Tensor, text: TextFeatures) -> Tensor:
    """Encoded images (B, 1 + P, D) -> (B, T): a loop over images, everything of the texts again for each."""
    rows = []
    for image in tokens:
        memory = torch.cat([text.sentence[:, None], text.padded_words()], dim=1)  # (T, 98, D)
        i2t = published_fusion(network, image[None], text.sentence)
        rows.append((i2t + published_fusion(network, memory, image[None, 0]).T) / 2)
    return torch.cat(rows)


def published_encoding(network: CarZeroNetwork, tokens: Tokens) -> Tensor:
    """Sentences (T, D) with every text padded to the full length, 64 at a time."""
    found, encoder = [], network.text_encoder
    for start in range(0, len(tokens), 64):
        part = tokens[start : start + 64]
        states = encoder.model(input_ids=part.ids, attention_mask=part.mask, output_hidden_states=True).hidden_states
        pieces = torch.stack(states[-encoder.last_states :]).sum(0)
        words = torch.zeros_like(pieces)
        sums = sum_words(pieces, part.word, part.words)
        words[:, : sums.shape[1]] = sums
        found.append(words.mean(dim=1))
    return torch.cat(found)


def trimmed_encoding(network: CarZeroNetwork, tokens: Tokens) -> TextFeatures:
    """As `CarZero.encode_prompts`: 64 texts of like length at a time, each batch as long as its longest."""
    order = tokens.mask.sum(1).argsort(stable=True)
    parts = [network.encode_texts(tokens[rows]) for rows in torch.split(order, 64)]
    return TextFeatures.joined(parts)[order.argsort()]


def fusion_products(settings: CarZeroSettings, images: int, texts: int, keys: int = 9) -> list[tuple[int, ...]]:
    """Shapes (rows, in, out), or (batch, rows, in, out), of all matrix products that `images` images and texts need.

    Those of the table above, as the library orders them: what is left of the fusion module without norms, softmax,
    ReLU, sums and copies. keys: of a short text.
    """
    width, hidden, layers = settings.width, settings.fusion_hidden, settings.fusion_layers
    heads, tokens, pairs = settings.fusion_heads, 1 + settings.grid**2, images * texts
    sizes = (width, *settings.mlp_sizes, 1)
    head = [(pairs, a, b) for a, b in pairwise(sizes)]
    memory = [(images * tokens, width, 2 * width), (pairs, width, width)]
    scores = (images * heads, texts, width // heads, tokens)
    wide, narrow = (pairs, width, hidden), (pairs, hidden, width)
    i2t = [*memory, scores, (images * heads, texts, tokens, width // heads), wide, narrow] * layers
    folded = [(texts, images, width, heads * keys), (texts, images, heads * keys, width)] * layers
    t2i = [*folded, (texts, images, heads * keys, hidden), *[wide] * (layers - 1), *[narrow] * layers]
    queries = [(texts, width, width), *[(pairs, width, width)] * (layers - 1)]
    return [*queries, *i2t, *head, *t2i, *head]


def _matrices(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Of a, b and a b^T."""
    *batch, rows, inner, columns = shape
    return [(*batch, rows, inner), (*batch, columns, inner), (*batch, rows, columns)]


class Work:
    """The network, images and prompts of all cases, made when first asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device(options.device)
        self.network = rule_network(options.quick).to(self.device)
        self.images = prepared_images(options.images, self.network.settings).to(self.device)
        self._texts: dict[int, TextFeatures] = {}
        self._tokens: Tensor | None = None

    def prompts(self, count: int) -> Tokens:
        """Token ids of so many prompts."""
        return made_up_prompts(count, self.network.settings).to(self.device)

    def text(self, count: int) -> TextFeatures:
        """Encoded prompts."""
        if count not in self._texts:
            self._texts[count] = trimmed_encoding(self.network, self.prompts(count))
        return self._texts[count]

    def encode(self, images: Tensor) -> Tensor:
        """The bare vision transformer, in batches."""
        parts = [self.network.img_encoder.model.forward_features(part) for part in torch.split(images, BATCH)]
        return torch.cat(parts)

    def tokens(self) -> Tensor:
        """Encoded images."""
        if self._tokens is None:
            self._tokens = self.encode(self.images)
        return self._tokens

    # -- what is timed ---------------------------------------------------------------------------------------------

    def bare(self) -> Callable[[], Tensor]:
        """Images through timm's ViT-B/16, nothing after it."""
        return lambda: self.encode(self.images)

    def ours_bare(self) -> Callable[[], Tensor]:
        """The same network as the library runs it."""
        return lambda: torch.cat([self.network.encode_images(part) for part in torch.split(self.images, BATCH)])

    def ours(self, count: int) -> Callable[[], Tensor]:
        """Images to scores."""
        asked = AskedTexts(self.network, self.text(count))

        def call() -> Tensor:
            parts = (
                asked.compare(self.network.encode_images(part))[0].mean for part in torch.split(self.images, BATCH)
            )
            return torch.cat(list(parts))

        return call

    def published(self, count: int, images: int) -> Callable[[], Tensor]:
        """The first `images` images to scores, one at a time."""
        text = self.text(count)

        def call() -> Tensor:
            parts = [
                published_scores(self.network, self.network.img_encoder.model.forward_features(image), text)
                for image in torch.split(self.images[:images], 1)
            ]
            return torch.cat(parts)

        return call

    def ours_fusion(self, count: int) -> Callable[[], Tensor]:
        """Encoded images to scores."""
        tokens, asked = self.tokens(), AskedTexts(self.network, self.text(count))
        return lambda: torch.cat([asked.compare(part)[0].mean for part in torch.split(tokens, BATCH)])

    def published_fusion(self, count: int, images: int) -> Callable[[], Tensor]:
        """The first encoded images to scores, one at a time."""
        tokens, text = self.tokens()[:images], self.text(count)
        return lambda: published_scores(self.network, tokens, text)

    def fusion_floor(self, count: int) -> Callable[[], None]:
        """The matrix products that are left of the fusion module, one by one, into memory that is there."""
        batch = min(BATCH, len(self.images))
        shapes = fusion_products(self.network.settings, batch, count)
        made = {shape: [torch.ones(s, device=self.device) for s in _matrices(shape)] for shape in dict.fromkeys(shapes)}

        def call() -> None:
            for _ in range(len(self.images) // batch):
                for shape in shapes:
                    a, b, out = made[shape]
                    torch.matmul(a, b.mT, out=out)

        return call

    def cases(self, few: int, fusion_few: int) -> list[Case]:
        """All comparisons; few: images of the published order in the slow ones."""
        total = len(self.images)
        found = []
        alone = Variant("library's ViT", self.ours_bare, total, same_as="bare ViT", limit=1e-5)
        for count, images in ((14, min(2 * few, total)), (192, few)):
            note = f"{images} of {total} images"
            found.append(
                Case(
                    f"{count} prompts, images to scores",
                    [
                        Variant("bare ViT", self.bare, total),
                        *([alone] if count == 14 else []),
                        Variant("library", lambda c=count: self.ours(c), total),  # type: ignore[misc]
                        Variant(
                            "published order",
                            lambda c=count, i=images: self.published(c, i),  # type: ignore[misc]
                            images,
                            same_as="library",
                            note=note,
                        ),
                    ],
                    baseline="bare ViT",
                )
            )
        fusion = [
            Variant("library", lambda: self.ours_fusion(192), total),
            Variant("its matrix products alone", lambda: self.fusion_floor(192), total),
            Variant(
                "published order",
                lambda: self.published_fusion(192, fusion_few),
                fusion_few,
                same_as="library",
                note=f"{fusion_few} of {total} images",
            ),
        ]
        encoding = [
            Variant("library", lambda: lambda: trimmed_encoding(self.network, self.prompts(192)).sentence, 192),
            Variant(
                "padded to 97",
                lambda: lambda: published_encoding(self.network, self.prompts(192)[:64]),
                64,
                same_as="library",
                limit=1e-5,
                note="64 of 192 prompts",
            ),
        ]
        return [
            *found,
            Case("192 prompts, fusion alone", fusion, baseline="library"),
            Case("192 short prompts, encoding", encoding, baseline="library", unit="prompt"),
        ]


def profile(work: Work, count: int) -> None:
    """The twelve operators and shapes that take longest in the library's way, one batch."""
    asked = AskedTexts(work.network, work.text(count))
    images = work.images[:BATCH]
    asked.compare(work.network.encode_images(images))
    activities = [torch.profiler.ProfilerActivity.CPU]
    if work.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as found:
        asked.compare(work.network.encode_images(images))
    key = "self_device_time_total" if work.device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(found.key_averages(group_by_input_shape=True), key=lambda event: -getattr(event, key))
    total = sum(getattr(event, key) for event in rows)
    print(f"| {len(images)} images, {count} prompts: operator | shapes | calls | share |\n|---|---|---|---|")
    for event in rows[:12]:
        shapes = ", ".join(" x ".join(map(str, shape)) for shape in event.input_shapes if len(shape) > 1)
        print(f"| {event.key} | {shapes} | {event.count} | {100 * getattr(event, key) / total:.1f} % |")


def main() -> None:
    """Print the tables."""
    parser = suite_parser(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--case", default="", help="only cases whose title contains this, such as fusion")
    parser.add_argument("--profile", action="store_true", help="only the operators of one batch with 192 prompts")
    options = parser.parse_args()
    if options.quick:
        options.images = min(options.images, 4)
    work = Work(options)
    if options.profile:
        torch.set_num_threads(options.threads)
        with torch.inference_mode():
            profile(work, 192)
        return
    cases = [case for case in work.cases(2, 2) if options.case in case.title]
    run_suite(cases, options, __file__)


if __name__ == "__main__":
    main()
