"""LoRA against its closed form, and what peft is allowed to do to a backbone."""

import math
from functools import partial

import pytest
import torch
from adapters.toys import Toy, attached, moved, pictures, scores, toy
from reference.clip_weights import clip_state_dict, hf_model

from domainvl.adapters import LoRA
from domainvl.adapters.base import Adapter
from domainvl.towers.hf_clip import HFClipImage, HFClipText


def golden():
    model = hf_model("tiny", clip_state_dict("tiny", 0))
    return Toy(model, HFClipImage(model), HFClipText(model))


@pytest.mark.parametrize("make", [LoRA, partial(LoRA, parts=["q", "o", "up"], sides=["image"])])
def test_start_is_the_base_model_to_the_bit(make):
    plain = scores(Adapter(), toy("hf_clip"))
    backbone = toy("hf_clip")
    adapter = attached(make(), backbone)
    for mode in (True, False):
        started = scores(adapter.train(mode), backbone)
        assert all(torch.equal(started[key], value) for key, value in plain.items())


@pytest.mark.parametrize(("scaling", "factor"), [("alpha/sqrt(rank)", 3 / math.sqrt(4)), ("alpha/rank", 3 / 4)])
def test_one_layer_is_the_closed_form(scaling, factor):
    """y = x W^T + b + s (x A^T) B^T, value and gradient, on the tiny golden CLIP."""
    backbone = golden()
    layer = backbone.model.vision_model.encoder.layers[2].self_attn.q_proj
    weight, bias = layer.weight.clone(), layer.bias.clone()
    adapter = moved(attached(LoRA(rank=4, alpha=3.0, scaling=scaling), backbone))
    factors = adapter.factors["vision_model/encoder/layers/2/self_attn/q_proj"]
    layer = backbone.model.vision_model.encoder.layers[2].self_attn.q_proj
    a, b = (factors[name].weight.detach().clone().requires_grad_() for name in "AB")
    x = torch.randn(3, 7, 128)
    y = x @ weight.T + bias + factor * (x @ a.T) @ b.T
    ours = layer(x)
    torch.testing.assert_close(ours, y, rtol=1e-6, atol=1e-5)
    (y**2).sum().backward()
    (ours**2).sum().backward()
    torch.testing.assert_close(factors["A"].weight.grad, a.grad, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(factors["B"].weight.grad, b.grad, rtol=1e-5, atol=1e-3)


def test_factors_start_as_in_the_paper():
    backbone = golden()
    adapter = attached(LoRA(rank=8), backbone)
    for factors in adapter.factors.values():
        assert not factors["B"].weight.any()
        # Kaiming uniform with a = sqrt(5) is uniform within 1 / sqrt(fan_in).
        bound = 128**-0.5
        assert float(factors["A"].weight.detach().abs().max()) <= bound
        assert float(factors["A"].weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_as_many_numbers_as_the_paper_counts():
    """Rank 2 on q, k, v of every block: 184,320 on ViT-B/16; here 4 + 4 blocks of width 128."""
    backbone = golden()
    assert sum(p.numel() for p in attached(LoRA(), backbone).parameters()) == 2 * (4 + 4) * 3 * (128 + 128)


def test_merged_is_unmerged():
    backbone = golden()
    moved(attached(LoRA(rank=4), backbone))
    image = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        apart = backbone.image(image)
        for module in backbone.model.modules():
            if hasattr(module, "merge") and hasattr(module, "lora_A"):
                module.merge()
                assert module.merged
        merged = backbone.image(image)
    assert not torch.equal(apart, merged)
    torch.testing.assert_close(merged, apart, rtol=1e-4, atol=1e-4)


def test_dropout_is_on_in_training_alone():
    backbone = toy("hf_clip")
    adapter = moved(attached(LoRA(dropout=0.5), backbone))
    draw = partial(backbone.image, pictures())
    backbone.eval()
    with torch.no_grad():
        assert torch.equal(draw(), draw())
        adapter.train()
        assert not torch.equal(draw(), draw())
        adapter.eval()
        assert torch.equal(draw(), draw())


def test_first_block_leaves_the_blocks_below_alone():
    backbone = toy("hf_clip")
    adapter = attached(LoRA(first_block=2), backbone)
    assert {int(name.split("/")[3]) for name in adapter.factors} == {2, 3}


def test_a_backbone_takes_one_lora():
    backbone = toy("hf_clip")
    attached(LoRA(), backbone)
    with pytest.raises(RuntimeError, match="load the backbone once more"):
        attached(LoRA(), backbone)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (LoRA, r"dropout=0.25 is not possible here.*in_proj_weight.*set dropout: 0"),
        (partial(LoRA, sides=["text"], dropout=0.0), r"peft takes visual\..*in_proj_weight for transformer\."),
    ],
)
def test_what_a_bare_fused_weight_cannot_do(make, message):
    backbone = toy("openclip")
    with pytest.raises(ValueError, match=message):
        make().attach(backbone)
    assert not any("lora" in name for name, _ in backbone.named_parameters())


