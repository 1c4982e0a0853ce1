"""Methods that work together: what is chained, what is refused, what is saved."""

from functools import partial

import pytest
import torch
from adapters.toys import attached, class_features, moved, pictures, scores, toy

from domainvl.adapters import (
    CLAP,
    MMRL,
    CLIPAdapter,
    Compose,
    CoOp,
    JointStack,
    LinearProbe,
    LoRA,
    MMRLpp,
    SgVA,
    SideTuning,
    SliceAttention,
    SliceTransformer,
    TipAdapter,
)
from domainvl.adapters.base import Adapter
from domainvl.hub import load_adapter, make_adapter, save_adapter

LORA = partial(LoRA, parts=["up"], dropout=0.0)


def both():
    return [LORA(), MMRL(tokens=3, width=16, first_block=2)]


def test_it_is_the_parts_one_inside_the_other():
    """LoRA lies in the layers, so MMRL on a model that carries the LoRA is the composition."""
    backbone = toy("hf_clip")
    composed = moved(attached(Compose(both()), backbone))
    ours = scores(composed, backbone)
    again = toy("hf_clip")
    lora, mmrl = both()
    for part, saved in zip((attached(lora, again), attached(mmrl, again)), composed.parts, strict=True):
        part.load_tensors(saved.tensors())
    for tower in (again.image, again.text):
        assert composed.first_block("image", tower) == 0
    theirs = scores(mmrl, again)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("across", [SliceTransformer, SliceAttention, SideTuning])
@pytest.mark.parametrize("texts_first", [True, False])
def test_one_part_makes_features_of_texts_and_another_those_of_images(across, texts_first):
    backbone = toy("slices")
    texts, images = JointStack(blocks=1), across(width=8)
    composed = moved(attached(Compose([texts, images] if texts_first else [images, texts]), backbone))
    for side, tower, part in (("text", backbone.text, texts), ("image", backbone.image, images)):
        inputs = backbone.tokenize(["no finding", "a cyst"]) if side == "text" else pictures()
        found = composed.encode(side, tower, inputs)[f"{side}.pooled"]
        assert torch.equal(found, part.encode(side, tower, inputs)[f"{side}.pooled"])
        assert not torch.equal(found, tower(inputs))
        assert composed.reads(side) == part.reads(side)
        state = tower.run(tower.embed(inputs))
        assert torch.equal(composed.locals(side, tower, state)[0], part.locals(side, tower, state)[0])


def test_no_hook_is_forgotten():
    hooks = {name for name, value in vars(Adapter).items() if callable(value) and not name.startswith("_")}
    assert hooks - {"encode", "finish", "prefix"} <= set(vars(Compose))


def test_off_switches_every_part_off():
    backbone = toy("hf_clip")
    adapter = moved(attached(Compose(both()), backbone))
    with torch.no_grad(), adapter.off():
        assert torch.equal(backbone.image(pictures()), toy("hf_clip").image(pictures()))


def test_every_part_sees_as_many_views_as_it_wants():
    class Viewer(Adapter):
        def __init__(self, views):
            super().__init__()
            self.support_views = views

        def take_support(self, features, targets):
            self.seen = features

    class Other(Viewer):
        pass

    parts = [Viewer(2), Other(3), MMRL()]
    adapter = Compose(parts)
    assert adapter.support_views == 3
    adapter.take_support(torch.zeros(3, 4, 5), torch.zeros(4, 2))
    assert [len(part.seen) for part in parts[:2]] == [2, 3]


def test_penalties_add_up():
    backbone = toy("hf_clip")
    clap = CLAP(length=1.0, views=1)
    adapter = attached(Compose([LoRA(sides=["image"]), clap]), backbone)
    assert not adapter.penalty().any()
    moved(clap)
    assert torch.equal(adapter.penalty(), clap.penalty())
    assert adapter.penalty().detach() > 0
    assert Compose(both()).penalty() is None


def test_parts_that_look_at_the_training_images_differently_are_refused():
    class Viewer(Adapter):
        support_views = 1

    with pytest.raises(ValueError, match="SgVA and Viewer want to see different features"):
        Compose([SgVA(), Viewer()])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: [LoRA()], "two adapters or more, got 1"),
        (lambda: [LoRA(), LoRA()], "LoRA is there twice"),
        (lambda: [Compose(both()), CoOp()], "all parts into one list"),
        (lambda: [MMRL(), MMRLpp()], "MMRL and MMRLpp both make features"),
        (lambda: [MMRL(), LinearProbe()], "MMRL and LinearProbe both make class scores"),
        (lambda: [TipAdapter(), CLAP()], "TipAdapter and CLAP both make class scores"),
        (lambda: [MMRL(), CLIPAdapter()], "both make features"),
        (lambda: [SliceTransformer(), SliceAttention()], "both make features"),
        (lambda: [JointStack(), MMRL()], "JointStack and MMRL both make features"),
    ],
)
def test_parts_that_do_not_go_together(parts, message):
    with pytest.raises(ValueError, match=message):
        Compose(parts())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda: [CoOp(), LinearProbe()], "CoOp changes texts .*LinearProbe reads none"),
        (lambda: [CLAP(), LoRA()], "LoRA changes texts .*CLAP reads none"),
        (lambda: [LoRA(), TipAdapter()], "LoRA changes image features, but TipAdapter"),
        (lambda: [LoRA(), SgVA()], "LoRA changes image features, but SgVA"),
        (lambda: [CLIPAdapter(), TipAdapter()], "CLIPAdapter changes image features"),
    ],
)
def test_pairs_that_make_no_sense_on_this_backbone(parts, message):
    with pytest.raises(ValueError, match=message):
        Compose(parts()).attach(toy("hf_clip"))


