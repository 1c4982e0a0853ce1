"""GLoRIA's local loss against figures recorded from the authors' code.

gloria.npz: marshuang80/gloria at 416466a, local_loss of its gloria_loss.py unmodified on CPU in fp32: five images of
3 x 4 regions, five texts of 2 to 7 words, width 16, temperatures 4, 5 and 10, summed over words and averaged.
"""

import pytest
import torch
from golden import GRADIENT, LOSS, gap, record, relative

from domainvl.objectives import Context, GloriaLocal, _scored

FOUND, _ = record("gloria")
CONTEXT = Context(scale=torch.tensor(1.0), epoch=0)


@pytest.mark.parametrize("at_once", [_scored.AT_ONCE, 1])
@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_local_loss(aggregate, at_once, monkeypatch):
    """Whole and text by text."""
    monkeypatch.setattr(_scored, "AT_ONCE", at_once)
    features = {f"{side}.tokens": FOUND[f"in/{side}"].clone().requires_grad_() for side in ("image", "text")}
    masks = {"image.mask": torch.ones(5, 12, dtype=torch.bool), "text.mask": FOUND["in/mask"]}
    loss = GloriaLocal(aggregate=aggregate)(features | masks, {}, CONTEXT)["loss"]
    loss.backward()
    assert gap(2 * loss, FOUND[f"out/rows_{aggregate}"] + FOUND[f"out/columns_{aggregate}"]) < LOSS * 10
    for side in ("image", "text"):
        assert relative(2 * features[f"{side}.tokens"].grad, FOUND[f"grad/{side}_{aggregate}"]) < GRADIENT
