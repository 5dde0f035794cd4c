"""Networks compiled block by block: the same numbers, only where asked for, and a clear error where it cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tiny_carzero import make_carzero
from tiny_clip import make_clip
from wordsight.errors import SettingsError
from wordsight.models import runtime
from wordsight.models.mla.detector import MlaLp
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.settings import MlaSettings
from wordsight.models.runtime import compilable, resolve_runtime, running
from wordsight.types import Image

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture
def untried() -> Iterator[None]:
    """Nothing is known yet of the compiler, before and after."""
    runtime._try_to_compile.cache_clear()
    yield
    runtime._try_to_compile.cache_clear()


def test_unknown_names_are_refused() -> None:
    wrong: Any = "fast"
    with pytest.raises(SettingsError, match="runtime: expected eager or compile, got 'fast'"):
        resolve_runtime(wrong, "cpu")
    with pytest.raises(SettingsError, match="runtime: expected eager or compile"):
        MlaLp.from_clip("tiny", runtime=wrong)


def test_without_a_compiler_the_error_says_so(untried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore lines")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: missing)
    with pytest.raises(SettingsError, match=r"No working C\+\+ compiler found\). It needs a C\+\+ compiler"):
        resolve_runtime("compile", "cpu")
    assert resolve_runtime("eager", "cpu") == "eager"


def test_only_what_is_asked_for_without_gradients_runs_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    compile_ = torch.compile

    def counted(function: Any, **options: Any) -> Any:
        made.append(function.__name__)
        compiled = compile_(function, backend="eager", **options)

        def call(*args: Any, **kwargs: Any) -> Any:
            made.append("called")
            return compiled(*args, **kwargs)

        return call

    monkeypatch.setattr(torch, "compile", counted)

    @compilable
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    x = torch.ones(3)
    with torch.no_grad():
        assert torch.equal(double(x), 2 * x)
    with running("compile"):
        assert torch.equal(double(x.requires_grad_()), 2 * x)
    assert made == []
    with torch.no_grad(), running("compile"):
        for _ in range(2):
            assert torch.equal(double(x), 2 * x)
        with running("eager"):
            double(x)
    assert made == ["double", "called", "called"], "compiled once, and not beyond the block that asks for it"


@needs_compiler
def test_a_compiled_detector_says_the_same() -> None:
    network = MlaNetwork(make_clip(56), MlaSettings(image_size=56, levels=(1, 2, 3, 4)), seed=3).eval()
    rng = np.random.default_rng(0)
    images = [Image(rng.random((56, 56), dtype=np.float32)) for _ in range(5)]
    plain = MlaLp(network, batch_size=3).with_support(images[:2])
    compiled = replace(plain, runtime=resolve_runtime("compile", "cpu"))
    for ours, theirs in zip(compiled.predict(images), plain.predict(images), strict=True):
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours.maps, theirs.maps, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


@needs_compiler
@torch.no_grad()
def test_a_compiled_image_encoder_of_carzero_says_the_same() -> None:
    network = make_carzero()
    images = torch.rand(2, 3, network.settings.image_size, network.settings.image_size)
    expected = network.encode_images(images)
    with running("compile"):
        found = network.encode_images(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_convolutional_encoder_gets_its_images_channels_last() -> None:
    from wordsight.models.carzero.image_encoder import ResNetEncoder
    from wordsight.models.carzero.settings import CarZeroSettings

    encoder = ResNetEncoder(CarZeroSettings(image_encoder="resnet50")).eval()
    seen: list[bool] = []
    encoder.model.conv1.register_forward_hook(
        lambda module, given, out: seen.append(given[0].is_contiguous(memory_format=torch.channels_last))
    )
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = encoder(images)
    with running("compile"):
        found = encoder(images)
    assert seen == [False, True]
    assert float((found - expected).norm() / expected.norm()) < 1e-5
