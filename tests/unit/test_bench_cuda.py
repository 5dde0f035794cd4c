"""The speed benchmarks with --device cuda (a pretended one, so that the times mean nothing): every line is there."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pretend_cuda import NAME, pretended_cuda

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
CUDA = torch.device("cuda")
Script = Callable[..., Any]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Script]:
    """Run a benchmark in this process and read its numbers."""
    if not (FOLDER / "suite.py").is_file():
        pytest.skip("the repository's benchmarks are not beside the tests")
    monkeypatch.syspath_prepend(str(FOLDER))
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32

    def run(name: str, *words: str, device: str = "cuda") -> Any:
        out = tmp_path / f"{name} {device}.json"
        options = ["--quick", "--device", device, "--threads", "1", "--repeats", "1", "--json", str(out)]
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *options, *words])
        importlib.import_module(name).main()
        return json.loads(out.read_text(encoding="utf-8"))

    yield run
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = tf32


def test_times_are_taken_between_events_with_all_work_done(script: Script) -> None:
    suite = importlib.import_module("suite")
    with pretended_cuda() as card:
        calls: list[int] = []
        seconds = suite.timed(lambda: calls.append(card.synchronised), CUDA)
        assert 0 < seconds < 1
        assert (calls, card.synchronised) == ([1], 2)


def test_fp32_is_fp32(script: Script) -> None:
    suite = importlib.import_module("suite")
    torch.backends.cudnn.allow_tf32 = True
    with pretended_cuda():
        suite.chosen_device(suite.suite_parser(None).parse_args(["--device", "cuda"]))
    assert not torch.backends.cudnn.allow_tf32


def test_throughput_says_rates_shares_and_memory(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    """As many operations as on the CPU, where other ones of PyTorch make the same products."""
    with pretended_cuda():
        found = script("throughput", "--no-memory")
    assert (found["precision"], found["machine"]["device"]) == ("bf16", NAME)
    names = ("CARZero, 14 prompts", "CARZero, 192 prompts", "MLA-LP, raw scores", "MLA-LP, evaluation")
    assert [row["case"] for row in found["rows"]] == [f"{name}, bf16" for name in names]
    for row in found["rows"]:
        assert row["share"] == pytest.approx(row["operations"] * row["images_per_second"] / found["matmul_peak"])
    plain = script("throughput", "--no-memory", "--precision", "fp32", "--case", "CARZero", device="cpu")
    for ours, theirs in zip(found["rows"], plain["rows"], strict=False):
        assert ours["operations"] == pytest.approx(theirs["operations"], rel=0.02)
    assert "CARZero, 14 prompts, bf16, 2 at a time | " in capsys.readouterr().out


def test_the_most_memory_is_that_of_a_process_of_its_own(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    with pretended_cuda(), pytest.raises(FileNotFoundError):  # it writes no numbers, but prints the memory
        script("throughput", "--only", "CARZero, 14 prompts, bf16", "2 at a time")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"memory": 3.0}


@pytest.mark.parametrize(("name", "case"), [("carzero_speed", "14 prompts"), ("mla_speed", "evaluation")])
def test_variants_agree(script: Script, name: str, case: str) -> None:
    with pretended_cuda():
        (result,) = script(name, "--no-memory", "--case", case)["results"]
    errors = [variant["error"] for variant in result["variants"].values() if variant["error"] is not None]
    assert errors
    assert max(errors) < 1e-4


def test_training_in_blocks(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where all pairs at once do not fit, the table says so and goes on."""
    module = importlib.import_module("carzero_training")
    whole = module.pair_logits

    def limited(*args: Any, pairs: int | None) -> Any:
        if pairs is None and len(args[1]) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(*args, pairs=pairs)

    def here(count: int, what: str) -> Any:
        options = module.suite_parser(None).parse_args(
            ["--quick", "--device", "cuda", "--threads", "1", "--repeats", "1"]
        )
        options.precision, options.long = "bf16", False
        return module.agreement(options, count) if what == "agreement" else module.measure(options, count, what)

    monkeypatch.setattr(module, "pair_logits", limited)
    monkeypatch.setattr(module, "in_fresh_process", here)
    with pretended_cuda():
        rows = script("carzero_training", "--batches", "4", "8")["rows"]
    assert [(row["batch"], row["way"], row["fits"]) for row in rows] == [
        (4, "blocks", True), (4, "blocks, parts", True), (4, "at once", True),
        (8, "blocks", True), (8, "blocks, parts", True), (8, "at once", False),
    ]  # fmt: skip
    assert 0 < rows[0]["agreement"]["gradient"] < 1e-5
    assert rows[3]["agreement"]["gradient"] is None
    assert rows[3]["mib"] == 3.0
    printed = capsys.readouterr().out
    assert "| 8 | at once | out of memory" in printed
    assert "GPU: not run" not in printed


def test_what_a_gpu_would_need(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A text of 97 tokens keeps several times what a short one does; a part needs less than a batch."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("carzero_training")
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["carzero_training.py", "--quick", "--estimate", "--threads", "1"])
    module.main()
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    image, short, long = (float(line.split(": ")[1].split()[0]) for line in lines[:3])
    assert 0 < short < long / 4
    assert image > 0
    assert lines[4].startswith("batches with a short text an image: 64: ")
    assert "parts of 32: " in lines[5]


def test_number_formats(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module("precision")
    options = module.suite_parser(None).parse_args(["--quick", "--device", "cuda", "--threads", "1", "--repeats", "1"])
    ways = [module.Way(name) for name in ("fp32", "bf16", "fp16")]
    with pretended_cuda(), torch.no_grad():
        rows = module.compare(module.carzero(options, CUDA), options, CUDA, ways)
    assert [row["way"] for row in rows] == ["fp32", "bf16", "fp16"]
    assert rows[0]["scores"] == 0
    assert 0 < rows[2]["scores"] < rows[1]["scores"] < 0.05


def test_from_files(script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the main process takes from those that read goes to the device, and pictures come back from it."""
    module = importlib.import_module("carzero_files")
    options = (
        importlib.import_module("suite")
        .suite_parser(None)
        .parse_args(["--quick", "--device", "cuda", "--threads", "1", "--repeats", "1"])
    )
    with pretended_cuda(), torch.no_grad():
        found = module.speeds(tmp_path, options)
    drawn = [name for name in found if "heatmaps" in name]
    assert len(drawn) == 2
    assert all(rate > 0 for name, rate in found.items() if not name.endswith("note"))
    for workers in (0, 2):
        out = tmp_path / f"out{workers}"
        assert len(list((out / "heatmaps").rglob("*.png"))) == 16 * 3
    assert (tmp_path / "out0" / "predictions.csv").read_bytes() == (tmp_path / "out2" / "predictions.csv").read_bytes()
    assert "main process busy" in capsys.readouterr().out
