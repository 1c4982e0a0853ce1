import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from toy_runs import PATIENT, pictures, predictions, run_folder

from domainvl.errors import CommandError
from domainvl.evaluation import FindingProtocol, evaluate_findings, evaluate_stain_shifts
from domainvl.report import Seen, write_report
from domainvl.report.html import Markup, tag
from domainvl.report.mistakes import worst
from domainvl.report.names import MINUS
from domainvl.report.record import Record
from domainvl.report.svg import Axis, Plot

KINDS = {
    "multi-label": predictions(),
    "zero-shot": predictions(adapted=None),
    "single-label": predictions(multilabel=False, classes=4),
    "many classes": predictions(multilabel=False, classes=30, rows=300),
    "two patients": predictions(rows=3, classes=2),
}


@pytest.mark.parametrize(
    ("made", "html"),
    [
        (lambda: tag("p", "a < b & c"), "<p>a &lt; b &amp; c</p>"),
        (lambda: tag("p", Markup("<b>x</b>"), None), "<p><b>x</b></p>"),
        (lambda: tag("a", "x", href='"><script>'), '<a href="&quot;&gt;&lt;script&gt;">x</a>'),
        (
            lambda: tag("img", class_="k", aria_label="n", hidden=True, alt=None),
            '<img class="k" aria-label="n" hidden>',
        ),
        (lambda: tag("p", tag("b", "<"), "<"), "<p><b>&lt;</b>&lt;</p>"),
    ],
)
def test_text_is_escaped_where_it_enters(made, html):
    assert made() == html


@pytest.mark.parametrize("old", [False, True], ids=["whole", "old"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_has_a_page(tmp_path, kind, old):
    path = write_report(run_folder(tmp_path / "cxr" / "1", KINDS[kind], old=old))
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "cxr" / "1" / "report.html"
    assert text.startswith("<!doctype html>")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in text
    assert PATIENT not in text, "ids and patients stay in predictions.csv"
    assert "/home/someone" not in text
    assert "shows no images" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text), "nothing is loaded"
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.DOTALL).lower().split()


def test_numbers_on_the_page_are_those_of_the_run(tmp_path):
    folder = run_folder(tmp_path / "run")
    text = write_report(folder).read_text(encoding="utf-8")
    metrics = json.loads((folder / "metrics.json").read_text())
    for model in ("zero_shot", "adapted"):
        found = metrics[model]["auroc_macro"]
        assert f"<b>{found['value']:.3f}</b>" in text
        assert f"{found['low']:.3f} to {found['high']:.3f}" in text
    for shown in (
        "100 trained of 2,000",
        "75 s",
        "LoRA (rank 8)",
        "domainvl fit config.yaml",
        "research only",
        "3f2a9c",
    ):
        assert shown in text


def test_methods_together_are_named(tmp_path):
    folder = run_folder(tmp_path / "run")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    parts = [{"class_path": f"domainvl.adapters.{name}"} for name in ("LinearProbe", "SliceTransformer")]
    config["model"]["init_args"]["adapter"] = {"class_path": "Compose", "init_args": {"adapters": parts}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    text = write_report(folder).read_text()
    assert text.count("LinearProbe and SliceTransformer") == 2
    assert "Compose" not in text


@pytest.mark.parametrize(
    ("nearest", "buffer", "said"),
    [
        (
            1000.4,
            960.0,
            "at least 1,000 m apart, edge to edge; split: spatial by cells of 4,000 m, buffer 960 m, 12 left out",
        ),
        (None, 960.0, "more than 100 km apart, edge"),
        (0.0, None, "at least 0 m apart, edge to edge; split: spatial, no buffer"),
    ],
)
def test_places_of_tiles_stand_in_the_data_card(tmp_path, nearest, buffer, said):
    folder = run_folder(tmp_path / "run")
    assert "Training and test places" not in write_report(folder).read_text()
    metrics = json.loads((folder / "metrics.json").read_text())
    facts = {"method": "spatial", "cell_m": 4000.0, "buffer_m": buffer, "nearest_train_test_m": nearest}
    metrics["split_facts"] = {**facts, "looked_within_m": 100_000.0, "left_out": 12}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert said in write_report(folder).read_text()


def test_other_stains_have_a_table(tmp_path):
    folder = run_folder(tmp_path / "run")
    table = evaluate_stain_shifts(predictions(), {"faded": predictions(adapted=0.5)}, seed=1, resamples=50)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"stain_shifts": table.as_dict()}))
    text = write_report(folder).read_text(encoding="utf-8")
    change = table.adapted["faded"].difference["auroc_macro"].value
    assert "Other stains" in text
    assert f"{change:+.3f}".replace("-", MINUS) in text
    assert "Other stains" not in write_report(run_folder(tmp_path / "plain")).read_text(encoding="utf-8")


