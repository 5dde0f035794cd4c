"""What bf16 (on CUDA also fp16) and torch.compile cost in accuracy and gain in time, beside fp32 as written.

    python benchmarks/precision.py [--quick] [--device cuda] [--json numbers.json]
    python benchmarks/precision.py --data DATA --sets Brain Chest

CARZero in full size with weights filled by rule: error of scores (14 prompts) and maps, time of the bare ViT-B/16 and
of images to scores. MLA-LP in full size (ViT-L/14 at 240 pixels, weights from a seed, a bank of 2,048 random rows per
level): the same of scores and maps. Small networks on phantoms: CARZero's mean AUROC over the findings, and MLA-LP's
mean image AUROC over three sets, trained there for two epochs, in every number format. Only a format that the processor
multiplies by itself gains: AMX on the CPU, tensor cores on CUDA; elsewhere PyTorch converts back and forth, and such
formats are not compiled as well. Compiled networks are compared with fp32 as written; "first call" compiles them. The
last line says what "auto" chooses here. Four minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from carzero_rule import made_up_prompts, prepared_images, rule_network
from suite import chosen_device, difference, interleaved, machine, suite_parser, timed
from torch import Tensor
from torch.nn import functional as F

from wordsight.data.benchmark import set_names
from wordsight.errors import SettingsError
from wordsight.files import write_json
from wordsight.models.carzero.asking import AskedTexts
from wordsight.models.carzero.scoring import fusion_logits_and_maps
from wordsight.models.mla.backbone import load_clip
from wordsight.models.mla.detector import MlaLp, quarter_levels
from wordsight.models.mla.memory import MemoryBank
from wordsight.models.mla.model import MlaNetwork
from wordsight.models.mla.settings import MlaSettings
from wordsight.models.precision import Precision, autocast, choose_precision, has_amx_bf16
from wordsight.models.runtime import Runtime, resolve_runtime, running
from wordsight.types import Geometry

Row = dict[str, object]
SETS = ("Brain", "Retina_OCT2017", "Chest")


@dataclass(frozen=True)
class Way:
    """How a network computes."""

    precision: Precision
    runtime: Runtime = "eager"

    def __str__(self) -> str:
        return self.precision if self.runtime == "eager" else f"{self.precision}, compiled"


@dataclass(frozen=True)
class Work:
    """What is measured: the tower alone, and scores (B, F) with maps (B, ...)."""

    title: str
    tower: Callable[[Way], object]
    whole: Callable[[Way], tuple[Tensor, Tensor]]


def formats(device: torch.device) -> tuple[Precision, ...]:
    """Number formats of a device, the full one first."""
    return ("fp32", "bf16", "fp16") if device.type == "cuda" else ("fp32", "bf16")


def ways(device: torch.device) -> Iterator[Way]:
    """fp32 as written first; compiled where that works, in fp32 and in the format that "auto" takes."""
    for name in formats(device):
        yield Way(name)
    try:
        resolve_runtime("compile", device)
    except SettingsError as error:
        print(f"compiled: not run ({error})")
        return
    for name in dict.fromkeys(("fp32", choose_precision(device))):
        yield Way(name, "compile")


def compare(work: Work, options: argparse.Namespace, device: torch.device, chosen: list[Way]) -> list[Row]:
    """Errors and times of every way; prints the table."""
    values: dict[Way, tuple[Tensor, Tensor]] = {}
    first = {way: timed(lambda way=way: values.update({way: work.whole(way)}), device) for way in chosen}  # type: ignore[misc]
    calls: dict[str, Callable[[], object]] = {}
    for way in chosen:
        calls[f"{way} tower"] = lambda way=way: work.tower(way)  # type: ignore[misc]
        calls[f"{way} whole"] = lambda way=way: work.whole(way)  # type: ignore[misc]
    seconds = interleaved(calls, options.repeats, device)
    rows: list[Row] = []
    print(f"\n| {work.title} | error of scores | error of maps | tower, gain | scores and maps, gain | first call, s |")
    print("|---|---|---|---|---|---|")
    for way in chosen:
        errors = [difference(ours, full) for ours, full in zip(values[way], values[chosen[0]], strict=True)]
        gains = [gain(seconds[f"{chosen[0]} {part}"], seconds[f"{way} {part}"]) for part in ("tower", "whole")]
        names = ("scores", "maps", "tower", "network", "first_call")
        rows.append({"way": str(way), **dict(zip(names, (*errors, *gains, first[way]), strict=True))})
        cells = f"{errors[0]:.1e} | {errors[1]:.1e} | {gains[0]:.2f} x | {gains[1]:.2f} x | {first[way]:.1f}"
        print(f"| {way} | {cells} |", flush=True)
    return rows


def gain(full: list[float], reduced: list[float]) -> float:
    """How many times faster, median over the rounds."""
    return median(a / b for a, b in zip(full, reduced, strict=True))


def carzero(options: argparse.Namespace, device: torch.device) -> Work:
    """CARZero with 14 prompts, weights filled by rule."""
    network = rule_network(options.quick).to(device)
    count = 2 if options.quick else 8 if device.type == "cuda" else 4
    images = prepared_images(count, network.settings).to(device)
    asked = AskedTexts(network, network.encode_texts(made_up_prompts(14, network.settings).to(device)))

    def tower(way: Way) -> Tensor:
        with autocast(device, way.precision), running(way.runtime):
            return network.encode_images(images).float()

    def whole(way: Way) -> tuple[Tensor, Tensor]:
        tokens = tower(way)
        with autocast(device, way.precision):
            logits, maps = fusion_logits_and_maps(network, tokens, asked)
        return logits.float(), maps.float()

    return Work("CARZero, full size", tower, whole)


def mla(options: argparse.Namespace, device: torch.device) -> Work:
    """MLA-LP with random adapters and a small bank, scaled by what fp32 says of the same images."""
    settings = MlaSettings()
    clip = load_clip("tiny" if options.quick else "ViT-L-14-336", None, image_size=settings.image_size, seed=0)
    settings = replace(settings, levels=quarter_levels(clip.vision_layers))
    network = MlaNetwork(clip, settings).eval().to_device(device)
    generator, size = torch.Generator().manual_seed(2), settings.image_size
    rows = [F.normalize(torch.randn(2048, clip.embed_dim, generator=generator), dim=1) for _ in settings.levels]
    bank = MemoryBank(tuple(rows), torch.arange(2048) % 2).to(device)
    plain = MlaLp(network, mode="segmentation", bank=bank)
    coarse = torch.rand(8 if device.type == "cuda" else 1, 3, 12, 12, generator=generator)
    images = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False).clamp(0, 1)
    geometries = [Geometry((size, size), (size, size), (1.0, 1.0))] * len(images)
    detectors: dict[Way, MlaLp] = {}

    def detector(way: Way) -> MlaLp:
        return detectors.setdefault(way, replace(plain, precision=way.precision, runtime=way.runtime))

    def raw(way: Way) -> list[object]:
        own = detector(way)
        return list(own.raw_from_arrays(images, geometries, ["image"] * len(images), own.text()))

    scaled = plain.with_scale_from(raw(Way("fp32")))  # type: ignore[arg-type]

    def whole(way: Way) -> tuple[Tensor, Tensor]:
        found = scaled.finish(raw(way))  # type: ignore[arg-type]
        maps = [torch.from_numpy(p.maps) for p in found if p.maps is not None]
        return torch.stack([torch.from_numpy(p.scores) for p in found]), torch.stack(maps)

    return Work("MLA-LP, full size", lambda way: detector(way).tokens(images), whole)


def carzero_on_phantoms(options: argparse.Namespace, device: torch.device) -> list[Row]:
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
    rows: list[Row] = []
    print(f"\n| packaged CARZero, {len(phantoms)} phantoms | mean AUROC |\n|---|---|")
    for name in formats(device):
        precise = replace(detector, precision=name)
        scores = precise.score(precise.encode(images), PromptSet(FINDINGS, STATED))
        value = float(np.mean([auroc(truth[:, column].astype(np.int64), scores[:, column]) for column in known]))
        rows.append({"format": name, "auroc": value})
        print(f"| {name} | {value:.4f} |", flush=True)
    return rows


def mla_on_phantoms(options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Image AUROC of the tiny MLA-LP on phantoms in every format; prints the table."""
    from wordsight.data.phantoms import write_phantoms

    sets, count = (SETS[:1], 4) if options.quick else (SETS, 25)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_phantoms(folder, names=sets, valid=4, test=count)
        return tiny_mla(folder, sets, device)


