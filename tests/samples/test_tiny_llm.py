"""The built-in tiny language model: its folder is what transformers expects, and it tells reports apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import domainvl.backbones
from domainvl.backbones import HuggingFace, Pair
from domainvl.towers import HFClipImage, HFLanguageModel

ROOT = Path(__file__).parents[2]
FOLDER = Path(domainvl.backbones.__path__[0]) / "tiny_llm"


@pytest.fixture(scope="module")
def backbone() -> Pair:
    return Pair("builtin:tiny", "builtin:tiny-llm").requires_grad_(False)


def test_folder_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) <= 2_000_000
    assert set(files) == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert "not a clinical model" in (FOLDER / "README.md").read_text(encoding="utf-8")


@torch.no_grad()
def test_it_is_what_transformers_loads(backbone: Pair) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(FOLDER, local_files_only=True)
    ids = tokenizer("There is no pneumothorax.", return_tensors="pt").input_ids
    assert ids.tolist() == backbone.tokenize(["There is no pneumothorax."]).ids.tolist()
    # It learned how such a sentence goes on.
    next_word = model(tokenizer("There is no", return_tensors="pt").input_ids[:, :-1]).logits[0, -1].topk(5).indices
    assert tokenizer(" pneumothorax").input_ids[1] in next_word.tolist()
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, backbone.model.text.state_dict()[name])


@torch.no_grad()
def test_the_image_half_of_the_tiny_clip_comes_with_its_projection(backbone: Pair) -> None:
    clip = HuggingFace("builtin:tiny")
    image = torch.randn(2, 3, 96, 96)
    assert isinstance(backbone.image, HFClipImage)
    assert isinstance(backbone.text, HFLanguageModel)
    assert torch.equal(backbone.image(image), clip.image(image))
    assert backbone.preset == clip.preset
    assert backbone.text(backbone.tokenize(["Small left effusion."])).shape == (1, backbone.image.out_dim)
    assert not any("text_model" in name for name, _ in backbone.library.named_parameters())
    targets = backbone.image.lora_targets(["q"])
    assert targets
    assert all(isinstance(backbone.library.get_submodule(name), torch.nn.Linear) for name in targets)
    with pytest.raises(ValueError, match=r"out_dim is 64, but the CLIP 'builtin:tiny' projects to 128; leave it out"):
        Pair("builtin:tiny", "builtin:tiny-llm", out_dim=64)
    with pytest.raises(ValueError, match="'builtin:tiny-llm' ships with this package and has no revision"):
        Pair("builtin:tiny", "builtin:tiny-llm", text_revision="main")


@torch.no_grad()
def test_the_same_said_otherwise_is_nearer_than_something_else(backbone: Pair) -> None:
    """Each sentence of the second list says what the same of the first says, in other words."""
    first = ["Small left pleural effusion.", "Severe cardiomegaly.", "Large right pneumothorax."]
    second = [
        "A small pleural effusion is present on the left.",
        "Severe enlargement of the heart.",
        "A large pneumothorax is seen on the right, with a visible pleural line.",
    ]
    tower = backbone.text
    one, other = (
        functional.normalize(tower.pool(tower.run(tower.embed(backbone.tokenize(texts)))), dim=-1)
        for texts in (first, second)
    )
    assert (one @ other.T).argmax(dim=1).tolist() == [0, 1, 2]


@pytest.mark.slow
def test_training_script_runs(tmp_path: Path) -> None:
    script = ROOT / "examples" / "pretrain_tiny_llm.py"
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path / "tiny_llm"), "--smoke", "--threads", "1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "findings find their impression" in done.stdout.splitlines()[-1]
    assert {path.name for path in (tmp_path / "tiny_llm").iterdir()} == {path.name for path in FOLDER.iterdir()}
