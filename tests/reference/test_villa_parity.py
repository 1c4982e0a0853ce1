"""ViLLA's two losses against figures recorded from the authors' code.

villa.npz: StanfordMIMI/villa at 9b29196, its stage 1 model and loss and its stage 2 loss unmodified on CPU in fp32
(`.cuda()` stubbed): five images of 2 to 5 regions, four attributes of which nobody shows the last, width 10; a network
per attribute, one for all, and the adapter variant. temperature 0.07.
"""

import pytest
import torch
from golden import GRADIENT, LOSS, gap, record, relative
from torch.nn.functional import normalize

from domainvl.objectives import Context, InfoNCE, VillaMapping

FOUND, _ = record("villa")
CONTEXT = Context(scale=torch.tensor(1 / 0.07), epoch=0)
LAYERS = {"weight1": "0.weight", "bias1": "0.bias", "weight2": "2.weight", "bias2": "2.bias"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("each", {"attributes": 4}), ("one", {}), ("each_adapter", {"attributes": 4, "keep": 0.8})],
)
def test_mapping_as_published(name, settings):
    counts = FOUND["in/counts"].tolist()
    regions = torch.nn.utils.rnn.pad_sequence(FOUND["in/regions"].split(counts), batch_first=True)
    features = {
        "frozen/image.tokens": regions,
        "frozen/image.mask": torch.arange(max(counts)) < FOUND["in/counts"][:, None],
        "frozen/text@classes.pooled": FOUND["in/attributes"],
    }
    objective = VillaMapping(**settings, as_published=True)
    objective.attach(dict.fromkeys(features, 10))
    networks = range(settings.get("attributes", 1))

    def theirs(kind, layer):
        return torch.stack([FOUND[f"{kind}_{name}/pool.{number}.{layer}"] for number in networks])

    for ours, layer in LAYERS.items():
        getattr(objective, ours).data.copy_(theirs("w", layer))
    loss = objective(features, {"label": FOUND["in/labels"].float()}, CONTEXT)["loss"]
    loss.backward()
    assert gap(loss, FOUND[f"out/stage1_{name}"]) < LOSS
    for ours, layer in LAYERS.items():
        assert relative(getattr(objective, ours).grad, theirs("grad", layer)) < GRADIENT, ours


def test_stage_two_is_infonce():
    image = FOUND["in/stage2_image"].clone().requires_grad_()
    loss = InfoNCE()({"image.pooled": image, "text.pooled": normalize(FOUND["in/stage2_text"], dim=-1)}, {}, CONTEXT)
    loss["loss"].backward()
    assert gap(loss["loss"], FOUND["out/stage2"]) < LOSS
    assert relative(image.grad, FOUND["grad/stage2_image"]) < GRADIENT
