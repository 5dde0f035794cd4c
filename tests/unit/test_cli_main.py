"""The command line itself: help, version, unknown words, exit statuses, what is loaded when."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wordsight import __version__
from wordsight.cli.main import COMMANDS, guarded, main
from wordsight.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    out = python(
        "import sys\nfrom wordsight.cli.main import main\nstatus = main(['--help'])\n"
        "print([m for m in ('torch', 'numpy', 'jsonargparse', 'rich', 'open_clip') if m in sys.modules], status)"
    )
    assert out.splitlines()[-1] == "[] 0"
    for name in COMMANDS:
        assert f"wordsight {' '.join(name)} " in out


@pytest.mark.parametrize("name", list(COMMANDS), ids=" ".join)
def test_help_of_every_command_is_complete_and_loads_no_torch(name: tuple[str, ...]) -> None:
    out = python(
        "import sys\nfrom wordsight.cli.main import main\n"
        f"status = main([*{name!r}, '--help'])\nprint('torch' in sys.modules, status)"
    )
    assert out.splitlines()[-1] == "False 0"
    assert f"usage: wordsight {' '.join(name)} " in out
    module = __import__(f"wordsight.cli.{COMMANDS[name][0]}", fromlist=["parser"])
    for action in module.parser()._actions:
        assert action.help, f"{action.dest} has no help"
        for option in action.option_strings:
            assert option in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"wordsight {__version__}"


def test_no_arguments_show_the_commands_and_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "wordsight train mla" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "mla"], "error: expected a command .*got 'trian'. Did you mean train?"),
        (["zzz"], "error: expected a command .*got 'zzz'. See `wordsight --help`."),
        (["train"], "error: wordsight train: expected one of train mla, train carzero; got none."),
        (
            ["data", "fetch"],
            "error: wordsight data: expected one of data phantoms, data inspect, data prepare, data align, "
            "data labels; got 'fetch'.",
        ),
        (["report", "a", "--colour"], "error: .*--colour.* See `wordsight report --help`."),
        (["train", "mla"], "error: .*target.* See `wordsight train mla --help`."),
        (["train", "mla", "--target", "x", "--shots", "two"], "error: .*shots.*two"),
        (["train", "mla", "--target", "x", "--settings.activation", "relu"], "error: .*activation.*relu"),
        (["train", "mla", "--target", "x", "--seed", "1"], "error: .*--seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_give_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.match(message, captured.err)


def test_a_group_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    assert "wordsight data phantoms" in out
    assert "wordsight predict" not in out


def test_guarded_turns_errors_into_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(error: BaseException) -> int:
        raise error

    assert guarded(lambda: fails(DataError("two\n  lines"))) == 2
    assert capsys.readouterr().err == "error: two lines\n"
    assert guarded(lambda: fails(KeyboardInterrupt())) == 130
    assert "Training and predictions go on where they stopped" in capsys.readouterr().err
    assert guarded(lambda: fails(SystemExit(3))) == 3
    capsys.readouterr()
    assert guarded(lambda: fails(torch.OutOfMemoryError("CUDA out of memory.\nTried"))) == 2
    assert capsys.readouterr().err.startswith("error: not enough memory (CUDA out of memory.). Give fewer images at a")
    assert guarded(lambda: fails(MemoryError())) == 2
    assert capsys.readouterr().err.startswith("error: not enough memory. Give fewer")
    with pytest.raises(RuntimeError, match="another"):
        guarded(lambda: fails(RuntimeError("another")))
    assert guarded(lambda: fails(SystemExit("text"))) == 2
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: fails(ZeroDivisionError()))


def test_a_closed_pipe_is_no_error() -> None:
    script = f"{sys.executable} -m wordsight.cli.main train mla --help | head -n 1"
    done = subprocess.run(script, shell=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith("usage: wordsight train mla")
