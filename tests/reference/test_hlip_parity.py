"""HLIP against figures recorded from its authors' code.

hlip-tiny.npz: Zch0414/hlip at fe8d764, `HLIPVisualEncoder` of src/hlip/visual_encoder.py unmodified on CPU in fp32
inside open_clip's `CustomTextCLIP`, as their configuration for chest CT builds it, with a BERT of one layer: 24 values
wide, patches of 2 x 4 x 4, blocks 0 and 2 within slices, 1 and 3 for all; every parameter was moved by .1 N(0, 1).
hlip-keys.json: names and shapes of the same in the size of vit_base_singlescan_h2_token2744.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import FEATURES, GRADIENT, gap, relative

from domainvl.tokens import TokenState
from domainvl.towers.hlip import Hlip, HlipModel

FOLDER = Path(__file__).parent
TRUNK = "visual.trunk."


@pytest.fixture(scope="module")
def found():
    with np.load(FOLDER / "hlip-tiny.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


def trunk(tensors):
    return {key.removeprefix(TRUNK): value for key, value in tensors.items() if key.startswith(TRUNK)}


def weights(found):
    return {key.removeprefix("weight/"): value for key, value in found.items() if key.startswith("weight/")}


def tower_of(found):
    projection = torch.nn.Linear(24, 12, bias=False)
    projection.load_state_dict({"weight": weights(found)["visual.head.proj.weight"]})
    return Hlip(HlipModel.from_published(trunk(weights(found)), heads=2), projection, whole=(1, 3))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("size", ["same", "larger"])
def test_a_step_is_the_authors(found, size, checkpointing):
    tower = tower_of(found)
    tower.checkpointing = checkpointing
    given = found[f"{size}/in"].clone().requires_grad_(True)
    feature = tower(given)
    assert gap(feature, found[f"{size}/out"]) < FEATURES
    (feature * found[f"{size}/weight"]).sum().backward()
    assert relative(given.grad, found[f"{size}/grad"]) < GRADIENT
    learned = dict(tower.model.named_parameters())
    for name in ("cls_token", "blocks.0.attn.qkv.weight", "blocks.2.mlp.fc1.weight"):
        assert relative(learned[name].grad, found[f"{size}/grad/{name}"]) < GRADIENT


def test_a_slice_sees_itself_until_all_are_seen(found):
    tower = tower_of(found)
    volume = found["same/in"]
    other = volume.clone()
    other[:, :, 2:] += 1
    with torch.no_grad():
        for stop, reached in ((1, [False, True]), (2, [True, True])):
            states = [tower.run(tower.embed(x), stop=stop) for x in (volume, other)]
            assert states[0].parts == (2 if stop == 1 else 1)
            patches = [state.tokens[:, state.patches()].reshape(2, 2, -1) for state in states]
            assert (patches[0] - patches[1]).abs().amax(dim=(0, 2)).gt(1e-5).tolist() == reached


@pytest.mark.parametrize("at", ["front", "back"])
@torch.no_grad()
def test_inserted_tokens_go_with_the_class_token(found, at):
    """They are copied to slices and averaged behind them, and lie where they were put."""
    tower = tower_of(found)
    new = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))

    def edit(last: int, index: int, state: TokenState) -> TokenState:
        if index == 1:
            return state.insert(new, at=state.prefix if at == "front" else state.length, name="new")
        return state.overwrite(new, "new") if index == last else state

    plain = tower.run(tower.embed(found["same/in"]), stop=2)
    state = tower.run(tower.embed(found["same/in"]), partial(edit, 9), stop=2)
    assert state.take("new").shape == (2, 2, 24)
    assert state.original().tokens.shape == plain.tokens.shape
    slices = tower._grouped(2, state)
    assert slices.parts == 2
    assert torch.equal(slices.take("new")[0], slices.take("new")[1])
    again = tower._grouped(3, slices)
    torch.testing.assert_close(again.tokens, state.tokens, rtol=1e-6, atol=1e-6)
    assert again.spans == state.spans
    assert torch.equal(again.readout, state.readout)
    features = [
        tower.project(tower.pool(tower.run(tower.embed(found["same/in"]), partial(edit, last)))) for last in (2, 9)
    ]
    assert not torch.equal(*features)


def test_the_published_sizes_fit():
    shapes = json.loads((FOLDER / "hlip-keys.json").read_text())
    with torch.device("meta"):
        model = HlipModel.from_published(trunk({key: torch.empty(shape) for key, shape in shapes.items()}))
        tower = Hlip(model, torch.nn.Linear(768, 512, bias=False))
    assert (tower.width, tower.depth, sorted(tower.whole)) == (768, 12, [2, 5, 8, 11])
    assert tuple(model.spatial_posemb.shape) == (1, 14, 14, 14, 768)


def test_what_is_no_single_scan_hlip_is_refused(found):
    given = trunk(weights(found))
    for broken, message in (
        (given | {"sequential_posemb": torch.zeros(1, 40, 24)}, "several scans of a study"),
        ({key: value for key, value in given.items() if "posemb" not in key}, "no HLIP"),
        ({key: value for key, value in given.items() if key != "norm.bias"}, r"missing \['norm.bias'\]"),
        (given | {"norm.bias": torch.zeros(7)}, r"norm.bias of the weights is \(7,\), expected \(24,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            HlipModel.from_published(broken, heads=2)
    with pytest.raises(ValueError, match="heads=5"):
        HlipModel.from_published(given, heads=5)
    tower = tower_of(found)
    with pytest.raises(ValueError, match="hold the last, got"):
        Hlip(tower.model, tower.projection, whole=(0, 1))
    with pytest.raises(ValueError, match="at least one patch"):
        tower(torch.zeros(1, 1, 1, 12, 12))
