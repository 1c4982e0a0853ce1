import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from domainvl.evaluation import Predictions, evaluate, write_metrics
from domainvl.evaluation.alignment_files import write_alignment
from domainvl.evaluation.alignment_result import (
    AlignmentPredictions,
    Embeddings,
    evaluate_alignment,
    headline_alignment,
    retrieve,
)
from domainvl.evaluation.bootstrap import patient_weights
from domainvl.evaluation.grounding import Phrases, PhraseScore
from domainvl.evaluation.leakage import SplitContent, check_leakage
from domainvl.evaluation.retrieval import PAIR, STUDY, Pairs, RetrievalProtocol, same_labels
from domainvl.evaluation.table import print_alignment

ROWS, PATIENTS = 60, 24
CLASSES = ["Edema", "Fracture"]


def planted(**changes):
    """Images and reports around a shared direction; the adapted model sees it with less noise."""
    rng = np.random.default_rng(0)
    owner = rng.integers(PATIENTS, size=ROWS)
    ids = [f"i{n}" for n in range(ROWS)]
    meaning = rng.normal(size=(ROWS, 12))
    labels = (rng.random((ROWS, 2)) < 0.4).astype(float)
    valid = rng.random((ROWS, 2)) < 0.9

    def seen(noise):
        return Embeddings(*(meaning + noise * rng.normal(size=(ROWS, 12)) for _ in range(2)))

    def said(gain):
        return 1 / (1 + np.exp(-(gain * (labels - 0.5) + rng.normal(size=(ROWS, 2)))))

    def pointed(gain):
        scores = [PhraseScore(abs(v), v, m, float(h), 1, 0) for v, m, h in rng.normal(gain, 0.2, size=(40, 3))]
        scores[3] = PhraseScore(*[float("nan")] * 4, 2, 2)
        return Phrases([f"p{n}" for n in owner[:40]], scores)

    patients = [f"p{n}" for n in owner]
    fields = {
        "pairs": Pairs(ids, ids, patients, texts=[f"report {n}" for n in range(ROWS)]),
        "zero_shot": seen(1.5),
        "adapted": seen(0.4),
        "classes": Predictions(ids, patients, CLASSES, True, labels, valid, said(0.5), said(4)),
        "zero_shot_phrases": pointed(0.2),
        "adapted_phrases": pointed(1.0),
    }
    return AlignmentPredictions(**(fields | changes))


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module")
def result(data):
    return evaluate_alignment(data, seed=3, resamples=80)


WITHOUT = {"adapted": None, "adapted_phrases": None}


def test_all_metrics_stand_side_by_side(data, result):
    retrieval = ["mean_recall"] + [
        name
        for way in ("i2t", "t2i")
        for name in (*(f"{way}_{kind}{k}" for kind in "rp" for k in (1, 5, 10)), f"{way}_median_rank")
    ]
    classes = evaluate(data.classes, seed=3, resamples=80)
    expected = [*retrieval, "cnr", "cnr_signed", "miou", "pointing", *classes.zero_shot]
    for part in (result.zero_shot, result.adapted, result.difference):
        assert list(part) == expected
        for name, value in part.items():
            # The bootstrap of a calibration error is biased, as `evaluate` notes.
            assert name == "calibration_error" or value.low <= value.value <= value.high
    assert {name: result.adapted[name] for name in classes.adapted} == classes.adapted
    assert result.per_class == classes.per_class
    for name in ("mean_recall", "i2t_r5", "cnr", "miou", "auroc_macro"):
        assert result.difference[name].low > 0
    assert result.difference["t2i_median_rank"].high < 0


