"""A broken, missing or unsupported checkpoint says what is wrong and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_toys import Saved, biomedclip, hf_clip, hf_siglip, open_clip_safetensors, pair
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from domainvl.backbones import Backbone, HuggingFace, OpenClip, Pair


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def _drop(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def _without_tensor(folder: Path, file: str, key: str) -> None:
    tensors = load_file(folder / file)
    del tensors[key]
    save_file(tensors, folder / file, metadata={"format": "pt"})


def _pickle_code(folder: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}, "hyper": Path("anything")}, folder / "open_clip_model.bin")
    (folder / "open_clip_model.safetensors").unlink()
    (folder / "open_clip_model.bin").rename(folder / "open_clip_pytorch_model.bin")


def _set(file: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / file, lambda content: content.update(values))


# A change to a good folder, and what the error must say.
BROKEN: dict[str, tuple[Callable[[Path], Saved], Callable[[Path], None], str]] = {
    "naflex": (hf_siglip, _set("config.json", model_type="siglip2"), "NaFlex.*google/siglip2-base-patch16-224"),
    "another model type": (hf_clip, _set("config.json", model_type="llava"), "'llava'; supported are clip and siglip"),
    "no weights": (hf_clip, lambda f: _drop(f, "model.safetensors"), "has no model.safetensors"),
    "pickled weights": (
        hf_clip,
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        r"pickled weights \(pytorch_model.bin\) are not loaded",
    ),
    "a missing tensor": (
        hf_clip,
        lambda f: _without_tensor(f, "model.safetensors", "visual_projection.weight"),
        r"lack 1 tensors of its config, e.g. \['visual_projection.weight'\]",
    ),
    "no processor": (hf_clip, lambda f: _drop(f, "preprocessor_config.json"), "has no preprocessor_config.json or"),
    "no tokenizer": (
        hf_clip,
        lambda f: _drop(f, "tokenizer.json", "tokenizer_config.json"),
        "has no tokenizer.json or",
    ),
    "no json": (hf_clip, lambda f: (f / "config.json").write_text("{"), "config.json is no valid JSON"),
    "another image size": (
        hf_clip,
        _set("preprocessor_config.json", crop_size={"height": 24, "width": 24}),
        "images of 24 pixels and the model takes 32",
    ),
    "no resize": (hf_clip, _set("preprocessor_config.json", do_resize=False), "do_resize=False; accepted is true"),
    "lanczos": (hf_clip, _set("preprocessor_config.json", resample=1), "resample=1; accepted is 0"),
    "oblong": (hf_clip, _set("preprocessor_config.json", crop_size={"height": 32, "width": 24}), "crop_size="),
    "any shape": (
        hf_clip,
        _set("preprocessor_config.json", do_center_crop=False),
        "batch need one shape",
    ),
    "another scale": (hf_clip, _set("preprocessor_config.json", rescale_factor=1 / 127.5), "rescale_factor="),
    "another end of text": (
        hf_clip,
        lambda f: _edit(f / "config.json", lambda c: c["text_config"].update(eos_token_id=7)),
        "pooled at position 0 of the ids",
    ),
    "open_clip without config": (
        open_clip_safetensors,
        lambda f: _drop(f, "open_clip_config.json"),
        "has no open_clip_config.json",
    ),
    "open_clip without weights": (
        open_clip_safetensors,
        lambda f: _drop(f, "open_clip_model.safetensors"),
        "has no open_clip_model.safetensors or",
    ),
    "open_clip with another shape": (
        open_clip_safetensors,
        lambda f: _edit(f / "open_clip_config.json", lambda c: c["model_cfg"]["vision_cfg"].update(layers=4)),
        "does not fit the architecture",
    ),
    "open_clip with code": (open_clip_safetensors, _pickle_code, "code from files is not run"),
    "open_clip with another resize": (
        open_clip_safetensors,
        _set("open_clip_config.json", preprocess_cfg={"resize_mode": "stretch"}),
        "resize_mode 'stretch'; accepted are shortest, squash, longest",
    ),
    "biomedclip without text config": (
        biomedclip,
        lambda f: _drop(f, "config.json"),
        "(?s)'microsoft/BiomedNLP-PubMedBERT.*beside open_clip_config.json, or give text_model",
    ),
    "biomedclip without tokenizer": (
        biomedclip,
        lambda f: _drop(f, "tokenizer.json"),
        "has no tokenizer files.*or give text_model",
    ),
    "pair of an unknown architecture": (
        pair,
        _set("image/config.json", architecture="vit_unheard_of"),
        "'vit_unheard_of', which timm does not know",
    ),
    "pair with a CLIP as text": (pair, _set("text/config.json", model_type="clip"), "model_type 'clip'; `text` takes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints_say_what_is_wrong(tmp_path, case):
    build, damage, message = BROKEN[case]
    saved = build(tmp_path)
    damage(tmp_path)
    with pytest.raises((RuntimeError, ValueError), match=message) as caught:
        saved.load()
    assert str(tmp_path) not in str(caught.value)


ARGUMENTS: dict[str, tuple[Callable[[], Backbone], str]] = {
    "no folder": (lambda: HuggingFace("./no/such/folder"), "neither a folder nor a Hub id"),
    "revision of a built-in": (lambda: HuggingFace("builtin:tiny", revision="main"), "has no revision"),
    "architecture alone": (lambda: OpenClip("ViT-B-16"), r"needs pretrained=<weights file>, got None"),
    "weights for a hub id": (
        lambda: OpenClip("hf-hub:a/b", pretrained="x.pt"),
        "goes with the name of an arch",
    ),
    "temperature": (lambda: Pair("a", "b", temperature=0.0), "must be positive"),
    "pooling": (lambda: Pair("a", "b", pooling="pooler"), "not one of cls, mean"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_bad_arguments_say_what_is_accepted(case):
    build, message = ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("name", ["openai/clip-vit-base-patch16", "hf-hub:laion/some-model"])
@pytest.mark.parametrize("revision", [None, "abc123"])
def test_a_missing_download_says_what_to_do_offline(tmp_path, monkeypatch, name, revision):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    kind = OpenClip if name.startswith("hf-hub:") else HuggingFace
    with pytest.raises(RuntimeError) as caught:
        kind(name, revision=revision)
    message = str(caught.value)
    plain = name.removeprefix("hf-hub:")
    option = "" if revision is None else f" --revision {revision}"
    assert f"hf download {plain}{option} --local-dir {plain.split('/')[1]}" in message
    assert "HF_HUB_OFFLINE" in message
    assert len(message.splitlines()) <= 3


def test_a_revision_of_a_folder_is_refused(tmp_path):
    hf_clip(tmp_path)
    with pytest.raises(ValueError, match="local folder, so revision='main' means nothing"):
        HuggingFace(str(tmp_path), revision="main")
