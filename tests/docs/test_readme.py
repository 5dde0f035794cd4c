"""The README is true: every command of its shell blocks and every Python block runs, in the order it is read.

Commands run as written, but for those of SUBSTITUTES; a tour through the whole page happens once, in one folder.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from wordsight.cli.main import main, usage
from wordsight.cli.shims import train_few, train_zero

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHEAP = "--epochs 1 --bootstrap 20"
NOT_RUN = ""
MOST_SECONDS = 360
"""Processor time that the demonstration may take: the three minutes of two cores that the README promises."""

SUBSTITUTES = {
    "wordsight predict images --model carzero --weights CARZero_best_model.ckpt --text BioClinicalMPBERT "
    "--prompts openi --out out": NOT_RUN,  # weights of others; test_cli_carzero runs it with a small network
    "wordsight predict chest.dcm --model carzero --weights carzero.safetensors --text BioClinicalMPBERT --prompts "
    '"There is a mass in the left lung"': NOT_RUN,
    "wordsight score out/predictions.csv custom.csv --protocol openi": NOT_RUN,  # test_cli_score
    "wordsight data prepare mimic MIMIC-CXR --out MIMIC-CXR/reports.parquet": NOT_RUN,  # test_data_reports
    "wordsight train carzero --manifest MIMIC-CXR/reports.parquet --text BERT --out runs/cz": NOT_RUN,
    "wordsight data labels NIH/images test_list.txt --protocol chestxray14 --out NIH/test.csv": NOT_RUN,
    "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt . && source .venv/bin/activate": NOT_RUN,  # make
    "wordsight demo": NOT_RUN,  # test_the_demonstration_runs, slow
    "wordsight data phantoms sets": "wordsight data phantoms sets --sets Brain Liver --valid 6 --test 4",
    "wordsight train mla --data sets --target Liver --shots 4 --out runs/liver": CHEAP,
    "wordsight train mla --data sets/mine.csv --shots 4 --out runs/mine": CHEAP,
    "wordsight train mla --data sets --target Brain --shots 4 --draws 0 1 2 --out runs/brain": CHEAP,
    "wordsight train mla --data sets --target Liver --shots 0 --out runs/liver-zero": CHEAP,
    "wordsight train mla --data sets --target Brain --method mvfa --out runs/brain-mvfa": CHEAP,
    "python train_few.py --obj BrainMRI --shot 4 --data_path sets --model_name tiny": "--epoch 1",
    "python train_zero.py --obj LiverCT --data_path sets --model_name tiny": "--epoch 1",
}
"""Command of the README -> what is run instead: options to add, another command, or nothing (and why)."""
PROGRAMS = {"wordsight": main, "python train_few.py": train_few, "python train_zero.py": train_zero}
LEAVES = {
    "wordsight data phantoms": ["sets/Liver_AD/test/Ungood/img/0000.png", "sets/fewshot_seed/Brain/4-shot.txt"],
    "wordsight predict": ["predictions/predictions.csv", "predictions/predictions.json", "predictions/report.html"],
    "wordsight evaluate": ["runs/liver/results.json", "runs/liver/report.html"],
    "wordsight convert runs/liver": ["liver.pth"],
    "wordsight convert liver.pth": ["liver.safetensors"],
    "wordsight report": ["runs/liver/report.html"],
}
"""Beginning of a command -> files that must be there afterwards."""


@dataclass(frozen=True)
class Step:
    """One thing a reader does: a shell command or a block of Python."""

    language: str
    text: str

    def __str__(self) -> str:
        return self.text.strip().splitlines()[0][:70]


def steps_of(page: str) -> Iterator[Step]:
    for language, body in BLOCK.findall(page):
        if language == "python":
            yield Step(language, body)
        elif language == "sh":
            for line in body.splitlines():
                command = re.sub(r"\s{2,}#.*$", "", line).strip()
                if command:
                    yield Step(language, command)


STEPS = list(steps_of(README))


def run_command(command: str) -> None:
    """Run one `wordsight` command here; 0 is the only good answer."""
    replaced = SUBSTITUTES.get(command)
    if replaced == NOT_RUN:
        return
    wanted = command if replaced is None else f"{command} {replaced}" if replaced.startswith("--") else replaced
    words = shlex.split(wanted)
    program = words.pop(0) if words[0] != "python" else " ".join((words.pop(0), words.pop(0)))
    assert PROGRAMS[program](words) == 0
    for beginning, files in LEAVES.items():
        if command.startswith(beginning):
            assert [file for file in files if not Path(file).is_file()] == []


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> dict[Step, Exception | None]:
    """What came of every step, taken in order in one folder."""
    outcome: dict[Step, Exception | None] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tour"))
        for step in STEPS:
            try:
                if step.language == "sh":
                    run_command(step.text)
                else:
                    exec(compile(step.text, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102
                outcome[step] = None
            except (Exception, SystemExit) as error:
                outcome[step] = error if isinstance(error, Exception) else RuntimeError(f"exit {error.code}")
    return outcome


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_every_step_runs(tour: dict[Step, Exception | None], step: Step) -> None:
    error = tour[step]
    if error is not None:
        raise AssertionError(f"README: {step.text}") from error


def test_the_page_has_commands_and_python() -> None:
    assert len([step for step in STEPS if step.language == "sh"]) >= 10
    assert len([step for step in STEPS if step.language == "python"]) >= 2
    assert {language for language, _ in BLOCK.findall(README)} <= {"sh", "python", ""}


def test_substitutes_are_for_commands_of_the_page() -> None:
    assert set(SUBSTITUTES) <= {step.text for step in STEPS}


def test_the_time_of_the_demonstration_is_said_once() -> None:
    assert "It takes one to three minutes on two CPU cores" in README
    assert "one to three minutes on two cores" in usage()


def test_the_page_says_what_it_is_not() -> None:
    assert "not a medical device" in README
    assert not re.search(r"(?i)lorem|tbd|coming soon|\bx\.xx", README)


@pytest.mark.slow
def test_the_demonstration_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.process_time()
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    assert time.process_time() - began < MOST_SECONDS
    captured = capsys.readouterr()
    assert f"report: {tmp_path / 'demo' / 'report.html'}" in captured.out
    assert "Image AUROC" in captured.out
    assert "carzero: asked in words" in captured.out or "CARZero is not shown" in captured.err
    page = (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
    assert "Brain" in page
    assert "Chest" in page
