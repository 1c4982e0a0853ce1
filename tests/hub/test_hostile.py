"""Adapters from people who mean harm, one row each: all are refused by name, nothing foreign is imported or opened."""

import json
import os
import pickle
import struct
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import domainvl
from domainvl import hub
from domainvl.adapters import MMRL, Compose, CoOp
from domainvl.backbones import HuggingFace

PROMPTS = {"templates": ["a photo of {}."], "negatives": [], "names": {}}
CARD, TENSORS = "domainvl.json", "domainvl.safetensors"


@pytest.fixture(scope="module")
def backbone():
    return HuggingFace("builtin:tiny")


@pytest.fixture
def folder(tmp_path, backbone):
    adapter = MMRL(tokens=3, width=16)
    adapter.attach(backbone)
    given = {"classes": ["a", "b"], "multilabel": False, "prompts": PROMPTS, "recipe": "data: {}"}
    given["model"] = hub.described(backbone)
    return hub.save_adapter(tmp_path / "adapter", adapter, backbone=backbone.spec(), **given)


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


def says(**changes):
    def harm(folder):
        values = json.loads((folder / CARD).read_text())
        for key, value in changes.items():
            values[key] = values[key] | value if isinstance(value, dict) and key in values else value
        (folder / CARD).write_text(json.dumps(values))

    return harm


def older(**changes):
    """As a folder of format 1, which names its model and does not describe it."""

    def harm(folder):
        values = json.loads((folder / CARD).read_text()) | {"format_version": 1}
        del values["model"], values["preparation"]
        (folder / CARD).write_text(json.dumps(values))
        says(**changes)(folder)

    return harm


def model(kind="HuggingFace", **arguments):
    return says(backbone={"kind": kind}, model={"class_path": kind, "init_args": arguments})


def volumes(**changes):
    preset = {"name": "v", "spacing": [1, 1, 1], "size": [4, 96, 96]} | changes
    base = {"class_path": "HuggingFace", "init_args": {"name": "builtin:tiny"}}
    return model("SliceVolume", base=base, preset=preset)


def part(name):
    return says(adapter="Compose", init_args={"adapters": [{"class_path": name, "init_args": {}}]})


def text(change):
    def harm(folder):
        (folder / CARD).write_text(change((folder / CARD).read_text()))

    return harm


def holds(change):
    def harm(folder):
        tensors = load_file(folder / TENSORS)
        change(tensors)
        save_file(tensors, folder / TENSORS)

    return harm


def raw(make):
    def harm(folder):
        (folder / TENSORS).write_bytes(make((folder / TENSORS).read_bytes()))

    return harm


def header(**tensors):
    said = json.dumps(tensors).encode()
    return struct.pack("<Q", len(said)) + said


def spoil(value):
    def change(tensors):
        first = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
        tensors[first] = tensors[first].clone()
        tensors[first].view(-1)[0] = value

    return change


def retype(dtype):
    return lambda tensors: tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})


def link(name, make):
    def harm(folder):
        outside = folder.parent / "outside"
        make(folder / name, outside)
        (folder / name).unlink()
        (folder / name).symlink_to(outside)

    return harm


def moved(path, outside):
    outside.write_bytes(path.read_bytes())


def deep(count):
    return '{"format_version": 1, "init_args": ' + '{"a":' * count + "1" + "}" * count + "}"


