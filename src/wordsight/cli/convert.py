"""`wordsight convert`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.cli.parser import CommandParser, add_device, path_or_none
from wordsight.cli.show import say
from wordsight.errors import SettingsError

if TYPE_CHECKING:
    from wordsight.study.checkpoints import Converted

DESCRIPTION = (
    "Weights from one form into another: adapters and prompts of MLA-LP or MVFA (a published .pth, a .safetensors "
    "file, or a run folder), or a CARZero (the published .ckpt, a .safetensors file, or a run folder). IN is known by "
    "its content, OUT by its name; every tensor is accounted for and compared bit by bit. For adapters, --architecture "
    "makes OUT a run folder for predict and evaluate; give --data, --target and --shots too where scores shall use the "
    "memory bank of normal support images."
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("convert", "IN OUT [options]", DESCRIPTION)
    p.add_argument("source", type=str, metavar="IN", help="published .pth or .ckpt, .safetensors, or a run folder")
    p.add_argument(
        "destination",
        type=str,
        metavar="OUT",
        help=".safetensors, .pth, .ckpt (CARZero), or with --architecture a new folder",
    )
    p.add_argument(
        "--architecture",
        type=str | None,
        default=None,
        help="CLIP the checkpoint was trained with, such as ViT-L-14-336; makes a run folder",
    )
    p.add_argument("--weights", type=str | None, default=None, help="file of the CLIP's weights")
    p.add_argument("--data", type=str | None, default=None, help="folder of sets with the support images")
    p.add_argument("--target", type=str | None, default=None, help="the set that the checkpoint is for")
    p.add_argument("--shots", type=int, default=4, help="support images per class")
    p.add_argument("--draw", type=int, default=0, help="which support draw")
    p.add_argument("--support", type=str, default="auto", help="as in wordsight train mla")
    p.add_argument("--object-name", type=str | None, default=None, help="what MVFA's sentences name; null: by the set")
    p.add_argument(
        "--settings",
        type=str | None,
        default=None,
        help="of a CARZero that is not the published variant: global, local, gl, mlp_gl or a .json file",
    )
    add_device(p)
    return p


def main(argv: Sequence[str]) -> int:
    """Convert and print what the checkpoint holds."""
    args = parser().parse_args(list(argv))
    source, target = Path(args.source).expanduser(), Path(args.destination).expanduser()
    if args.architecture is not None:
        return _to_run(source, target, args)
    if args.data is not None or args.weights is not None:
        raise SettingsError("--weights and --data make a run folder, which needs --architecture too. Give it.")
    from wordsight.study import convert

    made = convert(source, target, settings=args.settings)
    print(f"{made.method}: {len(made.shapes)} tensors, {made.parameters} numbers, equal bit by bit")
    for line in _parts(made) if made.method == "carzero" else _tensors(made):
        print(f"  {line}")
    for name, value in made.info.items():
        print(f"  {name} = {value}")
    for note in made.notes:
        say(f"note: {note}")
    print(f"written: {made.target}")
    return 0


def _tensors(made: Converted) -> list[str]:
    """Every tensor with its shape."""
    return [f"{name}: {' x '.join(map(str, shape))}" for name, shape in made.shapes.items()]


def _parts(made: Converted) -> list[str]:
    """The parts of a network, with how much each holds."""
    sizes: dict[str, list[int]] = {}
    for name, shape in made.shapes.items():
        sizes.setdefault(name.partition(".")[0], []).append(math.prod(shape))
    return [f"{part}: {len(counts)} tensors, {sum(counts)} numbers" for part, counts in sizes.items()]


def _to_run(source: Path, target: Path, args: Any) -> int:
    from wordsight.study.checkpoints import RunOptions, convert_to_run

    wanted = RunOptions(
        args.architecture,
        path_or_none(args.weights),
        path_or_none(args.data),
        args.target,
        args.shots,
        args.draw,
        args.support,
        args.object_name,
        args.device,
    )
    detector = convert_to_run(source, target, wanted)
    bank = "no memory bank" if detector.bank is None else f"a memory bank of {wanted.shots} normal images"
    print(f"{detector.name} on {wanted.architecture}, {detector.mode}, {bank}")
    print(f"folder: {target}\nnext: wordsight predict IMAGES --model {target}")
    return 0
