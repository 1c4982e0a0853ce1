"""CLAP against figures recorded from the authors' code: multipliers, scores, loss, gradient and outer steps.

clap-tiny.npz: jusiro/CLAP at dbdf409, its CustomCLIP and AdapterMethod (INIT "ZS", CONSTRAINT "l2") unmodified on CPU
in fp32 (Dassl's modules and `.cuda()` stubbed) on `clip_state_dict("tiny", 0)` and the support features of
tip-adapter-tiny.npz. The prototypes were moved by .1 N(0, 1) before the step and by .05 N(0, 1) between three outer
steps. The authors' class features are not normalised; `prime` is given them as they are, with `length: 1`.
"""

import pytest
import torch
from golden import GRADIENT, LOGITS, LOSS, Golden, gap, record, relative
from torch.nn.functional import normalize, one_hot

from domainvl.adapters import CLAP
from domainvl.objectives import ClassCrossEntropy, Context

FOUND, _ = record("clap-tiny")
SUPPORT, _ = record("tip-adapter-tiny")
BACKBONE = Golden()


def primed(**settings):
    adapter = CLAP(length=1.0, views=2, **settings)
    adapter.attach(BACKBONE)
    adapter.prime(FOUND["in/classes"])
    adapter.take_support(SUPPORT["in/support"], one_hot(SUPPORT["in/targets"]).float())
    return adapter


@pytest.fixture
def step():
    adapter = primed()
    adapter.rows.data.copy_(FOUND["train/prototypes"])
    scores = adapter.logits({"image.pooled": SUPPORT["in/support"].flatten(0, 1)}, BACKBONE.scale())
    label = {"label": SUPPORT["in/targets"].repeat(2)}
    entropy = ClassCrossEntropy()(scores, label, Context(BACKBONE.scale(), 0))["loss"]
    return adapter, scores["image.logits"], entropy


def test_multipliers():
    assert gap(primed().multipliers, FOUND["in/multipliers"]) < 1e-6


def test_scores_loss_and_gradient(step):
    adapter, scores, entropy = step
    assert gap(scores, FOUND["out/logits"]) < LOGITS
    assert gap(entropy, FOUND["out/cross_entropy"]) < LOSS
    assert gap(adapter.penalty(), FOUND["out/constraint"]) < LOSS
    loss = entropy + adapter.penalty()
    assert gap(loss, FOUND["out/loss"]) < LOSS
    loss.backward()
    assert relative(adapter.rows.grad, FOUND["grad/prototypes"]) < GRADIENT


def test_outer_steps():
    adapter = primed(outer_steps=3)
    adapter.rows.data.copy_(FOUND["train/prototypes"])
    for index in range(3):
        adapter.epoch_ended(index, 300)
        assert gap(adapter.multipliers, FOUND[f"outer/multipliers{index}"]) < 1e-5
        assert gap(adapter.penalties, FOUND[f"outer/penalty{index}"]) < 1e-5
        adapter.rows.data.copy_(FOUND[f"outer/prototypes{index}"])
    after = adapter.multipliers.clone()
    adapter.epoch_ended(3, 300)
    assert torch.equal(adapter.multipliers, after)


def test_without_strength_it_is_zs_lp(step):
    adapter = CLAP(strength=0.0)
    assert adapter.support_views == 0
    assert adapter.penalty() is None


def test_multi_label_compares_the_two_prompts_of_a_finding():
    adapter = CLAP(views=1)
    adapter.attach(BACKBONE)
    classes = normalize(torch.randn(4, 64, generator=torch.Generator().manual_seed(0)), dim=-1)
    adapter.prime(classes)
    features = SUPPORT["in/support"][:1, :3]
    targets = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]])
    adapter.take_support(features, targets)
    s = 100 * normalize(features[0], dim=-1) @ classes.T
    expected = [torch.sigmoid(s[0, 0] - s[0, 2]), torch.sigmoid(s[:2, 1] - s[:2, 3]).mean()]
    expected += [torch.sigmoid(s[1, 2] - s[1, 0]), torch.tensor(1.0)]
    torch.testing.assert_close(adapter.multipliers, torch.stack(expected), rtol=1e-4, atol=1e-6)
