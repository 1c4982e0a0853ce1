"""Adapter folders: what is written comes back, and what does not belong or was tampered with is refused."""

import json
import socket
from dataclasses import replace

import pytest
import torch
import yaml
from adapters.test_adapters import pairs, trained
from adapters.toys import CLASSES, TOYS, attached, class_features, moved, pictures, scores, texts, toy
from huggingface_hub import ModelCard, constants
from peft import PeftModel
from safetensors.torch import load_file, save_file

from domainvl import hub
from domainvl.adapters import MMRL, LoRA
from domainvl.adapters.base import Adapter

RECIPE = """
# made in /home/someone
model: {class_path: Classification, init_args: {backbone: {init_args: {name: /home/someone/models/clip}}}}
data: {class_path: data_modules.cxr.ChestXrays, init_args: {root: ~/hospital/patients, shots: 16, tables: [/mnt/a.csv]}}
"""
NOTHING = {"value": None, "low": None, "high": None}
METRICS = {
    "split": "test",
    "zero_shot": {"auroc_macro": {"value": 0.5, "low": 0.4, "high": 0.6}, "f1": NOTHING},
    "adapted": {"auroc_macro": {"value": 0.75, "low": 0.7, "high": 0.8}, "f1": NOTHING},
    "hashes": {"split": "x"},
    "seed": 1,
}
PROMPTS = {"templates": ["a photo of {}."], "negatives": [], "names": {}}


def save(folder, adapter, model, **changes):
    given = {
        "backbone": model.spec(),
        "classes": CLASSES,
        "multilabel": False,
        "prompts": PROMPTS,
        "recipe": RECIPE,
        "metrics": METRICS,
    }
    return hub.save_adapter(folder, adapter, **(given | changes))


def load(folder, backbone):
    return hub.load_adapter(folder, backbone, class_features(backbone))


@pytest.fixture
def saved(tmp_path):
    backbone = toy("hf_clip")
    return save(tmp_path / "adapter", moved(attached(MMRL(tokens=3, width=16), backbone)), backbone)


@pairs
def test_round_trip_gives_identical_scores(tmp_path, name, where):
    adapter, backbone = trained(name, where)
    before = scores(adapter, backbone)
    folder = save(tmp_path / "adapter", adapter, backbone)
    fresh = toy(where)
    again, card = load(folder, fresh)
    after = scores(again, fresh)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert again.config() == adapter.config()
    assert card.classes == CLASSES
    assert card.prompts == PROMPTS
    assert card.backbone == backbone.spec()


def test_a_task_gets_card_and_tensors(saved):
    backbone = toy("hf_clip")
    found = hub.read_adapter(saved, backbone.spec())
    adapter = attached(found.card.build(), backbone)
    adapter.load_tensors(found.tensors)
    again, _ = load(saved, toy("hf_clip"))
    assert all(torch.equal(tensor, again.tensors()[name]) for name, tensor in adapter.tensors().items())


