import sys

import pytest

from domainvl.cli import main


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Two caches, one that nobody knows, and a link out of the folder."""
    root = tmp_path / "cache"
    for name, size in (("views", 3 * 2**20), ("volumes", 2**20), ("stranger", 10)):
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep" / "file").write_bytes(bytes(size))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data").write_text("x")
    (root / "texts").symlink_to(tmp_path / "precious")
    monkeypatch.setenv("DOMAINVL_CACHE", str(root))
    return root


def test_doctor_tells_what_is_there(cache, capsys):
    status = main(["doctor"])
    said = capsys.readouterr().out
    assert status == 0, said
    for part in ("torch ", "cpu: ", "pydicom", "3.0 MiB  image features", "stranger", "DOMAINVL_CACHE", "all is well"):
        assert part in said
    assert "GiB" in said.split("free on that disk")[1]


@pytest.mark.parametrize(
    ("module", "status", "said"), [("h5py", 1, "MISSING"), ("onnxruntime", 0, "not there, not needed")]
)
def test_a_library_that_cannot_be_loaded_is_named_with_the_reason(cache, capsys, monkeypatch, module, status, said):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["doctor"]) == status
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith(module)]
    assert said in line
    assert "None in sys.modules" in line
    assert f"pip install {module}" in line


def test_a_folder_that_hides_ours_is_told(cache, capsys, tmp_path, monkeypatch):
    (tmp_path / "data_modules").mkdir()
    (tmp_path / "data_modules" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "data_modules"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["doctor"]) == 1
    assert "hides domainvl's own package" in capsys.readouterr().out


def test_clear_deletes_what_it_is_told_and_nothing_else(cache, capsys):
    assert main(["doctor", "--clear", "views", "samples"]) == 0
    assert capsys.readouterr().out == "cleared views: 3.0 MiB\nsamples: nothing there\n"
    assert sorted(place.name for place in cache.iterdir()) == ["stranger", "texts", "volumes"]
    assert main(["doctor", "--clear", "texts"]) == 0, "a link is no cache"
    assert main(["doctor", "--clear", "all"]) == 0
    assert [place.name for place in cache.iterdir()] == ["texts"]
    assert (cache.parent / "precious" / "data").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--clear", "view"], "no such cache"),
        (["--clear", "../precious"], "no such cache"),
        (["--clear", "volumes", "nope"], "no such cache"),
        (["--clear"], "needs a value"),
        (["now"], "doctor takes no now"),
    ],
)
def test_doctor_refuses_before_it_deletes(cache, capsys, words, said):
    assert main(["doctor", *words]) == 2
    assert said in capsys.readouterr().err
    assert (cache / "volumes").exists()
    assert (cache.parent / "precious" / "data").exists()
