"""Pictures only where they are asked for, from a run of the real command on a small sample."""

import pytest

from domainvl.cli import main
from domainvl.report import Record, pictured
from domainvl.samples import write

RECIPE = "recipes/cxr.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Zero-shot on a few patients."""
    folder = tmp_path_factory.mktemp("images")
    write("cxr", folder / "data", patients=60)
    made = folder / "run"
    assert main(["test", RECIPE, "--data.root", str(folder / "data"), "--run-dir", str(made)]) == 0
    return made


def test_a_page_has_no_pictures_unless_they_are_asked_for(run):
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "data:image" not in page
    assert "shows no images" in page


def test_pictures_and_maps_come_when_asked_for(run, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "report.html"}
    assert main(["report", str(run), "--images"]) == 0
    assert f"wrote {run / 'report.html'}" in capsys.readouterr().out
    page = (run / "report.html").read_text(encoding="utf-8")
    record = Record.read(run)
    assert page.count("data:image/jpeg") >= len(pictured(record)) > 0
    assert page.count("data:image/png") > 0
    assert "shows images of patients" in page
    assert 'id="maps"' in page
    for row in (*record.saved.ids, *record.saved.patients):
        assert row not in page
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "report.html"}
    assert after == before, "looking changes nothing else"
    assert main(["report", str(run)]) == 0
    assert "data:image" not in (run / "report.html").read_text(encoding="utf-8")


def test_other_data_are_refused(run, tmp_path, capsys):
    write("cxr", tmp_path / "data", seed=5, patients=60)
    config = run / "config.yaml"
    kept = config.read_text()
    config.write_text(kept.replace(str(run.parent / "data"), str(tmp_path / "data")))
    try:
        assert main(["report", str(run), "--images"]) == 1
    finally:
        config.write_text(kept)
    assert "not those of the run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["report"], "needs a run folder"),
        (["report", "nowhere"], "no metrics.json"),
        (["report", "nowhere", "--images=yes"], "takes no value"),
    ],
)
def test_wrong_words_are_explained(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err
