"""What bf16 (on CUDA also fp16) costs in accuracy and gains in time, beside fp32.

    python benchmarks/precision.py [--quick] [--device cuda] [--json numbers.json]

CARZero in full size with weights filled by rule: error of scores (14 prompts) and maps, time of the bare ViT-B/16 and
of images to scores. The small packaged CARZero on chest phantoms: mean AUROC over the findings in every number format.
Only a format that the processor multiplies by itself gains: AMX on the CPU, tensor cores on CUDA; elsewhere PyTorch
converts back and forth. The last line says what "auto" chooses here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from carzero_rule import made_up_prompts, prepared_images, rule_network
from suite import difference, interleaved, machine, suite_parser
from torch import Tensor

from wordsight.files import write_json
from wordsight.models.carzero.asking import AskedTexts
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.scoring import fusion_logits_and_maps
from wordsight.models.precision import Precision, autocast, choose_precision, has_amx_bf16


def formats(device: torch.device) -> tuple[Precision, ...]:
    """Number formats of a device, the full one first."""
    return ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")


def full_size(options: argparse.Namespace, device: torch.device) -> list[dict[str, object]]:
    """Errors and times of every format; prints the table."""
    network = rule_network(options.quick).to(device)
    images = prepared_images(2 if options.quick else 8, network.settings).to(device)
    text = network.encode_texts(made_up_prompts(14, network.settings).to(device))
    asked = AskedTexts(network, text)
    values = {name: scores_and_maps(network, images, asked, name) for name in formats(device)}
    calls: dict[str, Callable[[], object]] = {}
    for name in formats(device):
        calls[f"{name} ViT"] = lambda name=name: encode(network, images, name)  # type: ignore[misc]
        calls[f"{name} scores"] = lambda name=name: scores_and_maps(network, images, asked, name)  # type: ignore[misc]
    seconds = interleaved(calls, options.repeats, device)
    rows: list[dict[str, object]] = []
    print("\n| CARZero, full size | error of scores | error of maps | ViT, gain | scores and maps, gain |")
    print("|---|---|---|---|---|")
    for name in formats(device):
        errors = [difference(ours, full) for ours, full in zip(values[name], values["fp32"], strict=True)]
        gains = [gain(seconds[f"fp32 {part}"], seconds[f"{name} {part}"]) for part in ("ViT", "scores")]
        rows.append({"format": name, "scores": errors[0], "maps": errors[1], "vit": gains[0], "network": gains[1]})
        print(f"| {name} | {errors[0]:.1e} | {errors[1]:.1e} | {gains[0]:.2f} x | {gains[1]:.2f} x |")
    return rows


def gain(full: list[float], reduced: list[float]) -> float:
    """How many times faster, median over the rounds."""
    return median(a / b for a, b in zip(full, reduced, strict=True))


def encode(network: CarZeroNetwork, images: Tensor, name: Precision) -> Tensor:
    """Image tokens."""
    with autocast(images.device, name):
        return network.encode_images(images).float()


def scores_and_maps(
    network: CarZeroNetwork, images: Tensor, asked: AskedTexts, name: Precision
) -> tuple[Tensor, Tensor]:
    """(B, T) and (B, T, g, g)."""
    tokens = encode(network, images, name)
    with autocast(images.device, name):
        logits, maps = fusion_logits_and_maps(network, tokens, asked)
    return logits.float(), maps.float()


def on_phantoms(options: argparse.Namespace, device: torch.device) -> list[dict[str, object]]:
    """Mean AUROC of the packaged network in every format; prints the table."""
    from carzero_phantoms import STATED

    from wordsight import PromptSet, load
    from wordsight.data.phantoms.reports import FINDINGS, State, draw_report_phantom
    from wordsight.errors import WeightsError
    from wordsight.metrics import auroc
    from wordsight.models.carzero.detector import CarZero
    from wordsight.types import Image

    try:
        detector = load("carzero", weights="tiny", device=str(device))
    except WeightsError as error:
        print(f"\npackaged network on phantoms: not run ({error})")
        return []
    assert isinstance(detector, CarZero)
    phantoms = [draw_report_phantom(0, index, 224) for index in range(24 if options.quick else 200)]
    images = [Image(np.asarray(phantom.pixels / 255, dtype=np.float32)) for phantom in phantoms]
    truth = np.array([[p.findings[name].state is State.PRESENT for name in FINDINGS] for p in phantoms])
    known = [column for column in range(len(FINDINGS)) if 0 < truth[:, column].sum() < len(truth)]
    rows: list[dict[str, object]] = []
    print(f"\n| packaged network, {len(phantoms)} phantoms | mean AUROC |\n|---|---|")
    for name in formats(device):
        precise = replace(detector, precision=name)
        scores = precise.score(precise.encode(images), PromptSet(FINDINGS, STATED))
        value = float(np.mean([auroc(truth[:, column].astype(np.int64), scores[:, column]) for column in known]))
        rows.append({"format": name, "auroc": value})
        print(f"| {name} | {value:.4f} |")
    return rows


def main() -> None:
    """Print the tables."""
    options = suite_parser(__doc__, repeats=3).parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    with torch.inference_mode():
        found = {"full_size": full_size(options, device), "phantoms": on_phantoms(options, device)}
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"AMX-BF16 {has_amx_bf16()}"
    chosen = choose_precision(device)
    print(f'\n{what}: "auto" is {chosen} here', flush=True)
    if options.json:
        write_json(options.json, {"machine": machine(device), "auto": chosen, **found})


if __name__ == "__main__":
    main()
