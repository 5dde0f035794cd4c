"""What the commands' parsers share: one-line errors, flags made from dataclasses, threads."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_type_hints

import jsonargparse

Precision = Literal["fp32", "bf16", "fp16"]
PrecisionChoice = Literal["fp32", "bf16", "fp16", "auto"]
Runtime = Literal["eager", "compile"]
BACKBONE = "file of the CLIP where it is not where training found it"
WORKERS = "processes that read and draw meanwhile; 0: none; null: 2 (8 with a GPU), no more than cores"


class CommandParser(jsonargparse.ArgumentParser):
    """A parser for one command, with `--config FILE` and `--print_config`; errors are one line and exit with 2."""

    def __init__(self, command: str, arguments: str, description: str, *, config: bool = False) -> None:
        prog = f"wordsight {command}"
        super().__init__(
            prog=prog,
            usage=f"{prog} {arguments}",
            description=description,
            allow_abbrev=False,
            print_config="--print_config" if config else None,
        )
        if config:
            self.add_argument("--config", action="config", help="YAML file with any of these options")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and where help is; exit with 2."""
        print(f"error: {' '.join(message.split())} See `{self.prog} --help`.", file=sys.stderr)
        raise SystemExit(2)


def add_switch(target: Any, name: str, help: str, *, default: bool = True) -> None:
    """Add a pair of flags --name, --no-name to a parser or group."""
    target.add_argument(name, action=jsonargparse.ActionYesNo(no_prefix="no-"), default=default, help=help)


def add_fields(parser: CommandParser, prefix: str, owner: Any, title: str, *, skip: Iterable[str] = ()) -> None:
    """A group of flags --<prefix>.<field> for a dataclass; None, the default, leaves a field to the profile."""
    group = parser.add_argument_group(title, owner.__doc__)
    hints = get_type_hints(owner)
    for field in fields(owner):
        if field.name not in set(skip):
            group.add_argument(
                f"--{prefix}.{field.name}",
                type=hints[field.name] | None,
                default=None,
                help=f"instead of the profile's; published: {field.default!r}",
            )


def given(values: Any) -> dict[str, Any]:
    """The fields of a group that were given."""
    return {key: value for key, value in values.as_dict().items() if value is not None}


def path_or_none(value: str | None) -> Path | None:
    """A path, or None."""
    return None if value is None else Path(value).expanduser()


def add_running(parser: CommandParser) -> None:
    """Flags that every command with a network has."""
    add_device(parser)
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads of torch (null: torch decides)")


def add_device(parser: CommandParser) -> None:
    """Where the network runs."""
    parser.add_argument("--device", type=str, default="auto", help="auto (CUDA if there is one), cpu, cuda or cuda:1")


def add_looking(parser: CommandParser, weights: str = BACKBONE) -> None:
    """Flags that every command with a trained network has; weights: what that flag says."""
    parser.add_argument("--weights", type=str | None, default=None, help=weights)
    parser.add_argument("--batch", type=int, default=8, help="images at a time")
    parser.add_argument("--workers", type=int | None, default=None, help=WORKERS)
    parser.add_argument(
        "--precision",
        type=PrecisionChoice | None,
        default=None,
        help="of computations; auto: the fastest here; fp16 needs CUDA; null: as the run was trained, CARZero: fp32",
    )
    parser.add_argument("--runtime", type=Runtime, default="eager", help="image tower as written, or torch.compile'd")
    add_running(parser)


def add_reading(target: Any, otherwise: str = "the file's own") -> None:
    """How image files are read, to a parser or group. otherwise: the window where none is given."""
    target.add_argument(
        "--window",
        type=str,
        nargs="+",
        default=None,
        metavar="WINDOW",
        help="grey levels of CT: centre and width, such as 40 400, or lung, mediastinum, soft-tissue, liver, bone, "
        f"brain, subdural, stroke; null: {otherwise}",
    )
    target.add_argument(
        "--frame",
        type=int | None,
        default=None,
        help="frame of every file that holds several, or slice from the feet; null: the first, of a volume the middle",
    )


def window_of(values: Sequence[str] | None) -> str | None:
    """The value of --window as `read_image` takes it. Raises SettingsError for an unknown one."""
    from wordsight.imaging.windows import parse_window

    window = None if values is None else "/".join(values)
    parse_window(window)
    return window


def use_threads(threads: int | None) -> None:
    """Set torch's CPU threads where a number is given. Raises SettingsError below 1."""
    if threads is not None:
        from wordsight.train import threads as torch_threads

        torch_threads.use_threads(threads)
