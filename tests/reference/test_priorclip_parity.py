"""PriorCLIP's attribution loss against figures recorded from the authors' code.

priorclip.npz: jaychempan/PriorCLIP at 907ad0f, `ClipLoss(is_aff_loss=True)` of `src/open_clip/loss.py` unmodified, CPU,
fp32. Six random records of three classes, two of each, width 512 (which the code demands), scale 14. Every record is a
column there, so that classes of two records add log 2 to the loss, and nothing to its gradient.
"""

import math

import pytest
from golden import GRADIENT, LOSS, record, relative

from domainvl.objectives import Context, InfoNCE, PriorAttribution

FOUND, META = record("priorclip")


def run(objective):
    image, text = (FOUND[f"in/{side}"].clone().requires_grad_() for side in ("image", "text"))
    features = {"image.pooled": image, "text.pooled": text}
    scale = FOUND["in/image"].new_tensor(META["scale"])
    done = objective(features, {"label": FOUND["in/class"]}, Context(scale=scale, epoch=0))
    done["loss"].backward()
    return done["loss"].item(), image.grad, text.grad


def test_attribution_differs_by_the_log_of_the_size_of_classes_and_in_no_gradient():
    loss, image, text = run(PriorAttribution())
    assert loss + math.log(2) == pytest.approx(FOUND["affiliation"].item(), abs=LOSS)
    assert relative(image, FOUND["grad/image"]) < GRADIENT
    assert relative(text, FOUND["grad/text"]) < GRADIENT


def test_the_contrastive_term_is_infonce():
    assert run(InfoNCE())[0] == pytest.approx(FOUND["contrastive"].item(), abs=LOSS)
