import subprocess
import sys
import time

import pytest

from domainvl import __version__
from domainvl.cli import VERBS, main

_HEAVY = ("torch", "lightning", "numpy", "transformers", "jsonargparse", "rich")


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], [], *([verb, "--help"] for verb in VERBS), ["fti"], ["fit"], ["fit", "no.yaml"]],
    ids=" ".join,
)
def test_what_needs_no_torch_does_not_import_it(words, environment):
    code = f"import sys; from domainvl.cli import main; main({words!r}); print(sorted({_HEAVY} & sys.modules.keys()))"
    if words == ["sample", "--help"]:
        code = code.replace("'numpy', ", "")  # the list of domains is where the generators are
    code = code.replace(f"{_HEAVY}", f"set({_HEAVY})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_help_is_quick(environment):
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "domainvl", "--help"], check=True, capture_output=True, env=environment)
        seconds.append(time.monotonic() - began)
    assert sorted(seconds)[0] < 0.3  # the quickest: other tests run beside this one


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"domainvl {__version__}\n"


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"  {verb} " in page for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "says", "means"),
    [
        (["fitt"], "unknown verb 'fitt'", "fit?"),
        (["pedict"], "unknown verb 'pedict'", "predict?"),
        (["--versoin"], "unknown option '--versoin'", "--version?"),
        (["fit", "r.yaml", "--resum", "x"], "unknown option --resum", "--resume?"),
        (["fit", "r.yaml", "--run-dir"], "--run-dir needs a value", None),
        (["fit", "r.yaml", "--run-dir", "a", "--run-dir", "b"], "--run-dir is given twice", None),
        (["fit", "r.yaml", "-x"], "'-x' is no option", None),
        (["fit"], "fit needs a recipe", None),
        (["sample", "cxrr", "x"], "unknown domain 'cxrr'", "cxr?"),
        (["sample", "cxr"], "sample takes DOMAIN and DIR, got cxr", None),
        (["sample", "cxr", "d", "--seed", "one"], "--seed must be a whole number, got 'one'", None),
        (["predict", "r.yaml", "--images", "tost"], "--images: tost does not exist", "test?"),
    ],
)
def test_a_wrong_command_line_gets_three_lines(words, says, means, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test").mkdir()
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: {says}")
    assert len(lines) <= 3
    assert means is None or f"did you mean: {means}" in lines


def test_samples_are_written(tmp_path, capsys):
    assert main(["sample", "cxr", str(tmp_path / "x"), "--patients", "2", "--seed", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {tmp_path / 'x'}"
    assert any((tmp_path / "x").iterdir())


def test_a_folder_that_hides_data_modules_is_named(tmp_path, environment):
    (tmp_path / "data_modules").mkdir()
    (tmp_path / "data_modules" / "__init__.py").touch()
    (tmp_path / "r.yaml").touch()
    command = [sys.executable, "-m", "domainvl", "fit", "r.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {(tmp_path / 'data_modules').resolve()} hides domainvl's own package")
    assert "rename data_modules" in done.stderr


@pytest.mark.parametrize("words", [["predict", "--help"], ["compare", "--help"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(words, environment):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "domainvl", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()
