"""InfoNCE, SigLIP and label-guided contrast against open_clip's losses and closed forms."""

import pytest
import torch
import torch.nn.functional as F
from memory_peak import peak_bytes
from open_clip.loss import ClipLoss, SigLipLoss

import domainvl.objectives.contrast_parts as parts
from domainvl.objectives import Context, InfoNCE, LabelContrast, SigLIP
from domainvl.objectives.targets import SameGroup


def leaves(size=9, width=6, scale=14.3, bias=-5.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(size, width, generator=draw, requires_grad=True) for _ in range(2))
    return image, text, torch.tensor(scale, requires_grad=True), torch.tensor(bias, requires_grad=True)


def ours(objective, image, text, scale, bias=None, batch=None):
    features = {"image.pooled": image, "text.pooled": text}
    return objective(features, batch or {}, Context(scale, epoch=0, bias=bias))["loss"]


def assert_equal(one, other, inputs):
    assert one.item() == pytest.approx(other.item(), rel=1e-6)
    for found, wanted in zip(torch.autograd.grad(one, inputs), torch.autograd.grad(other, inputs), strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_infonce_is_the_loss_of_open_clip(tiled, scale):
    image, text, s, _ = leaves(scale=scale)
    theirs = ClipLoss()(F.normalize(image, dim=-1), F.normalize(text, dim=-1), s)
    assert_equal(ours(InfoNCE(tiled=tiled), image, text, s), theirs, (image, text, s))


@pytest.mark.parametrize("tile", [(512, 1024), (4, 5)])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_siglip_is_the_loss_of_open_clip(tile, scale, monkeypatch):
    monkeypatch.setattr(parts, "CPU_TILE", tile)
    image, text, s, bias = leaves(scale=scale)
    theirs = SigLipLoss()(F.normalize(image, dim=-1), F.normalize(text, dim=-1), s, bias)
    assert_equal(ours(SigLIP(), image, text, s, bias), theirs, (image, text, s, bias))


def test_siglip_may_bring_a_bias_of_its_own():
    image, text, s, bias = leaves(bias=-10.0)
    objective = SigLIP(own_bias=-10.0)
    loss = ours(objective, image, text, s)
    assert loss.item() == pytest.approx(ours(SigLIP(), image, text, s, bias).item(), rel=1e-6)
    loss.backward()
    (wanted,) = torch.autograd.grad(ours(SigLIP(), image, text, s, bias), bias)
    assert objective.bias.grad.item() == pytest.approx(wanted.item(), rel=1e-5)
    with pytest.raises(ValueError, match="give own_bias"):
        ours(SigLIP(), image, text, s)


def test_siglip_takes_several_matches_and_leaves_pairs_out():
    image, text, s, bias = leaves(4)
    batch = {"study": torch.tensor([0, 0, 1, 2]), "group": torch.tensor([0, 0, 0, 1])}
    sign = torch.tensor([[1, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, -1], [-1, -1, -1, 1]])
    scores = s * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T + bias
    by_hand = (F.softplus(-sign * scores) * (sign != 0)).sum() / 4
    chain = [SameGroup("study"), SameGroup("group", drop=True)]
    assert_equal(ours(SigLIP(targets=chain), image, text, s, bias, batch), by_hand, (image, text, s, bias))


def test_siglip_never_holds_all_scores():
    """Linear in B; open_clip's, and any that autograd remembers, is quadratic."""

    def peak(size):
        image, text, s, bias = leaves(size, 128)
        return peak_bytes(lambda: ours(SigLIP(), image, text, s, bias).backward())

    small, large = peak(2048), peak(4096)
    assert small < 2048**2 * 4
    assert large <= 2.3 * small


@pytest.mark.parametrize("tiled", [False, True])
def test_label_contrast_is_its_formula(tiled):
    image, text, s, _ = leaves(7, scale=6.0)
    label = torch.tensor([0, 1, 0, 2, 1, 0, 3])
    a, b = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    same = (label[:, None] == label).float()
    apart = 1 - torch.eye(7)

    def term(one, other, target, kept):
        log_share = (s * one @ other.T).masked_fill(kept == 0, -torch.inf).log_softmax(1).masked_fill(target == 0, 0.0)
        rows = target.sum(1) > 0
        return -((target * log_share).sum(1)[rows] / target.sum(1)[rows]).mean()

    everybody = torch.ones(7, 7)
    inter = (term(a, b, same, everybody) + term(b, a, same, everybody)) / 2
    inner = (term(a, a, same * apart, apart) + term(b, b, same * apart, apart)) / 2
    objective = LabelContrast(inter=0.5, inner=2.0, tiled=tiled)
    assert_equal(ours(objective, image, text, s, batch={"label": label}), 0.5 * inter + 2 * inner, (image, text, s))


def test_label_contrast_of_unique_labels_is_infonce_and_nobody_has_an_inner_partner():
    image, text, s, _ = leaves()
    batch = {"label": torch.arange(9)}
    done = LabelContrast()({"image.pooled": image, "text.pooled": text}, batch, Context(s, epoch=0))
    assert done["inner"].item() == 0
    assert done["loss"].item() == pytest.approx(ours(InfoNCE(), image, text, s).item(), rel=1e-6)


def test_the_same_label_is_pulled_where_infonce_pushes():
    """The slope along the score of one image and the text of another record with its label, by finite differences."""
    batch = {"label": torch.tensor([0, 0, 0, 1, 2, 3])}
    slopes = []
    for objective in (LabelContrast(inner=0.0), InfoNCE()):
        image, text, s, _ = leaves(6, 200, scale=5.0)
        # In 200 dimensions the six images are all but orthogonal: a step along image 0 moves one score of text 1.
        step = torch.zeros_like(text)
        step[1] = 0.05 * image.detach()[0]
        with torch.no_grad():
            slopes.append(
                (
                    ours(objective, image, text + step, s, batch=batch) - ours(objective, image, text, s, batch=batch)
                ).item()
            )
    assert slopes[0] < 0 < slopes[1]


@pytest.mark.parametrize(("inter", "inner"), [(-1.0, 1.0), (0.0, 0.0)])
def test_label_contrast_refuses_weights_that_leave_nothing(inter, inner):
    with pytest.raises(ValueError, match="LabelContrast: inter and inner"):
        LabelContrast(inter=inter, inner=inner)
