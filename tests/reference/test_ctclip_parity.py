"""CT-CLIP against figures recorded from its authors' code.

ctclip-tiny.npz: ibrahimethemhamamci/CT-CLIP at a2a155c, `CTViT` and `CTCLIP` on CPU in fp32 with
vector-quantize-pytorch 1.1.2 (the hard-coded device changed to the CPU, the download of a tokenizer left out), 16
values wide, patches of 2 x 4 x 4, two blocks each way; every parameter was moved by .1 N(0, 1) and the codes to
lengths of 0.5 to 1.5 first.
ctclip-keys.json: names and shapes of the same classes in the sizes of scripts/run_zero_shot.py.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import FEATURES, GRADIENT, gap, relative
from torch.nn.functional import normalize

from domainvl.towers.ctvit import CTViT, CTViTModel

FOLDER = Path(__file__).parent
VISUAL = "visual_transformer."
GRADIENTS = {
    "spatial_rel_pos_bias.net.0.0.weight": "offsets.0.weight",
    "enc_spatial_transformer.layers.0.0.dsconv.weight": "blocks.0.near.weight",
    "enc_spatial_transformer.layers.1.3.1.weight": "blocks.1.up.weight",
    "enc_temporal_transformer.layers.0.1.q_scale": "blocks.2.query_scale",
    "enc_temporal_transformer.layers.1.0.dsconv.weight": "blocks.3.near.weight",
}


@pytest.fixture(scope="module")
def found():
    with np.load(FOLDER / "ctclip-tiny.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def visual(tensors):
    return {key.removeprefix(VISUAL): value for key, value in tensors.items() if key.startswith(VISUAL)}


def tower_of(found):
    weights = {key.removeprefix("weight/"): value for key, value in found.items() if key.startswith("weight/")}
    projection = torch.nn.Linear(*reversed(weights["to_visual_latent.weight"].shape), bias=False)
    projection.load_state_dict({"weight": weights["to_visual_latent.weight"]})
    return CTViT(CTViTModel.from_published(visual(weights), (2, 4, 4)), projection)


def test_features_and_tokens_are_the_authors(found):
    tower = tower_of(found)
    with torch.no_grad():
        state = tower.run(tower.embed(found["in/volume"]))
        assert gap(normalize(tower(found["in/volume"]), dim=-1), found["out/image"]) < FEATURES
        assert gap(tower.norm(state.tokens), found["out/tokens"].flatten(1, 3)) < FEATURES
        assert gap(tower.model.depth_norm(state.tokens), found["out/encoded"].flatten(1, 3)) < FEATURES


def test_gradients_are_the_authors(found):
    tower = tower_of(found)
    given = found["in/volume"].clone().requires_grad_(True)
    state = tower.run(tower.embed(given))
    (tower.model.depth_norm(state.tokens) * found["in/weight"].flatten(1, 3)).sum().backward()
    assert relative(given.grad, found["grad/volume"]) < GRADIENT
    learned = dict(tower.model.named_parameters())
    for theirs, ours in GRADIENTS.items():
        assert relative(learned[ours].grad, found[f"grad/{theirs}"]) < GRADIENT


def test_codes_pass_the_gradient_on(found):
    model = tower_of(found).model
    tokens = torch.randn(3, 16, requires_grad=True)
    codes = model.quantise(tokens)
    assert all(any(torch.equal(code, known) for known in model.codes) for code in codes)
    (codes * 2).sum().backward()
    assert torch.equal(tokens.grad, torch.full((3, 16), 2.0))


def test_the_published_sizes_fit():
    shapes = json.loads((FOLDER / "ctclip-keys.json").read_text())
    with torch.device("meta"):
        model = CTViTModel.from_published(
            visual({key: torch.empty(shape) for key, shape in shapes.items()}), (10, 20, 20)
        )
    assert (model.spatial, len(model.blocks), model.heads, tuple(model.codes.shape)) == (4, 8, 8, (8192, 512))


def test_what_is_no_ctclip_is_refused(found):
    weights = visual({key.removeprefix("weight/"): value for key, value in found.items()})
    for broken, message in (
        ({**weights, "blocks.7.attn": torch.zeros(1)}, "'blocks.7.attn'"),
        ({key: value for key, value in weights.items() if "vq" not in key}, "no CT-CLIP"),
    ):
        with pytest.raises(ValueError, match=message):
            CTViTModel.from_published(broken, (2, 4, 4))
    with pytest.raises(ValueError, match=r"patches of 32 voxels, \(2, 4, 5\)"):
        CTViTModel.from_published(weights, (2, 4, 5))
    with pytest.raises(ValueError, match=r"missing \['depth_norm.bias', 'depth_norm.weight', 'spatial_norm.bias'\]"):
        CTViTModel.from_published({k: v for k, v in weights.items() if "norm_out" not in k}, (2, 4, 4))
    tower = tower_of(found)
    for shape, message in (((1, 1, 5, 16, 16), "whole patches"), ((1, 1, 4, 16, 20), "reads 16 patches of a slice")):
        with pytest.raises(ValueError, match=message):
            tower(torch.zeros(shape))
