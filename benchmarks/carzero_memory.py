"""Peak memory of one training step of CARZero's pair matrix, in blocks that are computed again and all at once.

    python benchmarks/carzero_memory.py [--batches 32 64 128] [--pairs 1024]

A small network (width 128, 3 fusion layers, 49 image tokens, 32 text positions); encoded images and texts are given,
since the encoders' part grows with the batch alone. Every step runs in a process of its own; what is printed is the
highest resident memory of the step beyond that of the process before it. Loss and gradients of both ways are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from wordsight.models.carzero.settings import BertShape, CarZeroSettings, VitShape

LENGTH, WORDS = 32, 20
SETTINGS = CarZeroSettings(
    image_encoder=VitShape(width=128, layers=1, heads=4, hidden=256, patch=32),
    text=BertShape(vocabulary=64, width=128, layers=4, heads=4, hidden=256, positions=LENGTH),
    text_length=LENGTH,
    fusion_layers=3,
    fusion_heads=4,
    fusion_hidden=256,
    mlp_sizes=(128, 64),
    dropout=0.0,
)


def resident(field: str) -> float:
    """A field of /proc/self/status in MiB: VmRSS (now) or VmHWM (the most so far)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def step(batch: int, pairs: int | None) -> dict[str, float]:
    """Forward and backward of one batch in this process."""
    import torch

    from wordsight.models.carzero.loss import pair_loss
    from wordsight.models.carzero.model import CarZeroNetwork
    from wordsight.models.carzero.pairs import pair_logits
    from wordsight.models.carzero.text_encoder import TextFeatures

    torch.set_num_threads(1)
    network = CarZeroNetwork(SETTINGS).train()

    def run(count: int) -> float:
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(count, 1 + SETTINGS.grid**2, SETTINGS.width, generator=generator).requires_grad_(True)
        words = torch.randn(count, WORDS, SETTINGS.width, generator=generator).requires_grad_(True)
        text = TextFeatures(words.sum(1) / LENGTH, words, torch.full((count,), WORDS), LENGTH)
        loss = pair_loss(pair_logits(network, image, text, pairs=pairs))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    run(2)  # what torch takes once for itself
    network.zero_grad(set_to_none=True)
    before, start = resident("VmRSS"), time.perf_counter()
    loss = run(batch)
    seconds = time.perf_counter() - start
    squares = sum(float(p.grad.double().square().sum()) for p in network.parameters() if p.grad is not None)
    return {"mib": resident("VmHWM") - before, "seconds": seconds, "loss": loss, "norm": squares**0.5}


def in_fresh_process(batch: int, pairs: int | None) -> dict[str, float]:
    """`step` in a new process."""
    command = [sys.executable, __file__, "--step", str(batch), "--pairs", str(pairs or 0)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--pairs", type=int, default=1024, help="the most pairs of a block")
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(options.step, options.pairs or None)))
        return
    print("| batch | pairs | at once, MiB | in blocks, MiB | ratio | at once, s | in blocks, s | loss | gradient |")
    print("|---|---|---|---|---|---|---|---|---|")
    for batch in options.batches:
        whole, blocks = in_fresh_process(batch, None), in_fresh_process(batch, options.pairs)
        apart = [abs(blocks[k] - whole[k]) / abs(whole[k]) for k in ("loss", "norm")]
        print(
            f"| {batch} | {batch * batch} | {whole['mib']:.0f} | {blocks['mib']:.0f} "
            f"| {whole['mib'] / blocks['mib']:.1f} x | {whole['seconds']:.2f} | {blocks['seconds']:.2f} "
            f"| {apart[0]:.0e} apart | {apart[1]:.0e} apart |"
        )


if __name__ == "__main__":
    main()
