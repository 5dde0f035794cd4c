"""Training steps of CARZero: what is computed again for the gradient, in blocks and parts, against all at once.

    python benchmarks/carzero_training.py --device cuda [--batches 64 128 256] [--precision bf16] [--json numbers.json]
    python benchmarks/carzero_training.py --quick
    python benchmarks/carzero_training.py --estimate
    python benchmarks/carzero_training.py --batches 256 --long --ways "blocks, parts" --precision fp32

ViT-B/16, BERT-base and fusion in full size with weights filled by rule (--quick: small, on any machine), random images
and captions, dropout off so that all ways have one gradient. "blocks": the pair matrix in blocks that are computed
again, "blocks, parts": the encoders too, 32 images and texts at a time. Per batch: seconds of a step (forward,
backward, Adam), images per second, peak memory (CUDA: what torch allocated; CPU: highest resident memory of a process
of its own), and the error of the loss and of all gradients in fp32 of "blocks, parts" against all at once, where that
fits into the memory.

--estimate says on any machine what a step in "blocks" needs of a GPU: what autograd keeps of an image and of a text,
counted on the CPU in bf16 with norms in fp32 as CUDA's autocast has them, and weights, gradients and Adam's moments.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from carzero_rule import CLS, SEP, made_up_prompts, prepared_images, rule_network
from suite import chosen_device, machine, peak_memory, suite_parser, timed
from torch import Tensor
from torch.nn import functional

from wordsight.files import write_json
from wordsight.models.carzero.loss import pair_loss
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.pairs import PAIRS, pair_logits
from wordsight.models.carzero.parts import images_in_parts, texts_in_parts
from wordsight.models.carzero.settings import CarZeroSettings
from wordsight.models.carzero.text_input import Tokens, plan_words
from wordsight.models.precision import Precision, autocast

PART = 32
WAYS: dict[str, tuple[int | None, int | None]] = {
    "blocks": (PAIRS, None),
    "blocks, parts": (PAIRS, PART),
    "at once": (None, None),
}
"""The most pairs of a block, and the most images of a part."""
GOAL = (256, 24 * 1024)
"""The batch whose steps in blocks should not need more than so many MiB of a GPU."""


def no_dropout(network: CarZeroNetwork) -> CarZeroNetwork:
    """In training mode, nothing left to chance."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for layer in network.fusion_module.decoder:
        layer.multihead_attn.dropout = 0.0
    network.text_encoder.model.config.attention_probs_dropout_prob = 0.0
    return network.train()


Batch = tuple[Tensor, Tokens]
"""Images and their texts, on the device."""


def batch_of(network: CarZeroNetwork, count: int, options: argparse.Namespace) -> Batch:
    """So many images with a text each, made before anything is timed."""
    device, settings = torch.device(options.device), network.settings
    tokens = whole_texts(count, settings) if options.long else made_up_prompts(count, settings)
    return prepared_images(count, settings).to(device), tokens.to(device)


def whole_texts(count: int, settings: CarZeroSettings) -> Tokens:
    """Texts of as many tokens as the network reads, each of them a word."""
    ids = torch.full((count, settings.text_length), 1000 % settings.text.vocabulary)
    ids[:, 0], ids[:, -1] = CLS, SEP
    return plan_words(ids, torch.ones_like(ids), torch.zeros(settings.text.vocabulary, dtype=torch.bool), SEP)


def loss_of(network: CarZeroNetwork, batch: Batch, pairs: int | None, part: int | None, precision: Precision) -> Tensor:
    """The published loss of one batch."""
    images, tokens = batch
    with autocast(images.device, precision):
        image, text = images_in_parts(network, images, part), texts_in_parts(network, tokens, part)
        logits = pair_logits(network, image, text, pairs=pairs)
    return pair_loss(type(logits)(logits.i2t.float(), logits.t2i.float()))


def gradient(network: CarZeroNetwork, batch: Batch, pairs: int | None, part: int | None) -> tuple[float, Tensor]:
    """Loss and all gradients in fp32, as one vector on the CPU."""
    network.zero_grad(set_to_none=True)
    loss = loss_of(network, batch, pairs, part, "fp32")
    loss.backward()  # type: ignore[no-untyped-call]
    found = [p.grad.flatten().cpu() for p in network.parameters() if p.grad is not None]
    network.zero_grad(set_to_none=True)
    return float(loss.detach()), torch.cat(found)


def measure(options: argparse.Namespace, count: int, way: str) -> dict[str, object]:
    """One batch size, one way, in this process."""
    device = chosen_device(options)
    network = no_dropout(rule_network(options.quick).to(device))
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained, lr=5e-5, betas=(0.5, 0.999))

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        loss_of(network, batch, *WAYS[way], options.precision).backward()  # type: ignore[no-untyped-call]
        adam.step()

    try:
        batch = batch_of(network, count, options)
        step()  # warm-up; Adam's moments are made here
        seconds = median(timed(step, device) for _ in range(max(options.repeats, 1)))
    except torch.cuda.OutOfMemoryError:
        return {"batch": count, "way": way, "fits": False}
    return {"batch": count, "way": way, "fits": True, "seconds": seconds, "mib": peak_memory(device)}


