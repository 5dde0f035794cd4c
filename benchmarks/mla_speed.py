"""Speed of MLA-LP: the published order of work, this package, and the least that the backbone alone costs.

    python benchmarks/mla_speed.py [--json mla_speed.json] [--steps 10] [--profile] [--device cuda] [--quick]

ViT-L/14 at 240 pixels, every weight drawn from a seed, fp32, two threads. Nine minutes on two quiet cores.

Training, with masks: the published order (batches of one image, the whole image tower and the text tower in every
step, attention weights made and thrown away, gradients of the frozen weights piled up, three optimizers), this package
with the same updates (losses of the first --steps steps must agree to 1e-5), and two recipes: "default" (eight images
per update, causal text that ends with its prompts) and "fast" (the same, and adapters that leave the image tower alone:
no image block in a step). What is computed once per image before the first step is not timed.

Evaluation with a memory bank of 16 shots in eleven variants: the published order (one image at a time, text and
normalised bank anew for each), this package (text once a set, images in batches), and the floor: open_clip's own
forward pass of the same images, and the matrix product of patches and bank. The bank's rows are random unit vectors;
maps and scores of both, scaled over the set, must agree.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import QuickGELU
from suite import Call, Case, Variant, run_suite, suite_parser
from torch import Tensor, nn
from torch.nn import functional as F

from wordsight.models.mla.backbone import Clip, load_clip
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.memory import MemoryBank
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.settings import MlaSettings
from wordsight.models.mla.streams import OpenClipVision
from wordsight.models.mla.text_streams import TextStream
from wordsight.train.recipes import Profile, recipe
from wordsight.train.run import Run
from wordsight.train.samples import SupportArrays
from wordsight.train.settings import MlaTraining
from wordsight.types import Geometry

SMALL = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 84, "layers": 8, "width": 64, "head_width": 16, "patch_size": 14},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 48, "heads": 4, "layers": 3},
}
ROUNDS = 3
RECIPES: tuple[Profile, ...] = ("default", "fast")
GOALS = {"training": {"library": 1.8, "recipe fast": 6.0}, "evaluation": {"library": 2.6}}


@dataclass(frozen=True, slots=True)
class Work:
    """What is measured: settings, images of an evaluation, rows of a level's bank, compared training steps."""

    settings: MlaSettings
    images: int
    rows: int
    steps: int
    device: torch.device
    quick: bool

    @classmethod
    def of(cls, options: argparse.Namespace) -> Work:
        """From the command line; a process that measures memory takes two steps: gradients pile up in the second."""
        settings, shots = MlaSettings(), 16
        if options.quick:
            settings, shots = replace(settings, image_size=84, levels=(2, 4, 6, 8)), 1
        tokens = 1 + (settings.image_size // 14) ** 2
        steps = 2 if options.only else options.steps
        return cls(settings, options.images, 11 * shots * tokens, steps, torch.device(options.device), options.quick)


# -- the networks -----------------------------------------------------------------------------------------------------


def outside(build: Callable[[Work], Call]) -> Callable[[Work], Call]:
    """Build, and call what was built, with gradients as usual: the suite runs everything in inference mode."""

    def built(work: Work) -> Call:
        with torch.inference_mode(False), torch.enable_grad():
            call = build(work)

        def called() -> Tensor | None:
            with torch.inference_mode(False), torch.enable_grad():
                return call()

        return called

    return built


@cache
def backbone(work: Work) -> Clip:
    """One for all variants."""
    with torch.inference_mode(False):
        if not work.quick:
            return load_clip("ViT-L-14-336", None, image_size=work.settings.image_size, seed=0).to(work.device)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "small.json"
            path.write_text(json.dumps(SMALL), encoding="utf-8")
            return load_clip(path, None, image_size=work.settings.image_size, seed=0).to(work.device)


def with_the_same_weights(model: nn.Module, *, frozen: bool) -> nn.Module:
    """A copy of the modules whose parameters share the memory of the originals."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=not frozen) for p in model.parameters()}
    return copy.deepcopy(model, shared)


def with_quick_gelu(clip: Clip) -> Clip:
    """As the recipe "default" runs OpenAI's weights."""
    model: Any = with_the_same_weights(clip.model, frozen=True)
    for module in list(model.modules()):
        if hasattr(module, "gelu"):
            module.gelu = QuickGELU()
    text = TextStream(model, clip.context_length, causal=True)
    return replace(clip, model=model, vision=OpenClipVision(model.visual), text=text, activation="quick_gelu")


def network(work: Work) -> MlaNetwork:
    """The same random adapters and contexts each time."""
    with torch.inference_mode(False):
        return MlaNetwork(backbone(work), work.settings).eval().to_device(work.device)


def pictures(work: Work, count: int, seed: int = 0) -> Tensor:
    """Smooth noise, (count, 3, S, S) in [0, 1]."""
    size = work.settings.image_size
    coarse = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)