def tiny_mla(folder: Path, sets: Sequence[str], device: torch.device) -> list[Row]:
    """Image AUROC of the tiny MLA-LP, trained on 4 + 4 images of each set for two epochs; prints the table."""
    from wordsight.data import benchmark_records, draw_support
    from wordsight.evaluate import evaluate
    from wordsight.train.mla import fit_few
    from wordsight.train.recipes import recipe

    found: dict[Precision, list[float]] = {name: [] for name in formats(device)}
    counts = []
    for name in sets:
        settings, training = recipe("fast", "mla", 4, "tiny")
        settings = replace(settings, levels=quarter_levels(MlaLp.from_clip("tiny").clip.vision_layers))
        training = replace(training, epochs=2, protocol="last", device=str(device))
        support = draw_support(benchmark_records(folder, name, "valid"), 4, seed=0)
        with torch.inference_mode(False), torch.enable_grad():
            detector = fit_few(MlaLp.from_clip("tiny", settings=settings), support, training=training)
        records = benchmark_records(folder, name, "test")
        counts.append(f"{name} ({len(records)})")
        for precision, values in found.items():
            precise = replace(detector, precision=precision)
            how = {"dataset": name, "protocol": {}, "bootstrap_draws": 0, "progress": False}
            values.append(evaluate(precise, records, **how).numbers["image_auroc"].value)  # type: ignore[arg-type]
    print(f"\n| tiny MLA-LP, set (images) | {' | '.join(counts)} | mean image AUROC |")
    print("|---|" + "---|" * (len(sets) + 1))
    for precision, values in found.items():
        print(f"| {precision} | {' | '.join(f'{v:.4f}' for v in values)} | {np.mean(values):.4f} |", flush=True)
    return [{"format": name, "image_auroc": dict(zip(sets, values, strict=True))} for name, values in found.items()]


def main() -> None:
    """Print the tables."""
    parser = suite_parser(__doc__, repeats=3)
    parser.add_argument("--data", type=Path, help="folder of sets of your own: only their AUROC in every format")
    parser.add_argument("--sets", nargs="+", help="which of them, such as Brain for Brain_AD")
    options = parser.parse_args()
    device = chosen_device(options)
    if options.data is not None:
        with torch.inference_mode():
            rows = tiny_mla(options.data, options.sets or set_names(options.data), device)
        if options.json:
            write_json(options.json, {"machine": machine(device), "data": rows})
        return
    with torch.inference_mode():
        chosen = list(ways(device))
        found: dict[str, object] = {}
        for name, build in (("carzero", carzero), ("mla", mla)):
            found[name] = compare(build(options, device), options, device, chosen)
        found["carzero_phantoms"] = carzero_on_phantoms(options, device)
        found["mla_phantoms"] = mla_on_phantoms(options, device)
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"AMX-BF16 {has_amx_bf16()}"
    best = choose_precision(device)
    print(f'\n{what}: "auto" is {best} here', flush=True)
    if options.json:
        write_json(options.json, {"machine": machine(device), "auto": best, **found})


if __name__ == "__main__":
    main()
