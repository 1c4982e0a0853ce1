"""`export`: what leaves a run folder works without this package, and says nothing that must not leave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from local_hub import TOKEN, LocalHub
from peft import PeftModel

from domainvl import hub
from domainvl.adapters import MMRL, CoCoOp, LoRA
from domainvl.backbones import HuggingFace
from domainvl.cli import main
from domainvl.model import Model
from domainvl.speed import PLAIN

ROOT = str(Path(__file__).parents[2])
CLASSES = ["Effusion", "Edema"]
INTERVAL = {"value": 0.75, "low": 0.7, "high": 0.8}
METRICS = {"split": "test", "zero_shot": {"auroc_macro": INTERVAL}, "adapted": {"auroc_macro": INTERVAL}}
SECRETS = ("patient-7", "hospital", "No effusion seen")
FACTS = {
    "data": {
        "name": "hospital.csv",
        "shots": 4,
        "splits": {"train": {"images": 8, "patients": 7}, "test": {"images": 30, "patients": 21}},
    },
    "leakage": {"train/test": {"patients": {"count": 0, "examples": ["patient-7", "No effusion seen"]}}},
}
RECIPE = {
    "model": {"class_path": "Classification", "init_args": {"backbone": {"class_path": "HuggingFace"}}},
    "data": {"class_path": "ChestXrays", "init_args": {"root": "/hospital/patient-7"}},
}
RECIPE["model"]["init_args"]["backbone"]["init_args"] = {"name": "builtin:tiny"}


def run_of(adapter, folder):
    backbone = HuggingFace("builtin:tiny")
    torch.manual_seed(0)
    adapter.attach(backbone)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    given = {"classes": CLASSES, "multilabel": True, "recipe": yaml.safe_dump(RECIPE), "metrics": METRICS}
    given["prompts"] = {"templates": ["a chest x-ray showing {}."], "negatives": ["a chest x-ray without {}."]}
    hub.save_adapter(folder / "adapter", adapter, backbone=backbone.spec(), logit_scale=torch.tensor(2.5), **given)
    for name, values in {"metrics.json": METRICS, "run.json": FACTS}.items():
        (folder / name).write_text(json.dumps(values))
    (folder / "config.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


@pytest.fixture(scope="module", params=["lora", "pissa", "dora"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    run, out = run_of(LoRA(rank=2, variant=request.param), folder / "run"), folder / "out"
    beside = ["--onnx"] if request.param == "lora" else []
    assert main(["export", str(run), str(out), "--merge", *beside]) == 0
    return out


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(256, (3, 3, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def by_transformers(model, ours, pixels):
    """Class scores of a plain CLIPModel, with nothing of ours but tokens and pixels."""
    words = [
        template.replace("{}", name)
        for template in ("a chest x-ray showing {}.", "a chest x-ray without {}.")
        for name in CLASSES
    ]
    inputs = ours.backbone.tokenize(words)
    with torch.no_grad():
        image = model.get_image_features(pixel_values=ours.preset.normalise(pixels).to(model.dtype)).pooler_output
        text = model.get_text_features(input_ids=inputs.ids, attention_mask=inputs.keep).pooler_output
        unit = [torch.nn.functional.normalize(one, dim=-1) for one in (image, text)]
        yes, no = (unit[0] @ unit[1].T).chunk(2, dim=-1)
    return yes - no


def plain_clip(folder):
    from transformers import CLIPModel

    return CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()


def peft_alone(folder, dtype):
    base = HuggingFace("builtin:tiny")
    return PeftModel.from_pretrained(plain_clip(base.folder), folder).eval().to(dtype)


def test_peft_alone_gives_the_same_logits(exported, pixels):
    """The pair is exact: in float64 nothing is left. In float32 each side is as far from that as rounding puts it."""
    ours = Model(exported, HuggingFace("builtin:tiny"), "cpu", PLAIN)
    scale = torch.tensor(2.5).exp()
    rounded = scale * by_transformers(peft_alone(exported, torch.float32), ours, pixels)
    alone = scale * by_transformers(peft_alone(exported, torch.float64), ours, pixels)
    apart = ours.logits(pixels)
    ours.backbone.double()
    true = scale * by_transformers(ours.backbone.library, ours, pixels)
    torch.testing.assert_close(alone, true, rtol=0, atol=1e-12)
    for found in (rounded, apart):
        torch.testing.assert_close(found.double(), true, rtol=0, atol=3e-7 * float(scale))


def test_transformers_alone_loads_the_merged_model(exported, pixels):
    ours = Model(exported, HuggingFace("builtin:tiny"), "cpu", PLAIN)
    merged = plain_clip(exported / "merged")
    assert float(merged.logit_scale.detach()) == 2.5
    cosines = by_transformers(merged, ours, pixels)
    torch.testing.assert_close(cosines, ours.logits(pixels) / ours.backbone.scale(), rtol=0, atol=2e-6)
    again = HuggingFace(str(exported / "merged"))
    assert again.preset.digest == ours.preset.digest
    assert not list(exported.rglob("*.bin"))


def test_onnxruntime_alone_gives_the_same_logits(exported, pixels):
    if not (exported / "model.onnx").exists():
        pytest.skip("written for one variant, it takes seconds")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(exported / "model.onnx"), providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == CLASSES
    logits, probabilities = session.run(None, {"pixels": pixels.numpy()})
    ours = Model(exported, HuggingFace("builtin:tiny"), "cpu", PLAIN).logits(pixels).numpy()
    np.testing.assert_allclose(logits, ours, atol=1e-4)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-ours)), atol=1e-4)


def test_tracing_leaves_no_class_of_the_same_name(exported):
    assert "HuggingFace" not in {made.__name__ for made in HuggingFace.__subclasses__()}


def test_the_card_says_what_it_must_and_no_more(exported):
    card = ModelCard.load(exported / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "domainvl"
    assert card.data.pipeline_tag == "zero-shot-image-classification"
    assert card.data.eval_results[0].metric_args == {"interval_95": [0.7, 0.8]}
    for said in ("## Limits", "Intended for research", "| test | 30 | 21 |", "4 labelled patients per class"):
        assert said in card.text
    for path in exported.rglob("*"):
        assert path.is_dir() or not any(secret.encode() in path.read_bytes() for secret in SECRETS), path.name


@pytest.mark.parametrize(
    ("adapter", "option", "message"),
    [
        (MMRL(tokens=2, width=16), "--merge", "MMRL is no change of the model's own weights"),
        (CoCoOp(tokens=2), "--onnx", "CoCoOp makes other class texts for every image"),
    ],
)
def test_what_a_method_cannot_be_is_refused_by_name(tmp_path, capsys, adapter, option, message):
    run = run_of(adapter, tmp_path / "run")
    assert main(["export", str(run), str(tmp_path / "out"), option]) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "domainvl.json",
        "domainvl.safetensors",
        "recipe.yaml",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "export needs two folders"),
        (["run", "out", "--public"], "--public goes with --push-to-hub"),
        (["run", "out", "--data.shots", "4"], "export takes no key of a recipe, got --data.shots"),
        (["run", "out"], "run has no adapter"),
        (["run", "out", "--onxx"], "--onxx needs a value"),
    ],
)
def test_a_wrong_command_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *words]) > 0
    assert message in capsys.readouterr().err


def test_the_command_pushes_and_an_empty_cache_pulls(tmp_path, pixels):
    run = run_of(LoRA(rank=2), tmp_path / "run")
    code = (
        "import sys, torch, domainvl; from domainvl.cli import main\n"
        "if main(['export', sys.argv[1], sys.argv[2], '--push-to-hub', 'someone/cxr']): sys.exit('not pushed')\n"
        "torch.save(domainvl.load('someone/cxr', device='cpu').logits(torch.load(sys.argv[3])), sys.argv[3])"
    )
    torch.save(pixels, tmp_path / "pixels.pt")
    with LocalHub() as server:
        kept = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
        own = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
        words = [sys.executable, "-c", code, run, tmp_path / "out", tmp_path / "pixels.pt"]
        done = subprocess.run(words, env={**kept, **own, "PYTHONPATH": ROOT}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"pushed: {server.url}/someone/cxr/commit" in done.stdout
        assert server.private == {"someone/cxr": True}
    ours = Model(tmp_path / "out", HuggingFace("builtin:tiny"), "cpu").logits(pixels)
    assert torch.equal(torch.load(tmp_path / "pixels.pt"), ours)
