"""Bars: silent off a terminal and for short work, shown for long work, one inside another."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr

import pytest

from wordsight import progress as bars
from wordsight.progress import progress, track


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def shown() -> list[str]:
    """The bars that are on the terminal now."""
    return [] if bars._SCREEN._display is None else [task.description for task in bars._SCREEN._display.tasks]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setattr(bars, "QUIET_SECONDS", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def test_nothing_off_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "QUIET_SECONDS", 0.0)
    assert list(track(range(3), "Looking")) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_nothing_for_short_work(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bars, "QUIET_SECONDS", 60.0)
    with redirect_stderr(terminal):
        assert list(track(range(3), "Looking")) == [0, 1, 2]
    assert terminal.getvalue() == ""


def test_one_bar_inside_another(terminal: Terminal) -> None:
    with redirect_stderr(terminal), progress("Outer", 2, "sets") as outer:
        time.sleep(0.02)
        outer.advance()
        with progress("Inner", 4) as inner:
            time.sleep(0.02)
            inner.advance(3)
            assert shown() == ["Outer", "Inner"]
        assert shown() == ["Outer"]
        outer.note("loss 0.5")
    assert all(text in terminal.getvalue() for text in ("Outer", "Inner", "loss 0.5"))
    assert bars._SCREEN._display is None


def test_a_long_first_unit_shows_its_bar(terminal: Terminal) -> None:
    with redirect_stderr(terminal), progress("Reading", 1, "files"):
        limit = time.monotonic() + 20
        while not shown() and time.monotonic() < limit:
            time.sleep(0.02)
        assert shown() == ["Reading"]
    assert bars._SCREEN._display is None


def test_nothing_in_all_but_one_of_many_processes(terminal: Terminal) -> None:
    with redirect_stderr(terminal), progress("Quiet", 1, show=False) as bar:
        time.sleep(0.02)
        bar.advance()
    assert terminal.getvalue() == ""
