"""Checkpoints with random weights, saved as their makers save them, and how the library computes features."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import library_toys as library
import open_clip
import timm
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

from domainvl.backbones import Backbone, HuggingFace, OpenClip, Pair

TEXTS = ["a chest x-ray", "no finding", "x-ray with a large right effusion"]
WORDS = ["a", "chest", "x-ray", "no", "finding", "with", "large", "effusion", "left", "right"]


def tokenizer(start: str, end: str, pad: str) -> PreTrainedTokenizerFast:
    """Whole words, ids below VOCAB; `start` may be empty."""
    special = {library.START: start, library.END: end, library.PAD: pad}
    vocabulary = {word: index for index, word in special.items() if word}
    vocabulary |= {word: 5 + index for index, word in enumerate(WORDS)} | {"[UNK]": 1}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    single = f"{start} $A {end}" if start else f"$A {end}"
    pairs = [(word, index) for index, word in special.items() if word and word != pad]
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=pairs)
    names = {"eos_token": end, "pad_token": pad, "unk_token": "[UNK]"}
    if start:
        names |= {"bos_token": start, "cls_token": start}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk, the model it was saved from, and how the library computes features from ids."""

    load: Callable[[], Backbone]
    model: nn.Module
    image: Callable[[Tensor], Tensor]
    text: Callable[[Any], Tensor]
    size: int
    folder: Path


def _hf(model: nn.Module, folder: Path, processor: Any, start: str) -> Saved:
    model.save_pretrained(folder)
    tokenizer(start, "<end>", "<pad>").save_pretrained(folder)
    processor.save_pretrained(folder)

    def text(inputs: Any) -> Tensor:
        return model.get_text_features(inputs.ids, attention_mask=inputs.keep).pooler_output

    def image(pixels: Tensor) -> Tensor:
        return model.get_image_features(pixels).pooler_output

    return Saved(lambda: HuggingFace(str(folder)), model, image, text, library.SIZE, folder)


def hf_clip(folder: Path) -> Saved:
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return _hf(library.hf_clip("sdpa", library.END), folder, processor, "<start>")