def test_names_that_end_alike_are_told_apart():
    """open_clip's text blocks are `transformer...`, which `visual.transformer...` ends like."""
    adapter = attached(LoRA(parts=["up"], sides=["text"]), toy("openclip"))
    assert {name.split("/")[0] for name in adapter.factors} == {"transformer"}


def test_off_keeps_frozen_factors_frozen():
    backbone = toy("hf_clip")
    adapter = attached(LoRA(), backbone).requires_grad_(False)
    with adapter.off():
        pass
    assert not any(parameter.requires_grad for parameter in adapter.parameters())


def test_dora_is_the_closed_form():
    """V = m (W + s B A) / |W + s B A|, the norm without a gradient."""
    backbone = golden()
    find = lambda: backbone.model.vision_model.encoder.layers[2].self_attn.q_proj  # noqa: E731
    weight, bias = find().weight.clone(), find().bias.clone()
    adapter = attached(LoRA(rank=4, alpha=3.0, variant="dora", dropout=0.0), backbone)
    factors = adapter.factors["vision_model/encoder/layers/2/self_attn/q_proj"]
    assert torch.equal(factors["magnitude"].weight, weight.norm(dim=1))
    moved(adapter)
    a, b, m = (factors[name].weight.detach().clone().requires_grad_() for name in ("A", "B", "magnitude"))
    x = torch.randn(3, 7, 128)
    updated = weight + 3 / math.sqrt(4) * b @ a
    y = x @ (m[:, None] * updated / updated.norm(dim=1, keepdim=True).detach()).T + bias
    ours = find()(x)
    torch.testing.assert_close(ours, y, rtol=1e-5, atol=1e-4)
    y.sin().sum().backward()
    ours.sin().sum().backward()
    for name, theirs in (("A", a), ("B", b), ("magnitude", m)):
        torch.testing.assert_close(factors[name].weight.grad, theirs.grad, rtol=1e-4, atol=1e-3)


def test_pissa_starts_from_the_principal_part_and_leaves_the_model_alone():
    backbone = golden()
    find = lambda: backbone.model.vision_model.encoder.layers[2].mlp.fc1  # noqa: E731
    weight, image = find().weight.clone(), torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        plain = backbone.image(image)
    adapter = attached(LoRA(rank=3, alpha=2.0, parts=["up"], variant="pissa", dropout=0.0), backbone)
    factors = adapter.factors["vision_model/encoder/layers/2/mlp/fc1"]
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    product = 2 / math.sqrt(3) * factors["B"].weight @ factors["A"].weight
    torch.testing.assert_close(product, left[:, :3] * values[:3] @ right[:3], rtol=1e-4, atol=1e-5)
    assert torch.equal(find().base_layer.weight, weight)
    assert [name for name, _ in factors.named_parameters()] == ["A.weight", "B.weight"]
    with torch.no_grad():
        torch.testing.assert_close(backbone.image(image), plain, rtol=1e-5, atol=1e-5)


def test_pissa_step_is_that_of_the_residual_weight():
    """What the paper trains: x (W - s B_0 A_0 + s B A)^T, with gradients of A and B."""
    backbone = golden()
    find = lambda: backbone.model.vision_model.encoder.layers[1].mlp.fc2  # noqa: E731
    weight, bias = find().weight.clone(), find().bias.clone()
    adapter = attached(LoRA(rank=3, alpha=2.0, parts=["down"], variant="pissa", dropout=0.0), backbone)
    factors = adapter.factors["vision_model/encoder/layers/1/mlp/fc2"]
    s = 2 / math.sqrt(3)
    residual = (weight - s * factors["B"].weight @ factors["A"].weight).detach()
    moved(adapter)
    a, b = (factors[name].weight.detach().clone().requires_grad_() for name in "AB")
    x = torch.randn(3, 7, 512)
    y, ours = x @ (residual + s * b @ a).T + bias, find()(x)
    torch.testing.assert_close(ours, y, rtol=1e-4, atol=1e-3)
    y.sin().sum().backward()
    ours.sin().sum().backward()
    for name, theirs in (("A", a), ("B", b)):
        assert float((factors[name].weight.grad - theirs.grad).norm() / theirs.grad.norm()) < 1e-3


@pytest.mark.parametrize("variant", ["dora", "pissa"])
def test_variants_need_a_layer_of_their_own(variant):
    with pytest.raises(ValueError, match=f"variant {variant} is not possible here.*in_proj_weight"):
        LoRA(variant=variant, dropout=0.0).attach(toy("openclip"))


def test_pissa_needs_singular_directions_enough():
    with pytest.raises(ValueError, match="at most 32"):
        LoRA(rank=33, variant="pissa", sides=["text"]).attach(toy("hf_clip"))
