"""A table of towers on tiny models, and how the library itself computes the feature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from library_toys import (
    CONTEXT,
    END,
    PAD,
    SIZE,
    START,
    VOCAB,
    bert,
    hf_clip,
    hf_siglip,
    images,
    llm,
    openclip_biomed,
    openclip_clip,
    openclip_coca,
    openclip_siglip,
    roberta,
    shuffled,
    texts,
    timm_model,
    volumes,
)
from open_clip.model import CLIP
from torch import Tensor, nn
from transformers import (
    LongformerConfig,
    LongformerModel,
)

from domainvl.features import TextInputs
from domainvl.towers import (
    HFClipImage,
    HFClipText,
    HFLanguageModel,
    HFLongformer,
    HFSiglipImage,
    HFSiglipText,
    HFText,
    Inflated,
    MonaiViT,
    Slices,
    TimmViT,
    Tower,
    open_clip_towers,
)
from domainvl.towers.latent_attention import LatentAttention


@dataclass(frozen=True)
class Toy:
    """One tower.

    Attributes:
        tower: The tower.
        library: The model that `lora_targets` speaks of.
        reference: The library's own forward.
        inputs: Nothing padded.
        padded: Texts of different lengths; None for images.
        fixed: Texts have to keep the length CONTEXT.
    """

    tower: Tower
    library: nn.Module
    reference: Callable[[Any], Tensor]
    inputs: Any
    padded: TextInputs | None = None
    fixed: bool = False


def _hf_clip_image(attention: str) -> Toy:
    model = hf_clip(attention, END)
    return Toy(HFClipImage(model), model, lambda x: model.get_image_features(x).pooler_output, images())


def _hf_clip_text(attention: str, eos: int = END) -> Toy:
    model = hf_clip(attention, eos)

    def reference(inputs: TextInputs) -> Tensor:
        return model.get_text_features(inputs.ids, attention_mask=inputs.keep).pooler_output

    return Toy(HFClipText(model), model, reference, texts((7, 7), 7), texts((9, 4, 6), 9))


def _hf_siglip_image(attention: str) -> Toy:
    model = hf_siglip(attention)
    return Toy(HFSiglipImage(model), model, lambda x: model.get_image_features(x).pooler_output, images())


def _hf_siglip_text(attention: str) -> Toy:
    model = hf_siglip(attention)

    def reference(inputs: TextInputs) -> Tensor:
        return model.get_text_features(inputs.ids).pooler_output

    full = texts((CONTEXT, CONTEXT), CONTEXT)
    short = texts((9, 4, 6), CONTEXT)
    return Toy(HFSiglipText(model), model, reference, TextInputs(full.ids), TextInputs(short.ids), fixed=True)


def _bert(pooling: str, attention: str = "sdpa") -> Toy:
    model = bert(attention, pooler=pooling == "pooler")
    projection = shuffled(nn.Linear(48, 24))
    read = {
        "cls": lambda out, keep: out.last_hidden_state[:, 0],
        "pooler": lambda out, keep: out.pooler_output,
        "mean": lambda out, keep: (out.last_hidden_state * keep[..., None]).sum(1) / keep.sum(1, keepdim=True),
    }[pooling]

    def reference(inputs: TextInputs) -> Tensor:
        out = model(input_ids=inputs.ids, attention_mask=inputs.keep.long())
        return projection(read(out, inputs.keep.float()))

    return Toy(HFText(model, pooling, projection), model, reference, texts((7, 7), 7), texts((9, 4, 6), 9))


def _roberta() -> Toy:
    model = roberta()

    def reference(inputs: TextInputs) -> Tensor:
        return model(input_ids=inputs.ids, attention_mask=inputs.keep.long()).last_hidden_state[:, 0]

    return Toy(HFText(model), model, reference, texts((7, 7), 7, pad=1), texts((9, 4, 6), 9, pad=1))


def _llm(kind: str, pooling: str, causal: bool = False) -> Toy:
    model, projection = llm(kind), shuffled(nn.Linear(48, 24))
    latent = shuffled(LatentAttention(48, latents=6, heads=4)) if pooling == "latent" else None

    def reference(inputs: TextInputs) -> Tensor:
        model.config.is_causal = causal
        tokens = model(inputs.ids, attention_mask=inputs.keep.long()).last_hidden_state
        del model.config.is_causal
        if pooling == "last":
            return projection(tokens[torch.arange(len(tokens)), inputs.keep.sum(1) - 1])
        said = tokens if latent is None else latent(tokens)
        return projection((said * inputs.keep[..., None]).sum(1) / inputs.keep.sum(1, keepdim=True))

    tower = HFLanguageModel(model, pooling, projection, causal=causal, latent=latent)
    return Toy(tower, model, reference, texts((7, 7), 7), texts((9, 4, 6), 9))


def _longformer() -> Toy:
    config = LongformerConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=64,
        attention_window=[4, 8, 4],
        max_position_embeddings=CONTEXT + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=START,
        eos_token_id=END,
    )
    model = shuffled(LongformerModel(config))

    def reference(inputs: TextInputs) -> Tensor:
        return model(input_ids=inputs.ids, attention_mask=inputs.keep.long()).last_hidden_state[:, 0]

    return Toy(HFLongformer(model), model, reference, texts((11, 11), 11, pad=1), texts((13, 4, 6), 13, pad=1))


def _timm(name: str, size: int = SIZE, **options: Any) -> Toy:
    model = timm_model(name, img_size=size, **options)
    return Toy(TimmViT(model), model, model, images(size))


def _openclip_image(model: Any) -> Toy:
    def reference(pixels: Tensor) -> Tensor:
        return model.encode_image(pixels, normalize=False)

    return Toy(open_clip_towers(model)[0], model, reference, images(model.visual.image_size[0]))


def _openclip_text(model: Any, fixed: bool = False, pad_to: int = 9) -> Toy:
    def reference(inputs: TextInputs) -> Tensor:
        ids = inputs.ids
        # CLIP adds its whole position table, so the library wants full length; behind the end of text nothing counts.
        if isinstance(model, CLIP):
            ids = torch.nn.functional.pad(ids, (0, CONTEXT - ids.shape[1]), value=PAD)
        return model.encode_text(ids, normalize=False)

    if fixed:
        full, short = texts((CONTEXT, CONTEXT), CONTEXT), texts((9, 4, 6), CONTEXT)
        whole, padded = TextInputs(full.ids), TextInputs(short.ids)
    else:
        whole, padded = texts((CONTEXT, CONTEXT), CONTEXT), texts((9, 4, 6), pad_to)
    return Toy(open_clip_towers(model)[1], model, reference, whole, padded, fixed)


def _monai(classification: bool, **options: Any) -> Toy:
    from monai.networks.nets import ViT

    size = {"img_size": (8, 16, 24), "patch_size": (4, 8, 8), "hidden_size": 48, "mlp_dim": 64, "num_heads": 3}
    model = shuffled(ViT(1, num_layers=3, classification=classification, num_classes=24, **size, **options))

    def reference(inputs: Tensor) -> Tensor:
        out = model(inputs)[0]
        return out if classification else out.mean(dim=1)

    return Toy(MonaiViT(model), model, reference, volumes(8, 16, 24))


def _inflated(planar: Toy, **options: Any) -> Toy:
    """One patch deep, where the 2-D model on the mean slice says what has to come out."""
    side = planar.inputs.shape[-1]
    tower = Inflated(planar.tower, (4, side, side), 4, positions="learned", **options)

    def reference(inputs: Tensor) -> Tensor:
        return planar.reference(inputs.mean(dim=2).expand(-1, 3, -1, -1))

    inputs = volumes(4, side, side, channels=options.get("channels", 1))
    return Toy(tower.eval(), planar.library, reference, inputs)


def _slices(planar: Toy, chunk: int | None = None) -> Toy:
    def reference(inputs: Tensor) -> Tensor:
        slices = inputs.transpose(1, 2).flatten(0, 1).expand(-1, 3, -1, -1)
        return planar.reference(slices).unflatten(0, (len(inputs), -1)).mean(dim=1)

    side = planar.inputs.shape[-1]
    return Toy(Slices(planar.tower, chunk).eval(), planar.library, reference, volumes(5, side, side))


SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 3}

TOYS: dict[str, Callable[[], Toy]] = {
    "hf_clip_image": lambda: _hf_clip_image("sdpa"),
    "hf_clip_image_eager": lambda: _hf_clip_image("eager"),
    "hf_clip_text": lambda: _hf_clip_text("sdpa"),
    "hf_clip_text_eager": lambda: _hf_clip_text("eager"),
    "hf_clip_text_legacy_eos": lambda: _hf_clip_text("sdpa", eos=2),
    "hf_siglip_image": lambda: _hf_siglip_image("sdpa"),
    "hf_siglip_image_eager": lambda: _hf_siglip_image("eager"),
    "hf_siglip_text": lambda: _hf_siglip_text("sdpa"),
    "hf_siglip_text_eager": lambda: _hf_siglip_text("eager"),
    "bert_cls": lambda: _bert("cls"),
    "bert_cls_eager": lambda: _bert("cls", "eager"),
    "bert_mean": lambda: _bert("mean"),
    "bert_pooler": lambda: _bert("pooler"),
    "roberta": _roberta,
    "llm_text_llama_mean": lambda: _llm("Llama", "mean"),
    "llm_text_mistral_causal": lambda: _llm("Mistral", "last", causal=True),
    "llm_text_qwen2_last": lambda: _llm("Qwen2", "last"),
    "llm_text_qwen3_latent": lambda: _llm("Qwen3", "latent"),
    "llm_text_gemma2_mean": lambda: _llm("Gemma2", "mean"),
    "text_longformer": _longformer,
    "timm_vit": lambda: _timm("test_vit"),
    "timm_vit_avg": lambda: _timm("test_vit", global_pool="avg"),
    "timm_vit_map": lambda: _timm("test_vit3"),
    "timm_vit_dynamic": lambda: _timm("test_vit", dynamic_img_size=True),
    "timm_deit": lambda: _timm("deit_tiny_patch16_224", **SMALL),
    "timm_deit_distilled": lambda: _timm("deit_tiny_distilled_patch16_224", **SMALL),
    "timm_dinov2_registers": lambda: _timm("vit_small_patch14_reg4_dinov2", size=28, **SMALL),
    "timm_eva02": lambda: _timm("eva02_tiny_patch14_224", size=28, **SMALL),
    "timm_dinov3": lambda: _timm("vit_small_patch16_dinov3", **SMALL),
    "openclip_image": lambda: _openclip_image(openclip_clip()),
    "openclip_image_avg": lambda: _openclip_image(openclip_clip(pool_type="avg", final_ln_after_pool=True)),
    "openclip_image_custom_block": lambda: _openclip_image(openclip_clip(qk_norm=True)),
    "openclip_text": lambda: _openclip_text(openclip_clip()),
    "coca_image": lambda: _openclip_image(openclip_coca()),
    "coca_text": lambda: _openclip_text(openclip_coca(), fixed=True),
    "openclip_siglip_image": lambda: _openclip_image(openclip_siglip()),
    "openclip_siglip_text": lambda: _openclip_text(openclip_siglip(), fixed=True),
    "biomedclip_image": lambda: _openclip_image(openclip_biomed()),
    "biomedclip_text": lambda: _openclip_text(openclip_biomed()),
    "openclip_hf_mean": lambda: _openclip_text(openclip_biomed("mean_pooler")),
    "monai_vit": lambda: _monai(True),
    "monai_vit_mean": lambda: _monai(False, proj_type="perceptron", qkv_bias=True, pos_embed_type="sincos"),
    "inflated_hf_clip": lambda: _inflated(_hf_clip_image("sdpa")),
    "inflated_hf_siglip": lambda: _inflated(_hf_siglip_image("sdpa"), channels=3),
    "inflated_openclip": lambda: _inflated(_openclip_image(openclip_clip())),
    "inflated_coca": lambda: _inflated(_openclip_image(openclip_coca())),
    "inflated_timm": lambda: _inflated(_timm("test_vit")),
    "inflated_timm_avg": lambda: _inflated(_timm("test_vit", global_pool="avg")),
    "inflated_timm_registers": lambda: _inflated(_timm("vit_small_patch14_reg4_dinov2", size=28, **SMALL)),
    "inflated_timm_distilled": lambda: _inflated(_timm("deit_tiny_distilled_patch16_224", **SMALL)),
    "slices_hf_clip": lambda: _slices(_hf_clip_image("sdpa")),
    "slices_hf_siglip": lambda: _slices(_hf_siglip_image("sdpa")),
    "slices_timm": lambda: _slices(_timm("test_vit"), chunk=4),
    "slices_openclip": lambda: _slices(_openclip_image(openclip_clip())),
    "openclip_hf_pooler": lambda: _openclip_text(openclip_biomed("cls_pooler")),
}
TEXTS = [name for name in TOYS if any(word in name for word in ("text", "bert", "openclip_hf"))]
IMAGES = [name for name in TOYS if name not in TEXTS]


@cache
def toy(name: str) -> Toy:
    """Build a toy once per test process."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TOYS[name]()