def test_files_and_what_they_hold(saved):
    assert {p.name for p in saved.iterdir()} == {"domainvl.json", "domainvl.safetensors", "README.md", "recipe.yaml"}
    assert [p.name for p in saved.parent.iterdir()] == ["adapter"]
    values = json.loads((saved / "domainvl.json").read_text())
    assert values["format_version"] == 2
    assert values["adapter"] == "MMRL"
    assert values["init_args"]["width"] == 16
    assert values["versions"]["domainvl"]
    assert values["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_card_is_what_the_hub_expects(saved):
    card = ModelCard.load(saved / "README.md")
    data = card.data
    assert data.base_model == "someone/toy"
    assert data.base_model_relation == "adapter"
    assert data.base_model_revision == "0123456789abcdef"
    assert data.library_name == "domainvl"
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert {"domainvl", "mmrl"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("auroc_macro", 0.75, "ChestXrays")
    assert result.metric_args == {"interval_95": [0.7, 0.8]}
    assert "| auroc_macro | 0.500 (0.400 to 0.600) | 0.750 (0.700 to 0.800) |" in card.text
    assert "| f1 | n/a (n/a to n/a) | n/a (n/a to n/a) |" in card.text


@pytest.mark.parametrize(
    ("changes", "tag", "said"),
    [
        ({}, "zero-shot-image-classification", 'model.predict(["image.png"])'),
        ({"preparation": {"crop": "none"}}, "zero-shot-image-classification", 'model.predict(["scan.nii.gz"])'),
        ({"preparation": {"tiles": "0" * 12}}, "zero-shot-image-classification", 'model.predict(["slide.h5"])'),
        ({"classes": [], "prompts": {}}, "image-feature-extraction", "names no classes"),
    ],
)
def test_card_says_how_its_kind_of_adapter_is_used(tmp_path, changes, tag, said):
    adapter, backbone = trained("LoRA", "hf_clip")
    folder = save(tmp_path / "a", adapter, backbone, **changes)
    assert ModelCard.load(folder / "README.md").data.pipeline_tag == tag
    assert said in (folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["builtin:tiny", "my-folder"])
def test_card_names_no_base_model_that_the_hub_does_not_have(tmp_path, name):
    adapter, backbone = trained("CoOp", "hf_clip")
    spec = replace(backbone.spec(), name=name, revision=None)
    folder = save(tmp_path / "a", adapter, backbone, backbone=spec, metrics=None)
    data = ModelCard.load(folder / "README.md").data
    assert data.base_model is None
    assert name in (folder / "README.md").read_text()


def test_no_path_leaves_the_machine(saved):
    for path in saved.iterdir():
        for secret in (b"someone/models", b"hospital", b"/mnt", b"/home"):
            assert secret not in path.read_bytes(), path.name
    recipe = yaml.safe_load((saved / "recipe.yaml").read_text())
    assert recipe["data"]["init_args"] == {"root": "PATH", "shots": 16, "tables": ["PATH"]}


def test_a_trained_temperature_travels(tmp_path):
    adapter, backbone = trained("CoOp", "hf_clip")
    folder = save(tmp_path / "a", adapter, backbone, logit_scale=torch.tensor(3.25))
    fresh = toy("hf_clip")
    load(folder, fresh)
    assert float(fresh.logit_scale) == 3.25


@pytest.mark.parametrize("name", ["LoRA", "LoRA dora", "LoRA pissa"])
def test_peft_alone_loads_a_lora(tmp_path, name):
    adapter, backbone = trained(name, "hf_clip")
    folder = save(tmp_path / "a", adapter, backbone)
    ours = scores(adapter, backbone)
    alone = PeftModel.from_pretrained(toy("hf_clip").model, folder).eval()
    words = texts(adapter, backbone)
    image = alone.get_image_features(pixel_values=pictures()).pooler_output
    text = alone.get_text_features(input_ids=words.ids, attention_mask=words.keep).pooler_output
    torch.testing.assert_close(image, ours["image.pooled"], rtol=0, atol=1e-5)
    torch.testing.assert_close(text, ours["text.pooled"], rtol=0, atol=1e-5)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == "someone/toy"
    assert config["inference_mode"] is True


@pytest.mark.parametrize("name", ["LoRA", "LoRA late", "LoRA dora", "LoRA pissa"])
@pytest.mark.parametrize("where", [name for name in TOYS if name != "hf_clip"])
def test_the_peft_pair_fits_every_library(tmp_path, name, where):
    adapter, backbone = trained(name, where)
    folder = save(tmp_path / "a", adapter, backbone)
    fresh = toy(where)
    PeftModel.from_pretrained(fresh.model, folder).eval()
    plain = scores(adapter, backbone)
    loaded = scores(Adapter(), fresh)
    torch.testing.assert_close(loaded["image.logits"], plain["image.logits"], rtol=1e-5, atol=1e-5)


def edited(folder, **changes):
    path = folder / "domainvl.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | changes))


SPEC = {"kind": "Toy", "name": "n", "revision": None, "weights": "w", "preset": "p"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 3}, r"newer.*pip install -U domainvl"),
        ({"format_version": "1"}, "format_version"),
        ({"adapter": "os.system"}, r"'os.system'; known are .*CoOp.*LinearProbe, LoRA, MMRL"),
        ({"adapter": "Adapter"}, "known are"),
        ({"adapter": "base"}, "known are"),
        ({"init_args": {"tokenz": 3}}, "MMRL does not take the arguments.*tokenz"),
        ({"init_args": {"tokens": 4, "width": 16}}, r"saved space is \(3, 16\), here it is \(4, 16\)"),
        ({"init_args": {"tokens": 3, "width": 16, "first_block": 2}}, "does not fit.*unknown"),
        ({"classes": "a"}, "'classes' should be a list"),
        ({"classes": [1]}, "'classes' should hold names"),
        ({"multilabel": None}, "'multilabel' should be a bool"),
        ({"backbone": SPEC | {"extra": "x"}}, "'backbone' should hold"),
        ({"backbone": SPEC | {"weights": 3}}, "'backbone' should hold"),
    ],
)
def test_a_tampered_description_is_refused(saved, changes, message):
    edited(saved, **changes)
    with pytest.raises(ValueError, match=message):
        load(saved, toy("hf_clip"))