def agreement(options: argparse.Namespace, count: int) -> dict[str, object]:
    """Relative errors of loss and gradient in blocks and parts, in fp32; None where all at once does not fit."""
    device = chosen_device(options)
    network = no_dropout(rule_network(options.quick).to(device))
    small = (16, 3) if options.quick else (PAIRS, PART)
    try:
        batch = batch_of(network, count, options)
        (loss, ours), (whole, theirs) = (gradient(network, batch, *how) for how in (small, (None, None)))
    except torch.cuda.OutOfMemoryError:
        return {"batch": count, "loss": None, "gradient": None}
    return {
        "batch": count,
        "loss": abs(loss - whole) / abs(whole),
        "gradient": float((ours - theirs).norm() / theirs.norm()),
    }


def kept(network: CarZeroNetwork, encode: Callable[[], object]) -> float:
    """MiB that autograd keeps of what an encoder computed in bf16, weights and their casts left out."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    norm = functional.layer_norm

    def in_full(x: Tensor, *arguments: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return norm(x.float(), *arguments)

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with patch.object(functional, "layer_norm", in_full), hooks, autocast(torch.device("cpu"), "bf16"):
        encode()
    return sum(tensor.untyped_storage().nbytes() for place, tensor in found.items() if place not in own) / 2**20


def estimate(options: argparse.Namespace) -> None:
    """Print what a step in blocks needs, but for the block at hand; differences of three and one leave out casts."""
    torch.set_num_threads(options.threads)
    network, rows = rule_network(options.quick).train(), {}
    length, whole = network.settings.text_length, whole_texts(3, network.settings)
    images, short = prepared_images(3, network.settings), made_up_prompts(3, network.settings)
    for name, few, one in (
        ("image", lambda: network.encode_images(images), lambda: network.encode_images(images[:1])),
        ("short text", lambda: network.encode_texts(short), lambda: network.encode_texts(short[:1])),
        (f"text of {length} tokens", lambda: network.encode_texts(whole), lambda: network.encode_texts(whole[:1])),
    ):
        rows[name] = (kept(network, few) - kept(network, one)) / 2
        print(f"{name}: {rows[name]:.1f} MiB kept for the gradient")
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad) * 16 / 2**30
    print(f"weights, gradients and Adam's moments: {trained:.2f} GiB")
    each, *texts = rows.values()
    for name, text in zip(list(rows)[1:], texts, strict=True):
        sizes = [(f"{count}", count) for count in (64, 128, 256)] + [(f"parts of {PART}", PART)]
        needs = ", ".join(f"{words}: {count * (each + text) / 1024 + trained:.1f} GiB" for words, count in sizes)
        print(f"batches with a {name} an image: {needs}")


def in_fresh_process(count: int, what: str) -> dict[str, object]:
    """`measure` or `agreement` in a new process with the same options."""
    command = [sys.executable, str(Path(__file__)), *sys.argv[1:], "--one", str(count), what]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(found: dict[str, object], same: dict[str, object]) -> str:
    """A line of the table."""
    head = f"| {found['batch']} | {found['way']} |"
    if not found["fits"]:
        return f"{head} out of memory | | | | |"
    seconds, count = float(str(found["seconds"])), int(str(found["batch"]))
    errors = ("", "")
    if found["way"] == "blocks, parts":
        errors = tuple("not run" if same[k] is None else f"{same[k]:.0e}" for k in ("loss", "gradient"))  # type: ignore[assignment]
    return (
        f"{head} {seconds:.3f} | {count / seconds:.1f} | {float(str(found['mib'])):.0f} | {errors[0]} | {errors[1]} |"
    )


def main() -> None:
    """Print the table."""
    parser = suite_parser(__doc__, repeats=3)
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="bf16")
    parser.add_argument("--ways", choices=list(WAYS), nargs="+", default=list(WAYS))
    parser.add_argument("--long", action="store_true", help="texts of 97 tokens instead of 5 to 14")
    parser.add_argument("--estimate", action="store_true", help="only what a GPU would need, on any machine")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.estimate:
        estimate(options)
        return
    if options.one:
        count, what = int(options.one[0]), options.one[1]
        print(json.dumps(agreement(options, count) if what == "agreement" else measure(options, count, what)))
        return
    batches = options.batches or ([8, 16] if options.quick else [64, 128, 256])
    print(f"| batch, {options.precision} | pairs | s per step | images/s | peak MiB | loss error | gradient error |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for count in batches:
        whole = "at once" in options.ways
        same = in_fresh_process(count, "agreement") if whole else {"loss": None, "gradient": None}
        for way in options.ways:
            rows.append({**in_fresh_process(count, way), "agreement": same})
            print(row(rows[-1], same), flush=True)
    device = torch.device(options.device)
    if device.type != "cuda":
        print("\nGPU: not run")
    for found in rows if device.type == "cuda" and not options.quick else ():
        if found["batch"] == GOAL[0] and found["way"] != "at once":
            reached = found["fits"] and float(str(found["mib"])) <= GOAL[1]
            print(f"\nbatch {GOAL[0]}, {found['way']}, {GOAL[1]} MiB at most: {'reached' if reached else 'missed'}")
    if options.json:
        write_json(options.json, {"machine": machine(device), "rows": rows})


if __name__ == "__main__":
    main()
