"""Merlin against figures recorded from its authors' code.

merlin-tiny.npz: StanfordMIMI/Merlin at 2489a96, `I3ResNet` of merlin/models/i3res.py unmodified on CPU, in evaluation
mode and in fp64 (ReLU and maximum near their kinks make gradients in fp32 differ by 1.5e-4), made of a torchvision
ResNet with one bottleneck per stage and of 11 diagnoses; weights are `merlin_weights.drawn`, the volume is numpy's
default_rng(7).standard_normal of [2, 1, 40, 48, 36]. Of gradients, every 8th and 32nd channel.
merlin-keys.json: names and shapes of `MerlinArchitecture` as build.py makes it (ResNet-152, Clinical-Longformer).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import gap, relative
from merlin_weights import drawn

from domainvl.towers.merlin import MerlinCNN, MerlinModel

FOLDER = Path(__file__).parent
IMAGE = "encode_image.i3_resnet."


@pytest.fixture(scope="module")
def found():
    with np.load(FOLDER / "merlin-tiny.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file}


@pytest.fixture(scope="module")
def weights():
    model = MerlinModel((1, 1, 1, 1), 512, 11)
    return drawn({key: tuple(value.shape) for key, value in model.state_dict().items()})


def volume():
    """The authors' (x, y, z) as the (z, x, y) of their preset."""
    drawn_ = np.random.default_rng(7).standard_normal((2, 1, 40, 48, 36), dtype=np.float32)
    return torch.from_numpy(drawn_).permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_is_the_authors(found, weights, checkpointing):
    tower = MerlinCNN(MerlinModel.from_published(weights)).double()
    tower.checkpointing = checkpointing
    given = volume().double().requires_grad_(True)
    state = tower.run(tower.embed(given))
    feature = tower.project(tower.pool(state))
    assert relative(feature, found["out"]) < 1e-6
    assert gap(tower.model.classifier(tower.pool(state)[..., None, None, None]).flatten(1), found["ehr"]) < 1e-4
    (feature * found["weight"]).sum().backward()
    assert relative(tower.model.conv1.weight.grad[::8], found["grad/conv1.weight"]) < 1e-6
    ours = tower.model.layer2[0].downsample[0].weight.grad[::32]
    assert relative(ours, found["grad/layer2.0.downsample.0.weight"]) < 1e-6
    assert relative(given.grad.permute(0, 1, 3, 4, 2).sum(dim=(2, 3)), found["grad/sums"]) < 1e-6


def test_tokens_lie_where_they_are_seen(weights):
    tower = MerlinCNN(MerlinModel.from_published(weights))
    one, other = volume()[:1], volume()[:1].clone()
    other[..., -1] += 9
    with torch.no_grad():
        states = [tower.embed(x) for x in (one, other)]
    assert states[0].grid == (3, 2, 2)
    moved = (states[0].tokens - states[1].tokens).abs().sum(dim=-1).view(3, 2, 2)
    assert float(moved[..., 1].sum()) > 2 * float(moved[..., 0].sum())


def test_the_published_sizes_fit():
    shapes = json.loads((FOLDER / "merlin-keys.json").read_text())
    with torch.device("meta"):
        model = MerlinModel.from_published(
            {key.removeprefix(IMAGE): torch.empty(shape) for key, shape in shapes.items() if key.startswith(IMAGE)}
        )
    assert [len(getattr(model, f"layer{i}")) for i in (1, 2, 3, 4)] == [3, 8, 36, 3]
    assert (MerlinCNN(model).out_dim, model.classifier.out_channels) == (512, 1692)


def test_what_is_no_merlin_is_refused(weights):
    for broken, message in (
        ({key: value for key, value in weights.items() if "head" not in key}, "no Merlin"),
        ({key: value for key, value in weights.items() if key != "bn1.weight"}, r"missing \['bn1.weight'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            MerlinModel.from_published(broken)
    tower = MerlinCNN(MerlinModel.from_published(weights))
    with pytest.raises(ValueError, match=r"\[B, 1, D, H, W\]"):
        tower(torch.zeros(1, 3, 4, 4, 4))
    with pytest.raises(ValueError, match="LoRA with sides"):
        tower.lora_targets(("q",))
    with pytest.raises(IndexError, match="depth is 0"):
        tower.block(0, tower.embed(volume()))
