"""SgVA against its closed form: every score and every term of the loss.

The authors' code (FannierPeng/SgVA-CLIP at caa63d5) cannot run as it is: fp16 on CUDA and their paths are written into
it, and its feature goes through the pseudo-inverse of the projection, which this one does not.
"""

import pytest
import torch
from adapters.toys import attached, class_features, moved, pictures, scores, support, toy
from torch.nn.functional import normalize

from domainvl.adapters import Compose, CoOp, SgVA
from domainvl.objectives import ClassCrossEntropy, Context, Distillation

LABEL = torch.tensor([0, 1, 2, 0, 1])


@pytest.fixture
def learned():
    backbone = toy("hf_clip")
    adapter = moved(attached(SgVA(views=2, share=0.6), backbone))
    return adapter, backbone, scores(adapter, backbone)


def by_hand(adapter, x):
    first, second = adapter.layers[0].weight, adapter.layers[2].weight
    return (adapter.mix * (x @ first.T).relu() @ second.T + (1 - adapter.mix) * x).relu()


def expected(adapter, backbone):
    tower, s = backbone.image, backbone.scale()
    with torch.no_grad():
        x = tower.pool(tower.run(tower.embed(pictures())))
        seen, targets = support(adapter, backbone)
    z = by_hand(adapter, x)
    ours = normalize(by_hand(adapter, seen.flatten(0, 1)), dim=-1)
    rows = targets.argmax(1).repeat(2)
    prototypes = torch.stack([ours[rows == c].mean(0) for c in range(3)])
    text = class_features(backbone)
    adapted = s * normalize(z, dim=-1) @ normalize(prototypes, dim=-1).T
    prompt = s * normalize(tower.project(x), dim=-1) @ text.T
    student = s * normalize(tower.project(z), dim=-1) @ text.T
    return {"adapted": adapted, "prompt": prompt, "student": student}


def test_every_score_is_the_closed_form(learned):
    adapter, backbone, found = learned
    want = expected(adapter, backbone)
    for view, value in want.items():
        torch.testing.assert_close(found[f"image@{view}.logits"], value, rtol=1e-4, atol=1e-4)
    fused = 0.6 * want["adapted"] + 0.4 * want["prompt"]
    torch.testing.assert_close(found["image.logits"], fused, rtol=1e-4, atol=1e-4)


def test_every_term_of_the_loss_is_the_closed_form(learned):
    adapter, backbone, found = learned
    want = expected(adapter, backbone)
    rows = torch.arange(5)
    teacher, student = (want[name] / 5 for name in ("prompt", "student"))
    log_student = student - student.exp().sum(1, keepdim=True).log()
    p = teacher.exp() / teacher.exp().sum(1, keepdim=True)
    terms = [
        -(want["adapted"] - want["adapted"].exp().sum(1, keepdim=True).log())[rows, LABEL].mean(),
        -(want["prompt"] - want["prompt"].exp().sum(1, keepdim=True).log())[rows, LABEL].mean(),
        -(p * log_student).sum(1).mean(),
    ]
    objectives = [
        ClassCrossEntropy(logits="image@adapted.logits"),
        ClassCrossEntropy(logits="image@prompt.logits"),
        Distillation(),
    ]
    batch, context = {"label": LABEL}, Context(backbone.scale(), 0)
    for objective, term in zip(objectives, terms, strict=True):
        torch.testing.assert_close(objective(found, batch, context)["loss"], term, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_closed_form(learned):
    adapter, backbone, found = learned
    parameters = list(adapter.parameters())
    keys = {"adapted": "image@adapted.logits", "student": "image@student.logits"}
    ours = torch.autograd.grad(sum(found[key].sin().sum() for key in keys.values()), parameters)
    want = expected(adapter, backbone)
    theirs = torch.autograd.grad(sum(want[name].sin().sum() for name in keys), parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-4


def test_novel_classes_have_no_prototypes(learned):
    adapter, backbone, found = learned
    novel = adapter.logits(found, backbone.scale(), novel=True)
    assert torch.equal(novel["image.logits"], found["image@prompt.logits"])


def test_a_class_without_images_scores_zero():
    backbone = toy("hf_clip")
    adapter = attached(SgVA(), backbone)
    seen, targets = support(adapter, backbone)
    targets[:, 1] = 0
    adapter.take_support(seen, targets)
    found = scores(adapter, backbone)["image@adapted.logits"]
    assert not found[:, 1].any()
    assert torch.isfinite(found).all()


def test_distillation_in_multi_label_data_is_a_choice_of_two():
    draw = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(4, 3, generator=draw, requires_grad=True) for _ in range(2))
    features = {"image@prompt.logits": teacher, "image@student.logits": student}
    batch = {"label": torch.zeros(4, 3)}
    context = Context(torch.tensor(1.0), 0)
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    loss = Distillation(temperature=2.0)(features, batch, context)["loss"]
    torch.testing.assert_close(loss, -(p * q.log() + (1 - p) * (1 - q).log()).mean())
    assert torch.autograd.grad(loss, teacher)[0].any()
    still = Distillation(temperature=2.0, detach=True)(features, batch, context)["loss"]
    torch.testing.assert_close(still, loss)
    assert torch.autograd.grad(still, teacher, allow_unused=True)[0] is None
    with pytest.raises(ValueError, match="temperature"):
        Distillation(temperature=0.0)


def test_with_coop_the_text_side_learns_too():
    backbone = toy("hf_clip")
    adapter = attached(Compose([CoOp(init="a photo of"), SgVA()]), backbone)
    loss = ClassCrossEntropy(logits="image@prompt.logits")
    found = scores(adapter, backbone)
    loss(found, {"label": LABEL}, Context(backbone.scale(), 0))["loss"].backward()
    assert adapter.parts[0].context.grad.any()


def test_a_saved_support_fills_an_empty_one(learned):
    adapter, _, found = learned
    backbone = toy("hf_clip")
    empty = SgVA(share=0.6)
    empty.attach(backbone)
    with pytest.raises(RuntimeError, match="take_support"):
        scores(empty, backbone)
    with pytest.raises(ValueError, match="do not fit"):
        empty.load_tensors(adapter.tensors() | {"labels": torch.zeros(2, 3)})
    empty.load_tensors(adapter.tensors())
    assert torch.equal(scores(empty, backbone)["image.logits"], found["image.logits"])
