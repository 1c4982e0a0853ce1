"""What other stains cost, on the same patches."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from domainvl.evaluation import Predictions, evaluate_stain_shifts


def predictions(strength, adapted=True, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(90) % 3
    odds = np.exp(rng.normal(size=(90, 3)) + strength * np.eye(3)[labels])
    scores = odds / odds.sum(axis=1, keepdims=True)
    names = [f"i{number}" for number in range(90)]
    owners = [f"p{number // 3}" for number in range(90)]
    return Predictions(names, owners, ["a", "b", "c"], False, labels, None, scores, scores if adapted else None)


def test_a_shift_that_costs_shows_and_one_that_does_not_shows_nothing():
    scanned = predictions(3.0)
    table = evaluate_stain_shifts(scanned, {"none": scanned, "faded": predictions(0.5)}, seed=0, resamples=100)
    same, faded = table.adapted["none"], table.adapted["faded"]
    assert same.difference["auroc_macro"].value == same.difference["auroc_macro"].low == 0
    assert faded.difference["auroc_macro"].high < 0
    assert faded.scanned["accuracy"].value == np.mean(scanned.adapted.argmax(axis=1) == scanned.labels)
    assert set(json.loads(json.dumps(table.as_dict()))) == {"n", "zero_shot", "adapted"}
    shown = io.StringIO()
    table.show(Console(file=shown, width=100))
    assert "faded" in shown.getvalue()


def test_zero_shot_alone_has_no_adapted_column():
    one = predictions(1.0, adapted=False)
    assert evaluate_stain_shifts(one, {"x": one}, seed=0, resamples=20).adapted is None


def test_other_patches_are_refused():
    one = predictions(1.0)
    other = replace(one, ids=[f"j{number}" for number in range(90)])
    with pytest.raises(ValueError, match="'x' are of other patches or models"):
        evaluate_stain_shifts(one, {"x": other}, seed=0)
    with pytest.raises(ValueError, match="shifted is empty"):
        evaluate_stain_shifts(one, {}, seed=0)
