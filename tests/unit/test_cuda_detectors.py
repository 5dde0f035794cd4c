"""Both detectors on a CUDA device (a pretended one): what they say is what they say on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from pretend_cuda import pretended_cuda
from test_carzero_detector import PROMPTS, picture
from tiny_carzero import make_carzero, text_folder
from tiny_clip import make_clip
from wordsight import load
from wordsight.models.carzero.detector import CarZero
from wordsight.models.carzero.prompt_cache import PromptCache
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.memory import MemoryBank
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.reading import Reading
from wordsight.models.mla.settings import MlaSettings
from wordsight.models.precision import choose_precision
from wordsight.models.tensor_files import hash_tensors
from wordsight.types import Image, PromptSet

IMAGES = [picture(i) for i in range(5)]
Answers = dict[str, np.ndarray[Any, Any]]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_folder(tmp_path_factory.mktemp("text"))


def carzero(text: Path, device: str, **changes: Any) -> CarZero:
    return CarZero.from_network(make_carzero(word_lengths="words", **changes), text, device=device)


def carzero_answers(detector: CarZero, cache: PromptCache | None = None) -> Answers:
    """All that a CARZero can be asked, three images at a time."""
    bound = replace(detector.with_prompts(PROMPTS, cache=cache), batch_size=3)
    features, found = bound.encode(IMAGES), bound.predict(IMAGES)
    return {
        "scores": np.stack([p.scores for p in found]),
        "maps": np.stack([p.maps for p in found if p.maps is not None]),
        "repeated cells": np.stack(
            [p.maps for p in replace(bound, enlarge="nearest").answer(features) if p.maps is not None]
        ),
        "grounded": np.stack([[heatmap.values for heatmap in row] for row in bound.ground(features)]),
        "pairs": replace(bound, scores="pair").score(features),
        "largest": replace(bound, combine="max").score(features),
        "global": replace(bound, similarity="global").score(features),
        "local": replace(bound, similarity="local").score(features),
        "both": replace(bound, similarity="both").score(features),
    }


def same(ours: Answers, theirs: Answers, atol: float = 2e-6) -> None:
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("autocast", ["cpu", "cuda"])
def test_carzero_answers_as_on_the_cpu(autocast: Literal["cpu", "cuda"], text: Path, tmp_path: Path) -> None:
    wanted = carzero_answers(carzero(text, "cpu"))
    with pretended_cuda(autocast):
        detector, cache = carzero(text, "cuda"), PromptCache(tmp_path)
        assert detector.device == torch.device("cuda", 0)
        assert detector.weights_hash == carzero(text, "cpu").weights_hash
        same(carzero_answers(detector), wanted)
        for _ in range(2):  # the second time from the disk
            same(carzero_answers(detector, cache), wanted)
        assert len(list(tmp_path.iterdir())) == 1
        for precision, atol in (("fp16", 5e-3), ("bf16", 4e-2)):
            reduced = carzero_answers(replace(detector, precision=precision))  # type: ignore[arg-type]
            same(reduced, wanted, atol)
            assert not np.array_equal(reduced["scores"], wanted["scores"])


@pytest.mark.parametrize("memory", ["global", "local", "global+local"])
def test_every_memory_of_carzero(memory: str, text: Path) -> None:
    wanted = carzero(text, "cpu", memory=memory).with_prompts(PROMPTS).predict(IMAGES[:2])
    with pretended_cuda():
        found = carzero(text, "cuda", memory=memory).with_prompts(PROMPTS).predict(IMAGES[:2])
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=2e-6)
        assert (ours.maps is None) == (theirs.maps is None) == (memory == "global")


def test_a_resnet_too(text: Path) -> None:
    wanted = carzero(text, "cpu", image_encoder="resnet50").with_prompts(PROMPTS).predict(IMAGES[:1])[0]
    with pretended_cuda():
        found = carzero(text, "cuda", image_encoder="resnet50").with_prompts(PROMPTS).predict(IMAGES[:1])[0]
    np.testing.assert_allclose(found.scores, wanted.scores, atol=2e-6)
    np.testing.assert_allclose(found.maps, wanted.maps, atol=2e-6)  # type: ignore[arg-type]


def test_a_batch_of_images_is_waited_for_once_for_scores_and_once_for_maps(text: Path) -> None:
    """Whatever the number of findings: the program must not wait for the device between its small steps."""
    with pretended_cuda() as card:
        for prompts in (
            PROMPTS,
            PromptSet.of(*(f"there is {word}" for word in ("edema", "mass", "opacity", "nodule"))),
        ):
            bound = carzero(text, "cuda").with_prompts(prompts)
            features = bound.encode(IMAGES)
            bound.answer(features)  # folds the texts
            card.reads.clear()
            card.copies = 0
            bound.answer(features)
            assert (card.copies, card.reads) == (2, [])
            bound.score(features)
            assert (card.copies, card.reads) == (3, [])
            bound.encode(IMAGES)
            assert (card.copies, card.reads) == (3, [])


def test_the_packaged_carzero() -> None:
    images = [Image(np.random.default_rng(i).random((224, 200), dtype=np.float32)) for i in range(2)]
    prompts = PromptSet.of("There is pleural effusion", "There is a mass")
    wanted = load("carzero", weights="tiny").with_prompts(prompts).predict(images)
    with pretended_cuda():
        found = load("carzero", weights="tiny", device="cuda").with_prompts(prompts).predict(images)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-5)
        np.testing.assert_allclose(ours.maps, theirs.maps, atol=1e-6)  # type: ignore[arg-type]


# -- MLA-LP and MVFA --------------------------------------------------------------------------------------------------


def mla(method: str = "mla", device: str = "cpu") -> MlaLp:
    settings = MlaSettings() if method == "mla" else MlaSettings.mvfa("Brain")
    settings = replace(settings, image_size=56, levels=(1, 2, 3, 4))
    return MlaLp(MlaNetwork(make_clip(), settings).eval().to_device(device), batch_size=3)


def values(found: Sequence[Any]) -> np.ndarray[Any, Any]:
    return np.stack([np.append(p.scores, p.maps) for p in found])


def mla_answers(detector: MlaLp) -> Answers:
    """Zero-shot, with a bank of plain and one of relative tokens, with one support image and with several."""
    bound = detector.with_support(IMAGES[:3], IMAGES[3:])
    relative = replace(detector, reading=Reading(relative=True, map_relative=True), map_branch="det")
    alone, raw = relative.with_support(IMAGES[:1]), detector.raw(IMAGES)
    left_out = bound.leave_one_out(bound.prepared(IMAGES[:3])[0])
    return {
        "zero-shot": values(detector.with_scale_from(raw).predict(IMAGES)),
        "few-shot": values(bound.predict(IMAGES)),
        "relative": values(alone.predict(IMAGES)),
        "margins": np.stack([r.margins for r in raw]) / 100,
        "left out": np.stack([r.distance for r in left_out if r.distance is not None]),
    }


@pytest.mark.parametrize(("method", "autocast"), [("mla", "cpu"), ("mla", "cuda"), ("mvfa", "cuda")])
def test_mla_answers_as_on_the_cpu(method: str, autocast: Literal["cpu", "cuda"]) -> None:
    wanted = mla_answers(mla(method))
    with pretended_cuda(autocast):
        detector = mla(method, "cuda")
        assert detector.device == torch.device("cuda", 0)
        same(mla_answers(detector), wanted, 3e-5)
        same(mla_answers(replace(detector, precision="bf16")), wanted, 0.1)


@pytest.mark.parametrize(
    ("device", "precision", "within"),
    [("cuda", "bf16", "high"), ("cuda", "fp32", "highest"), ("cpu", "bf16", "highest")],
)
def test_products_with_the_bank_may_be_rounded_where_the_network_is(
    device: str, precision: str, within: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network in bf16 and the bank in fp32 without matrix units: most of the time would be the bank's."""
    seen: list[str] = []
    nearest = MemoryBank._nearest

    def noted(*tensors: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return nearest(*tensors)

    monkeypatch.setattr(MemoryBank, "_nearest", staticmethod(noted))
    with pretended_cuda():
        replace(mla(device=device), precision=precision).with_support(IMAGES[:1]).predict(IMAGES[:1])  # type: ignore[arg-type]
    assert set(seen) == {within}
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_saved_mla_moves_between_devices(tmp_path: Path) -> None:
    here = load("mla").with_support(IMAGES[:2])
    here.save(tmp_path / "here")
    wanted = values(here.predict(IMAGES[2:3]))
    with pretended_cuda():
        there = load(tmp_path / "here", device="cuda")
        assert there.device.type == "cuda"
        assert there.bank.rows[0].device.type == "cuda"
        np.testing.assert_allclose(values(there.predict(IMAGES[2:3])), wanted, atol=3e-5)
        there.save(tmp_path / "there")
    np.testing.assert_array_equal(values(load(tmp_path / "there").predict(IMAGES[2:3])), wanted)


def test_making_networks_leaves_the_random_numbers_of_the_device_alone(text: Path) -> None:
    with pretended_cuda() as card:
        networks = [mla(device="cuda").network, carzero(text, "cuda").network]
        assert card.seeds == []
        for network in networks:
            assert all(parameter.device.type == "cuda" for parameter in network.parameters())
            twin = copy.deepcopy(network)
            assert hash_tensors(twin.state_dict()) == hash_tensors(network.state_dict())


@pytest.mark.parametrize(("capability", "best"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp16")])
def test_auto_precision(capability: tuple[int, int], best: str, text: Path) -> None:
    with pretended_cuda(capability=capability):
        assert choose_precision("cuda") == best
        if best == "bf16":
            detector = CarZero.from_network(make_carzero(), text, device="cuda", precision="auto")
            assert detector.precision == "bf16"
