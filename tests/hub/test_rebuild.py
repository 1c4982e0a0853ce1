"""The model below an adapter is made again from its description; what lay in a folder is asked for, ready to paste."""

import json
import re
from pathlib import Path

import pytest
import torch
from backbones.test_volume_backbones import ctclip, hlip, merlin_file, roberta_words
from checkpoint_toys import biomedclip, hf_clip, open_clip_architecture, open_clip_safetensors, pair, pair_llm

from domainvl import backbones, hub
from domainvl.adapters import MMRL
from domainvl.backbones import HuggingFace, InflatedVolume, Merlin, Pair, SliceVolume
from domainvl.backbones.base import Backbone
from domainvl.data.volumes.preset import VolumePreset

VOLUMES = VolumePreset("v", (1.5, 1.5, 3.0), (4, 96, 96), windows=((-1000.0, 300.0),), axes="SPL")


def clip():
    return HuggingFace("builtin:tiny")


def card_of(backbone):
    return hub.AdapterCard(
        adapter="MMRL",
        init_args=MMRL(tokens=2, width=8).config(),
        backbone=backbone.spec(),
        classes=[],
        multilabel=False,
        prompts={},
        versions={},
        # As it comes out of a file.
        model=json.loads(json.dumps(hub.described(backbone))),
    )


ROWS = {
    "HuggingFace": clip,
    "SliceVolume": lambda: SliceVolume(clip(), VOLUMES, chunk=2),
    "InflatedVolume": lambda: InflatedVolume(clip(), VOLUMES, patch_depth=2, init="centre"),
    "Pair": lambda: Pair("builtin:tiny", "builtin:tiny-llm", context=64, seed=7, temperature=0.1, instruction="Say:"),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_a_shipped_or_downloaded_model_needs_is_in_the_description(name):
    backbone = ROWS[name]()
    again = hub.backbone_of(card_of(backbone))
    assert again.spec() == backbone.spec()
    assert again.preset.digest == backbone.preset.digest
    assert torch.equal(again.logit_scale, backbone.logit_scale)


def placed(make):
    def made(folder):
        return make(folder).load()

    return made


def merlin(folder):
    return Merlin(merlin_file(folder)[0], roberta_words(folder / "words"), window=4)


FOLDERS = {
    "HuggingFace": placed(hf_clip),
    "OpenClip": placed(open_clip_safetensors),
    "OpenClip and weights": placed(open_clip_architecture),
    "OpenClip and BERT": placed(biomedclip),
    "Pair": placed(pair),
    "Pair and LLM": placed(lambda folder: pair_llm(folder, instruction="Read: ", causal=True)),
    "SliceVolume": lambda folder: SliceVolume(hf_clip(folder).load(), VolumePreset("v", (1, 1, 1), (4, 32, 32))),
    "CTCLIP": ctclip,
    "HLIP": hlip,
    "Merlin": merlin,
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_asked_for_and_never_named(name, tmp_path):
    home = tmp_path / "models"
    home.mkdir()
    backbone = FOLDERS[name](home)
    card = card_of(backbone)
    assert str(tmp_path) not in json.dumps(card.model)
    with pytest.raises(ValueError, match="its name alone does not bring back; make the model and pass it") as asked:
        hub.backbone_of(card)
    call = str(asked.value).partition("backbone=")[2].removesuffix(")")
    names = {name: getattr(backbones, name) for name in backbones.__all__} | {"VolumePreset": VolumePreset}
    there = {path.name: str(path) for path in [*sorted(home.rglob("*")), home]}
    mine = re.sub(r"PATH/([\w.-]+)", lambda found: there[found[1]], call)
    again = eval(mine, names)  # noqa: S307  # written by the code under test
    assert again.spec() == backbone.spec()


class Mine(Backbone):
    library = tokenize = None

    def spec(self):
        return clip().spec()


def test_a_class_of_somebody_else_is_not_described():
    assert hub.described(Mine()) == {}
    assert hub.backbone_of(card_of(Mine())).spec() == clip().spec()


def test_a_class_of_somebody_else_below_one_of_ours_is_asked_for():
    class Own(HuggingFace):
        pass

    lifted = SliceVolume(Own("builtin:tiny"), VOLUMES)
    assert hub.described(lifted) == {}
    with pytest.raises(ValueError, match=r"backbone=SliceVolume\(\.\.\.\)"):
        hub.backbone_of(card_of(lifted))


def test_a_folder_of_before_names_its_model():
    values = {"name": "my-clip", "revision": None, "kind": "HuggingFace", "weights": "w", "preset": "p"}
    card = card_of(clip())
    old = type(card)(**{**card.__dict__, "model": {}, "backbone": type(card.backbone)(**values)})
    with pytest.raises(ValueError, match=r"backbone=HuggingFace\(\.\.\.\)"):
        hub.backbone_of(old)
    assert not Path("my-clip").exists()