def test_intervals_equal_a_loop_over_repeated_queries(data, result):
    """Nothing shared with the code but the draws and the ranks of the full pool."""
    pairs = data.pairs
    before, after = retrieve(data, STUDY)
    weights = np.concatenate(list(patient_weights(pairs.query_patients, 80, seed=3))).astype(int)
    found = {"i2t_r5": [], "i2t_median_rank": [], "mean_recall": []}
    for draw in weights:
        per_model = []
        for model in (before, after):
            first = np.repeat(model.image_to_text.rank(), draw[:ROWS])
            second = np.repeat(model.text_to_image.rank(), draw[ROWS:])
            recalls = [(ranks <= k).mean() for ranks in (first, second) for k in (1, 5, 10)]
            per_model.append(((first <= 5).mean(), np.median(first), np.mean(recalls)))
        for name, one, other in zip(found, *per_model, strict=True):
            found[name].append((one, other, other - one))
    for name, samples in found.items():
        low, high = np.percentile(samples, [2.5, 97.5], axis=0)
        for column, part in enumerate((result.zero_shot, result.adapted, result.difference)):
            assert part[name].low == pytest.approx(low[column])
            assert part[name].high == pytest.approx(high[column])
    # Images and texts of a patient are drawn together.
    assert (weights[:, :ROWS] == weights[:, ROWS:]).all()


def test_grounding_intervals_by_patient(data, result):
    patients = list(data.adapted_phrases.patients)
    table = np.array([score.cnr for score in data.adapted_phrases.scores])
    samples = []
    for draw in np.concatenate(list(patient_weights(patients, 80, seed=3))).astype(int):
        samples.append(np.nanmean(np.repeat(table, draw)))
    assert result.adapted["cnr"].value == pytest.approx(np.nanmean(table))
    assert [result.adapted["cnr"].low, result.adapted["cnr"].high] == pytest.approx(
        np.percentile(samples, [2.5, 97.5]).tolist()
    )


def test_precision_goes_by_label_sets(data):
    numbers, texts = data.label_sets()
    assert (numbers == same_labels(data.classes.labels, data.classes.valid)).all()
    assert (texts == numbers).all()
    part = Predictions(
        data.classes.ids[:9], data.classes.patients[:9], CLASSES, True, data.classes.labels[:9], None,
        data.classes.zero_shot[:9], data.classes.adapted[:9],
    )  # fmt: skip
    fewer = replace(data, classes=part)
    assert fewer.label_sets() is None
    assert "i2t_p5" not in evaluate_alignment(fewer, seed=0, resamples=5).zero_shot


def test_metrics_file_has_the_shape_of_every_result(tmp_path, data):
    names = data.pairs.images
    split = SplitContent(names, data.pairs.patients, texts=data.pairs.texts)
    other = SplitContent(["x"], ["y"], texts=["report 5"])
    leakage = check_leakage({"train": other, "test": split})
    result = evaluate_alignment(data, seed=3, resamples=20, leakage=leakage)
    path = tmp_path / "metrics.json"
    write_metrics(path, result, split="test", hashes={"split": "a", "preset": "b", "backbone": "c"}, seed=3)
    found = json.loads(path.read_text())
    old = evaluate(data.classes, seed=3, resamples=20).as_dict()
    assert set(old) <= set(found)
    assert list(found["zero_shot"]["i2t_r1"]) == ["value", "low", "high"]
    assert found["n"] == {"images": 60, "texts": 60, "patients": len(set(data.pairs.patients)), "phrases": 40}
    assert found["bootstrap"] == {"unit": "patient", "resamples": 20, "seed": 3, "level": 0.95}
    assert found["retrieval"]["protocol"] == "study"
    assert (found["retrieval"]["pool_images"], found["retrieval"]["pool_texts"]) == (60, 60)
    assert found["grounding"]["boxes_outside"] == 2
    assert found["leakage"]["train/test"]["identical_texts"] == {"count": 1, "of": 60}
    assert any("1 identical and 0 similar of 60 texts" in note for note in found["notes"])


def test_zero_shot_run():
    result = evaluate_alignment(planted(**WITHOUT, classes=None), seed=0, resamples=10)
    plain = result.as_dict()
    assert plain["adapted"] is plain["difference"] is plain["leakage"] is None
    assert plain["per_class"] == {}
    bare = evaluate_alignment(planted(**WITHOUT, classes=None, zero_shot_phrases=None), seed=0, resamples=10)
    assert bare.as_dict()["grounding"] is None
    assert "phrases" not in bare.counts
    assert "cnr" not in bare.zero_shot


def test_one_patient_has_no_intervals(data):
    names = data.pairs.images
    alone = replace(data, pairs=Pairs(names, names, ["p"] * ROWS), classes=None)
    alone = replace(alone, zero_shot_phrases=None, adapted_phrases=None)
    result = evaluate_alignment(alone, seed=0)
    assert result.resamples == 0
    assert all(value.low is None for value in result.adapted.values())
    assert "All images are from one patient, so there are no intervals." in result.notes


