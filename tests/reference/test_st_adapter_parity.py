"""ST-Adapter against figures recorded from its authors' code.

st-adapter-tiny.npz: linziyi96/st-adapter at b914b38, class `Adapter` of models_adapter.py unmodified on CPU in fp32,
for 2 volumes of 4 slices of a class token and 3 x 3 patches; every tensor was moved by .3 N(0, 1) first.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import GRADIENT, gap, relative

from domainvl.adapters.st_adapter import STAdapter, _Bottleneck
from domainvl.tokens import TokenState

NAMES = {"fc1": "down", "conv": "conv", "fc2": "up"}


@pytest.mark.parametrize(("name", "kernel"), [("small", (3, 1, 1)), ("cube", (3, 3, 3))])
def test_a_step_is_the_authors(name, kernel):
    with np.load(Path(__file__).parent / "st-adapter-tiny.npz") as file:
        found = {key.removeprefix(f"{name}/"): torch.from_numpy(file[key]) for key in file if key.startswith(name)}
    adapter = STAdapter(width=5, kernel=kernel)
    adapter.blocks = torch.nn.ModuleList([_Bottleneck(12, 5, kernel)])
    learned = dict(adapter.blocks[0].named_parameters())
    ours = {f"{NAMES[part]}.{kind}": f"{part}.{kind}" for part in NAMES for kind in ("weight", "bias")}
    assert set(ours) == set(learned)
    with torch.no_grad():
        for key, theirs in ours.items():
            learned[key].copy_(found[f"train/{theirs}"])
    state = adapter.edit("image", 0, TokenState(found["in"], prefix=1, grid=(3, 3), parts=4))
    assert gap(state.tokens, found["out"]) < 1e-5
    (state.tokens * found["weight"]).sum().backward()
    for key, theirs in ours.items():
        assert relative(learned[key].grad, found[f"grad/{theirs}"]) < GRADIENT
