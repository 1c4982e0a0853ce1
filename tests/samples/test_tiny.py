"""The built-in tiny model: its folder is what transformers expects, and it is better than chance on the samples."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import domainvl.backbones
from domainvl import samples

ROOT = Path(__file__).parents[2]
FOLDER = Path(domainvl.backbones.__path__[0]) / "tiny"


@pytest.fixture(scope="module")
def scoring():
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        from pretraining import scoring
    finally:
        sys.path.remove(str(ROOT / "examples"))
    return scoring


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    return (
        CLIPModel.from_pretrained(FOLDER, dtype=torch.float32, local_files_only=True).eval(),
        AutoTokenizer.from_pretrained(FOLDER, local_files_only=True),
        CLIPImageProcessor.from_pretrained(FOLDER, local_files_only=True),
    )


def test_folder_is_small_and_complete() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(files.values()) <= 6_000_000
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"}
    assert needed | {"README.md"} <= set(files)
    assert "not a clinical model" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_shape_and_special_tokens(loaded) -> None:
    model, tokenizer, _ = loaded
    text, image = model.config.text_config, model.config.vision_config
    assert text.num_hidden_layers >= 4
    assert image.num_hidden_layers >= 4
    assert (image.image_size // image.patch_size) ** 2 >= 49
    assert text.max_position_embeddings >= 32
    for tower in (text, image):
        assert tower.hidden_size // tower.num_attention_heads in (32, 64)
        assert tower.hidden_act == "quick_gelu"
    assert text.eos_token_id == tokenizer.eos_token_id != 2
    assert text.bos_token_id == tokenizer.bos_token_id
    assert text.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_tokenizer_frames_lowers_and_truncates(loaded) -> None:
    _, tokenizer, _ = loaded
    ids = tokenizer("Pleural Effusion").input_ids
    assert ids == tokenizer("pleural effusion").input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    long = tokenizer("one word after another " * 60, truncation=True).input_ids
    assert len(long) == tokenizer.model_max_length
    assert long[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer("größe ≥ 3 µm").input_ids, skip_special_tokens=True).strip() == "größe ≥ 3 µm"


def test_zero_shot_beats_chance_on_the_samples(loaded, scoring) -> None:
    films = scoring.read_films(samples.cached("cxr"), "test")
    scores = scoring.zero_shot_auroc(*loaded, films)
    macro = math.fsum(scores.values()) / len(scores)
    assert 0.55 < macro < 0.80, scores


@pytest.mark.slow
def test_pretraining_script_runs(tmp_path: Path) -> None:
    script = ROOT / "examples" / "pretrain_tiny.py"
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path / "tiny"), "--smoke", "--threads", "1"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "zero-shot macro AUROC" in done.stdout.splitlines()[-1]
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {path.name for path in FOLDER.iterdir()}
