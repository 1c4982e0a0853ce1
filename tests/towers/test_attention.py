"""How much the pooled token attends to each patch, beside what the libraries say themselves."""

from __future__ import annotations

from functools import partial

import library_toys as library
import pytest
import torch
from adapters.toys import hf_clip
from tower_toys import toy

from domainvl.adapters import VPT, LoRA
from domainvl.adapters.base import Adapter
from domainvl.features import TextInputs
from domainvl.speed import FAST
from domainvl.tasks.pairs import PairPass
from domainvl.towers import HFClipImage, TimmViT, open_clip_towers
from domainvl.towers.attention import attention_of


def of_transformers(pixels):
    model = library.hf_clip("eager", library.END)
    found = model.vision_model(pixels, output_attentions=True).attentions[-1]
    return HFClipImage(model), found


def of_timm(pixels, name="test_vit", **options):
    """What enters the dropout of the attention that is written out."""
    model = library.timm_model(name, img_size=library.SIZE, **options)
    model.blocks[-1].attn.fused_attn = False
    kept = []
    handle = model.blocks[-1].attn.attn_drop.register_forward_hook(lambda _, inputs, __: kept.append(inputs[0]))
    model(pixels)
    handle.remove()
    return TimmViT(model), kept[0]


def of_open_clip(pixels):
    model = library.openclip_clip()
    block, kept = model.visual.transformer.resblocks[-1], []
    handle = block.ln_1.register_forward_hook(lambda _, __, output: kept.append(output))
    model.visual(pixels)
    handle.remove()
    heads, (normed,) = block.attn.num_heads, kept
    query, key, _ = (normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
    query, key = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key))
    found = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1)
    return open_clip_towers(model)[0], found


CASES = {
    "transformers": of_transformers,
    "timm": of_timm,
    "timm_deit": partial(of_timm, name="deit_tiny_patch16_224", embed_dim=48, depth=3, num_heads=3),
    "open_clip": of_open_clip,
}


@pytest.mark.parametrize("make", CASES.values(), ids=list(CASES))
@torch.no_grad()
def test_it_is_what_the_library_gives(make):
    pixels = library.images()
    tower, everything = make(pixels)
    state = tower.run(tower.embed(pixels), stop=tower.depth - 1)
    expected = everything[:, :, 0, state.prefix :].mean(dim=1)
    found = attention_of(tower, state)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-4)
    assert found.std(dim=1).min() > 0
    assert found.sum(dim=1).max() < 1


@torch.no_grad()
def test_padding_gets_none_and_bert_is_read_too():
    one = toy("bert_cls_eager")
    ids = one.padded
    state = one.tower.run(one.tower.embed(ids), stop=one.tower.depth - 1)
    whole = one.library(ids.ids, attention_mask=ids.keep.long(), output_attentions=True).attentions[-1][:, :, 0].mean(1)
    found = attention_of(one.tower, state)
    torch.testing.assert_close(found, whole, atol=2e-6, rtol=1e-4)
    assert isinstance(ids, TextInputs)
    assert found[~ids.keep].max() == 0


@pytest.mark.parametrize(
    "name", ["hf_siglip_image", "timm_vit_avg", "timm_eva02", "timm_deit_distilled", "slices_hf_clip"]
)
def test_towers_without_one_class_token_or_an_open_block_give_none(name):
    one = toy(name)
    assert attention_of(one.tower, one.tower.run(one.tower.embed(one.inputs), stop=one.tower.depth - 1)) is None


@pytest.mark.parametrize("make", [Adapter, partial(VPT, tokens=2), partial(LoRA, rank=2, dropout=0.0)])
@pytest.mark.parametrize("chunk", [None, 2])
@torch.no_grad()
def test_a_batch_carries_it_where_it_is_read(make, chunk):
    """Of four patches as many numbers, prompts left out; everything else stays as it is."""
    torch.manual_seed(0)
    backbone, adapter = hf_clip(), make()
    adapter.attach(backbone)
    for name, weight in adapter.named_parameters():
        weight.add_(0.3 * torch.randn(weight.shape) if "lora_B" in name or "prompt" in name else 0.0)
    for layer in backbone.image.layers:
        if make is not Adapter and hasattr(layer.self_attn.q_proj, "lora_B"):
            layer.self_attn.q_proj.lora_B["default"].weight.add_(0.3)
    batch = {"image": library.images()}
    wanted = {"image.pooled", "image.tokens", "image.mask", "image.grid"}
    plain = PairPass(backbone, adapter, FAST, wanted, chunk=chunk).student(batch)
    found = PairPass(backbone, adapter, FAST, wanted | {"image.attention", "frozen/image.attention"}, chunk=chunk)
    student, frozen = found.student(batch), found.frozen(batch)
    assert "image.attention" not in plain
    for key, value in plain.items():
        torch.testing.assert_close(student[key], value, atol=1e-6, rtol=1e-5)
    assert student["image.attention"].shape == (3, 4)
    if make is Adapter:
        assert torch.equal(student["image.attention"], frozen["frozen/image.attention"])
    else:
        assert not torch.allclose(student["image.attention"], frozen["frozen/image.attention"], atol=1e-4)
