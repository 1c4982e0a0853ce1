"""Backbones load the published file formats, and what they load is what was saved."""

from __future__ import annotations

import json

import library_toys as library
import open_clip
import pytest
import torch
from checkpoint_toys import BUILDERS, TEXTS, biomedclip, hf_clip, hf_siglip, open_clip_safetensors, pair
from huggingface_hub import constants
from PIL import Image
from torch import nn

from domainvl.backbones import HuggingFace, OpenClip, Pair
from domainvl.backbones._loading import weights_digest


@pytest.fixture(params=BUILDERS, scope="module")
def saved(request, tmp_path_factory):
    torch.manual_seed(0)
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


@torch.no_grad()
def test_loaded_features_equal_the_saved_model(saved):
    """Images exactly; texts to 4e-6, because open_clip runs all 16 positions where ours stop at the longest text."""
    # torch sums attention of frozen weights in another order, so both have to be frozen.
    backbone = saved.load().requires_grad_(False)
    pixels = library.images(saved.size)
    assert torch.equal(backbone.image(pixels), saved.image(pixels))
    inputs = backbone.tokenize(TEXTS)
    torch.testing.assert_close(backbone.text(inputs), saved.text(inputs), atol=4e-6, rtol=0.0)
    alone = torch.cat([backbone.text(backbone.tokenize([text])) for text in TEXTS])
    torch.testing.assert_close(alone, backbone.text(inputs), atol=4e-6, rtol=0.0)


def test_spec_names_the_weights_and_no_path(saved):
    backbone = saved.load()
    spec, again = backbone.spec(), saved.load().spec()
    assert spec == again
    assert str(saved.folder.parent) not in json.dumps(spec.as_dict())
    assert spec.kind == type(backbone).__name__
    assert spec.preset == backbone.preset.digest
    with torch.no_grad():
        next(backbone.text.parameters()).add_(1e-3)
    assert weights_digest(backbone.library) != spec.weights


def test_towers_and_library_share_their_weights(saved):
    backbone = saved.load()
    library = {id(parameter) for parameter in backbone.library.parameters()}
    towers = [id(p) for tower in (backbone.image, backbone.text) for p in tower.parameters()]
    assert set(towers) <= library
    assert isinstance(backbone.logit_scale, nn.Parameter)
    assert not any(module.training for module in backbone.modules())
    for side in (backbone.image, backbone.text):
        for name in side.lora_targets(("q", "k", "v")):
            if name.endswith("in_proj_weight"):
                backbone.library.get_parameter(name)
            else:
                assert isinstance(backbone.library.get_submodule(name), nn.Linear)


def test_texts_are_cut_and_masked(saved):
    backbone = saved.load()
    inputs = backbone.tokenize(TEXTS)
    long = backbone.tokenize(["chest " * 100])
    assert long.ids.shape[1] == library.CONTEXT
    assert backbone.tokenize(["finding"]).keep is None
    if inputs.keep is None:
        assert inputs.ids.shape[1] == library.CONTEXT
    else:
        assert inputs.keep.sum(1).max() == inputs.ids.shape[1] < library.CONTEXT
        assert not inputs.keep.all()
        assert (inputs.keep[:, 1:] <= inputs.keep[:, :-1]).all()
    with pytest.raises(TypeError, match="give a list of texts"):
        backbone.tokenize("a chest x-ray")
    with pytest.raises(ValueError, match="no text"):
        backbone.tokenize([])


def test_biomedclip_takes_its_text_config_from_another_folder(tmp_path):
    (tmp_path / "clip").mkdir()
    biomedclip(tmp_path / "clip")
    (tmp_path / "bert").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "clip" / name).rename(tmp_path / "bert" / name)
    backbone = OpenClip(str(tmp_path / "clip"), text_model=str(tmp_path / "bert"))
    assert backbone.tokenize(TEXTS).ids[0, 0] == library.START


def test_open_clip_tokenizer_is_the_library_s_own(tmp_path):
    saved = open_clip_safetensors(tmp_path)
    inputs = saved.load().tokenize(TEXTS)
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(TEXTS)
    length = inputs.ids.shape[1]
    assert torch.equal(inputs.ids, theirs[:, :length])
    assert not theirs[:, length:].any()
    assert torch.equal(inputs.keep, theirs[:, :length] != 0)


def test_pair_projections_follow_their_seed(tmp_path):
    pair(tmp_path)

    def weights(seed: int) -> str:
        return Pair(str(tmp_path / "image"), str(tmp_path / "text"), out_dim=8, seed=seed).spec().weights

    assert weights(0) == weights(0)
    assert weights(0) != weights(1)


def test_the_built_in_model_loads():
    backbone = HuggingFace("builtin:tiny")
    assert backbone.spec().name == "builtin:tiny"
    image = backbone.image(backbone.preset(Image.new("L", (90, 70)))[None])
    assert image.shape == backbone.text(backbone.tokenize(["a chest x-ray"])).shape


def test_weights_digest_sees_names_shapes_types_and_values():
    base = nn.Linear(300, 2)
    seen = {weights_digest(base)}
    for change in (
        lambda m: m.double(),
        lambda m: nn.Sequential(m),
        lambda m: nn.Linear(2, 300),
        lambda m: m.requires_grad_(False).apply(lambda layer: layer.bias.add_(1e-6)),
    ):
        other = nn.Linear(300, 2)
        other.load_state_dict(base.state_dict())
        seen.add(weights_digest(change(other)))
    assert len(seen) == 5
    same = nn.Linear(300, 2)
    same.load_state_dict(base.state_dict())
    assert weights_digest(same) in seen


def test_a_cached_download_is_found_offline_with_its_commit(tmp_path, monkeypatch):
    """The Hub's cache as huggingface_hub lays it out."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--toy-clip"
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    saved = hf_clip(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    backbone = HuggingFace("someone/toy-clip")
    assert (backbone.spec().name, backbone.spec().revision) == ("someone/toy-clip", commit)
    assert backbone.spec().weights == saved.load().spec().weights


def test_lower_case_is_taken_from_the_tokenizer_config(tmp_path):
    """SigLIP 2 ships Gemma's tokenizer, which has case, with do_lower_case, which transformers ignores."""
    saved = hf_siglip(tmp_path)
    core = json.loads((tmp_path / "tokenizer.json").read_text())
    core["normalizer"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(core))
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "GemmaTokenizer", "padding_side": "right"}
    for lower in (True, False):
        path.write_text(json.dumps(settings | {"do_lower_case": lower}))
        cased, plain = saved.load().tokenize(["A CHEST", "a chest"]).ids
        assert torch.equal(cased, plain) is lower
