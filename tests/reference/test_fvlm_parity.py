"""fVLM's loss over organs against figures recorded from the authors' code.

fvlm.npz: alibaba-damo-academy/fvlm at d768ec1, forward of BlipPretrain (lavis/models/blip_models/blip_pretrain.py)
unmodified on CPU in fp32, with encoders and projections that hand given features through: eight scans, four organs as
boxes of voxels, some of them absent or cut by the window, features of width 12.
"""

import torch
from golden import GRADIENT, LOSS, gap, record, relative

from domainvl.data.volumes.organ_decoder import without_cut
from domainvl.objectives import Context, OrganContrast
from domainvl.organs import organ_coverage, organ_pool

FOUND, META = record("fvlm")
ORGANS = META["organs"]


def test_organs_that_the_window_cuts_are_not_there():
    labels = without_cut(FOUND["in/labels"])
    coverage = organ_coverage(labels, [[number] for number in range(1, 5)], (3, 3, 3))
    assert torch.equal(organ_pool(torch.ones(8, 27, 1), coverage).valid, FOUND["out/intact"])


def test_loss_and_gradients():
    leaves = {side: FOUND[f"in/{side}"].clone().requires_grad_() for side in ("image", "text")}
    temperature = FOUND["in/temperature"].clone().requires_grad_()
    features = {f"{side}@{organ}.pooled": leaves[side][row] for side in leaves for row, organ in enumerate(ORGANS)}
    features |= {f"image@{organ}.mask": FOUND["out/intact"][:, row] for row, organ in enumerate(ORGANS)}
    batch = {f"text@{organ}": META["texts"][organ] for organ in ORGANS}
    done = OrganContrast(ORGANS)(features, batch, Context(scale=1 / temperature, epoch=0))
    done["loss"].backward()
    assert done["organs"] == len(META["losses"]) == 2
    assert gap(done["loss"], FOUND["out/loss"]) < LOSS
    assert gap(temperature.grad, FOUND["grad/temperature"]) < GRADIENT * float(FOUND["grad/temperature"].abs())
    for side, leaf in leaves.items():
        assert relative(leaf.grad, FOUND[f"grad/{side}"]) < GRADIENT