HUGE = {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}
OVER = {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}
ROWS = {
    "foreign class": (says(adapter="subprocess.Popen"), "'subprocess.Popen'; known are"),
    "class by path": (says(adapter="domainvl.adapters.lora.LoRA"), "known are"),
    "module of ours": (says(adapter="base"), "known are"),
    "dunder": (says(adapter="__builtins__"), "known are"),
    "foreign part": (part("evil_package.Adapter"), "'evil_package.Adapter'; known are"),
    "part of a part": (part("os.system"), "'os.system'; known are"),
    "foreign arguments": (says(init_args={"__class__": "x"}), "does not take the arguments"),
    "huge width": (says(init_args={"width": 2**40}), "init_args say width=1099511627776, and no tensor"),
    "huge count": (says(init_args={"tokens": 10**18}), "init_args say tokens=1000000000000000000"),
    "huge float": (says(init_args={"tokens": 1e18}), "init_args say tokens=1000000000000000000"),
    "negative size": (says(init_args={"tokens": -(10**9)}), "init_args say tokens=-1000000000"),
    "base by traversal": (older(backbone={"name": "../../etc"}), "its name alone does not bring back"),
    "base by path": (older(backbone={"name": "/etc/passwd"}), "its name alone does not bring back"),
    "base of a foreign class": (older(backbone={"kind": "os.system"}), "its name alone does not bring back"),
    "base that is no text": (says(backbone={"name": {"a": 1}}), "'backbone' should hold"),
    "revision that is no text": (says(backbone={"revision": [1]}), "'backbone' should hold"),
    "model by traversal": (model(name="../../etc"), "a path is never followed"),
    "model by path": (model(name="/etc/passwd"), "a path is never followed"),
    "model by home": (model(name="~/clip"), "a path is never followed"),
    "model by address": (model(name="https://evil/clip"), "a path is never followed"),
    "model that is there": (model(name="adapter"), "a path is never followed"),
    "model from a list": (model(name=["a", "b"]), "a path is never followed"),
    "model of a foreign class": (model("os.system", command="touch hacked"), "found in domainvl.backbones alone"),
    "model of our own module": (model("base", name="builtin:tiny"), "found in domainvl.backbones alone"),
    "model that is abstract": (model("Backbone"), "found in domainvl.backbones alone"),
    "model that is no model": (model("BackboneSpec", name="x"), "found in domainvl.backbones alone"),
    "two models": (says(model={"class_path": "Pair"}), "'model' describes another class than 'backbone'"),
    "model with remote code": (model(name="builtin:tiny", trust_remote_code=True), "HuggingFace takes name, revision"),
    "model of a list": (says(model=["HuggingFace"]), "'model' should be a dict"),
    "argument of another kind": (
        model("Pair", image="builtin:tiny", text="builtin:tiny-llm", seed={}),
        "a number, a text",
    ),
    "huge space": (model("Pair", image="a/b", text="a/b", out_dim=2**40), "out_dim is 1099511627776"),
    "endless seed": (model("Pair", image="builtin:tiny", text="a/b", seed=2**99), "a whole number below 2**63"),
    "file of weights": (model("CTCLIP", weights="/etc/passwd"), "a path is never followed"),
    "volumes in volumes": (
        model("SliceVolume", base={"class_path": "SliceVolume", "init_args": {}}, preset={}),
        "below another model of volumes",
    ),
    "base without end": (
        model("SliceVolume", base={"class_path": "HuggingFace"}),
        "should hold class_path and init_args",
    ),
    "huge volume": (volumes(size=[2**40, 1, 1]), "preset is 1 x 1099511627776 x 1 x 1; accepted is up to 4096"),
    "volume of many voxels": (volumes(size=[4000, 4000, 4000]), "134,217,728 voxels in all"),
    "channels without end": (volumes(windows=[[0, 1]] * 5000, mean=[0] * 5000, std=[1] * 5000), "preset is 5000 x 4"),
    "spacing of nothing": (volumes(spacing=[1e-9, 1, 1]), "accepted is from 0.2 mm"),
    "preset of code": (volumes(hook="os.system"), "should hold arguments of VolumePreset"),
    "preset of texts": (volumes(size=["a", "b", "c"]), "a VolumePreset cannot be made of"),
    "unknown preparation": (says(preparation={"hook": "os.system"}), "'preparation' holds hook"),
    "preparation of objects": (says(preparation={"crop": {"a": 1}}), "'preparation' holds crop"),
    "prepared to a huge size": (says(preparation={"preset": {"name": "x", "size": 10**9}}), "preset is 3 x 1000000000"),
    "prepared over a huge size": (
        says(preparation={"preset": {"name": "x", "size": 8, "resize": 10**9}}),
        "preset is 1000000000",
    ),
    "unknown key": (says(trust_remote_code=True), "says trust_remote_code, which format 2 does not have"),
    "unknown prompts": (says(prompts={"code": "x"}), "'prompts' should hold lists of texts"),
    "prompts without end": (
        says(prompts={"templates": ["{}"] * 2000}, classes=[str(number) for number in range(2000)]),
        "makes 4,000,000 sentences; at most",
    ),
    "format of attributes": (says(prompts={"templates": ["{0.__class__}"]}), "needs exactly one {}"),
    "a class twice": (says(classes=["a", "a"]), "'classes' should hold different names"),
    "key twice": (text(lambda old: old.replace("{", '{"adapter": "LoRA",', 1)), "the key 'adapter' is written twice"),
    "NaN in JSON": (text(lambda old: old.replace(": 3", ": NaN", 1)), "NaN is no number of JSON"),
    "deep JSON": (text(lambda old: deep(100_000)), "nested too deeply"),
    "endless JSON": (text(lambda old: old + " " * 5_000_000), "a description has at most"),
    "number of a million digits": (text(lambda old: old.replace(": 3", ": " + "9" * 10**6, 1)), "is damaged"),
    "pickle": (raw(lambda old: pickle.dumps(Evil())), "no safetensors file"),
    "torch archive": (raw(lambda old: b"PK\x03\x04" + old), "no safetensors file"),
    "truncated": (raw(lambda old: old[:-7]), "no safetensors file"),
    "appended": (raw(lambda old: old + b"\x80\x04evil"), "no safetensors file"),
    "header beyond the file": (raw(lambda old: struct.pack("<Q", 2**63) + old[8:]), "no safetensors file"),
    "oversize header": (raw(lambda old: struct.pack("<Q", 200_000_000) + b" " * 64), "no safetensors file"),
    "huge shape": (raw(lambda old: header(a=HUGE)), "no safetensors file"),
    "shape that overflows": (raw(lambda old: header(a=OVER) + b"\0" * 4), "no safetensors file"),
    "unknown dtype": (raw(lambda old: header(a={**OVER, "dtype": "PY_OBJECT"})), "no safetensors file"),
    "NaN weights": (holds(spoil(float("nan"))), "holds values that are not finite"),
    "infinite weights": (holds(spoil(float("inf"))), "holds values that are not finite"),
    "integer weights": (holds(retype(torch.int64)), "it should hold torch.float32"),
    "double weights": (holds(retype(torch.float64)), "it should hold torch.float32"),
    "foreign tensor": (holds(lambda old: old.update({"model.weight": torch.zeros(2)})), "no adapter has"),
    "missing tensor": (holds(lambda old: old.pop(sorted(old)[0])), "does not fit; missing"),
    "scale of many numbers": (holds(lambda old: old.update(logit_scale=torch.zeros(9))), "should be one number"),
    "scale of integers": (holds(lambda old: old.update(logit_scale=torch.tensor(3))), "should be one number"),
    "linked weights": (link(TENSORS, moved), "a link that leads out of its folder"),
    "linked description": (link(CARD, moved), "a link that leads out of its folder"),
    "link to a device": (link(TENSORS, lambda path, outside: outside.symlink_to("/dev/zero")), "leads out"),
}


