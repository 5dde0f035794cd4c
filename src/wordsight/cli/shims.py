"""The published commands of MLA-LP: `python train_few.py --obj Brain --shot 4`, `python train_zero.py --obj Liver`.

They run the published settings. Only the choice of the model is honest unless `--protocol published` asks for the
papers' own, the best epoch on the test set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordsight.cli.main import guarded
from wordsight.cli.show import say

SELECTIONS = {
    "validation": "validation images (honest; the papers chose the best epoch on the test set: --protocol published)",
    "last": "the last epoch",
    "published": "the best epoch on the test set, scores scaled over the test set, as in the papers: optimistic",
}


def train_few(argv: Sequence[str] | None = None) -> int:
    """`train_few.py`; returns the exit status."""
    return guarded(lambda: _run(_parser("train_few.py", few=True).parse_args(argv)))


def train_zero(argv: Sequence[str] | None = None) -> int:
    """`train_zero.py`; returns the exit status."""
    return guarded(lambda: _run(_parser("train_zero.py", few=False).parse_args(argv)))


def _parser(name: str, *, few: bool) -> argparse.ArgumentParser:
    kind = "few-shot" if few else "zero-shot (trained on the other sets)"
    p = argparse.ArgumentParser(
        name,
        description=f"MLA-LP, {kind}, with the published settings. Reads <data_path>/<Name>_AD. Everything else: "
        "wordsight train mla --help.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--obj", required=True, help="ChestXray, HIS, OCT17, BrainMRI, LiverCT, RESC or a folder's name")
    p.add_argument("--data_path", default="./data/", help="folder that holds <Name>_AD folders")
    if few:
        p.add_argument("--shot", type=int, default=4, help="images per class")
        p.add_argument("--iterate", type=int, default=0, help="published support draw; below 0: drawn by --seed")
    p.add_argument("--model_name", default="ViT-L-14-336", help="CLIP; 'tiny' needs no weights, for trying only")
    p.add_argument("--pretrain", default="openai", help="'openai' or a file of weights")
    p.add_argument("--img_size", type=int, default=240, help="side of the input in pixels")
    p.add_argument("--features_list", type=int, nargs="+", help="blocks that adapters follow; default: at quarters")
    p.add_argument("--epoch", type=int, help="passes over the training images; default: as published")
    p.add_argument("--batch_size", type=int, help="images per update; default: as published")
    p.add_argument("--learning_rate", type=float, help="of the adapters; default: as published")
    p.add_argument("--method", choices=["mla", "mvfa"], default="mla", help="MLA-LP or MVFA")
    p.add_argument("--seed", type=int, default=111, help="of training")
    p.add_argument("--save_path", "--ckpt_path", help="also write the checkpoint as <save_path>/<Name>.pth")
    p.add_argument("--continue_path", help="checkpoint of adapters to start from")
    p.add_argument("--protocol", choices=list(SELECTIONS), default="validation", help="what the model is chosen by")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<number>")
    p.add_argument("--out", help="output folder; default: runs/<name>-<k>shot-published-<protocol>")
    return p


def _run(args: argparse.Namespace) -> int:
    from wordsight.cli.train_mla import run
    from wordsight.data import canonical_name
    from wordsight.study.options import TrainOptions

    data = Path(args.data_path).expanduser()
    target, shots = canonical_name(args.obj, data), getattr(args, "shot", 0)
    iterate = getattr(args, "iterate", 0)
    name = target if args.method == "mla" else f"{target}-{args.method}"
    out = Path(args.out or f"runs/{name}-{shots}shot-published-{args.protocol}".lower())
    settings: dict[str, Any] = {"image_size": args.img_size}
    if args.features_list:
        settings["levels"] = tuple(args.features_list)
    training = {
        "epochs": args.epoch,
        "batch_size": args.batch_size,
        "adapter_lr": args.learning_rate,
        "protocol": args.protocol,
        "device": args.device,
    }
    options = TrainOptions(
        target=target,
        data=data,
        out=out,
        shots=shots,
        draws=(args.seed if iterate < 0 else iterate,),
        seeds=(args.seed,),
        method=args.method,
        architecture=args.model_name,
        weights=None if args.pretrain == "openai" else Path(args.pretrain).expanduser(),
        profile="published",
        settings=settings,
        training={key: value for key, value in training.items() if value is not None},
        support="random" if iterate < 0 else "auto",
        initial=None if args.continue_path is None else Path(args.continue_path).expanduser(),
    )
    say(f"published settings; model chosen by {SELECTIONS[args.protocol]}")
    status = run(options)
    if args.save_path:
        from wordsight.study import convert

        print(f"checkpoint: {convert(out, Path(args.save_path) / f'{target}.pth', overwrite=True).target}")
    return status
