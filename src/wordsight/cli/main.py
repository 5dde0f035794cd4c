"""`wordsight`: finds the command, builds its parser alone, runs it, turns errors into one line and an exit status."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from wordsight import __version__
from wordsight.errors import DataWarning, PromptWarning, WordsightError

COMMANDS: Mapping[tuple[str, ...], tuple[str, str]] = {
    ("demo",): ("demo", "everything on synthetic images: no data, no weights, one to three minutes on two cores"),
    ("train", "mla"): ("train_mla", "train MLA-LP or MVFA on a few images of a set, or zero-shot on other sets"),
    ("train", "carzero"): ("train_carzero", "pretrain CARZero on images with reports"),
    ("predict",): ("predict", "scores and heatmaps for an image, a folder, a DICOM tree or a table"),
    ("evaluate",): ("evaluate", "measure trained runs on labelled images, with intervals"),
    ("score",): ("score", "score anybody's prediction file by the protocol of a chest x-ray benchmark"),
    ("report",): ("report", "write the page of a run folder again"),
    ("convert",): ("convert", "published checkpoints <-> safetensors, or into a run folder"),
    ("data", "phantoms"): ("data_phantoms", "draw synthetic sets in the benchmark's layout"),
    ("data", "inspect"): ("data_inspect", "look into a data set before learning from it"),
    ("data", "prepare"): ("data_prepare", "a published set of images with reports -> one table"),
    ("data", "align"): ("data_align", "reports of a table -> prompts, by a language model of your choice"),
    ("data", "labels"): ("data_labels", "label file of a chest x-ray benchmark and its images -> a table for predict"),
}
"""Words of a command -> (module in wordsight.cli, what it does)."""
OK, FAILED, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for errors, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: _dispatch(words))


def guarded(work: Callable[[], int]) -> int:
    """The exit status of some work: errors and warnings of this package become one line on stderr each."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return work()
    except WordsightError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return FAILED
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and type(error).__name__ != "OutOfMemoryError":  # torch's, not imported
            raise
        said = f" ({str(error).splitlines()[0]})" if str(error) else ""
        advice = "Give fewer images at a time (--batch), or a device with more of it."
        print(f"error: not enough memory{said}. {advice}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(
            "interrupted. Training and predictions go on where they stopped when the same command is given again.",
            file=sys.stderr,
        )
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read the output has gone; Python would complain once more when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else OK if exit_.code is None else FAILED


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of this package without the line of code it comes from; others as Python shows them."""
    known = issubclass(category, DataWarning | PromptWarning)
    text = f"warning: {message}\n" if known else warnings.formatwarning(message, category, filename, lineno)
    print(text, end="", file=sys.stderr)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return OK if words else FAILED
    if words[0] in ("--version", "-V"):
        print(f"wordsight {__version__}")
        return OK
    for length in (2, 1):
        name = tuple(words[:length])
        if name in COMMANDS:
            module = importlib.import_module(f"wordsight.cli.{COMMANDS[name][0]}")
            return int(module.main(words[length:]))
    return _unknown(words)


def _unknown(words: list[str]) -> int:
    """What could have been meant, on stderr; a group's name alone with --help lists its commands."""
    group = [name for name in COMMANDS if len(name) > 1 and name[0] == words[0]]
    if group:
        rest = words[1:]
        if rest[:1] and rest[0] in ("-h", "--help"):
            print(usage(group))
            return OK
        got = f"got {rest[0]!r}" if rest else "got none"
        options = ", ".join(" ".join(name) for name in group)
        print(f"error: wordsight {words[0]}: expected one of {options}; {got}.", file=sys.stderr)
        return FAILED
    known = list(dict.fromkeys(name[0] for name in COMMANDS))
    close = difflib.get_close_matches(words[0], known, n=2)
    hint = f"Did you mean {' or '.join(close)}?" if close else "See `wordsight --help`."
    print(f"error: expected a command ({', '.join(known)}), got {words[0]!r}. {hint}", file=sys.stderr)
    return FAILED


def usage(names: Sequence[tuple[str, ...]] | None = None) -> str:
    """The list of commands."""
    rows = [(" ".join(name), COMMANDS[name][1]) for name in (COMMANDS if names is None else names)]
    width = max(len(name) for name, _ in rows)
    lines = [f"  wordsight {name:<{width}}  {text}" for name, text in rows]
    head = "wordsight: find disease in medical images from words and a handful of examples.\n"
    tail = "\nEvery command explains itself: wordsight <command> --help. Research software, not a medical device."
    return "\n".join([head, *lines, tail])


if __name__ == "__main__":
    sys.exit(main())
