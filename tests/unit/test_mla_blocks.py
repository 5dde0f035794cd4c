"""Less work, the same numbers: blocks, pooled positions, causal prompts, the seg branch, text once, twenty steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from open_clip.transformer import CustomResidualAttentionBlock, ResidualAttentionBlock
from torch import Tensor, nn

import reference_mla as twin
from tiny_clip import make_clip
from wordsight.models.mla.blocks import run_block, run_block_at
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.memory import MemoryBank
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.settings import MlaSettings
from wordsight.models.mla.text_streams import TextStream
from wordsight.text.states import ABNORMAL_WORDS, NORMAL_WORDS
from wordsight.train.run import Run
from wordsight.train.samples import SupportArrays
from wordsight.train.settings import MlaTraining
from wordsight.types import Geometry

SIZE, LEVELS = 56, (1, 2, 3, 4)


def random_block(make: Callable[..., nn.Module] = ResidualAttentionBlock, **options: Any) -> nn.Module:
    """A frozen block whose every parameter matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = make(32, 4, **options).eval().requires_grad_(False)
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block


def stream(requires_grad: bool = False, length: int = 7) -> Tensor:
    x = torch.randn(3, length, 32, generator=torch.Generator().manual_seed(1))
    return x.requires_grad_(requires_grad)


def library_mask(length: int) -> Tensor:
    return torch.full((length, length), -torch.inf).triu_(1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [7, 40, 150])
@pytest.mark.parametrize("options", [{}, {"ls_init_value": 0.3}])
def test_a_block_equals_the_librarys_in_values_and_gradients(
    causal: bool, length: int, options: dict[str, Any]
) -> None:
    block, weights = random_block(**options), torch.randn(3, length, 32, generator=torch.Generator().manual_seed(2))
    ours, theirs, mask = stream(True, length), stream(True, length), library_mask(length) if causal else None
    out, expected = run_block(block, ours, causal=causal), block(theirs, attn_mask=mask)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("make", [ResidualAttentionBlock, CustomResidualAttentionBlock])
def test_one_position_of_a_block_equals_the_whole_block_there(causal: bool, make: Callable[..., nn.Module]) -> None:
    block, positions = random_block(make), torch.tensor([0, 6, 3])
    ours, theirs = stream(True), stream(True)
    out = run_block_at(block, ours, positions, causal=causal)
    whole = block(theirs, attn_mask=library_mask(7) if causal else None)[torch.arange(3), positions]
    torch.testing.assert_close(out, whole, rtol=1e-5, atol=1e-5)
    out.square().sum().backward()
    whole.square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_text_computes_what_the_pooled_position_reads_and_no_more(causal: bool) -> None:
    clip = make_clip(SIZE)
    ids = clip.tokenizer(["a lesion", "no evidence of disease in the liver"])
    ends = ids.argmax(dim=-1)
    rows = torch.arange(2)
    whole = clip.text.run(clip.text.token_embedding(ids) + clip.text.positional_embedding, causal)  # type: ignore[attr-defined]
    lengths: list[int] = []
    blocks: Any = clip.model.transformer.resblocks  # type: ignore[union-attr]
    hooks = [block.mlp.register_forward_hook(lambda m, x, y: lengths.append(x[0].shape[1])) for block in blocks]
    found = clip.text.encode(ids, causal)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, clip.text.project(whole[rows, ends]), rtol=1e-5, atol=1e-5)  # type: ignore[attr-defined]
    assert lengths == [int(ends.max()) + 1 if causal else clip.context_length, 1]


@pytest.mark.parametrize("pool", ["first", "last", "argmax", "eos"])
@pytest.mark.parametrize("causal", [False, True])
def test_every_way_of_pooling_text(pool: str, causal: bool) -> None:
    clip = make_clip(SIZE)
    text = TextStream(clip.model, clip.context_length, causal=True)
    text._pool_type, text._eos_id = pool, 49407
    ids = clip.tokenizer(["a lesion", "no finding"])
    end = ids.argmax(dim=-1)
    at = {"first": torch.zeros_like(end), "last": torch.full_like(end, ids.shape[1] - 1)}.get(pool, end)
    whole = text.run(text.token_embedding(ids) + text.positional_embedding, causal)
    torch.testing.assert_close(text.encode(ids, causal), text.project(whole[torch.arange(2), at]), rtol=1e-5, atol=1e-5)


def network(**values: Any) -> MlaNetwork:
    return MlaNetwork(make_clip(SIZE), MlaSettings(image_size=SIZE, levels=LEVELS, **values), seed=3).eval()


def test_without_readers_the_last_level_of_the_seg_branch_is_left_out() -> None:
    own, images = network(), torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    calls: list[int] = []
    own.seg_adapters[-1].register_forward_hook(lambda *_: calls.append(1))
    own.seg_adapters[-1].fc1.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    some = own(images, seg=False)
    assert calls == []
    every = own(images)
    assert len(calls) == 1
    assert (len(some.seg), len(some.det)) == (3, 4)
    for one, other in zip((*some.seg, *some.det), (*every.seg[:3], *every.det), strict=True):
        assert torch.equal(one, other)
    mask = torch.zeros(2, SIZE, SIZE)
    label, text = torch.tensor([0.0, 1.0]), own.text()
    assert torch.equal(own.loss(some, text, label, None).total, own.loss(every, text, label, None).total)
    assert own.loss(every, text, label, mask).total > own.loss(every, text, label, None).total


