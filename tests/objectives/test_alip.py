"""ALIP: what the weights make of broken texts, and what they leave alone."""

import pytest
import torch
from torch.nn.functional import normalize

from domainvl.objectives import Alip, Context, InfoNCE

BROKEN = 100


def noisy(count=512, width=64, broken=BROKEN):
    """Images, raw texts of which the first ones belong to nobody, and captions that all fit."""
    draw = torch.Generator().manual_seed(0)
    image = normalize(torch.randn(count, width, generator=draw), dim=-1)
    text, caption = (image + 0.08 * torch.randn(count, width, generator=draw) for _ in range(2))
    text[:broken] = torch.randn(broken, width, generator=draw)
    return {"image.pooled": image, "text.pooled": text, "text@caption.pooled": caption}


def context(scale=14.0):
    return Context(scale=torch.tensor(scale), epoch=0)


def test_broken_texts_lose_their_weight():
    trust, text, caption = Alip().gates(*noisy().values(), context())
    assert trust[BROKEN:].mean() > 0.999
    assert trust[:BROKEN].mean() == pytest.approx(0.33, abs=0.02)
    assert (trust * text)[:BROKEN].mean() < 0.12
    # The caption of a record with a broken text is as good as any.
    assert caption[:BROKEN].mean() > 0.9


@pytest.mark.parametrize(("gate", "lowest", "highest"), [(False, 0.9, 1.1), (True, 0.2, 0.4)])
def test_a_caption_keeps_its_pull_beside_a_broken_text_unless_gated(gate, lowest, highest):
    def pull(objective):
        features = noisy()
        features["text@caption.pooled"].requires_grad_()
        objective(features, {}, context())["loss"].backward()
        return features["text@caption.pooled"].grad[:BROKEN].norm().item()

    assert lowest < pull(Alip(gate_caption=gate)) / pull(InfoNCE("image.pooled", "text@caption.pooled")) < highest


def test_without_a_slope_it_is_two_infonces():
    features = noisy(32, broken=8)
    terms = [InfoNCE("image.pooled", key)(features, {}, context())["loss"] for key in list(features)[1:]]
    assert Alip(gamma=0.0)(features, {}, context())["loss"].item() == pytest.approx(sum(terms).item(), abs=1e-6)


def test_running_means_follow_and_weights_carry_no_gradient():
    objective, features = Alip(momentum=0.5), noisy(16, broken=0)
    gates = objective.gates(*(x.requires_grad_() for x in features.values()), context())
    assert not any(gate.requires_grad for gate in gates)
    first = objective.means.clone()
    objective.gates(*(torch.ones(4, 8) for _ in range(3)), context())
    assert torch.allclose(objective.means, (first + 1) / 2)
    objective.eval()
    objective.gates(*(-torch.ones(4, 8) for _ in range(3)), context())
    assert torch.allclose(objective.means, (first + 1) / 2)


@pytest.mark.parametrize(("settings", "named"), [({"gamma": -1.0}, "gamma"), ({"momentum": 1.0}, "momentum")])
def test_refused_settings(settings, named):
    with pytest.raises(ValueError, match=named):
        Alip(**settings)
