"""Train the tiny CARZero: `python scripts/train_tiny_carzero.py --out src/wordsight/models/carzero/tiny`.

Two stages, both on synthetic chest x-rays of seeds from 1,000,000, which evaluations do not use:
1. The image encoder learns to see from phantoms with their masks (tiny_carzero_seeing.py), in the place of the
   published start from M3AE's weights.
2. The whole network is trained by `wordsight.train.carzero`, by the corrected recipe, on other phantoms, of which it
   reads images and reports alone: no label, mask or box. `--recipe published` trains one to compare with.
After every epoch it is measured on 60 phantoms of another such seed, for the eye alone: the epoch is chosen by the
validation loss.
The bundle is for trying, testing and teaching; it knows nothing of patients.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from carzero_phantoms import DENIED, STATED, means, measure, table

from tiny_carzero_network import learn_vocabulary, sizes, start, write_text_folder
from tiny_carzero_seeing import Seeing, draw_lesson
from wordsight.data.manifest import read_manifest
from wordsight.data.phantoms import draw_report_phantom, write_report_phantoms
from wordsight.data.phantoms.reports import ReportPhantom
from wordsight.files import write_json
from wordsight.models.carzero.detector import CarZero
from wordsight.models.carzero.model import CarZeroNetwork
from wordsight.models.carzero.storage import TEXT, is_carzero_folder, load_folder, read_card, save_folder
from wordsight.models.carzero.text_input import clean
from wordsight.text.prompts import SHIPPED, prompt_set
from wordsight.train.carzero import Run, fit, normalised
from wordsight.train.carzero_captions import report_captions
from wordsight.train.carzero_data import ReportData, report_sets
from wordsight.train.carzero_settings import CarZeroTraining, Recipe

FIRST_SEED = 1_000_000
LIMIT = 8 * 2**20
VOCABULARY = 1600
SIZE = 224  # of all phantoms, in pixels: smaller ones would be drawn with other grain
VALID = 400
RUN = "run"
CAPTIONS = {
    "corrected": "sentences of the reports and prompts made of them by rules, opposites as wrong ones",
    "published": "sentences of the reports, all other captions of a batch as wrong ones",
}
NOTE = "Trained on phantoms alone: knows nothing of patients; for trying, testing and teaching."


def training_of(options: argparse.Namespace) -> CarZeroTraining:
    """The recipe, with a rate and a batch that fit a small network, two captions per image, and weak augmentation:
    phantoms vary by themselves. What else sets the recipes apart is left as it is."""
    return replace(
        CarZeroTraining.of(options.recipe),
        epochs=options.epochs,
        batch_sizes=((0, options.batch),),
        lr=options.rate,
        image_rate=options.image_rate,
        betas=(0.9, 0.98),
        clip=1.0,
        captions_per_image=2,
        degrees=0.0,
        translate=0.0,
        scale=(1.0, 1.0),
        brightness=0.1,
        contrast=0.1,
        valid_batch=options.batch,
        patience=options.epochs,
        seed=options.seed,
        device="cpu",
        pairs=None,
        save_every=100,
    )


def phantoms_of(options: argparse.Namespace) -> Path:
    """The table of the training phantoms, drawn unless they are there."""
    folder = options.work / "phantoms"
    manifest = folder / "manifest.csv"
    if not manifest.is_file():
        write_report_phantoms(
            folder, train=options.images, valid=VALID, test=0, seed=options.seed, size=SIZE, workers=options.processes
        )
    return Path(manifest)


def prepared(options: argparse.Namespace, manifest: Path, training: CarZeroTraining) -> tuple[CarZeroNetwork, Path]:
    """The network before training, and the folder of its vocabulary."""
    reports = [record.report or "" for record in read_manifest(manifest)]
    settings = sizes(100)
    captions = [c.text for report in reports for c in report_captions(report, training, settings).captions]
    asked = [clean(s, settings) for group in (*STATED, *DENIED) for s in group]
    shipped = [prompt_set(name) for name in sorted(set(SHIPPED.values()))]
    prompts = [s for p in shipped for group in (*p.positive, *(p.negative or ())) for s in group]
    vocabulary = learn_vocabulary([*captions, *asked], prompts, VOCABULARY)
    settings = replace(sizes(len(vocabulary)), memory=options.memory)
    text = options.work / "text"
    write_text_folder(text, vocabulary, settings)
    network = CarZeroNetwork(settings, seed=options.seed)
    sets = report_sets(manifest, training, settings)
    data = ReportData(sets.train[:200], settings, training, augmented=False)
    images = torch.stack([item for i in range(len(data)) if isinstance(item := data[0, i], torch.Tensor)])
    start(network, normalised(images)[:, 0], options.seed)
    if options.see and not is_carzero_folder(options.work / RUN):  # a run that has begun has its own network
        lesson = draw_lesson(options.seed + 3, options.see_images, SIZE, settings)
        state = options.work / "seeing.pt"
        Seeing(network, lesson, options.see, options.see_batch, options.see_rate, options.seed, state).run(options.say)
    return network, text


class Watch:
    """After every epoch: losses, seconds, and the numbers on a few phantoms that are not trained on."""

    def __init__(self, seed: int, count: int) -> None:
        self.phantoms: list[ReportPhantom] = [draw_report_phantom(seed + 1, i, SIZE) for i in range(count)]
        self.start = time.monotonic()

    def __call__(self, run: Run) -> None:
        losses = [e["loss"] for e in run.history if "loss" in e and e["epoch"] == run.history[-1]["epoch"]]
        entry = run.history[-1]
        detector = CarZero.from_network(copy.deepcopy(run.network), run.job.folder / TEXT)
        found = means(measure(detector, self.phantoms)) if self.phantoms else {}
        numbers = " ".join(f"{name} {value:.3f}" for name, value in found.items())
        print(
            f"epoch {entry['epoch']}/{run.training.epochs} {time.monotonic() - self.start:.0f} s "
            f"loss {np.mean(losses):.4f} valid {entry['valid_loss']:.4f}{' *' if entry['best'] else ''} {numbers}",
            flush=True,
        )


def write_bundle(options: argparse.Namespace, run: Path) -> None:
    """Weights (fp16), settings, vocabulary and the card; then load it as users do and measure it."""
    folder, card = options.out, read_card(run)
    trained = load_folder(run)
    half = copy.deepcopy(trained.network).half()
    if folder.exists():
        shutil.rmtree(folder)
    kept = ("epoch", "valid_loss", "selected", "images", "training")
    save_folder(folder, half, run / TEXT, {"finished": True, **{name: card[name] for name in kept}})
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        raise SystemExit(f"{folder}: expected at most {LIMIT} bytes, got {size}. Make the network smaller.")
    detector = load_folder(folder)
    results = measure(detector, [draw_report_phantom(options.seed + 2, i, SIZE) for i in range(options.check)])
    write_json(
        folder / "card.json",
        {
            "name": "tiny",
            "note": NOTE,
            "seeing": f"image encoder alone first: {options.see} steps of {options.see_batch} on {options.see_images} "
            f"chest phantoms with their masks, seed {options.seed + 3}",
            "data": f"then CARZero on {options.images} other chest phantoms, seed {options.seed}: images and reports; "
            "their labels, masks and boxes were not read",
            "recipe": f"{options.recipe}: {CAPTIONS[options.recipe]}",
            "epochs": {"planned": options.epochs, "chosen": card["epoch"], "batch": options.batch},
            "parameters": sum(p.numel() for p in detector.network.parameters()),
            "measured": {"phantoms": options.check, "seed": options.seed + 2, **means(results)},
            "made_by": "scripts/train_tiny_carzero.py",
            "licence": "Apache-2.0",
        },
    )
    print(table(results))
    print(f"{folder}: {size / 2**20:.2f} MiB, hash {detector.weights_hash}")


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the bundle; replaced when done")
    parser.add_argument("--work", type=Path, help="phantoms and the resumable run (default: beside --out)")
    parser.add_argument("--see", type=int, default=1200, help="steps of the image encoder alone, before; 0: none")
    parser.add_argument("--see-images", type=int, default=9000, help="phantoms with masks to learn to see from")
    parser.add_argument("--see-batch", type=int, default=32)
    parser.add_argument("--see-rate", type=float, default=2e-3)
    parser.add_argument("--recipe", choices=get_args(Recipe), default="corrected")
    parser.add_argument("--images", type=int, default=6000, help="phantoms to learn from")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--image-rate", type=float, default=0.1, help="of the image encoder, as a share of --rate")
    parser.add_argument("--memory", choices=("local", "global+local"), default="local", help="what sentences look at")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help=f"of everything, at least {FIRST_SEED}")
    parser.add_argument("--watch", type=int, default=60, help="phantoms measured after every epoch; 0: none")
    parser.add_argument("--check", type=int, default=300, help="phantoms measured at the end")
    parser.add_argument("--say", type=int, default=50, help="print the loss of seeing every so many steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1, help="that draw phantoms")
    options = parser.parse_args(argv)
    if options.seed < FIRST_SEED:
        parser.error(f"--seed: expected at least {FIRST_SEED}, which evaluations do not use, got {options.seed}")
    options.work = options.work or options.out.with_name(options.out.name + "-work")
    return options


def main() -> None:
    """Draw, train, write."""
    options = options_of()
    torch.set_num_threads(options.threads)
    training = training_of(options)
    manifest = phantoms_of(options)
    network, text = prepared(options, manifest, training)
    run = options.work / RUN
    print(f"{sum(p.numel() for p in network.parameters())} parameters; {json.dumps(training.to_json())}", flush=True)
    watch = Watch(options.seed, options.watch)
    fit(network, text, report_sets(manifest, training, network.settings), training, run, after_epoch=watch)
    write_bundle(options, run)


if __name__ == "__main__":
    main()