def support(work: Work) -> SupportArrays:
    """One normal and one abnormal image with its mask: 22 training images."""
    images, size = pictures(work, 2, seed=1), work.settings.image_size
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, size // 4 : size // 2, size // 3 : 2 * size // 3] = True
    return SupportArrays(images[:1], images[1:], mask)


def order(steps: int) -> list[int]:
    """Which of the 22 training images each step takes."""
    found: list[int] = []
    while len(found) < steps:
        found += torch.randperm(22, generator=torch.Generator().manual_seed(len(found))).tolist()
    return found[:steps]


# -- the published order ----------------------------------------------------------------------------------------------


class Published:
    """MLA-LP in the order of work of its authors' code, in plain torch: nothing left out, nothing kept."""

    def __init__(self, work: Work) -> None:
        own = network(work)
        self.settings = own.settings
        self.model: Any = with_the_same_weights(own.clip.model, frozen=False)
        self.seg, self.det = own.seg_adapters.requires_grad_(True), own.det_adapters.requires_grad_(True)
        self.prompts: Any = own.prompt_learner
        groups = ((self.seg, 1e-4), (self.det, 1e-4), (self.prompts, 1e-3))
        self.adams = [torch.optim.Adam(part.parameters(), lr=rate, betas=(0.5, 0.999)) for part, rate in groups]

    def _block(self, block: Any, x: Tensor) -> Tensor:
        normed = block.ln_1(x)
        attended, _ = block.attn(normed, normed, normed, need_weights=True)
        x = x + attended
        return x + block.mlp(block.ln_2(x))

    def tokens(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The adapters' features of every level, and the stream to its end."""
        visual, (levels, mix) = self.model.visual, (self.settings.levels, self.settings.mix)
        x = visual.conv1(images).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        x = visual.ln_pre(x)
        seg, det = [], []
        for number, block in enumerate(visual.transformer.resblocks, start=1):
            x = self._block(block, x)
            if number in levels:
                level = levels.index(number)
                seg.append(self.seg[level].fc1(x))
                det.append(self.det[level].fc1(x))
                x = (1 - 2 * mix) * x + mix * self.seg[level].fc2(seg[-1]) + mix * self.det[level].fc2(det[-1])
        return seg, det

    def text(self) -> Tensor:
        """All 77 positions of every prompt through all blocks, without a mask, (D, 2)."""
        columns = []
        for name in ("normal", "abnormal"):
            rows, ids = getattr(self.prompts, f"_{name}_rows"), getattr(self.prompts, f"_{name}_ids")
            context = self.prompts.ctx[f"{name}_end"]
            x = torch.cat([rows[:, :1], context, rows[:, 1 + context.shape[1] :]], dim=1)
            x = x + self.model.positional_embedding
            for block in self.model.transformer.resblocks:
                x = self._block(block, x)
            x = self.model.ln_final(x)
            features = x[torch.arange(len(x)), ids.argmax(dim=-1)] @ self.model.text_projection
            mean = features.mean(dim=0)
            columns.append(mean / mean.norm())
        return torch.stack(columns, dim=1)

    def logits(self, tokens: Tensor, text: Tensor) -> Tensor:
        """(B, P, 2): 100 times the cosines of patches."""
        patches = tokens[:, 1:]
        return 100 * (patches / patches.norm(dim=-1, keepdim=True)) @ text

    def large(self, grids: Tensor) -> Tensor:
        """(B, C, P) -> (B, C, S, S)."""
        side, size = round(grids.shape[-1] ** 0.5), self.settings.image_size
        return F.interpolate(grids.unflatten(-1, (side, side)), size=(size, size), mode="bilinear", align_corners=True)

    def loss(self, image: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Detection, focal and dice losses of all levels."""
        seg, det = self.tokens(image)
        text = self.text()
        total = torch.zeros((), device=image.device)
        for tokens in det:
            score = self.logits(tokens, text).softmax(dim=-1)[..., 1].mean(dim=-1)
            total = total + F.binary_cross_entropy_with_logits(score, label)
        target = torch.stack([1 - mask, mask], dim=1).clamp(1e-5, 1 - 1e-5)
        for tokens in seg:
            maps = self.large(self.logits(tokens, text).transpose(1, 2)).softmax(dim=1)
            true = (target * maps).sum(dim=1) + 1e-5
            abnormal = maps[:, 1]
            overlap = (2 * (abnormal * mask).sum() + 1) / (abnormal.sum() + mask.sum() + 1)
            total = total + (-((1 - true) ** 2) * true.log()).mean() + 1 - overlap
        return total

    def step(self, image: Tensor, label: Tensor, mask: Tensor) -> float:
        """One update; nobody zeroes the gradients of the frozen weights."""
        loss = self.loss(image, label, mask)
        for adam in self.adams:
            adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for adam in self.adams:
            adam.step()
        return float(loss.detach())

    @torch.no_grad()
    def evaluate(self, images: Tensor, bank: list[Tensor]) -> Tensor:
        """Fused maps over the whole set, (N, S * S), and their maxima as a last column."""
        zero, few = [], []
        for image in images:
            seg, _ = self.tokens(image[None])
            text = self.text()
            zero_map: Any = 0
            few_map: Any = 0
            for tokens, rows in zip(seg, bank, strict=True):
                zero_map = zero_map + self.large(self.logits(tokens, text).transpose(1, 2)).softmax(dim=1)[0, 1]
                patches = tokens[0, 1:]
                own = rows / rows.norm(dim=1)[:, None].clamp(min=1e-8)
                their = patches / patches.norm(dim=1)[:, None].clamp(min=1e-8)
                nearest = (1 - own @ their.T).min(dim=0)[0]
                few_map = few_map + self.large(nearest[None, None])[0, 0]
            zero.append(zero_map), few.append(few_map)
        parts = [torch.stack(maps) for maps in (zero, few)]
        fused = sum(0.5 * (part - part.min()) / (part.max() - part.min()) for part in parts)
        assert isinstance(fused, Tensor)
        return torch.cat([fused.flatten(1), fused.flatten(1).amax(dim=1, keepdim=True)], dim=1)


# -- training ---------------------------------------------------------------------------------------------------------


class Steps:
    """The first call takes `first` steps, which are compared, every later one a single step."""

    def __init__(self, step: Callable[[int], float], first: int) -> None:
        self._step, self._next, self._first = step, 0, first

    def __call__(self) -> Tensor:
        """Losses of the steps of this call, one a row."""
        count = 1 if self._next else self._first
        losses = [self._step(self._next + i) for i in range(count)]
        self._next += count
        return torch.tensor(losses, dtype=torch.float64)[:, None]


@outside
def train_published(work: Work) -> Call:
    """Batches of one, as published."""
    published, samples = Published(work), support(work).samples
    chosen = order(work.steps + 100)

    def step(number: int) -> float:
        i = chosen[number]
        image, mask = samples.load(i)[None], samples.mask(i)[None].float()
        return published.step(*(value.to(work.device) for value in (image, samples.labels[i : i + 1], mask)))

    return Steps(step, work.steps)


def library_steps(run: Run, batches: Callable[[int], list[int]], first: int) -> Steps:
    """The loop of `train.engine`, a step at a time, after the frozen blocks of every image."""
    run.network.eval()
    run.sets[0].warm("frozen blocks")

    def step(number: int) -> float:
        run.optimizer.zero_grad(set_to_none=True)
        loss = run.step((0, batches(number)))
        value = float(loss.item())
        run.fabric.backward(loss)
        run.optimizer.step()
        return value

    return Steps(step, first)


@outside
def train_library(work: Work) -> Call:
    """The same updates."""
    training = replace(MlaTraining.published("mla", 1), protocol="last", device=work.device.type)
    detector = MlaLp(network(work), mode="segmentation")
    chosen = order(work.steps + 100)
    run = Run(detector, [support(work).samples], [], training, None)
    return library_steps(run, lambda number: [chosen[number]], work.steps)


def train_recipe(profile: Profile, work: Work) -> Call:
    """A recipe's own updates."""
    settings, training = recipe(profile, "mla", 16, "ViT-L-14-336")
    settings = replace(settings, image_size=work.settings.image_size, levels=work.settings.levels)
    training = replace(training, protocol="last", device=work.device.type)
    own = MlaNetwork(with_quick_gelu(backbone(work)), settings).eval().to_device(work.device)
    run = Run(MlaLp(own, mode="segmentation"), [support(work).samples], [], training, None)
    chosen = order(800 * training.batch_size)
    size = training.batch_size
    return library_steps(run, lambda number: chosen[number * size : (number + 1) * size], 1)


def training_case(work: Work) -> Case:
    """Time per training image."""
    variants = [
        Variant("published order", partial(train_published, work)),
        Variant("library", partial(train_library, work), same_as="published order", limit=1e-5),
    ]
    for profile in RECIPES:
        size = recipe(profile, "mla", 16, "ViT-L-14-336")[1].batch_size
        build = outside(partial(train_recipe, profile))
        variants.append(
            Variant(f"recipe {profile}", partial(build, work), items=size, note=f"{size} images per update")
        )
    return Case("training, with masks", variants, baseline="published order", unit="image")


# -- evaluation -------------------------------------------------------------------------------------------------------


@cache
def bank_rows(work: Work) -> list[Tensor]:
    """Unit vectors of four levels; the published order normalises them all the same."""
    width, generator = backbone(work).embed_dim, torch.Generator().manual_seed(2)
    with torch.inference_mode(False):
        levels = [torch.randn(work.rows, width, generator=generator) for _ in work.settings.levels]
        return [F.normalize(level, dim=1).to(work.device) for level in levels]


def evaluate_published(work: Work) -> Call:
    """One image after the other."""
    published, images = Published(work), pictures(work, work.images).to(work.device)
    return lambda: published.evaluate(images, bank_rows(work))


def detector_with_bank(work: Work, **options: Any) -> MlaLp:
    """Random adapters, and a bank of random rows; options: fields of MlaLp."""
    owner = torch.arange(work.rows, device=work.device) % 16
    return MlaLp(network(work), mode="segmentation", bank=MemoryBank(tuple(bank_rows(work)), owner), **options)


def evaluate_library(work: Work, count: int | None = None, **options: Any) -> Call:
    """`raw` and `finish` of a detector whose scale is set by the same images, in batches; text in the first call."""
    images, size = pictures(work, count or work.images), work.settings.image_size
    detector = detector_with_bank(work, **options)
    geometry = Geometry((size, size), (size, size), (1.0, 1.0))

    def call() -> Tensor:
        raws = []
        for part in images.split(detector.batch_size):
            names = ["image"] * len(part)
            raws += detector.raw_from_arrays(part, [geometry] * len(part), names, detector.text())
        found = detector.with_scale_from(raws).finish(raws)
        maps = torch.stack([torch.from_numpy(p.maps).flatten() for p in found if p.maps is not None])
        return torch.cat([maps, torch.tensor([[float(p.scores[0])] for p in found])], dim=1)

    return call


def bare_forward(work: Work, *, bank: bool) -> Call:
    """open_clip's own `encode_image`, and with `bank` the product of as many unit vectors as patches with every row."""
    model: Any = backbone(work).model
    images = pictures(work, work.images).to(work.device)
    patches = F.normalize(torch.ones(work.images * backbone(work).grid[0] ** 2, backbone(work).embed_dim), dim=1)
    patches = patches.to(work.device)

    def call() -> None:
        for part in images.split(8):
            model.encode_image(part)
        for rows in bank_rows(work) if bank else []:
            for part in rows.split(1024):
                patches @ part.T

    return call


def evaluation_case(work: Work) -> Case:
    """Time per test image."""
    count = work.images
    variants = [
        Variant("published order", partial(evaluate_published, work), items=count),
        Variant("library", partial(evaluate_library, work), items=count, same_as="published order", limit=1e-3),
        Variant("bare forward and bank product", partial(bare_forward, work, bank=True), items=count),
        Variant("bare forward", partial(bare_forward, work, bank=False), items=count),
    ]
    return Case(f"evaluation, bank of {work.rows} rows per level", variants, baseline="bare forward and bank product")


def profile(work: Work) -> None:
    """Where the library's time goes, by operator."""
    from torch.profiler import profile as recorded

    for name, build in (("training", train_library), ("evaluation", evaluate_library)):
        call = build(replace(work, steps=1))
        with torch.inference_mode():
            call()
            with recorded() as record:
                call()
        by = f"self_{'cpu' if work.device.type == 'cpu' else 'device'}_time_total"
        print(f"\n{name}, library\n{record.key_averages().table(sort_by=by, row_limit=15)}")


def main() -> None:
    """Both cases, or with --profile the operators of the library's part."""
    parser = suite_parser(__doc__, repeats=ROUNDS)
    parser.add_argument("--steps", type=int, default=10, help="training steps whose losses are compared")
    parser.add_argument("--images", type=int, default=4, help="images of the evaluation")
    parser.add_argument("--case", default="", help="only the case whose title contains this, such as evaluation")
    parser.add_argument("--profile", action="store_true", help="operators of one step and one evaluation, no timings")
    options = parser.parse_args()
    work = Work.of(options)
    if options.profile:
        torch.set_num_threads(options.threads)
        profile(work)
        return
    cases = [case for case in (training_case(work), evaluation_case(work)) if options.case in case.title]
    results = run_suite(cases, options, __file__)
    for result in results:
        for name, goal in GOALS.get(result.title.split(",")[0], {}).items():
            ratio, low, high = (1 / value for value in result.ratio(name, "published order"))
            told = f"{name} {ratio:.2f} x as fast as the published order ({high:.2f} to {low:.2f})"
            print(f"{result.title}: {told}, goal {goal} x: {'reached' if ratio >= goal else 'missed'}")


if __name__ == "__main__":
    main()