@pytest.mark.parametrize("harm", ROWS)
def test_a_hostile_adapter_is_refused_by_name(folder, harm, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    change, message = ROWS[harm]
    change(folder)
    before = set(sys.modules)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the message is looked at below
        domainvl.load(folder, device="cpu")
    assert message in str(refused.value)
    assert len(str(refused.value)) < 3000
    imported = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert not imported & {"evil_package", "subprocess"}
    assert not (tmp_path / "hacked").exists()


def test_files_beside_are_never_opened(folder):
    (folder / "adapter_config.json").write_text("{" * 10**5)
    (folder / "adapter_model.safetensors").write_bytes(pickle.dumps(Evil()))
    (folder / "recipe.yaml").write_text("!!python/object/apply:os.system ['touch hacked']")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert domainvl.load(folder, device="cpu").classes == ["a", "b"]


def test_sizes_that_the_tensors_have_are_believed(tmp_path, backbone):
    adapter = Compose([CoOp(tokens=2), MMRL(tokens=1, width=5000)])
    fresh = HuggingFace("builtin:tiny")
    adapter.attach(fresh)
    given = {"classes": ["a", "b"], "multilabel": False, "prompts": PROMPTS, "recipe": "data: {}"}
    made = hub.save_adapter(tmp_path / "a", adapter, backbone=fresh.spec(), **given)
    assert domainvl.load(made, device="cpu").card.adapter == "Compose"


def test_links_into_the_cache_of_the_hub_are_followed(folder, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        (blobs / str(number)).write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert domainvl.load(snapshot, device="cpu").classes == ["a", "b"]
