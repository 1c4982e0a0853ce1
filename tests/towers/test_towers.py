"""One table of towers (tests/tower_toys.py) times the invariants that every tower keeps."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import library_toys as library
import pytest
import timm
import torch
import torch.nn.functional as F
import tower_toys as toys
from library_toys import CONTEXT
from open_clip.model import CLIP
from torch import Tensor, nn
from tower_toys import IMAGES, TEXTS, TOYS, Toy, toy
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, SiglipConfig, SiglipModel

from domainvl.adapters._towers import require_token_editing
from domainvl.features import TextInputs
from domainvl.tokens import TokenState
from domainvl.towers import HFClipImage, HFSiglipImage, HFText, TimmCNN, TimmViT, open_clip_towers, timm_tower

# CLIP of open_clip adds its whole position table, so the library runs 16 positions where the tower runs 9; matrix
# products of another shape are summed in another order.
ROUNDING = {"openclip_text": 4e-6, "text_longformer": 4e-6}
# One 3-D convolution for a 2-D one over a mean; a projection of a mean for a mean of projections, in batches of another
# size.
ROUNDING |= {name: 8e-6 for name in TOYS if name.startswith(("inflated", "slices"))}


def run_edited(one: Toy, inputs: object, new: Tensor, later: Tensor, start: int = 1) -> Tensor:
    """Insert `new` in front of block `start`, overwrite it by `later` in front of the next."""

    def edit(index: int, state: TokenState) -> TokenState:
        if index == start:
            return state.insert(new, at=state.prefix, name="prompt")
        if index == start + 1:
            return state.overwrite(later, "prompt")
        return state

    tower = one.tower
    return tower.project(tower.pool(tower.run(tower.embed(inputs), edit)))


def prompts(one: Toy) -> tuple[nn.Parameter, nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    return tuple(nn.Parameter(torch.randn(2, one.tower.width, generator=generator)) for _ in range(2))


@pytest.mark.parametrize("name", TOYS)
@torch.no_grad()
def test_a_tower_equals_its_library(name):
    one = toy(name)
    for inputs in (one.inputs, one.padded):
        if inputs is not None:
            torch.testing.assert_close(one.tower(inputs), one.reference(inputs), atol=ROUNDING.get(name, 0.0), rtol=0.0)


@pytest.mark.parametrize("name", TOYS)
@torch.no_grad()
def test_out_dim_depth_and_width_are_true(name):
    one = toy(name)
    state = one.tower.embed(one.inputs)
    assert state.tokens.shape[2] == one.tower.width
    assert one.tower(one.inputs).shape == (len(one.inputs), one.tower.out_dim)
    if name in IMAGES:
        assert state.length == state.prefix + math.prod(state.grid)
    with pytest.raises(IndexError):
        one.tower.block(one.tower.depth, state)


@pytest.mark.parametrize("name", TOYS)
def test_inserted_tokens_change_the_feature_and_learn(name):
    one = toy(name)
    inputs = one.inputs if one.padded is None else one.padded
    new, later = prompts(one)
    plain = one.tower(inputs)
    feature = run_edited(one, inputs, new, later)
    assert feature.shape == plain.shape
    assert (feature - plain).abs().max() > 1e-4
    feature.square().sum().backward()
    for parameter in (new, later):
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.abs().max() > 1e-7


@pytest.mark.parametrize("name", TOYS)
@torch.no_grad()
def test_overwritten_tokens_leave_no_trace_but_what_others_saw(name):
    """Inserting just in front of the last block and overwriting it at once equals inserting the second value."""
    one = toy(name)
    new, later = prompts(one)
    last = one.tower.depth - 1

    def twice(index: int, state: TokenState) -> TokenState:
        if index != last:
            return state
        return state.insert(new, at=state.prefix, name="prompt").overwrite(later, "prompt")

    def once(index: int, state: TokenState) -> TokenState:
        return state.insert(later, at=state.prefix, name="prompt") if index == last else state

    tower = one.tower
    start = tower.embed(one.inputs)
    assert torch.equal(tower.pool(tower.run(start, twice)), tower.pool(tower.run(start, once)))


@pytest.mark.parametrize("name", TOYS)
@torch.no_grad()
def test_pooling_leaves_inserted_tokens_out(name):
    one = toy(name)
    inputs = one.inputs if one.padded is None else one.padded
    done = one.tower.run(one.tower.embed(inputs))
    more = done.insert(100 * torch.randn(3, one.tower.width), at=done.prefix, name="loud")
    assert torch.equal(one.tower.pool(more), one.tower.pool(done))


@pytest.mark.parametrize("name", TOYS)
@torch.no_grad()
def test_a_stopped_run_resumes_bit_for_bit(name):
    one = toy(name)
    new, later = prompts(one)
    whole = run_edited(one, one.inputs, new, later)
    stored = one.tower.run(one.tower.embed(one.inputs), stop=1)
    stored = replace(stored, tokens=stored.tokens.clone(), _mask=None)

    def edit(index: int, state: TokenState) -> TokenState:
        if index == 1:
            return state.insert(new, at=state.prefix, name="prompt")
        return state.overwrite(later, "prompt") if index == 2 else state

    resumed = one.tower.run(stored, edit, start=1)
    assert torch.equal(one.tower.project(one.tower.pool(resumed)), whole)


@pytest.mark.parametrize("name", [name for name in TEXTS if not toy(name).fixed])
@torch.no_grad()
def test_longer_padding_changes_nothing(name):
    """Attention over more (masked) keys is summed in another order: 1.1e-6 measured."""
    one = toy(name)
    ids, keep = one.padded.ids, one.padded.keep
    pad = 1 if name in ("roberta", "text_longformer") else library.PAD
    longer = TextInputs(F.pad(ids, (0, 5), value=pad), F.pad(keep, (0, 5)))
    torch.testing.assert_close(one.tower(longer), one.tower(one.padded), atol=4e-6, rtol=0.0)
    alone = TextInputs(ids[1:2, :4])
    torch.testing.assert_close(one.tower(alone), one.tower(one.padded)[1:2], atol=4e-6, rtol=0.0)
    new, later = prompts(one)
    edited = [run_edited(one, inputs, new, later) for inputs in (longer, one.padded)]
    torch.testing.assert_close(*edited, atol=4e-6, rtol=0.0)


@pytest.mark.parametrize("name", TOYS)
def test_bf16_autocast_runs_and_stays_close(name):
    one = toy(name)
    inputs = one.inputs if one.padded is None else one.padded
    new, later = prompts(one)
    exact = run_edited(one, inputs, new, later)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = run_edited(one, inputs, new, later)
    assert F.cosine_similarity(rough.float(), exact, dim=-1).min() > 0.99
    rough.float().square().sum().backward()
    assert torch.isfinite(new.grad).all()


@pytest.mark.parametrize("name", TOYS)
def test_checkpointing_gives_the_same_gradients(name):
    one = toy(name)
    inputs = one.inputs if one.padded is None else one.padded
    grads = []
    for checkpointing in (False, True):
        new, later = prompts(one)
        one.tower.checkpointing = checkpointing
        try:
            run_edited(one, inputs, new, later).square().sum().backward()
        finally:
            one.tower.checkpointing = False
        grads.append((new.grad, later.grad))
    for plain, recomputed in zip(*grads, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("name", TOYS)
def test_lora_targets_exist_in_the_library(name):
    one = toy(name)
    modules = {known for known, _ in one.library.named_modules()}
    parameters = {known for known, _ in one.library.named_parameters()}
    for parts in (("q", "k", "v"), ("q", "k", "v", "up"), ("down",)):
        names = one.tower.lora_targets(parts)
        assert len(names) % one.tower.depth == 0
        assert len(set(names)) == len(names)
        for target in names:
            assert target in (parameters if target.endswith("in_proj_weight") else modules)
    with pytest.raises(ValueError, match=r"lora_targets: .*'gate'"):
        one.tower.lora_targets(("q", "gate"))


@pytest.mark.parametrize("name", ["timm_vit", "timm_dinov3", "openclip_image", "openclip_text"])
def test_fused_layers_come_together_only(name):
    with pytest.raises(ValueError, match=r"q\+k\+v are one fused layer"):
        toy(name).tower.lora_targets(("q", "v"))


def test_a_dead_output_projection_is_not_offered():
    with pytest.raises(ValueError, match=r"\['o'\] asked for"):
        toy("openclip_image").tower.lora_targets(("o",))
    assert toy("openclip_image_custom_block").tower.lora_targets(("o",))[0].endswith("attn.out_proj")


@pytest.mark.parametrize("name", TEXTS)
@torch.no_grad()
def test_inserted_words_equal_written_ones(name):
    """A text with two words put in by `words` is the text that has them among its ids."""
    one = toy(name)
    spelled = one.padded
    prefix = one.tower.embed(spelled).prefix
    ids = torch.cat([spelled.ids[:, :prefix], spelled.ids[:, prefix + 2 :]], dim=1)
    keep = None if spelled.keep is None else spelled.keep[:, 2:]
    if one.fixed:
        # Fixed-length texts give up two padding positions for two inserted words.
        ids = F.pad(ids, (0, 2), value=library.PAD)
    table = next(m for m in one.tower.modules() if isinstance(m, nn.Embedding) and len(m.weight) == library.VOCAB)
    missing = table(spelled.ids[:, prefix : prefix + 2])

    def words(state: TokenState, inputs: TextInputs) -> TokenState:
        return state.insert(missing, at=prefix, name="context")

    states = [one.tower.embed(TextInputs(ids, keep), words), one.tower.embed(spelled)]
    assert states[0].spans == {"context": slice(prefix, prefix + 2)}
    features = [one.tower.project(one.tower.pool(one.tower.run(state))) for state in states]
    if "mean" in name or "latent" in name:
        # Mean pooling leaves inserted words out on purpose; the tokens have to agree.
        features = [one.tower.run(state).tokens for state in states]
    assert torch.equal(*features)


@pytest.mark.parametrize("name", TEXTS)
def test_words_that_do_not_fit_are_refused(name):
    one = toy(name)
    with pytest.raises(ValueError, match="insert fewer vectors"):
        one.tower.embed(
            one.inputs, lambda state, _: state.insert(torch.zeros(CONTEXT, one.tower.width), at=state.prefix, name="w")
        )


@pytest.mark.parametrize("name", IMAGES)
def test_images_have_no_words(name):
    one = toy(name)
    with pytest.raises(ValueError, match="image tower"):
        one.tower.embed(one.inputs, lambda state, _: state)


@pytest.mark.parametrize("name", IMAGES)
@torch.no_grad()
def test_enter_is_the_last_step_of_embed(name):
    one = toy(name)
    norms = [m for m in one.tower.modules() for key in ("pre_layrnorm", "ln_pre", "norm_pre") if hasattr(m, key)]
    if not norms:
        tokens = torch.randn(2, 3, one.tower.width)
        assert one.tower.enter(tokens) is tokens
        return
    seen = []
    norm = next(getattr(norms[0], key) for key in ("pre_layrnorm", "ln_pre", "norm_pre") if hasattr(norms[0], key))
    handle = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    tokens = one.tower.embed(one.inputs).tokens
    handle.remove()
    assert torch.equal(one.tower.enter(torch.cat(seen)), tokens)


@pytest.mark.parametrize("name", ["hf_clip_image", "openclip_image", "timm_vit"])
@torch.no_grad()
def test_norm_of_the_class_token_is_the_pooled_feature(name):
    tower = toy(name).tower
    done = tower.run(tower.embed(toy(name).inputs))
    assert torch.equal(tower.norm(done.tokens[:, 0]), tower.pool(done))


@pytest.mark.parametrize("name", ["timm_eva02", "timm_dinov3"])
@torch.no_grad()
def test_rotary_tables_follow_the_patches(name):
    """timm's own way to leave tokens unrotated is a larger `num_prefix_tokens`; both must agree."""
    one = toy(name)
    tower, model = one.tower, one.library
    state = tower.embed(one.inputs)
    grown = state.insert(torch.randn(3, tower.width), at=state.prefix, name="prompt")
    ours = tower.block(0, grown).tokens
    attention = model.blocks[0].attn
    rope = model.rope.get_embed(shape=state.grid) if model.dynamic_img_size else model.rope.get_embed()
    assert attention.num_prefix_tokens == state.prefix
    attention.num_prefix_tokens += 3
    try:
        theirs = model.blocks[0](grown.tokens, rope=rope)
    finally:
        attention.num_prefix_tokens -= 3
    torch.testing.assert_close(ours, theirs, atol=0.0, rtol=0.0)
    behind = state.insert(grown.take("prompt"), at=state.length, name="prompt")
    moved = tower.block(0, behind).original().tokens
    torch.testing.assert_close(moved, tower.block(0, grown).original().tokens, atol=2e-6, rtol=0.0)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
