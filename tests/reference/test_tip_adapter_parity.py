"""Tip-Adapter and -F against figures recorded from the authors' code.

tip-adapter-tiny.npz: gaopengcuhk/Tip-Adapter at d0e2d6f, its build_cache_model, run_tip_adapter, run_tip_adapter_F and
search_hp unmodified on CPU in fp32 (`.cuda()` and `.half()` stubbed; `float` of a one-element array in cls_acc, which
numpy no longer takes) on the features that `clip_state_dict("tiny", 0)` gives for ten random images of five classes,
two passes with other noise, and for the inputs of mmrl-tiny.npz. alpha 1.7, beta 2. Logits and loss were caught at
their cross-entropy, the gradient of the keys in AdamW's first step. The validation features are noisy copies of keys.
"""

import pytest
import torch
from golden import GRADIENT, LOGITS, LOSS, gap, inputs, record, relative
from torch.nn.functional import normalize, one_hot

from domainvl.adapters import TipAdapter
from domainvl.objectives import ClassCrossEntropy, Context
from domainvl.tasks.selection import accuracy

FOUND, META = record("tip-adapter-tiny")
SCALE = torch.tensor(100.0)


def filled(**settings):
    adapter = TipAdapter(alpha=META["alpha"], beta=META["beta"], views=2, **settings)
    adapter.take_support(FOUND["in/support"], one_hot(FOUND["in/targets"]).float())
    return adapter


def scored(adapter, features):
    return adapter.logits({"image.pooled": features, "text.pooled": FOUND["in/classes"]}, SCALE)


def test_cache():
    adapter = filled()
    assert gap(adapter.keys, FOUND["out/keys"]) < 1e-6
    assert torch.equal(adapter.values, FOUND["out/values"])


@pytest.mark.parametrize(("learn", "name"), [(False, "out/logits_free"), (True, "out/logits")])
def test_logits(learn, name):
    assert gap(scored(filled(learn_keys=learn), FOUND["in/query"])["image.logits"], FOUND[name]) < LOGITS


def test_step_of_the_learned_cache():
    adapter = filled(learn_keys=True)
    scores = scored(adapter, FOUND["in/query"])
    loss = ClassCrossEntropy()(scores, {"label": inputs()[1]}, Context(SCALE, 0))["loss"]
    assert gap(loss, FOUND["out/loss"]) < LOSS
    loss.backward()
    assert relative(adapter.keys.grad, FOUND["grad/keys"]) < GRADIENT


def test_search_finds_what_the_authors_find():
    adapter = filled(search=True)
    labels = FOUND["in/val_labels"]
    features = {"image.pooled": FOUND["in/val_features"], "text.pooled": FOUND["in/classes"]}
    adapter.choose(features, SCALE, lambda scores: accuracy(scores, labels))
    assert float(adapter.alpha) == pytest.approx(META["best_alpha"])
    assert float(adapter.beta) == pytest.approx(META["best_beta"])
    scores = adapter.logits(features, SCALE)["image.logits"]
    assert 100 * accuracy(scores, labels) == pytest.approx(META["best_acc"])
    assert adapter.facts() == {
        "alpha": pytest.approx(META["best_alpha"]),
        "beta": pytest.approx(META["best_beta"]),
        "chosen_on": "validation split",
    }


def test_nothing_is_learned_unless_the_keys_are():
    assert not list(filled().parameters())
    assert [name for name, _ in filled(learn_keys=True).named_parameters()] == ["keys"]


def test_a_saved_cache_fills_an_empty_one():
    full, empty = filled(), TipAdapter()
    with pytest.raises(RuntimeError, match="empty"):
        scored(empty, FOUND["in/query"])
    full.alpha.fill_(3.0)
    empty.load_tensors(full.tensors())
    assert torch.equal(
        scored(empty, FOUND["in/query"])["image.logits"], scored(full, FOUND["in/query"])["image.logits"]
    )
    with pytest.raises(ValueError, match="do not fit"):
        TipAdapter().load_tensors(full.tensors() | {"values": torch.zeros(3, 5)})


def test_the_cache_is_the_closed_form():
    f, keys = normalize(FOUND["in/query"], dim=-1), FOUND["out/keys"]
    weights = torch.exp(-META["beta"] * (1 - f @ keys.T))
    expected = 100 * f @ FOUND["in/classes"].T + META["alpha"] * weights @ FOUND["out/values"]
    assert gap(scored(filled(), FOUND["in/query"])["image.logits"], expected) < LOGITS
