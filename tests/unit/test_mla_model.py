"""The network, its prompts, losses and scores against slow twins on a tiny random CLIP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import reference_mla as twin
from tiny_clip import make_clip
from wordsight.errors import ImageError, PromptError, SettingsError, WeightsError
from wordsight.models.mla.augment import VARIANTS, augment
from wordsight.models.mla.backbone import Clip
from wordsight.models.mla.detector import MlaLp, quarter_levels
from wordsight.models.mla.loss import dice_loss, top_mean, training_loss
from wordsight.models.mla.memory import MemoryBank
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.prompts import LearnedPrompts, ensemble_features
from wordsight.models.mla.reading import Reading
from wordsight.models.mla.scoring import RawScores, ScoreScale, combine, raw_maps, smooth, text_scores
from wordsight.models.mla.settings import MlaSettings
from wordsight.models.precision import autocast
from wordsight.types import Geometry

SIZE = 58  # 4 x 4 patches of 14 pixels, two rows and columns left over
LEVELS = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip(SIZE)


@pytest.fixture(scope="module")
def network(clip: Clip) -> MlaNetwork:
    return MlaNetwork(clip, MlaSettings(image_size=SIZE, levels=LEVELS), seed=3).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs).norm() / theirs.norm())


def twin_tokens(network: MlaNetwork, image: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return twin.image_tokens(
        image.double(),
        twin.double(network.clip.model.state_dict()),
        twin.double(network.state_dict()),
        levels=LEVELS,
        heads=2,
        patch=14,
        mix=network.settings.mix,
    )


def twin_text(network: MlaNetwork, *, causal: bool = False) -> torch.Tensor:
    """The learned prompts, assembled word by word."""
    clip = network.clip
    state = twin.double(clip.model.state_dict())
    prompts = network.prompt_learner
    assert prompts is not None
    from wordsight.text.states import ABNORMAL_WORDS, NORMAL_WORDS

    columns = []
    for name, words in (("normal", NORMAL_WORDS), ("abnormal", ABNORMAL_WORDS)):
        features = []
        for i, word in enumerate(words):
            ids = clip.tokenizer(["X X X X X X X X " + word + "."])[0]
            rows = state["token_embedding.weight"][ids].clone()
            rows[1:9] = prompts.ctx[f"{name}_end"][i].detach().double()
            end = int((ids == ids.max()).nonzero()[0, 0])
            features.append(twin.text_feature(rows, end, state, layers=2, heads=2, causal=causal))
        columns.append(twin.class_text(features))
    return torch.stack(columns, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("mix", [0.1, 0.3, 0.0])
def test_tokens_equal_the_slow_twin(clip: Clip, images: torch.Tensor, mix: float) -> None:
    network = MlaNetwork(clip, MlaSettings(image_size=SIZE, levels=LEVELS, mix=mix), seed=3).eval()
    tokens = network(images[:2])
    for i in range(2):
        seg, det = twin_tokens(network, images[i])
        for ours, theirs in zip((*tokens.seg, *tokens.det), (*seg, *det), strict=True):
            assert relative(ours[i], theirs) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_learned_text_equals_the_slow_twin(clip: Clip, causal: bool) -> None:
    network = MlaNetwork(clip, MlaSettings(image_size=SIZE, levels=LEVELS, causal_text=causal), seed=3)
    assert relative(network.text(), twin_text(network, causal=causal)) < 1e-5


@torch.no_grad()
def test_context_positions_place_the_word_where_they_say(clip: Clip) -> None:
    prompts = LearnedPrompts(clip, 4, ("end", "middle", "front"), words=(["clear"], ["lesion"]))
    ids = clip.tokenizer(["X X X X lesion."])[0]
    length = int(ids.argmax()) - 4 - 2
    word = clip.text.token_embedding(ids[5 : 5 + length])
    for position, start in (("end", 5), ("middle", 3), ("front", 1)):
        rows = prompts._assemble("abnormal", position)[0]  # type: ignore[arg-type]
        assert rows.shape == (clip.context_length, clip.text_width)
        assert torch.equal(rows[start : start + length], word)
        assert torch.equal(rows[5 + length :], clip.text.token_embedding(ids[5 + length :]))


@torch.no_grad()
def test_ensemble_is_the_mean_of_normalised_sentences(clip: Clip) -> None:
    from wordsight.text.states import ENSEMBLE_ABNORMAL, ENSEMBLE_NORMAL, ENSEMBLE_SENTENCES

    state = twin.double(clip.model.state_dict())
    columns = []
    for states in (ENSEMBLE_NORMAL, ENSEMBLE_ABNORMAL):
        features = []
        for condition in states[:2]:
            for sentence in ENSEMBLE_SENTENCES:
                ids = clip.tokenizer([sentence.format(condition.format("Brain"))])[0]
                rows = state["token_embedding.weight"][ids]
                f = twin.text_feature(rows, int(ids.argmax()), state, layers=2, heads=2, causal=True)
                features.append(f / f.norm())
        columns.append(twin.class_text(features))
    few = torch.stack(columns, dim=1)
    import wordsight.models.mla.prompts as module

    originals = module.ENSEMBLE_NORMAL, module.ENSEMBLE_ABNORMAL
    try:
        module.ENSEMBLE_NORMAL, module.ENSEMBLE_ABNORMAL = originals[0][:2], originals[1][:2]
        assert relative(ensemble_features(clip, "Brain"), few) < 1e-5
    finally:
        module.ENSEMBLE_NORMAL, module.ENSEMBLE_ABNORMAL = originals


@pytest.mark.parametrize("masked", [True, False])
def test_losses_and_gradients_equal_the_slow_twin(network: MlaNetwork, images: torch.Tensor, masked: bool) -> None:
    mask = torch.zeros(SIZE, SIZE)
    mask[10:30, 20:40] = 1
    text = network.text().detach()
    parts = network.loss(network(images[:1]), text, torch.ones(1), mask[None] if masked else None)
    seg, det = twin_tokens(network, images[0])
    theirs = twin.losses(seg, det, text.double(), 1, mask.double() if masked else None)
    for ours, name in ((parts.det, "det"), (parts.focal, "focal"), (parts.dice, "dice")):
        assert len(ours) == len(theirs[name])
        for a, b in zip(ours, theirs[name], strict=True):
            assert float(a.detach()) == pytest.approx(float(b), rel=1e-5)
    network.zero_grad()
    parts.total.backward()
    last = network.seg_adapters[3].fc2[0].weight.grad  # type: ignore[union-attr, index]
    assert last is None, "the last output feeds nothing"
    frozen = [p for p in network.clip.model.parameters() if p.requires_grad or p.grad is not None]
    assert not frozen, "the backbone is frozen and gets no gradients"
    assert (network.seg_adapters[3].fc1[0].weight.grad is None) == (not masked)  # type: ignore[union-attr, index]
    assert network.seg_adapters[0].fc1[0].weight.grad is not None, "det losses reach seg adapters by the stream"  # type: ignore[union-attr, index]
    network.zero_grad()


def test_corrected_losses_can_reach_zero_where_published_ones_cannot() -> None:
    sure = torch.full((1, 16), 30.0)
    settings = MlaSettings()
    published = training_loss([sure], [], torch.ones(1), None, settings).total
    assert float(published) == pytest.approx(0.3133, abs=1e-3)
    for kind in ("probability", "margin"):
        mended = training_loss([sure], [], torch.ones(1), None, replace(settings, detection_loss=kind)).total
        assert float(mended) < 1e-4
        wrong = training_loss([-sure], [], torch.ones(1), None, replace(settings, detection_loss=kind)).total
        assert float(wrong) > 10


def test_image_share_averages_the_most_abnormal_patches() -> None:
    margin = torch.tensor([[-5.0, 5.0, -5.0, 5.0, -5.0, -5.0, -5.0, -5.0, -5.0, -5.0]])
    assert torch.equal(top_mean(margin, 1.0), margin.mean(dim=1))
    assert float(top_mean(margin, 0.2)) == 5.0
    assert float(top_mean(margin, 0.01)) == 5.0
    settings = MlaSettings(detection_loss="probability", image_share=0.2)
    few = training_loss([margin], [], torch.ones(1), None, settings).total
    every = training_loss([margin], [], torch.ones(1), None, replace(settings, image_share=1.0)).total
    assert float(few) < 0.01 < float(every)


def test_dice_is_left_out_where_nothing_can_overlap() -> None:
    p = torch.full((2, 8, 8), 0.2)
    mask = torch.zeros(2, 8, 8)
    mask[1, :4] = 1
    both, only = dice_loss(p, mask), dice_loss(p, mask, on_normal=False)
    assert float(both - only) == pytest.approx(float(1 - 1 / (0.2 * 64 + 1)) / 2, rel=1e-5)


def test_augmentation_variants() -> None:
    image = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    out = augment(image)
    assert out.shape == (2 * VARIANTS, 3, 20, 20)
    assert torch.equal(out[:2], image)
    assert torch.equal(out[18:20], image.flip(-1))
    assert torch.equal(out[20:], image.flip(-2))
    shifted = out[10:12]  # translation (0.1, 0.1): out(x, y) = in(x + 1, y + 1) in pixels of a 20 pixel image
    assert torch.allclose(shifted[..., :-1, :-1], image[..., 1:, 1:], atol=1e-5)


@torch.no_grad()
def test_memory_distance_equals_the_slow_twin(
    network: MlaNetwork, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    support, query = network(images[:2]), network(images[2:])
    bank = MemoryBank.build(support.seg, torch.arange(2))
    assert bank.rows[0].shape == (2 * 17, network.clip.embed_dim)
    ours = bank.distance([level[:, 1:] for level in query.seg])
    monkeypatch.setattr("wordsight.models.mla.memory.BLOCK_BYTES", 4 * 32 * 5)  # five rows a block
    assert torch.allclose(ours, bank.distance([level[:, 1:] for level in query.seg]), atol=1e-6)
    for i in range(2):
        theirs = sum(
            twin.nearest(q[i].double(), s.double().flatten(0, 1)) for q, s in zip(query.seg, support.seg, strict=True)
        )
        assert torch.allclose(ours[i].double(), theirs, atol=1e-5)  # type: ignore[arg-type]
    own = bank.distance([level[:, 1:] for level in support.seg])
    assert float(own.max()) < 1e-5, "a support image is its own nearest neighbour"
    assert float(bank.distance([level[:1, 1:] for level in support.seg], leave_out=0).min()) > 1e-4
    without = MemoryBank.build(support.seg, torch.arange(2), class_token=False)
    assert without.rows[0].shape == (2 * 16, network.clip.embed_dim)


@torch.no_grad()
def test_relative_distance_equals_the_slow_twin_and_is_blind_to_what_a_whole_image_shares(
    network: MlaNetwork, images: torch.Tensor
) -> None:
    support, query = (tokens.seg for tokens in (network(images[:2]), network(images[2:])))
    bank = MemoryBank.build(support, torch.arange(2), relative=True)
    assert bank.rows[0].shape == (2 * 16, network.clip.embed_dim), "no class tokens"
    ours = bank.distance([level[:, 1:] for level in query])
    expected = torch.zeros(2, 16, dtype=torch.float64)
    for q, s in zip(query, support, strict=True):
        rows = [row for image in s for row in standardised(image[1:])]
        for i in range(2):
            for p, patch in enumerate(standardised(q[i, 1:])):
                expected[i, p] += 1 - max(float(torch.cosine_similarity(patch, row, dim=0)) for row in rows)
    assert torch.allclose(ours.double(), expected, atol=2e-5)
    tinted = [level[:, 1:] * (1 + torch.rand(level.shape[-1])) + torch.randn(level.shape[-1]) for level in query]
    assert torch.allclose(bank.distance(tinted), ours, atol=1e-4)
    plain = MemoryBank.build(support, torch.arange(2))
    assert not torch.allclose(plain.distance(tinted), plain.distance([level[:, 1:] for level in query]), atol=1e-2)
    flat = [torch.ones(1, 16, network.clip.embed_dim) for _ in support]
    assert torch.equal(bank.distance(flat), torch.full((1, 16), float(len(support)))), "alike everywhere: like nothing"


def standardised(patches: torch.Tensor) -> torch.Tensor:
    """Channel by channel: less the mean, by the deviation."""
    out = torch.empty(patches.shape, dtype=torch.float64)
    for channel in range(patches.shape[1]):
        values = patches[:, channel].double().numpy()
        out[:, channel] = torch.from_numpy((values - values.mean()) / (values.std() + 1e-6))
    return out


@torch.no_grad()
@pytest.mark.parametrize("branch", ["seg", "det"])
def test_few_shot_scores_equal_the_slow_twin(network: MlaNetwork, images: torch.Tensor, branch: str) -> None:
    detector = replace(MlaLp(network), map_branch=branch).with_support_arrays(images[:1], scale=False)  # type: ignore[type-var]
    identity = Geometry((SIZE, SIZE), (SIZE, SIZE), (1.0, 1.0))
    raws = detector.raw_from_arrays(images, [identity] * 4, list("abcd"), detector.text())
    text = network.text().double()
    bank_images = [twin_tokens(network, image) for image in augment(images[:1])]
    which = 0 if branch == "seg" else 1
    zero, few, text_scores = [], [], []
    for image in images:
        tokens = twin_tokens(network, image)
        zero_map = torch.zeros(SIZE, SIZE, dtype=torch.float64)
        few_map = torch.zeros_like(zero_map)
        score = torch.zeros((), dtype=torch.float64)
        for level in range(4):
            z = twin.patch_logits(tokens[which][level], text)
            maps = torch.stack([twin.enlarge(z[:, c].reshape(4, 4), SIZE) for c in range(2)])
            zero_map += torch.softmax(maps, dim=0)[1]
            bank = torch.cat([t[which][level] for t in bank_images])
            few_map += twin.enlarge(twin.nearest(tokens[which][level], bank).reshape(4, 4), SIZE)
            score += torch.softmax(twin.patch_logits(tokens[1][level], text), dim=-1)[:, 1].mean()
        zero.append(zero_map), few.append(few_map), text_scores.append(score)
    maps = raw_maps(raws, SIZE)
    assert relative(torch.from_numpy(maps.zero), torch.stack(zero)) < 1e-5
    assert np.allclose(maps.few, torch.stack(few).numpy(), atol=1e-5)
    scale = ScoreScale.fit(raws, SIZE, "test")
    scores, fused = combine(raws, scale, detector.mode, SIZE)
    their_map = 0.5 * twin.minmax(torch.stack(zero)) + 0.5 * twin.minmax(torch.stack(few))
    assert np.allclose(fused, their_map.numpy(), atol=1e-3)
    if branch == "seg":
        theirs = their_map.flatten(1).amax(1)
    else:
        means = torch.stack([m.mean() for m in few])
        theirs = 0.5 * twin.minmax(torch.stack(text_scores)) + 0.5 * twin.minmax(means)
    assert np.allclose(scores, theirs.numpy(), atol=2e-3)


def test_smoothing_averages_neighbouring_patches_and_counts_no_padding() -> None:
    maps = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    assert smooth(maps, 1) is maps
    smoothed = smooth(maps, 3)
    assert torch.allclose(smoothed[1, 2, 2, 2], maps[1, 2, 1:4, 1:4].mean())
    assert torch.allclose(smoothed[0, 1, 0, 4], maps[0, 1, :2, 3:].mean())
    assert torch.allclose(smooth(torch.ones(1, 4, 4), 5), torch.ones(1, 4, 4))


def test_readings_smooth_and_pick_before_they_average() -> None:
    """A lone odd patch and a block of odd patches: only smoothing prefers the block; only a share sees either."""
    distance = np.zeros((2, 8, 8), np.float32)
    distance[0, 4, 4], distance[1, 2:5, 2:5] = 1.0, 0.8
    margins = np.where(distance > 0, 4.0, -4.0)[:, None].astype(np.float32)
    identity = Geometry((64, 64), (64, 64), (1.0, 1.0))
    raws = [RawScores(m, m, d, identity, "x") for m, d in zip(margins, distance, strict=True)]
    plain, smoothed = Reading(1.0), Reading(1.0, smoothing=3)
    for mode in ("segmentation", "detection"):
        order = []
        for reading in (
            plain,
            smoothed,
            Reading(1.0, image_share=1 / 64),
            Reading(1.0, image_share=1 / 64, smoothing=3),
        ):
            scale = ScoreScale.fit(raws, 64, "test", reading)
            scores, maps = combine(raws, scale, mode, 64, reading)  # type: ignore[arg-type]
            assert maps.max() == pytest.approx(1.0, abs=1e-6)
            order.append(bool(scores[1] > scores[0]))
        assert order == ([False, True, False, True] if mode == "segmentation" else [True, True, True, True])
    few = raw_maps(raws, 64, 3).few
    assert few is not None
    assert few[1].max() == pytest.approx(0.8, abs=1e-6)
    assert few[0].max() == pytest.approx(1 / 9, abs=1e-6)
    assert float(text_scores(raws, Reading(image_share=1 / 64))[0]) == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)
    assert float(text_scores(raws)[0]) < 0.05


def test_scores_and_maps_are_read_apart() -> None:
    """Scores by the memory, maps by the text; a share of the map instead of its highest value."""
    distance = np.zeros((2, 8, 8), np.float32)
    distance[0, 4, 4], distance[1, 2:5, 2:5] = 1.0, 0.8
    margins = np.zeros((2, 1, 8, 8), np.float32)
    margins[0, 0, 0, 0], margins[0, 0, 7, 7] = 3.0, -3.0
    identity = Geometry((64, 64), (64, 64), (1.0, 1.0))
    raws = [RawScores(m, m, d, identity, "x") for m, d in zip(margins, distance, strict=True)]
    apart = Reading(1.0, map_memory_weight=0.0)
    scale = ScoreScale.fit(raws, 64, "test", apart)
    scores, maps = combine(raws, scale, "segmentation", 64, apart)
    assert scores == pytest.approx([1.0, 0.8], abs=1e-6)
    assert (maps[0, 0, 0], maps[0, -1, -1]) == pytest.approx((1.0, 0.0), abs=1e-6)
    assert np.ptp(maps[1]) == pytest.approx(0, abs=1e-6)
    whole = Reading(1.0, map_share=1.0)
    scores, _ = combine(raws, ScoreScale.fit(raws, 64, "test", whole), "segmentation", 64, whole)
    few = raw_maps(raws, 64).few
    assert few is not None
    assert scores == pytest.approx(few.mean(axis=(1, 2)), rel=1e-5)
    smoothed = Reading(1.0, smoothing=3, map_memory_weight=1.0)
    scale = ScoreScale.fit(raws, 64, "test", smoothed)
    scores, maps = combine(raws, scale, "segmentation", 64, smoothed)
    assert scores == pytest.approx([1 / 9 / 0.8, 1.0], rel=1e-5)
    assert maps.max(axis=(1, 2)) == pytest.approx([1.0, 0.8], abs=1e-6)


def test_readings_ask_the_memory_they_name() -> None:
    """Plain and relative distances that disagree: scores by the one, maps by the other."""
    plain, relative = (
        np.array(values, np.float32).reshape(2, 1, 1).repeat(8, 1).repeat(8, 2) for values in ((0, 1), (1, 0))
    )
    margins = np.zeros((2, 1, 8, 8), np.float32)
    identity = Geometry((64, 64), (64, 64), (1.0, 1.0))
    raws = [RawScores(m, m, d, identity, "x", r) for m, d, r in zip(margins, plain, relative, strict=True)]
    for mode in ("segmentation", "detection"):
        for relative_scores, relative_maps in ((False, True), (True, False), (True, True)):
            reading = Reading(1.0, map_memory_weight=1.0, relative=relative_scores, map_relative=relative_maps)
            assert reading.memories == {relative_scores, relative_maps}
            scale = ScoreScale.fit(raws, 64, "test", reading)
            scores, maps = combine(raws, scale, mode, 64, reading)  # type: ignore[arg-type]
            assert scores == pytest.approx([1, 0] if relative_scores else [0, 1], abs=1e-6)
            assert maps.mean(axis=(1, 2)) == pytest.approx([1, 0] if relative_maps else [0, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1.5,), r"memory_weight: expected a share in \[0, 1\], got 1.5"),
        ((0.5, 0.0), r"image_share: expected a share in \(0, 1\]"),
        ((0.5, 1.0, 2), "smoothing: expected an odd number of patches, 1 for none, got 2"),
        ((0.5, 1.0, 1, -0.1), r"map_share: expected a share in \[0, 1\], got -0.1"),
        ((0.5, 1.0, 1, 0.0, 2.0), r"map_memory_weight: expected a share in \[0, 1\], got 2.0"),
        ((0.5, 1.0, 1, 0.0, 0.5, 0), "map_smoothing: expected an odd number of patches, 1 for none, got 0"),
    ],
)
def test_readings_out_of_range(values: tuple[float, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Reading(*values)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="the values memory_weight, image_share, smoothing, map_share, "):
        Reading.from_json({"memory_weight": 0.5})
    reading = Reading(0.25, 0.1, 3, 0.05, 1.0, 5, relative=True)
    assert Reading.from_json(reading.to_json()) == reading


def test_scale_of_constant_scores_divides_by_nothing() -> None:
    scale = ScoreScale((1.0, 1.0), None, (1.0, 1.0), None, (1.0, 1.0), None, "test")
    raws = [_raw(0.0), _raw(0.0)]
    scores, maps = combine(raws, scale, "zero-shot", 8)
    assert np.isfinite(scores).all()
    assert np.isfinite(maps).all()
    assert ScoreScale.from_json(scale.to_json()) == scale


def _raw(margin: float):  # type: ignore[no-untyped-def]
    grid = np.full((2, 3, 3), margin, np.float32)
    return RawScores(grid, grid, None, Geometry((8, 8), (8, 8), (1.0, 1.0)), "x")


def test_same_seed_same_adapters_and_no_global_random_state(clip: Clip) -> None:
    before = torch.get_rng_state()
    a = MlaNetwork(clip, MlaSettings(image_size=SIZE, levels=LEVELS), seed=1)
    b = MlaNetwork(clip, MlaSettings(image_size=SIZE, levels=LEVELS), seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    bound = (1 / clip.vision_width) ** 0.5  # Kaiming uniform with a = sqrt 5
    assert float(a.seg_adapters[0].fc1[0].weight.detach().abs().max()) <= bound  # type: ignore[union-attr, index, operator]


def test_frozen_backbone_is_in_no_state_dict(network: MlaNetwork) -> None:
    names = set(network.state_dict())
    branches = {f"{b}.{i}.fc{j}.0.weight" for b in ("seg_adapters", "det_adapters") for i in range(4) for j in (1, 2)}
    assert names == branches | {"prompt_learner.ctx.normal_end", "prompt_learner.ctx.abnormal_end"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": (3, 2)}, "increasing block numbers"),
        ({"levels": ()}, "increasing block numbers"),
        ({"mix": 0.5}, r"share in \[0, 0.5\)"),
        ({"image_size": 0}, "image_size >= 1"),
        ({"image_share": 0.0}, r"share in \(0, 1\]"),
        ({"positions": ("start",)}, "some of end, middle, front"),
        ({"prompts": "ensemble"}, "needs object_name"),
    ],
)
def test_settings_errors(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        MlaSettings(**values)  # type: ignore[arg-type]


def test_settings_round_trip_and_unknown_names() -> None:
    settings = MlaSettings.mvfa("Brain").corrected()
    assert MlaSettings.from_json(settings.to_json()) == settings
    with pytest.raises(SettingsError, match="unknown settings shots; known are"):
        MlaSettings.from_json({"shots": 4})


def test_levels_beyond_the_backbone(clip: Clip) -> None:
    with pytest.raises(SettingsError, match="expected block numbers up to 4"):
        MlaNetwork(clip, MlaSettings(image_size=SIZE))


def test_prompts_that_do_not_fit(clip: Clip) -> None:
    with pytest.raises(PromptError, match=r"at most 24 tokens"):
        LearnedPrompts(clip, 20)
    with pytest.raises(PromptError, match="at least one abnormal state word"):
        LearnedPrompts(clip, 2, words=(["clear"], []))


def test_support_must_not_be_empty(network: MlaNetwork) -> None:
    with pytest.raises(ImageError, match="at least one normal support image"):
        MlaLp(network).with_support([])


def test_half_precision_needs_the_right_device() -> None:
    with pytest.raises(SettingsError, match="fp16 needs a CUDA device"):
        autocast(torch.device("cpu"), "fp16")


def test_quarter_levels() -> None:
    assert quarter_levels(24) == (6, 12, 18, 24)
    assert quarter_levels(12) == (3, 6, 9, 12)
    assert quarter_levels(4) == (1, 2, 3, 4)
    assert quarter_levels(2) == (1, 2)
