"""Imports point down: a room may import only what its row allows. Reads the sources, runs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "src" / "wordsight"
BASE = {"types", "errors", "files", "helpers", "progress", ""}  # "" is the package itself: its version
ROOMS = BASE | {"imaging", "text", "metrics", "data", "models", "train", "collect", "evaluate", "report"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "helpers": {"errors"},
    "progress": set(),
    "types": {"errors"},
    "": {"errors", "types", "imaging", "metrics", "data", "evaluate", "report", "models", "loading"},  # for types only
    "imaging": BASE,
    "text": BASE,
    "metrics": BASE,
    "data": BASE | {"imaging", "text", "metrics"},
    "models": BASE | {"imaging", "text"},
    "train": BASE | {"imaging", "text", "metrics", "data", "models"},
    "collect": BASE | {"imaging", "data"},
    "evaluate": BASE | {"imaging", "metrics", "data", "collect"},
    "report": BASE | {"imaging", "metrics", "evaluate"},
    "loading": BASE | {"models"},
    "study": ROOMS | {"loading"},
    "cli": ROOMS | {"loading", "study"},
}
# The method knows how to train itself: one late import inside MlaLp.fit; its types come with TYPE_CHECKING.
EXCEPTIONS = {("models/mla/detector.py", "train"), ("models/mla/detector.py", "data")}
TORCH = {"torch", "open_clip", "timm", "transformers", "lightning_fabric"}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def imports_of(path: Path) -> set[str]:
    """Absolute names imported anywhere in a file, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: use absolute imports"
            names.add(node.module or "")
            if node.module == "wordsight":
                names |= {f"wordsight.{alias.name}" for alias in node.names}
    return names


SOURCES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_from_rooms_above_it(path: Path) -> None:
    room = room_of(path)
    assert room in ALLOWED, f"{room} is a new room: give it a row"
    for name in imports_of(path):
        if not name.startswith("wordsight"):
            continue
        parts = name.split(".")
        other = parts[1] if len(parts) > 1 else ""
        if other not in ALLOWED or other == room:
            continue  # a name of the package itself, or the same room
        if (str(path.relative_to(ROOT)), other) not in EXCEPTIONS:
            assert other in ALLOWED[room], f"{path.relative_to(ROOT)} may not import {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_torch_stays_in_models_and_train(path: Path) -> None:
    used = {name.split(".")[0] for name in imports_of(path)} & TORCH
    if used:
        assert room_of(path) in {"models", "train"}, f"{path.relative_to(ROOT)} imports {used}"


def test_the_two_methods_never_import_each_other() -> None:
    for path in (ROOT / "models").rglob("*.py"):
        method = path.relative_to(ROOT / "models").parts[0]
        for name in imports_of(path):
            if name.startswith("wordsight.models."):
                other = name.split(".")[2]
                assert {method, other} != {"mla", "carzero"}, f"{path} imports {name}"


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_importing_the_package_is_light() -> None:
    heavy = ["torch", "open_clip", "timm", "transformers", "pydicom", "nibabel", "scipy", "sklearn", "pandas", "rich"]
    code = f"import sys, wordsight, wordsight.loading; print([m for m in {heavy!r} if m in sys.modules])"
    assert run_python(code) == "[]"


def test_importing_rooms_without_networks_loads_no_torch() -> None:
    code = (
        "import sys, wordsight.imaging, wordsight.metrics, wordsight.data, wordsight.evaluate, wordsight.report\n"
        "print('torch' in sys.modules)"
    )
    assert run_python(code) == "False"


def test_every_public_name_resolves() -> None:
    code = (
        "import wordsight\nfor n in wordsight.__all__: getattr(wordsight, n)\nprint('ok', len(wordsight.__all__) <= 21)"
    )
    assert run_python(code) == "ok True"


def test_importing_does_not_touch_random_state() -> None:
    code = (
        "import random, numpy as np\nrandom.seed(1); np.random.seed(1)\n"
        "a, b = random.getstate(), np.random.get_state()[1].tolist()\n"
        "import wordsight.train.mla\n"
        "print(a == random.getstate() and b == np.random.get_state()[1].tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert out == "True"
