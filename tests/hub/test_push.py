"""Push and pull with the real client against a server on this machine."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from local_hub import TOKEN

import domainvl
from domainvl import hub
from domainvl.adapters import LoRA
from domainvl.backbones import HuggingFace

PROMPTS = {"templates": ["a photo of {}."], "negatives": [], "names": {}}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    backbone, made = HuggingFace("builtin:tiny"), LoRA(rank=2)
    made.attach(backbone)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    folder = tmp_path_factory.mktemp("push") / "adapter"
    given = {"classes": ["a", "b"], "multilabel": False, "prompts": PROMPTS, "recipe": "data: {}"}
    return hub.save_adapter(folder, made, backbone=backbone.spec(), **given)


def test_what_was_pushed_is_pulled_to_the_bit(server, adapter):
    assert hub.push(adapter, "someone/cxr").startswith(server.url)
    assert server.private == {"someone/cxr": True}
    assert set(server.repos["someone/cxr"]) == {path.name for path in adapter.iterdir()}
    here, there = domainvl.load(adapter, device="cpu"), domainvl.load("someone/cxr", device="cpu")
    images = [np.random.default_rng(seed).integers(256, size=(64, 64, 3), dtype=np.uint8) for seed in range(3)]
    assert np.array_equal(here.predict(images), there.predict(images))
    pixels = torch.randint(256, (2, *here.preset.shape), dtype=torch.uint8)
    assert torch.equal(here.logits(pixels), there.logits(pixels))


def test_a_public_repository_is_asked_for(server, adapter):
    hub.push(adapter, "someone/open", private=False)
    assert server.private == {"someone/open": False}


def test_only_what_belongs_to_an_adapter_travels(server, adapter, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(adapter, folder)
    (folder / "patients.csv").write_text("secret")
    (folder / "weights.bin").write_bytes(b"\x80\x04")
    hub.push(folder, "someone/cxr")
    server.repos["someone/cxr"]["evil.py"] = b"raise SystemExit"
    assert not {"patients.csv", "weights.bin"} & set(server.repos["someone/cxr"])
    assert {path.name for path in hub.located("someone/cxr").iterdir()} == {path.name for path in adapter.iterdir()}


@pytest.mark.parametrize("cut", ["/blob/", "/commit/"])
def test_a_push_that_was_cut_goes_on(server, adapter, cut, monkeypatch):
    from huggingface_hub.utils import _http

    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    server.cut = cut
    with pytest.raises(RuntimeError, match="run the same command again"):
        hub.push(adapter, "someone/cxr")
    assert server.repos["someone/cxr"] == {}
    server.cut = None
    arrived = len(server.blobs)
    server.calls.clear()
    hub.push(adapter, "someone/cxr")
    assert len(server.took("PUT", "/blob/")) == 2 - arrived
    assert set(server.repos["someone/cxr"]) == {path.name for path in adapter.iterdir()}


def test_a_name_that_is_taken_is_left_alone(server, adapter):
    server.repos["someone/thesis"], server.private["someone/thesis"] = {"thesis.pdf": b"years of work"}, False
    with pytest.raises(ValueError, match="'someone/thesis' is taken by a repository that is no domainvl adapter"):
        hub.push(adapter, "someone/thesis")
    assert server.repos["someone/thesis"] == {"thesis.pdf": b"years of work"}


@pytest.mark.parametrize(
    ("token", "name", "error", "message"),
    [
        (None, "someone/cxr", ValueError, "no token.*hf auth login"),
        ("hf_wrong", "someone/cxr", ValueError, r"does not let this token write to 'someone/cxr' \(401\)"),
        (TOKEN, "some one/cxr", ValueError, "no name for a repository, USER/NAME is"),
    ],
)
def test_a_push_that_cannot_be(server, adapter, monkeypatch, token, name, error, message):
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=message):
        hub.push(adapter, name)
    assert not server.blobs


def test_what_is_not_there_cannot_be_pulled(server):
    with pytest.raises(ValueError, match="the Hub knows no 'someone/nothing'"):
        domainvl.load("someone/nothing")


@pytest.mark.parametrize(
    ("name", "licence"),
    [("someone/clip", "mit"), ("someone/unknown", None), ("builtin:tiny", "apache-2.0"), ("a-folder", None)],
)
def test_the_licence_of_the_model_below_is_carried_over(server, adapter, name, licence):
    server.repos["someone/clip"], server.private["someone/clip"] = {}, False
    card = hub.read_adapter_card(adapter)
    card = replace(card, backbone=replace(card.backbone, name=name, revision="0123abc"))
    assert hub.base_licence(card) == licence
