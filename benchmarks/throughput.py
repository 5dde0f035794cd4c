"""Images per second of both methods in one number format, as shares of the fastest product of matrices measured here.

    python benchmarks/throughput.py --device cuda [--precision bf16] [--batches 8 64 256] [--json numbers.json]
    python benchmarks/throughput.py --quick

CARZero in full size (ViT-B/16, BERT-base, fusion; weights filled by rule) from prepared images to scores, with 14 and
with 192 prompts that were encoded before. MLA-LP in full size (ViT-L/14 at 240 pixels, weights from a seed, a bank of
16 shots in eleven variants) from prepared images to raw scores, which is all that the device does, and the whole
evaluation: maps and scores on the scale of the set, which the CPU reads off the raw ones. Every line is a number of
images at a time. Medians of the rounds, after a warm-up; memory in a fresh process for each line.

Operations are those of the products that the library runs, counted while it runs them, two for each multiplication; the
published order needs more for the same scores. The measured peak is that of a square product in the same format, the
best of several sizes: what the matrix units give at most, which no network of norms and softmaxes reaches.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial
from math import prod
from statistics import median
from typing import Any

import mla_speed
import torch
from carzero_rule import made_up_prompts, prepared_images, rule_network
from suite import Call, Case, Result, Variant, chosen_device, interleaved, machine, run_suite, suite_parser
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from wordsight.files import write_json
from wordsight.models.carzero.asking import AskedTexts
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.precision import Precision, autocast, choose_precision
from wordsight.types import Geometry

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SIDES = {"cuda": (4096, 8192, 16384), "cpu": (1024, 2048)}


def _added(into: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    """Operations of into + a b."""
    return 2 * int(prod(a)) * int(b[-1])


_IN_PLACE = {torch.ops.aten.addmm_: _added, torch.ops.aten.baddbmm_: _added}
"""Products that PyTorch's counter leaves out: those that add to what is there."""