def damage_nothing(folder):
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def cut(name, keep):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return damage


def foreign_tensor(folder):
    path = folder / "domainvl.safetensors"
    save_file(load_file(path) | {"backdoor": torch.zeros(1)}, path)


def only_peft(folder):
    (folder / "domainvl.json").rename(folder / "adapter_config.json")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_nothing, "no adapter: .* is not a folder"),
        (lambda folder: (folder / "domainvl.json").unlink(), r"has no domainvl.json; it has \['README.md'"),
        (lambda folder: (folder / "domainvl.safetensors").unlink(), "has no domainvl.safetensors"),
        (lambda folder: (folder / "domainvl.json").write_bytes(b"\xff\xfe"), "domainvl.json is damaged"),
        (lambda folder: (folder / "domainvl.json").write_text("[]"), "no adapter description"),
        (cut("domainvl.json", 0.5), "domainvl.json is damaged"),
        (cut("domainvl.safetensors", 0.5), "domainvl.safetensors is damaged"),
        (cut("domainvl.safetensors", 0.0), "domainvl.safetensors is damaged"),
        (foreign_tensor, "no adapter has.*backdoor"),
        (only_peft, "plain PEFT adapter"),
    ],
)
def test_a_damaged_folder_is_refused(saved, damage, message):
    damage(saved)
    with pytest.raises(ValueError, match=message):
        load(saved, toy("hf_clip"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "bbbbbbbbbbbb", "name": "other/clip"}, r"trained on Toy\('someone/toy'.*is Toy\('other/clip'"),
        ({"reading": "mean"}, "read by the checkpoint, but the backbone here reads mean"),
        ({"preset": "cccccccccccc"}, r"preprocessing preset \w{12}, but .* has cccccccccccc"),
    ],
)
def test_the_wrong_base_model_is_refused_with_both_names(saved, changes, message):
    backbone = toy("hf_clip")
    spec = replace(backbone.spec(), **changes)
    with pytest.raises(ValueError, match=message):
        hub.read_adapter(saved, spec)


def test_the_same_weights_under_another_name_are_the_same_model(saved):
    spec = replace(toy("hf_clip").spec(), name="a-local-copy", revision=None)
    assert hub.read_adapter(saved, spec).card.adapter == "MMRL"


def test_a_folder_that_does_not_say_how_texts_are_read_is_still_read(saved):
    values = json.loads((saved / "domainvl.json").read_text())
    del values["backbone"]["reading"]
    (saved / "domainvl.json").write_text(json.dumps(values))
    assert load(saved, toy("hf_clip"))[1].backbone == toy("hf_clip").spec()


def test_a_probe_asks_for_the_class_features(tmp_path):
    adapter, backbone = trained("LinearProbe", "hf_clip")
    folder = save(tmp_path / "a", adapter, backbone)
    with pytest.raises(ValueError, match="class_features"):
        hub.load_adapter(folder, toy("hf_clip"))


def test_saving_replaces_an_older_adapter_and_nothing_else(saved, tmp_path):
    backbone = toy("hf_clip")
    adapter = attached(LoRA(dropout=0.0), backbone)
    save(saved, adapter, backbone)
    assert hub.read_adapter_card(saved).adapter == "LoRA"
    assert (saved / "adapter_config.json").is_file()
    backbone = toy("hf_clip")
    save(saved, attached(MMRL(tokens=3, width=16), backbone), backbone)
    assert not (saved / "adapter_config.json").exists()
    assert [p.name for p in saved.parent.iterdir()] == ["adapter"]
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="choose another name"):
        save(mine, adapter, backbone)
    assert (mine / "chapter.tex").read_text() == "years of work"


def test_a_failed_save_leaves_the_old_folder_and_no_rubbish(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    adapter, backbone = trained("CoOp", "hf_clip")
    monkeypatch.setattr(adapter, "export", lambda folder, base: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save(saved, adapter, backbone)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [p.name for p in saved.parent.iterdir()] == ["adapter"]


def test_saving_makes_no_connection(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    adapter, backbone = trained("LoRA", "hf_clip")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    save(tmp_path / "a", adapter, backbone)