@pytest.mark.parametrize("branch", ["seg", "det"])
@torch.no_grad()
def test_text_runs_once_however_many_batches_are_looked_at(branch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own, calls = network(), []
    encode = own.text
    monkeypatch.setattr(own, "text", lambda *names: (calls.append(1), encode(*names))[1])
    detector = MlaLp(own, map_branch=branch, mode="segmentation" if branch == "seg" else "detection")
    support = own(torch.rand(1, 3, SIZE, SIZE))
    detector = replace(detector, bank=MemoryBank.build(support.seg, torch.arange(1)))
    geometry = [Geometry((SIZE, SIZE), (SIZE, SIZE), (1.0, 1.0))]
    for seed in range(3):
        image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        detector.raw_from_arrays(image, geometry, ["x"], detector.text())
    assert len(calls) == 1
    before = detector.text()
    next(own.prompt_learner.parameters()).mul_(-30)  # type: ignore[union-attr]
    assert not torch.allclose(detector.text(), before)
    assert len(calls) == 2
    assert torch.equal(detector.text(), encode())


def enlarging() -> Tensor:
    """Bilinear interpolation with aligned corners of a 4 x 4 grid as a matrix, (S * S, 16)."""
    weights = torch.zeros(SIZE, 4, dtype=torch.float64)
    for pixel in range(SIZE):
        place = pixel * 3 / (SIZE - 1)
        low = min(int(place), 2)
        weights[pixel, low], weights[pixel, low + 1] = 1 - (place - low), place - low
    return torch.kron(weights, weights)


class SlowRun:
    """Training as published in float64: everything from pixels and word ids in every step, one Adam per group."""

    def __init__(self, own: MlaNetwork) -> None:
        self.frozen = twin.double(own.clip.model.state_dict())
        self.own = {name: value.requires_grad_() for name, value in twin.double(own.state_dict()).items()}
        self.tokenizer = own.clip.tokenizer
        groups = (("seg_adapters", 1e-4), ("det_adapters", 1e-4), ("prompt_learner", 1e-3))
        self.adams = [
            torch.optim.Adam([v for k, v in self.own.items() if k.startswith(name)], lr=rate, betas=(0.5, 0.999))
            for name, rate in groups
        ]
        self.matrix = enlarging()

    def text(self) -> Tensor:
        columns = []
        for name, words in (("normal", NORMAL_WORDS), ("abnormal", ABNORMAL_WORDS)):
            features = []
            for i, word in enumerate(words):
                ids = self.tokenizer(["X X X X X X X X " + word + "."])[0]
                rows = self.frozen["token_embedding.weight"][ids]
                rows = torch.cat([rows[:1], self.own[f"prompt_learner.ctx.{name}_end"][i], rows[9:]])
                end = int(ids.argmax())
                features.append(twin.text_feature(rows, end, self.frozen, layers=2, heads=2, causal=False))
            columns.append(twin.class_text(features))
        return torch.stack(columns, dim=1)

    def step(self, image: Tensor, label: int, mask: Tensor) -> float:
        seg, det = twin.image_tokens(image.double(), self.frozen, self.own, levels=LEVELS, heads=2, patch=14)
        text = self.text()
        total = torch.stack(twin.losses(seg, det, text, label, None)["det"]).sum()
        for tokens in seg:
            p = torch.softmax(self.matrix @ twin.patch_logits(tokens, text), dim=-1)
            hot = torch.stack([1 - mask.double(), mask.double()], dim=-1).reshape(-1, 2).clamp(1e-5, 1 - 1e-5)
            pt = (hot * p).sum(-1) + 1e-5
            total = total - ((1 - pt) ** 2 * torch.log(pt)).mean()
            overlap, area = (p[:, 1] * mask.flatten()).sum(), p[:, 1].sum() + mask.sum()
            total = total + 1 - (2 * overlap + 1) / (area + 1)
        for adam in self.adams:
            adam.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        for adam in self.adams:
            adam.step()
        return float(total.detach())


def test_twenty_steps_of_a_run_equal_the_published_order() -> None:
    """Kept first blocks, one pass for all prompts, one position in the last text block, one Adam: the same losses."""
    generator = torch.Generator().manual_seed(5)  # of a path on which Adam hardly enlarges the rounding of fp32
    normal, abnormal = torch.rand(2, 1, 3, SIZE, SIZE, generator=generator)
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, 10:30, 20:40] = True
    samples = SupportArrays(normal, abnormal, mask).samples
    own = network()
    slow = SlowRun(own)
    training = replace(MlaTraining.published("mla", 1), protocol="last", device="cpu")
    run = Run(MlaLp(own, mode="segmentation"), [samples], [], training, None)
    chosen = torch.randperm(22, generator=generator)[:20].tolist()
    ours, theirs = [], []
    for i in chosen:
        run.optimizer.zero_grad(set_to_none=True)
        loss = run.step((0, [i]))
        run.fabric.backward(loss)
        run.optimizer.step()
        ours.append(float(loss.detach()))
        theirs.append(slow.step(samples.load(i), int(samples.labels[i]), samples.mask(i)))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert abs(theirs[0] - theirs[-1]) > 1e-3, "nothing was learned: the comparison would say nothing"