def hf_clip_in_shards(folder: Path) -> Saved:
    saved = hf_clip(folder)
    (folder / "model.safetensors").unlink()
    saved.model.save_pretrained(folder, max_shard_size="50KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return saved


def hf_siglip(folder: Path) -> Saved:
    return _hf(library.hf_siglip("sdpa"), folder, SiglipImageProcessor(size={"height": 32, "width": 32}), "")


def _open_clip(model: nn.Module, folder: Path, config: dict[str, Any], weights: str) -> Saved:
    preprocess = config.pop("preprocess_cfg", {})
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    if weights.endswith(".safetensors"):
        save_file(state, folder / weights)
    else:
        torch.save(state, folder / weights)
    size = model.visual.image_size[0]

    def text(inputs: Any) -> Tensor:
        pad = CONTEXTS.get(type(model).__name__, inputs.ids.shape[1]) - inputs.ids.shape[1]
        return model.encode_text(nn.functional.pad(inputs.ids, (0, pad)), normalize=False)

    def image(pixels: Tensor) -> Tensor:
        return model.encode_image(pixels, normalize=False)

    return Saved(lambda: OpenClip(str(folder)), model, image, text, size, folder)


CONTEXTS = {"CLIP": library.CONTEXT}
BPE = {**library.TEXT, "vocab_size": 49408}


def open_clip_safetensors(folder: Path, weights: str = "open_clip_model.safetensors") -> Saved:
    vision = {**library.VISION, "patch_dropout": 0.5}
    config = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": BPE}
    model = library.shuffled(open_clip.model.CLIP(24, library.VISION, BPE, quick_gelu=True))
    return _open_clip(model, folder, config, weights)


def open_clip_bin(folder: Path) -> Saved:
    return open_clip_safetensors(folder, "open_clip_pytorch_model.bin")


def open_clip_architecture(folder: Path) -> Saved:
    """An architecture that open_clip knows by name, and a training checkpoint of a wrapped model."""
    saved = open_clip_safetensors(folder)
    config = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": library.VISION, "text_cfg": BPE}
    (folder / "Toy-ViT.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "Toy-ViT.json")
    state = {f"module.{key}": tensor for key, tensor in saved.model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, folder / "epoch_3.pt")
    path = str(folder / "epoch_3.pt")
    return Saved(lambda: OpenClip("Toy-ViT", pretrained=path), saved.model, saved.image, saved.text, saved.size, folder)


def coca(folder: Path) -> Saved:
    vision = {**library.VISION, "attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
    text = {**BPE, "embed_cls": True, "output_tokens": True}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": {**BPE}, "custom_text": True}
    model = library.shuffled(open_clip.coca_model.CoCa(24, dict(BPE), dict(text), dict(vision)))
    return _open_clip(model, folder, config, "open_clip_pytorch_model.bin")


def open_clip_siglip(folder: Path) -> Saved:
    vision = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160}
    text = {**library.TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash"}
    config = {
        "embed_dim": 96,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": {**text, "hf_tokenizer_name": "timm/toy", "tokenizer_kwargs": {"clean": "canonicalize"}},
        "preprocess_cfg": half,
    }
    tokenizer("", "<end>", "<pad>").save_pretrained(folder)
    model = library.shuffled(open_clip.model.CustomTextCLIP(96, dict(vision), dict(text), init_logit_bias=-10.0))
    return _open_clip(model, folder, config, "open_clip_model.safetensors")


def biomedclip(folder: Path) -> Saved:
    """The layout of microsoft/BiomedCLIP, pickled, with the position ids of old transformers among the weights."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "test_vit",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 32,
        },
        "text_cfg": {
            "hf_model_name": "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract",
            "hf_tokenizer_name": "microsoft/BiomedNLP-PubMedBERT-base-uncased-abstract",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": library.CONTEXT,
        },
    }
    tokenizer("[CLS]", "[SEP]", "[PAD]").save_pretrained(folder)
    library.bert_config().save_pretrained(folder)
    text = {**config["text_cfg"], "hf_model_name": str(folder), "hf_model_pretrained": False}
    model = library.shuffled(open_clip.model.CustomTextCLIP(24, dict(config["vision_cfg"]), text))
    saved = _open_clip(model, folder, config, "open_clip_pytorch_model.bin")
    state = torch.load(folder / "open_clip_pytorch_model.bin", weights_only=True)
    state["text.transformer.embeddings.position_ids"] = torch.arange(library.CONTEXT)[None]
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    return saved


def pair(folder: Path) -> Saved:
    from timm.models import save_for_hf

    vision = library.shuffled(timm.create_model("test_vit", num_classes=5, img_size=32, dynamic_img_size=False))
    save_for_hf(vision, folder / "image", safe_serialization=True)
    bert = library.bert()
    bert.save_pretrained(folder / "text")
    tokenizer("[CLS]", "[SEP]", "[PAD]").save_pretrained(folder / "text")

    def load() -> Pair:
        return Pair(image=str(folder / "image"), text=str(folder / "text"), out_dim=24, pooling="cls")

    projections = load().model

    def image(pixels: Tensor) -> Tensor:
        features = vision.forward_head(vision.forward_features(pixels), pre_logits=True)
        return projections.image_projection(features)

    def text(inputs: Any) -> Tensor:
        mask = torch.ones_like(inputs.ids) if inputs.keep is None else inputs.keep.long()
        return projections.text_projection(bert(inputs.ids, attention_mask=mask).last_hidden_state[:, 0])

    return Saved(load, nn.ModuleList([vision, bert]), image, text, 32, folder)


def byte_pair_tokenizer() -> PreTrainedTokenizerFast:
    """As Qwen has it: pieces of bytes, and no token around a text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def pair_llm(folder: Path, kind: str = "Llama", pooling: str = "mean", instruction: str = "", **options: Any) -> Saved:
    """A language model as it is published: with its head, in shards, its tokenizer with a start of text."""
    saved = pair(folder)
    words = byte_pair_tokenizer() if kind.startswith("Qwen") else tokenizer("<start>", "<end>", "<pad>")
    sizes = {**library.LLM, "vocab_size": 300, "eos_token_id": 0} if kind.startswith("Qwen") else library.LLM
    special = [0] if kind.startswith("Qwen") else [library.START, library.END, library.PAD]
    config = getattr(transformers, f"{kind}Config")(**sizes)
    whole = library.shuffled(getattr(transformers, f"{kind}ForCausalLM")(config))
    model = whole.model
    whole.save_pretrained(folder / "llm", max_shard_size="50KB")
    words.save_pretrained(folder / "llm")
    places = {"image": str(folder / "image"), "text": str(folder / "llm")}

    def load() -> Pair:
        return Pair(**places, out_dim=24, pooling=pooling, instruction=instruction, **options)

    projection = load().model.text_projection

    def text(inputs: Any) -> Tensor:
        keep = torch.ones_like(inputs.ids, dtype=torch.bool) if inputs.keep is None else inputs.keep
        model.config.is_causal = False
        model.set_attn_implementation("eager" if kind == "Gemma2" else "sdpa")
        tokens = model(inputs.ids, attention_mask=keep.long()).last_hidden_state
        del model.config.is_causal
        said = ~torch.isin(inputs.ids, torch.tensor(special))
        return projection((tokens * said[..., None]).sum(1) / said.sum(1, keepdim=True))

    return replace(saved, load=load, model=model, text=text)


BUILDERS = {
    "hf_clip": hf_clip,
    "hf_clip_in_shards": hf_clip_in_shards,
    "hf_siglip": hf_siglip,
    "open_clip_safetensors": open_clip_safetensors,
    "open_clip_bin": open_clip_bin,
    "open_clip_architecture": open_clip_architecture,
    "coca": coca,
    "open_clip_siglip": open_clip_siglip,
    "biomedclip": biomedclip,
    "pair": pair,
    "pair_llama": pair_llm,
    "pair_qwen2": lambda folder: pair_llm(folder, "Qwen2"),
    "pair_gemma2": lambda folder: pair_llm(folder, "Gemma2"),
}
