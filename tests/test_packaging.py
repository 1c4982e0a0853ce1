"""What a wheel holds."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # From a copy, because a build leaves folders behind in the source tree.
    source = tmp_path_factory.mktemp("source")
    for name in ("domainvl", "data_modules", "recipes", "examples"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_wheel_holds_both_packages_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist() if ".dist-info" not in name}
    assert tops == {"domainvl", "data_modules"}
    sources = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("domainvl/**/*.py")}
    sources |= {p.relative_to(ROOT).as_posix() for p in ROOT.glob("data_modules/**/*.py")}
    assert sources <= set(wheel.namelist())


def test_wheel_holds_the_tiny_models_and_the_types_marker(wheel):
    tiny = {Path(name).name: wheel.getinfo(name).file_size for name in wheel.namelist() if "backbones/tiny/" in name}
    assert set(tiny) >= {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json", "README.md"}
    assert sum(tiny.values()) <= 6 * 2**20
    language = {Path(name).name for name in wheel.namelist() if "backbones/tiny_llm/" in name}
    assert language == {path.name for path in (ROOT / "domainvl" / "backbones" / "tiny_llm").iterdir()}
    assert "domainvl/py.typed" in wheel.namelist()