def test_headline_is_the_point_value(data, result):
    values = headline_alignment(data)
    assert values == {name: pytest.approx(value.value) for name, value in result.adapted.items() if name[3:5] != "_p"}
    before = headline_alignment(planted(**WITHOUT, classes=None))
    assert before["mean_recall"] == pytest.approx(result.zero_shot["mean_recall"].value)


def test_notes_say_how_it_was_counted(data):
    notes = evaluate_alignment(data, seed=0, resamples=5).notes
    assert notes[0] == (
        "Retrieval 'study': any image and any report of the study counts; one pool of 60 images and 60 texts; ties: "
        "expected."
    )
    assert any("2 of 41 boxes lie outside what the model sees; 1 of 40 phrases" in note for note in notes)
    small = RetrievalProtocol("small", "pair", pool=7)
    notes = evaluate_alignment(data, seed=0, resamples=5, protocol=small).notes
    assert "8 pools, each of 7 images and 7 texts" in notes[0]
    assert "4 of 60 images do not search: no text, or left over from the pools." in notes
    assert "The pool holds 7: R@10 means nothing." in notes
    same = replace(
        data,
        adapted=None,
        adapted_phrases=None,
        classes=None,
        zero_shot=Embeddings(np.ones((ROWS, 2)), np.ones((ROWS, 2))),
    )
    assert any(
        note.startswith("120 of 120 searches end in a tie")
        for note in evaluate_alignment(same, seed=0, resamples=5).notes
    )


def test_table_fits_80_columns(data, result):
    text = io.StringIO()
    print_alignment(result, Console(file=text, width=80, no_color=True))
    shown = text.getvalue()
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "…" not in shown
    for label in (
        "mean recall",
        "img>txt R@5",
        "txt>img R@10",
        "img>txt P@1",
        "img>txt rank*",
        "CNR",
        "AUROC, mean",
        "Fracture",
        "60 images, 60 texts, ",
    ):
        assert label in shown
    assert not any(name in shown for name in ("i17", "report 3"))


def test_rows_on_disk(tmp_path, data):
    found = retrieve(data, PAIR)
    write_alignment(tmp_path / "predictions.csv", data, found)
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == data.pairs.images
    assert [float(row["adapted:i2t_rank"]) for row in rows] == found[1].image_to_text.rank().tolist()
    assert [float(row["zero_shot:t2i_rank"]) for row in rows] == found[0].text_to_image.rank().tolist()
    assert float(rows[3]["adapted:Edema"]) == data.classes.adapted[3, 0]
    # An image without classes, and one without a text.
    classes = Predictions(["i1"], ["p"], CLASSES, True, np.zeros((1, 2)), None, np.full((1, 2), 0.5))
    pairs = Pairs(["i0", "i1"], ["i0", "i0"], ["p", "q"])
    few = AlignmentPredictions(pairs, Embeddings(np.eye(2), np.array([[0.0, 1], [1, 0]])), classes=classes)
    write_alignment(tmp_path / "few.csv", few, retrieve(few, PAIR))
    first, second = list(csv.reader((tmp_path / "few.csv").open()))[1:]
    assert first == ["i0", "p", "1", "1", "", "", "", ""]
    assert second == ["i1", "q", "", "", "0", "0", "0.5", "0.5"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapted": Embeddings(np.ones((3, 2)), np.ones((60, 2)))}, "adapted has 3 images and 60 texts"),
        ({"adapted_phrases": None}, "scored by both models, or by none"),
        ({"adapted": None}, "scored by both models, or by none"),
        ({"adapted_phrases": Phrases(["p"], [PhraseScore(1, 1, 1, 1, 1, 0)])}, "same phrases in one order"),
        ({**WITHOUT}, "classes must be scored by both"),
    ],
)
def test_predictions_are_checked(data, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(data, **changes)


def test_no_name_in_a_repr(data):
    assert repr(data) == (
        "AlignmentPredictions(pairs=Pairs(), zero_shot=Embeddings(), adapted=Embeddings(), "
        "zero_shot_phrases=Phrases(), adapted_phrases=Phrases())"
    )
