"""`wordsight data labels`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wordsight.cli.parser import CommandParser, add_switch
from wordsight.cli.score import ProtocolName

DESCRIPTION = (
    "Turn the label file of a chest x-ray benchmark and the folder of its images into a table that predict takes: just "
    "the images that the benchmark counts, with their findings and patients. An image is looked for under its whole "
    "name, then under shorter ends of it."
)


def parser() -> CommandParser:
    """Flags of the command."""
    p = CommandParser("data labels", "IMAGES LABELS --protocol NAME --out TABLE [options]", DESCRIPTION)
    p.add_argument("images", type=str, help="folder of the images")
    p.add_argument("labels", type=str, help="the label file that the benchmark comes with, see docs/protocols.md")
    p.add_argument("--protocol", type=ProtocolName, required=True, help="the benchmark")
    p.add_argument("--out", type=str, required=True, help="table to write, .csv or .parquet, above the images")
    add_switch(p, "--frontal", "leave lateral images out (chexpert, chexpert5)", default=False)
    return p


def main(argv: Sequence[str]) -> int:
    """Write the table and say how to go on."""
    args = parser().parse_args(list(argv))
    from wordsight.data.manifest import write_manifest
    from wordsight.study.score import read_labels

    images, labels, out = (Path(text).expanduser() for text in (args.images, args.labels, args.out))
    table = read_labels(args.protocol, labels, frontal=args.frontal)
    write_manifest(table.records(images), out)
    outside = "" if images.resolve().is_relative_to(out.resolve().parent) else " --allow-outside"
    print(f"images: {len(table.names)}, findings: {len(table.findings)}\nwritten: {out}")
    print(f"next: wordsight predict {out} --model carzero --prompts {prompts_of(args.protocol)}{outside} ...")
    return 0


def prompts_of(protocol: str) -> str:
    """The shipped prompt set that asks for a protocol's findings, else what stands for one."""
    from wordsight.text.prompts import SHIPPED

    return protocol if protocol in SHIPPED else "chexpert5" if protocol == "chexpert5x200" else "FILE.json"
