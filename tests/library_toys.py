"""Tiny models of every supported library with random weights, and inputs for them."""

from __future__ import annotations

from typing import Any

import timm
import torch
import transformers
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    RobertaConfig,
    RobertaModel,
    SiglipConfig,
    SiglipModel,
)

from domainvl.features import TextInputs

PAD, START, END, VOCAB, CONTEXT = 0, 98, 99, 100, 16
SIZE = 32


def shuffled(model: nn.Module) -> nn.Module:
    """Move every parameter off its initial value, so that a bias, scale or token that is left out shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def images(size: int = SIZE) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(2))


def volumes(*size: int, channels: int = 1) -> Tensor:
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(2))


def texts(lengths: tuple[int, ...], total: int, start: int = START, end: int = END, pad: int = PAD) -> TextInputs:
    """Rows of random words between start and end of text, padded to `total`."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.full((len(lengths), total), pad)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, 90, (length,), generator=generator)
        ids[row, 0], ids[row, length - 1] = start, end
    keep = torch.arange(total) < torch.tensor(lengths)[:, None]
    return TextInputs(ids, keep)


def hf_clip(attention: str, eos: int) -> CLIPModel:
    config = CLIPConfig(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": CONTEXT,
            "bos_token_id": START,
            "eos_token_id": eos,
            "pad_token_id": PAD,
        },
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "image_size": SIZE,
            "patch_size": 8,
        },
        projection_dim=24,
    )
    model = CLIPModel._from_config(config, attn_implementation=attention)
    return shuffled(model)


def hf_siglip(attention: str) -> SiglipModel:
    config = SiglipConfig(
        text_config={
            "vocab_size": VOCAB,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": CONTEXT,
            "projection_size": 48,
            "pad_token_id": PAD,
            "bos_token_id": START,
            "eos_token_id": END,
        },
        vision_config={
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "image_size": SIZE,
            "patch_size": 8,
        },
    )
    return shuffled(SiglipModel._from_config(config, attn_implementation=attention))


def bert(attention: str = "sdpa", pooler: bool = False) -> BertModel:
    return shuffled(BertModel._from_config(bert_config(), add_pooling_layer=pooler, attn_implementation=attention))


def bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=64,
        max_position_embeddings=CONTEXT,
        pad_token_id=PAD,
    )


def roberta() -> RobertaModel:
    config = RobertaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=64,
        max_position_embeddings=CONTEXT + 2,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=START,
        eos_token_id=END,
    )
    return shuffled(RobertaModel(config, add_pooling_layer=False))


VISION = {"layers": 3, "width": 48, "head_width": 16, "patch_size": 8, "image_size": SIZE}
TEXT = {"context_length": CONTEXT, "vocab_size": VOCAB, "width": 32, "heads": 2, "layers": 3}


def openclip_clip(**vision: Any) -> CLIP:
    return shuffled(CLIP(24, {**VISION, **vision}, TEXT, quick_gelu=True))


def openclip_coca() -> CoCa:
    vision = {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5}
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    multimodal = {**TEXT, "mlp_ratio": 2}
    return shuffled(CoCa(24, multimodal, text, {**vision, "output_tokens": True}))


def openclip_siglip() -> CustomTextCLIP:
    vision = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
    text = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    return shuffled(CustomTextCLIP(96, vision, text, init_logit_bias=-10.0))


def openclip_biomed(pooler: str = "cls_last_hidden_state_pooler") -> CustomTextCLIP:
    """BiomedCLIP's make-up: a timm ViT with a linear projection, a BERT with an MLP projection."""
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": SIZE}
    model = CustomTextCLIP(24, vision, {**TEXT})
    model.text = HFTextEncoder("none", 24, config=bert_config(), proj_type="mlp", pooler_type=pooler)
    return shuffled(model)


def timm_model(name: str, **options: Any) -> nn.Module:
    return shuffled(timm.create_model(name, pretrained=False, num_classes=0, **options))


LLM = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": PAD,
    "bos_token_id": START,
    "eos_token_id": END,
}


def llm(kind: str) -> nn.Module:
    """A language model without its head; Gemma 2 caps its scores, which sdpa cannot."""
    config = getattr(transformers, f"{kind}Config")(**LLM)
    attention = "eager" if kind == "Gemma2" else "sdpa"
    return shuffled(getattr(transformers, f"{kind}Model")._from_config(config, attn_implementation=attention))