@torch.no_grad()
def test_a_cnn_gives_features_and_refuses_tokens(name):
    model = library.shuffled(timm.create_model(name, pretrained=False, num_classes=7))
    tower = timm_tower(model)
    pixels = library.images(64)
    assert isinstance(tower, TimmCNN)
    assert torch.equal(tower(pixels), model(pixels))
    assert tower.out_dim == 7
    state = tower.embed(pixels)
    assert state.length == state.grid[0] * state.grid[1]
    with pytest.raises(TypeError, match="MMRL puts tokens between transformer blocks, which TimmCNN"):
        require_token_editing("MMRL", tower)
    with pytest.raises(ValueError, match="use LinearProbe"):
        tower.lora_targets(("q",))


def _siglip_without_head() -> SiglipModel:
    config = SiglipConfig(
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vision_use_head": False},
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9},
    )
    return SiglipModel(config)


REFUSED = {
    "relative positions": (lambda: TimmViT(timm.create_model("test_vit_relpos")), "VisionTransformerRelPos is not"),
    "no pooling": (lambda: TimmViT(timm.create_model("test_vit", global_pool="")), "global_pool=''"),
    "two heads": (
        lambda: TimmViT(timm.create_model("deit_tiny_distilled_patch16_224", **toys.SMALL)),
        "num_classes=0",
    ),
    "patch dropout": (lambda: TimmViT(timm.create_model("test_vit", patch_drop_rate=0.5)), "patch_drop_rate=0"),
    "mixed rope": (
        lambda: TimmViT(timm.create_model("vit_small_patch16_rope_mixed_224", **toys.SMALL)),
        "RotaryEmbeddingMixed is not",
    ),
    "swin as CNN": (
        lambda: timm_tower(timm.create_model("swin_tiny_patch4_window7_224", depths=(1, 1, 1, 1))).embed(
            torch.zeros(1, 3, 224, 224)
        ),
        "not the map",
    ),
    "distilbert": (
        lambda: HFText(DistilBertModel(DistilBertConfig(n_layers=1, dim=8, n_heads=1, hidden_dim=8, vocab_size=9))),
        "model_type 'distilbert' is not supported",
    ),
    "decoder": (
        lambda: HFText(
            BertModel(
                BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9, is_decoder=True)
            )
        ),
        "as decoder is not supported",
    ),
    "pooler that is not there": (lambda: HFText(library.bert(), "pooler"), "pooling layer"),
    "pooling": (lambda: HFText(library.bert(), "max"), "not one of cls, mean, pooler"),
    "siglip without head": (lambda: HFSiglipImage(_siglip_without_head()), "no pooling head"),
    "openai resnet": (
        lambda: open_clip_towers(CLIP(24, {"layers": (1, 1, 1, 1), "width": 16, "image_size": 32}, library.TEXT)),
        "ModifiedResNet is not supported",
    ),
    "openclip patch dropout": (
        lambda: open_clip_towers(library.openclip_clip(patch_dropout=0.5)),
        "patch_dropout=0",
    ),
    "max pooler": (lambda: open_clip_towers(library.openclip_biomed("max_pooler")), "MaxPooler of HFTextEncoder"),
    "flash attention": (lambda: _with_attention("flex_attention"), "set_attn_implementation"),
}


def _with_attention(kind: str) -> Tensor:
    model = library.hf_clip("sdpa", library.END)
    model.vision_model.config._attn_implementation = kind
    return HFClipImage(model)(library.images())


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_name(case):
    build, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        build()
    assert re.match(r"\w+", str(caught.value))
