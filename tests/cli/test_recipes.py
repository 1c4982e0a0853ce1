import math

import pytest

from domainvl import recipes
from domainvl.cli import main
from domainvl.errors import CommandError


@pytest.mark.parametrize(
    ("base", "overlay", "merged"),
    [
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"x": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": 1}, {}, {"a": 1}),
        (
            {"a": {"class_path": "L", "init_args": {"r": 1}}},
            {"a": {"init_args": {"s": 2}}},
            {"a": {"class_path": "L", "init_args": {"r": 1, "s": 2}}},
        ),
        # The settings of one class are not those of another, also where the names are equal.
        (
            {"a": {"class_path": "L", "init_args": {"r": 1}}},
            {"a": {"class_path": "M", "init_args": {"s": 2}}},
            {"a": {"class_path": "M", "init_args": {"s": 2}}},
        ),
        # A bare name and a full path are the same class.
        (
            {"a": {"class_path": "p.q.L", "init_args": {"r": 1}}},
            {"a": {"class_path": "L", "init_args": {"s": 2}}},
            {"a": {"class_path": "L", "init_args": {"r": 1, "s": 2}}},
        ),
        ({"a": "L"}, {"a": {"init_args": {"r": 1}}}, {"a": {"class_path": "L", "init_args": {"r": 1}}}),
    ],
)
def test_merge(base, overlay, merged):
    assert recipes.merge(base, overlay) == merged


@pytest.mark.parametrize(
    ("key", "value", "settings"),
    [
        ("model.part", "M", {"class_path": "M"}),
        ("model.part.class_path", "M", {"class_path": "M"}),
        ("model.part", "x.L", {"class_path": "L", "init_args": {"r": 1}}),
        ("model.part", "null", {"class_path": "L", "init_args": {"r": 1}}),
        ("model.part.r", "7", {"class_path": "L", "init_args": {"r": 1}}),
    ],
)
def test_a_class_from_the_command_line_drops_the_old_settings(key, value, settings):
    recipe = {"model": {"class_path": "T", "init_args": {"part": {"class_path": "L", "init_args": {"r": 1}}}}}
    assert recipes.switch_classes(recipe, {key: value})["model"]["init_args"]["part"] == settings
    assert recipe["model"]["init_args"]["part"]["class_path"] == "L"


@pytest.mark.parametrize("key", ["model.parts.one", "model.init_args.parts.one"])
@pytest.mark.parametrize("value", ["null", "~"])
def test_an_entry_of_a_map_is_switched_off(key, value):
    parts = {"one": {"class_path": "L"}, "two": {"class_path": "L", "init_args": {"r": 1}}}
    recipe = {"model": {"class_path": "T", "init_args": {"parts": parts}}}
    found = recipes.switch_classes(recipe, {key: value})
    assert found["model"]["init_args"]["parts"] == {**parts, "one": None}
    assert recipes.off(found, key, value)
    assert not recipes.off(found, "model.parts.two.r", value)
    assert not recipes.off(found, "model.parts.three", value)


def test_base_is_relative_and_is_merged_below(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "root.yaml").write_text("a: 1\nb: {x: 1, y: 1}\n")
    (tmp_path / "other.yaml").write_text("d: 4\nb: {z: 9}\n")
    (tmp_path / "deep" / "mid.yaml").write_text("base: [../root.yaml, ../other.yaml]\nb: {x: 2}\n")
    (tmp_path / "deep" / "top.yaml").write_text("base: mid.yaml\nc: 3\n")
    found = recipes.load([tmp_path / "deep" / "top.yaml"])
    assert found == {"a": 1, "b": {"x": 2, "y": 1, "z": 9}, "d": 4, "c": 3}


def test_several_recipes_are_merged_in_order(tmp_path):
    for name, text in {"a": "x: 1\ny: {p: 1}", "b": "x: 2", "c": "y: {q: 2}"}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    assert recipes.load([tmp_path / f"{name}.yaml" for name in "abc"]) == {"x": 2, "y": {"p": 1, "q": 2}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("base: r.yaml", "`base:` runs in a circle: r.yaml -> r.yaml"),
        ("base: s.yaml", "`base:` runs in a circle: r.yaml -> s.yaml -> r.yaml"),
        ("base: 3", "`base:` must be a file name or a list of them, got 3"),
        ("base: {a: b}", "`base:` must be a file name"),
        ("a: 1\na: 2", "line 2: the key 'a' is written twice"),
        ("a: [1", "line 1"),
        ("- a", "must be a map of keys"),
        ("3: a", "must be a map of keys"),
        ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_a_bad_recipe_says_where(text, says, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "s.yaml").write_text("base: r.yaml")
    with pytest.raises(CommandError) as found:
        recipes.load([tmp_path / "r.yaml"])
    assert says in found.value.what
    assert str(tmp_path) in found.value.what


def test_a_missing_recipe_names_its_neighbours(tmp_path, capsys):
    (tmp_path / "cxr.yaml").touch()
    (tmp_path / "slides.yaml").touch()
    assert main(["fit", str(tmp_path / "cxrr.yaml")]) == 2
    assert f"did you mean: {tmp_path / 'cxr.yaml'}?" in capsys.readouterr().err


VALUES = {
    "3e-4": 3e-4,
    "1e5": 1e5,
    "+.5e3": 500.0,
    "1.": 1.0,
    ".inf": math.inf,
    "0": 0,
    "-2": -2,
    "no": "no",
    "on": "on",
    "True": True,
    "~": None,
    "": None,
    "'3'": "3",
    "'null'": "null",
    "010": "010",
    "1_000": "1_000",
    "1:30": "1:30",
    "2020-01-01": "2020-01-01",
    "[1, a, null]": [1, "a", None],
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_scalars_mean_what_they_look_like_and_survive_a_round_trip(text, value, tmp_path):
    (tmp_path / "r.yaml").write_text(f"key: {text}")
    found = recipes.load([tmp_path / "r.yaml"])
    assert found == {"key": value}
    assert type(found["key"]) is type(value)
    (tmp_path / "r.yaml").write_text(recipes.dump(found))
    assert recipes.load([tmp_path / "r.yaml"]) == found
