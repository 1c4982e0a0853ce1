"""Presets do what the checkpoint's own image processor does."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import open_clip
import pytest
import timm
import torch
from checkpoint_toys import hf_clip, open_clip_safetensors, pair, tokenizer
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    CLIPProcessor,
    SiglipImageProcessor,
)

from domainvl.backbones._processor import preset_of
from domainvl.data.preset import Preset

PIL_LEVELS = 1.0 + 1e-3


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    shapes = [(61, 48, 3), (48, 95, 3), (32, 32, 3), (20, 27, 3), (333, 501)]
    return [Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


PROCESSORS = {
    "clip": lambda: CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "clip_larger": lambda: CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    "clip_old_numbers": lambda: CLIPImageProcessor(size=32, crop_size=32),
    "clip_bilinear": lambda: CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=2
    ),
    "siglip": lambda: SiglipImageProcessor(size={"height": 32, "width": 32}),
    "squash_and_crop": lambda: CLIPImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_presets_equal_the_processors_of_transformers(name):
    processor = PROCESSORS[name]()
    preset = preset_of("test", name, json.loads(processor.to_json_string()))
    for picture in pictures():
        theirs = processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(preset(picture), theirs, atol=2e-6, rtol=0.0)


def _worst(preset: Preset, theirs: Callable[[Image.Image], Tensor]) -> float:
    """Largest difference in grey levels of 255."""
    std = torch.tensor(preset.std).view(3, 1, 1)
    return max(float(((preset(p) - theirs(p.convert("RGB"))) * std).abs().max()) * 255 for p in pictures())


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_presets_follow_open_clip(tmp_path, mode):
    """open_clip resizes with Pillow, we with torch: at most one of 255 grey levels apart, on white noise."""
    saved = open_clip_safetensors(tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {"resize_mode": mode, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    preset = saved.load().preset
    library = open_clip.create_model(f"local-dir:{tmp_path}")
    theirs = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**library.visual.preprocess_cfg), is_train=False
    )
    assert _worst(preset, theirs) <= PIL_LEVELS


def test_presets_follow_timm(tmp_path):
    saved = pair(tmp_path)
    data = json.loads((tmp_path / "image" / "config.json").read_text())["pretrained_cfg"]
    theirs = timm.data.create_transform(
        **{
            key: data[key]
            for key in ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
            if key in data
        }
    )
    assert _worst(saved.load().preset, theirs) <= PIL_LEVELS


def test_presets_follow_the_pillow_processor_of_transformers():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    preset = preset_of("test", "pil", json.loads(processor.to_json_string()))
    worst = _worst(preset, lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0])
    assert worst <= PIL_LEVELS


def test_processor_config_of_newer_checkpoints_is_read(tmp_path):
    saved = hf_clip(tmp_path)
    before = saved.load().preset.digest
    (tmp_path / "preprocessor_config.json").unlink()
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(processor, tokenizer("<start>", "<end>", "<pad>")).save_pretrained(tmp_path)
    assert (tmp_path / "processor_config.json").is_file()
    assert not (tmp_path / "preprocessor_config.json").is_file()
    assert saved.load().preset.digest == before
