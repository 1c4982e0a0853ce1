"""Settings that come in groups (`data.loading`): one of them is changed, the others keep their values."""

from dataclasses import asdict
from pathlib import Path

import pytest

from domainvl import recipes
from domainvl.console import parser as parsing
from domainvl.data import Loading, SplitRule, TextViews
from domainvl.errors import CommandError

RECIPES = Path(__file__).parents[2] / "recipes"
BASE = """
model: {class_path: Classification, init_args: {backbone: {class_path: HuggingFace, init_args: {name: "builtin:tiny"}}}}
data: {class_path: ChestXrays, init_args: {shots: 2, loading: {batch_size: 5, memory: 1.5}}}
"""


@pytest.fixture(scope="module", autouse=True)
def _classes():
    parsing.offer_classes()


def parse(folder, text, overrides):
    (folder / "base.yaml").write_text(BASE)
    (folder / "mine.yaml").write_text(f"base: base.yaml\n{text}")
    return parsing.parse("fit", recipes.load([folder / "mine.yaml"]), overrides)


@pytest.mark.parametrize(
    ("text", "overrides", "loading", "split"),
    [
        ("", {}, {}, {}),
        ("data: {init_args: {loading: {workers: 0}}}", {}, {"workers": 0}, {}),
        ("data: {init_args: {loading: {batch_size: 7}}}", {}, {"batch_size": 7}, {}),
        ("data: {init_args: {split: {seed: 3}}}", {}, {}, {"seed": 3}),
        ("", {"data.loading.batch_size": "64"}, {"batch_size": 64}, {}),
        ("", {"data.loading": "{reject_share: 0.5}"}, {"reject_share": 0.5}, {}),
        ("", {"data.init_args.loading.drop_last": "false", "data.shots": "4"}, {"drop_last": False}, {}),
        (
            "data: {init_args: {loading: {workers: 0}, split: {seed: 3}}}",
            {"data.split.fractions": "[0.5, 0.2, 0.3]", "data.loading.workers": "1"},
            {"workers": 1},
            {"seed": 3, "fractions": (0.5, 0.2, 0.3)},
        ),
    ],
)
def test_what_is_not_changed_keeps_its_value(tmp_path, text, overrides, loading, split):
    parser, parsed = parse(tmp_path, text, overrides)
    data = parser.instantiate(parsed).data
    assert asdict(data.loading) == {**asdict(Loading(batch_size=5, memory=1.5)), **loading}
    assert asdict(data.split) == {**asdict(SplitRule()), **split}
    assert data.shots == int(overrides.get("data.shots", 2))


TEXTS = "data: {init_args: {texts: {views: {findings: 1, impression: 3}, extra: [caption]}}}"


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("", {}, None),
        ("data: {init_args: {texts: {}}}", {}, {}),
        (TEXTS, {}, {"views": {"findings": 1, "impression": 3}, "extra": ["caption"]}),
        (
            TEXTS,
            {"data.texts.sentences": "true"},
            {"views": {"findings": 1, "impression": 3}, "extra": ["caption"], "sentences": True},
        ),
        (TEXTS, {"data.texts.extra": "[]"}, {"views": {"findings": 1, "impression": 3}}),
        (TEXTS, {"data.texts": "null"}, None),
        ("", {"data.texts.sentences": "true"}, {"sentences": True}),
        ("", {"data.texts.views": "{caption: 1}"}, {"views": {"caption": 1}}),
    ],
)
def test_texts_are_a_group_that_may_be_null(tmp_path, text, overrides, expected):
    parser, parsed = parse(tmp_path, text, overrides)
    texts = parser.instantiate(parsed).data.texts
    assert texts == (None if expected is None else TextViews(**expected))


@pytest.mark.parametrize(
    ("text", "overrides", "says", "meant"),
    [
        ("", {"data.batch_size": "4"}, "ChestXrays has no setting 'batch_size'", "data.loading.batch_size"),
        (
            "",
            {"data.loading.batchsize": "4"},
            "data.loading: Loading has no setting",
            "data.loading.batch_size or data.loading.eval_batch_size",
        ),
        (
            "data: {init_args: {loading: {batchsize: 1}}}",
            {},
            "data.loading: Loading has",
            "data.loading.batch_size or data.loading.eval_batch_size",
        ),
        ("data: {init_args: {split: null}}", {}, "data.split is null", None),
        ("", {"data.loading": "null"}, "data.loading is null", None),
        ("", {"data.loading.batch_size": "x"}, "data.loading.batch_size: got 'x', expected int", None),
    ],
)
def test_mistakes_in_a_group_are_named_with_their_key(tmp_path, text, overrides, says, meant):
    with pytest.raises(CommandError) as found:
        parse(tmp_path, text, overrides)
    lines = found.value.text().splitlines()
    assert says in lines[0]
    assert [line for line in lines if "did you mean" in line] == ([f"did you mean: {meant}?"] if meant else [])
    assert not meant or lines[-1].endswith("--help ChestXrays")


@pytest.mark.parametrize("value", ["null", "~"])
def test_an_objective_is_switched_off_from_the_command_line(value):
    recipe = recipes.load([RECIPES / "cxr.yaml"])
    overrides = {"model.objectives.stay_image": value, "model.objectives.stay_text.weight": "3"}
    parser, parsed = parsing.parse("fit", recipes.switch_classes(recipe, overrides), overrides)
    objectives = parser.instantiate(parsed).model.objectives
    assert list(objectives) == ["class_head", "representation_head", "stay_text"]
    assert objectives["stay_text"].weight == 3