class Work:
    """What is measured, made when first asked for; operations: of one call of each variant that ran."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, chosen_device(options)
        self.precision: Precision = options.precision or choose_precision(self.device)
        self.operations: dict[tuple[str, str], float] = {}

    @cache  # noqa: B019  # one for the script
    def carzero(self) -> CarZeroNetwork:
        """The network."""
        return rule_network(self.options.quick).to(self.device)

    def carzero_scores(self, prompts: int, batch: int) -> Call:
        """Images to scores, one batch."""
        network = self.carzero()
        images = prepared_images(batch, network.settings).to(self.device)
        with autocast(self.device, self.precision):
            text = network.encode_texts(made_up_prompts(prompts, network.settings).to(self.device))
        asked = AskedTexts(network, text)

        def call() -> Tensor:
            with autocast(self.device, self.precision):
                return asked.compare(network.encode_images(images).float())[0].mean

        return call

    @property
    def mla(self) -> mla_speed.Work:
        """The same network, settings and bank as in `mla_speed`, one for all batches."""
        return mla_speed.Work.of(argparse.Namespace(**{**vars(self.options), "images": 1, "steps": 1}))

    def raw_scores(self, batch: int) -> Call:
        """Images to raw scores, one batch; the text once."""
        work = self.mla
        detector = mla_speed.detector_with_bank(work, precision=self.precision, batch_size=batch)
        images, size, text = mla_speed.pictures(work, batch), work.settings.image_size, detector.text()
        geometries = [Geometry((size, size), (size, size), (1.0, 1.0))] * batch
        return lambda: _nothing(detector.raw_from_arrays(images, geometries, ["image"] * batch, text))

    def evaluation(self, batch: int) -> Call:
        """Images to scores and maps, one batch."""
        return mla_speed.evaluate_library(self.mla, batch, precision=self.precision, batch_size=batch)

    def counted(self, title: str, name: str, build: Callable[[], Call]) -> Callable[[], Call]:
        """Build, and count the operations of the second call: the first also computes what is kept.

        No gradients, but no inference mode either: there the counter takes operators apart where autocast sees nothing.
        """

        def built() -> Call:
            with torch.inference_mode(False), torch.no_grad():
                call = build()

            def counting() -> Tensor | None:
                with torch.inference_mode(False), torch.no_grad():
                    if (title, name) in self.operations or self.options.only:
                        return call()
                    call()
                    with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
                        found = call()
                    self.operations[title, name] = float(counter.get_total_flops())
                    return found

            return counting

        return built

    def case(self, title: str, build: Callable[[int], Call]) -> Case:
        """One line for each number of images at a time."""
        title = f"{title}, {self.precision}"
        names = {f"{batch} at a time": batch for batch in self.options.batches}
        variants = [
            Variant(name, self.counted(title, name, partial(build, batch)), batch) for name, batch in names.items()
        ]
        return Case(title, variants, baseline=variants[0].name)

    def cases(self) -> list[Case]:
        """All measurements."""
        carzero: list[tuple[str, Callable[[int], Call]]]
        carzero = [(f"CARZero, {n} prompts", partial(self.carzero_scores, n)) for n in (14, 192)]
        rest = [("MLA-LP, raw scores", self.raw_scores), ("MLA-LP, evaluation", self.evaluation)]
        return [self.case(title, build) for title, build in (*carzero, *rest) if self.options.case in title]


def _nothing(_: object) -> None:
    """Nothing to compare."""


def matmul_peak(device: torch.device, precision: Precision, sides: tuple[int, ...], repeats: int) -> float:
    """Operations per second of the fastest square product: of each size the median, after a warm-up."""
    rates = []
    for side in sides:
        a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
        times = 1 if device.type == "cpu" else 10  # enough work between two events
        call = partial(_products, a, b, times)
        call()
        seconds = median(interleaved({"product": call}, repeats, device)["product"])
        rates.append(2 * side**3 * times / seconds)
    return max(rates)


def _products(a: Tensor, b: Tensor, times: int) -> None:
    for _ in range(times):
        torch.mm(a, b)


def shares(results: list[Result], work: Work, peak: float) -> list[dict[str, Any]]:
    """Rates and shares of the measured peak; prints the table."""
    head = f"{work.precision}, measured peak {peak / 1e12:.2f} TFLOP/s"
    print(f"\n| {head} | images/s | GFLOP per image | TFLOP/s | share |")
    print("|---|---|---|---|---|")
    rows = []
    for result in results:
        for timing in result.timings:
            seconds = median(timing.seconds)
            batch = int(timing.name.split()[0])
            each = work.operations[result.title, timing.name] / batch
            row = {"case": result.title, "batch": batch, "images_per_second": 1 / seconds, "operations": each}
            rows.append({**row, "share": each / seconds / peak, "memory_mib": timing.memory})
            rate = f"{1 / seconds:.1f} | {each / 1e9:.2f} | {each / seconds / 1e12:.3f}"
            print(f"| {result.title}, {timing.name} | {rate} | {100 * each / seconds / peak:.1f} % |", flush=True)
    return rows


def main() -> None:
    """Print the tables."""
    parser = suite_parser(__doc__)
    parser.add_argument("--precision", choices=list(DTYPES), help="default: the fastest that the device has")
    parser.add_argument("--batches", type=int, nargs="+", help="images at a time; default 8 64 256, on the CPU 8")
    parser.add_argument("--case", default="", help="only cases whose title contains this, such as MLA-LP")
    options = parser.parse_args()
    on_gpu = torch.device(options.device).type == "cuda"
    options.batches = options.batches or ([2] if options.quick else [8, 64, 256] if on_gpu else [8])
    target, options.json = options.json, None  # written below, with the shares
    work = Work(options)
    results = run_suite(work.cases(), options, __file__)
    if options.only:
        return
    sides = (256,) if options.quick else SIDES[work.device.type]
    with torch.inference_mode():
        peak = matmul_peak(work.device, work.precision, sides, options.repeats)
    rows = shares(results, work, peak)
    if target:
        found = {"machine": machine(work.device), "precision": work.precision, "matmul_peak": peak, "rows": rows}
        write_json(target, {**found, "results": [result.to_json() for result in results]})


if __name__ == "__main__":
    main()