def test_declared_sides_are_those_that_change():
    """A part that says it leaves a side alone has to read it as the untouched model does."""
    for make in (JointStack, SliceTransformer, SliceAttention, SideTuning):
        backbone = toy("slices")
        adapter = moved(attached(make(), backbone))
        for side, tower in (("text", backbone.text), ("image", backbone.image)):
            inputs = backbone.tokenize(["no finding", "a cyst"]) if side == "text" else pictures()
            with torch.no_grad():
                same = torch.equal(adapter.encode(side, tower, inputs)[f"{side}.pooled"], tower(inputs))
            assert same == (side not in adapter.read_sides)


def test_a_cache_goes_with_what_changes_texts_alone():
    backbone = toy("hf_clip")
    adapter = attached(Compose([LoRA(sides=["text"], parts=["up"]), TipAdapter(views=1)]), backbone)
    assert scores(adapter, backbone)["image.logits"].shape == (5, 3)
    assert adapter.facts()["chosen_on"] == "recipe"


@pytest.mark.parametrize(
    "make",
    [
        lambda: Compose(both()),
        lambda: Compose([LoRA(sides=["text"], parts=["up"]), TipAdapter(views=1)]),
        lambda: Compose([LoRA(sides=["image"]), LinearProbe()]),
    ],
)
def test_round_trip_through_a_folder(make, tmp_path):
    backbone = toy("hf_clip")
    adapter = moved(attached(make(), backbone))
    about = {"classes": ["a", "b", "c"], "multilabel": False, "prompts": {}, "recipe": "a: 1"}
    save_adapter(tmp_path / "a", adapter, backbone=backbone.spec(), **about)
    assert (tmp_path / "a" / "adapter_config.json").is_file()
    fresh = toy("hf_clip")
    loaded, card = load_adapter(tmp_path / "a", fresh, class_features(fresh))
    assert card.adapter == "Compose"
    assert torch.equal(scores(loaded, fresh)["image.logits"], scores(adapter, backbone)["image.logits"])


def test_class_features_are_wanted_only_where_a_part_starts_from_them(tmp_path):
    backbone = toy("hf_clip")
    about = {"classes": ["a"], "multilabel": False, "prompts": {}, "recipe": "a: 1"}
    save_adapter(tmp_path / "a", attached(Compose(both()), backbone), backbone=backbone.spec(), **about)
    load_adapter(tmp_path / "a", toy("hf_clip"))
    backbone = toy("hf_clip")
    probe = attached(Compose([LoRA(sides=["image"]), LinearProbe()]), backbone)
    save_adapter(tmp_path / "b", probe, backbone=backbone.spec(), **about)
    with pytest.raises(ValueError, match="pass class_features"):
        load_adapter(tmp_path / "b", toy("hf_clip"))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"class_path": "os.system", "init_args": {}}, "'os.system'; known are"),
        ({"class_path": "Adapter", "init_args": {}}, "known are"),
        ({"class_path": "MMRL", "init_args": {"tokenz": 1}}, "MMRL does not take"),
        ({"class_path": 3, "init_args": {}}, "a name and arguments"),
        ({"class_path": "MMRL", "init_args": 3}, "a name and arguments"),
        ({"class_path": "Compose", "init_args": {"adapters": []}}, "two adapters or more"),
    ],
)
def test_a_downloaded_description_makes_adapters_of_this_package_alone(part, message):
    with pytest.raises(ValueError, match=message):
        make_adapter("Compose", {"adapters": [{"class_path": "LoRA", "init_args": {}}, part]})


@pytest.mark.parametrize("parts", [[3, 4], "LoRA", [{"class_path": "LoRA"}, {"class_path": "MMRL"}]])
def test_a_damaged_description_is_an_error_and_not_a_crash(parts):
    with pytest.raises(ValueError, match=r"Compose does not take.*should be an adapter"):
        make_adapter("Compose", {"adapters": parts})


def test_tensors_of_a_part_that_is_not_there_are_refused():
    adapter = attached(Compose(both()), toy("hf_clip"))
    with pytest.raises(ValueError, match=r"unknown 7\.space"):
        adapter.load_tensors(adapter.tensors() | {"7.space": torch.zeros(1)})
