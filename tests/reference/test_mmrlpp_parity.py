"""MMRL++ against figures recorded from the authors' code: features, logits, loss and gradients of one step.

mmrlpp-tiny.npz: yunncheng/MMRL at 27d8821, its build_model_MMRLpp, CustomCLIP, TextEncoder_CLIP and MMRLpp_Loss
unmodified on CPU in fp32 (Dassl's four modules and `.cuda()` stubbed) on `clip_state_dict("tiny", 0)` and the inputs
of mmrl-tiny.npz; layers 2-4, d_r 32, ranks 4 and 8, beta .6. Every trainable tensor was moved by .02 N(0, 1) before
the step, as a factor that starts at zero leaves its partner without a gradient.
"""

from types import SimpleNamespace

import pytest
import torch
from golden import FEATURES, GRADIENT, LOGITS, LOSS, Golden, gap, inputs, record, relative
from torch.nn.functional import normalize

from domainvl.adapters import MMRLpp
from domainvl.objectives import ClassCrossEntropy, Context, FrozenCosine

FOUND, META = record("mmrlpp-tiny")


@pytest.fixture(scope="module")
def backbone():
    return Golden()


def ours(name):
    """The authors' name of a tensor as we call it."""
    name = name.removeprefix("representation_learner.").removeprefix("image_encoder.")
    if name == "compound_rep_tokens":
        return "space"
    if name in ("A", "B"):
        return f"residual.{name}"
    side, rest = name.removeprefix("srra_r2").split("proj.", 1)
    if rest != "weight":
        block, factor = rest.removeprefix("srra.").split(".")
        rest = f"biases.{block}" if factor == "bias" else f"residuals.{block}.{factor}"
    return f"maps.{'image' if side == 'v' else 'text'}.{rest}"


@pytest.fixture(scope="module")
def step(backbone):
    """One training step: the adapter with its gradients, all features, the loss."""
    config = META["config"]
    adapter = MMRLpp(
        tokens=config["N_REP_TOKENS"],
        width=config["REP_DIM"],
        first_block=config["REP_LAYERS"][0] - 1,
        alpha=config["ALPHA"],
        beta=config["BETA"],
        rank=config["RES_LORA_DIM"],
        head_rank=config["PROJ_LORA_DIM"],
        scale=100.0,
    )
    adapter.attach(backbone)
    adapter.load_tensors({ours(k.removeprefix("train/")): v for k, v in FOUND.items() if k.startswith("train/")})
    images, labels, texts = inputs()
    features = adapter.encode("image", backbone.image, images) | adapter.encode("text", backbone.text, texts)
    features |= adapter.logits(features, backbone.scale())
    with torch.no_grad(), adapter.off():
        features["frozen/image.pooled"] = backbone.image(images)
        features["frozen/text.pooled"] = backbone.text(texts)
    alpha, weight = config["ALPHA"], config["REG_WEIGHT"]
    objectives = [
        ClassCrossEntropy(logits="image@class.logits", weight=alpha),
        ClassCrossEntropy(logits="image@rep.logits", weight=1 - alpha),
        FrozenCosine(source="image", weight=weight),
        FrozenCosine(source="text", weight=weight),
    ]
    context = Context(backbone.scale(), 0)
    loss = sum(o.weight * o(features, {"label": labels}, context)["loss"] for o in objectives)
    loss.backward()
    return adapter, features, loss


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("frozen/image.pooled", "zs/image_features"),
        ("frozen/text.pooled", "zs/text_features"),
        ("image.pooled", "out/image_features"),
        ("text.pooled", "out/text_features"),
    ],
)
def test_features(step, key, name):
    assert gap(normalize(step[1][key], dim=-1), FOUND[name]) < FEATURES


@pytest.mark.parametrize(
    ("key", "name"),
    [("image@class.logits", "logits"), ("image@rep.logits", "logits_rep"), ("image.logits", "logits_fusion")],
)
def test_logits(step, key, name):
    assert gap(step[1][key], FOUND[f"out/{name}"]) < LOGITS


def test_loss(step):
    assert gap(step[2], FOUND["out/loss"]) < LOSS


def test_gradients(step):
    grads = {name: parameter.grad for name, parameter in step[0].named_parameters()}
    recorded = {ours(k.removeprefix("grad/")): v for k, v in FOUND.items() if k.startswith("grad/")}
    assert set(grads) == set(recorded)
    distances = {name: relative(grads[name], g) for name, g in recorded.items()}
    assert max(distances.values()) < GRADIENT, distances


def test_start_is_that_of_the_paper(backbone):
    torch.manual_seed(0)
    adapter = MMRLpp(width=512, head_rank=16)
    adapter.attach(backbone)
    assert float(adapter.space.detach().std()) == pytest.approx(0.02, rel=0.05)
    for rank, factors in [(16, adapter.residual), *((4, f) for m in adapter.maps.values() for f in m.residuals)]:
        first = factors["A"].detach()
        assert not factors["B"].any()
        assert float(first.abs().max()) <= rank**-0.5
        assert float(first.std()) == pytest.approx(rank**-0.5 / 3**0.5, rel=0.1)
    for maps in adapter.maps.values():
        assert float(maps.weight.detach().std()) == pytest.approx((3 * 512) ** -0.5, rel=0.05)
        assert all(torch.equal(bias, maps.biases[0]) for bias in maps.biases)


def test_representation_feature_starts_in_the_space_of_the_backbone(backbone):
    torch.manual_seed(0)
    adapter = MMRLpp(width=16)
    adapter.attach(backbone)
    prefix = adapter.prefix("image", backbone.image, inputs()[0])
    edit = lambda index, state: adapter.edit("image", index, state)  # noqa: E731
    state = backbone.image.run(prefix, edit=edit, start=adapter.first_block("image", backbone.image))
    mean = backbone.image.norm(state.take("mmrl")).mean(dim=1)
    feature = adapter.readout("image", backbone.image, state)["image@rep.pooled"]
    torch.testing.assert_close(feature, backbone.image.project(mean))


def test_trains_as_many_numbers_as_the_authors(step):
    assert sum(p.numel() for p in step[0].parameters()) == META["trainable"]
    image = SimpleNamespace(width=768, depth=12, out_dim=512, token_editing=True)
    text = SimpleNamespace(width=512, depth=12, out_dim=512, token_editing=True)
    adapter = MMRLpp()
    adapter.attach(SimpleNamespace(image=image, text=text, logit_scale=torch.zeros(())))
    assert sum(p.numel() for p in adapter.parameters()) == 813_312