def test_reasons_fall_together_without_what_they_quote(tmp_path):
    record = Record.read(run_folder(tmp_path / "run"))
    assert record.rejects == {"the file does not exist": 1, "label … is none <b>": 2}


def test_mistakes_are_the_surest_wrong_decisions(tmp_path):
    for name, found in (("multi", predictions(adapted=0.5)), ("single", predictions(multilabel=False, adapted=0.5))):
        record = Record.read(run_folder(tmp_path / name, found))
        shown = worst(record)
        rows = [one.row - 2 for one in shown]
        assert [found.ids[row] for row in rows] == [one.image for one in shown]
        if found.multilabel:
            gap = abs(found.labels - found.adapted) * found.known
            assert [one.confidence for one in shown] == pytest.approx(sorted(gap.ravel(), reverse=True)[: len(shown)])
        else:
            wrong = found.adapted.argmax(1) != found.labels
            assert [one.confidence for one in shown] == pytest.approx(
                sorted(found.adapted.max(1)[wrong], reverse=True)[: len(shown)]
            )
            assert all(one.truth != one.said for one in shown)


@pytest.mark.parametrize(
    ("low", "high", "whole", "ticks"),
    [
        (0, 1, False, (0, 0.5, 1)),
        (0.72, 0.91, False, (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)),
        (0, 3, True, (0, 1, 2, 3)),
        (0.5, 0.5, False, (0, 0.5, 1)),
        (0, 80, True, (0, 20, 40, 60, 80)),
    ],
)
def test_axes_end_at_round_numbers(low, high, whole, ticks):
    axis = Axis.around("x", low, high, whole=whole)
    assert axis.ticks == pytest.approx(ticks)


def test_a_plot_puts_values_where_its_axes_say():
    plot = Plot("p", Axis("x", (0, 10)), Axis("y", (0, 1)), 100, 100)
    plot.line([0, 10], [0, 1], "s1")
    assert 'd="M44 62L88 10"' in plot.svg()


@pytest.mark.parametrize(
    ("missing", "said"), [("metrics.json", "no metrics.json"), ("predictions.csv", "no predictions")]
)
def test_what_is_no_finished_run_is_refused(tmp_path, missing, said):
    folder = run_folder(tmp_path / "run")
    (folder / missing).unlink()
    (folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(CommandError, match=said) as refused:
        write_report(folder)
    assert "--resume" in refused.value.todo


def test_no_model_library_is_loaded_for_a_page(tmp_path):
    folder = run_folder(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from domainvl.report import Seen, write_report;"
        f"write_report(Path({str(folder)!r}));"
        "print([name for name in ('torch', 'transformers', 'lightning', 'matplotlib') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pictures_come_with_their_maps_and_without_words_of_reports(tmp_path):
    folder = run_folder(tmp_path / "run")
    seen = pictures(folder)
    text = write_report(folder, seen).read_text(encoding="utf-8")
    assert text.count("data:image/png") > 0
    assert text.count("data:image/jpeg") > text.count("data:image/png")
    assert '<rect x="0.250" y="0.250" width="0.250" height="0.500">' in text
    assert "nobody may read" not in text
    assert PATIENT not in text
    assert "shows images of patients" in text
    bare = {name: Seen(one.pixels) for name, one in seen.items()}
    assert "gives no maps" in write_report(folder, bare).read_text(encoding="utf-8")


def test_a_map_is_full_where_it_is_highest_and_empty_below_zero():
    one = Seen(np.zeros((8, 8), np.uint8), {("adapted", "A"): np.array([[0.5, -1.0], [0.25, 0.0]])})
    data = re.findall(r"data:image/png;base64,([^\"]+)", one.mapped("adapted", "A", 0.5))[0]
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[..., 3]
    assert alpha.tolist() == [[255, 0], [128, 0]]


def test_a_protocol_has_a_section_of_its_own(tmp_path):
    found = predictions()
    protocol = FindingProtocol("CT <toy>", tuple(found.classes))
    others = replace(found, patients=[f"other {patient}" for patient in found.patients])
    folder = run_folder(tmp_path / "run", found)
    assert 'id="findings"' not in write_report(folder).read_text(encoding="utf-8")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["findings"] = evaluate_findings(protocol, found, others, seed=1, resamples=50).as_dict()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = write_report(folder).read_text(encoding="utf-8")
    section = text.split('id="findings"')[1].split("</section>")[0]
    assert "CT &lt;toy&gt;, by volume: 120 rows of 80 patients" in section
    for model in ("zero_shot", "adapted"):
        tuned = metrics["findings"]["models"][model]["metrics"]["f1_macro_tuned"]["value"]
        assert f"{tuned:.3f}" in section
    assert section.count("<tr>") == 2 + len(metrics["findings"]["models"]["adapted"]["metrics"]) + len(found.classes)
