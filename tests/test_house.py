"""The house keeps its own rules."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("domainvl/**/*.py"), *ROOT.glob("data_modules/**/*.py")])

# What a room may import of the others; rooms that are not listed may import everything below the command line.
FLOORS = {
    "tokens": set(),
    "features": set(),
    "organs": set(),
    "distributed": set(),
    "cache": set(),
    "errors": set(),
    "progress": set(),
    "recipes": {"errors"},
    "report": {"errors", "recipes", "runs", "evaluation"},
    "runs": {"errors"},
    "speed": set(),
    "data": {"features", "distributed", "progress"},
    "evaluation": set(),
    "samples": {"cache", "progress"},
    "hub": {"adapters", "backbones", "data"},
    "towers": {"tokens", "features"},
    "backbones": {"tokens", "features", "towers", "data"},
    "adapters": {"tokens", "features", "speed", "towers", "backbones"},
    "objectives": {"features"},
    "tasks": {
        "tokens",
        "features",
        "towers",
        "backbones",
        "adapters",
        "objectives",
        "data",
        "evaluation",
        "cache",
        "distributed",
        "organs",
        "progress",
        "speed",
    },
}

# Rooms at the top, and who may open them.
GUESTS = {"commands": {"cli", "fitting"}, "benchmark": {"commands"}, "console": {"benchmark", "cli", "commands"}}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def room(path):
    inside = path.relative_to(ROOT / "domainvl")
    return inside.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", [p for p in SOURCES if "domainvl" in p.parts], ids=str)
def test_arrows_run_downwards(path):
    allowed = FLOORS.get(room(path))
    for module in imports(path):
        parts = module.split(".")
        assert parts[0] != "data_modules", f"{path}: domainvl must not import {module}"
        if allowed is not None and parts[0] == "domainvl" and len(parts) > 1 and parts[1] != room(path):
            assert parts[1] in allowed, f"{path} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_file_is_a_warehouse(path):
    most = 200 if path.parent == ROOT / "domainvl" / "adapters" else 400
    assert len(path.read_text().splitlines()) <= most


def test_what_is_imported_exists():
    """The type checker does not say so: it reads a module that it cannot find as Any."""
    lost = []
    for path in [*SOURCES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("examples/**/*.py")]:
        for name in imports(path):
            file = ROOT / name.replace(".", "/")
            if name.startswith(("domainvl", "data_modules")) and not (
                file.is_dir() or file.with_suffix(".py").exists()
            ):
                lost.append(f"{path.relative_to(ROOT)}: {name}")
    assert lost == []


def test_no_merge_was_left_half_done():
    texts = [
        path for kind in ("md", "yaml", "toml", "py") for path in ROOT.rglob(f"*.{kind}") if ".git" not in path.parts
    ]
    marks = re.compile(r"^(<{7} |={7}$|>{7} )", re.MULTILINE)
    assert [str(path) for path in texts if marks.search(path.read_text(encoding="utf-8"))] == []


def test_pages_point_to_what_is_there():
    rooms = "data_modules|docs|domainvl|examples|recipes|tests"
    lost = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        text = page.read_text(encoding="utf-8")
        links = [page.parent / link for link in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text)]
        named = [ROOT / path for path in re.findall(rf"`((?:{rooms})/[\w./-]+)`", text)]
        lost += [f"{page.name}: {path.relative_to(ROOT)}" for path in [*links, *named] if not path.exists()]
    assert lost == []


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]],
    ids=" ".join,
)
def test_the_tools_are_content(command):
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_and_ci_run_the_same_command():
    line = "pip install -e '.[dev]' && pytest"
    assert line in (ROOT / "README.md").read_text()
    assert line.replace("install", "install --quiet") in (ROOT / ".ci" / "run").read_text()
