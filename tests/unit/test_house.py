"""House rules that no tool checks: versions agree, ceilings hold, texts and pins are what they claim to be."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import wordsight

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
TEXTS = [
    *SOURCES,
    *sorted((ROOT / "src").rglob("*.j2")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "scripts").rglob("*.py")),
    *sorted(path for path in (ROOT / "benchmarks").iterdir() if path.is_file()),
    *(
        ROOT / name
        for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml", ".ci/run")
    ),
    *(ROOT / name for name in ("constraints.txt", ".pre-commit-config.yaml")),
]
MAX_LINES, MAX_FUNCTION = 400, 50
REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")
PIN = re.compile(r"[a-z0-9.-]+==[0-9][A-Za-z0-9.!+]*")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def project() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def named_requirements() -> set[str]:
    """Names of all packages that pyproject.toml asks for, normalised."""
    values = project()
    dependencies, extras = values["dependencies"], values["optional-dependencies"]
    assert isinstance(dependencies, list)
    assert isinstance(extras, dict)
    lines = [*dependencies, *(line for extra in extras.values() for line in extra)]
    names = {match[0] for line in lines if (match := REQUIREMENT.match(line))}
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


def pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_version_is_the_same_everywhere() -> None:
    headings = re.findall(r"^## +\[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings, "CHANGELOG.md names no version"
    assert project()["version"] == wordsight.__version__ == headings[0]


def test_constraints_pin_every_requirement_once() -> None:
    assert [line for line in pins() if not PIN.fullmatch(line)] == []
    names = [line.split("==")[0] for line in pins()]
    assert len(names) == len(set(names))
    assert named_requirements() <= set(names)


def test_every_imported_package_is_required() -> None:
    homes = {"PIL": "pillow", "sklearn": "scikit-learn", "open_clip": "open-clip-torch"}
    standard = {"wordsight", *sys.stdlib_module_names}
    imported = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    needed = {homes.get(name, name.replace("_", "-")) for name in imported - standard}
    assert needed <= named_requirements()


@pytest.mark.parametrize("target", ["demo", "test", "test-slow", "check", "bench", "install", "format", "clean"])
def test_makefile_has_the_target(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_continuous_integration_runs_what_people_run() -> None:
    script = ROOT / ".ci" / "run"
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#!")
    assert os.access(script, os.X_OK)
    assert "make check" in lines
    assert any("in test test-slow;" in line for line in lines)
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_no_source_file_is_long() -> None:
    counts = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: count for name, count in counts.items() if count > MAX_LINES} == {}


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without the docstring."""
    docstring = 0
    first = node.body[0]
    if ast.get_docstring(node, clean=False) is not None:
        docstring = (first.end_lineno or first.lineno) - first.lineno + 1
    return (node.end_lineno or node.lineno) - node.lineno + 1 - docstring


def test_no_function_is_long() -> None:
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > MAX_FUNCTION:
                found[f"{relative(path)}:{node.lineno} {node.name}"] = body_lines(node)
    assert found == {}


def test_every_module_says_what_it_is_for() -> None:
    bare = [
        relative(path)
        for path in SOURCES
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert bare == []


@pytest.mark.parametrize("path", TEXTS, ids=relative)
def test_texts_name_no_machine(path: Path) -> None:
    """No home folders, no package indexes: whatever is written holds on any machine."""
    text = path.read_text(encoding="utf-8")
    folders = re.findall(r"(?<![\w.~])/(?:home|root|Users|tmp|mnt|opt|scratch)/[\w.-]+", text)
    indexes = re.findall(r"--(?:extra-)?index-url|--find-links|files\.pythonhosted|/simple/", text)
    assert folders + indexes == []


@pytest.mark.parametrize("path", [p for p in TEXTS if "scripts" not in p.parts], ids=relative)
def test_texts_do_not_lean_on_the_reference_folder(path: Path) -> None:
    """The optional folder beside a checkout is for tests; CONTRIBUTING.md alone explains it."""
    if path.name != "CONTRIBUTING.md":
        assert re.findall(r"\.\./shared|goldens/", path.read_text(encoding="utf-8")) == []


def test_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [f"{relative(p)}: {m[0]}" for p in TEXTS for m in words.finditer(p.read_text(encoding="utf-8"))]
    assert found == []


def test_the_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project()["license"] == "Apache-2.0"
    assert "Apache License" in text.splitlines()[1]
    assert "END OF TERMS AND CONDITIONS" in text


def test_relative_links_of_the_documents_lead_somewhere() -> None:
    broken = []
    for path in TEXTS:
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{relative(path)}: {target}")
    assert broken == []
