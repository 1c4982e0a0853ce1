"""The tiny model's architecture, tokenizer and preprocessing, in the formats of transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from pretraining.drawing import PATCH, SIDE

WIDTH = 128
HEADS = 4
IMAGE_BLOCKS = 5
TEXT_BLOCKS = 4
CONTEXT = 77
VOCABULARY = 1024
CHANNEL_MEAN, CHANNEL_STD = 0.45, 0.27

# The order fixes the ids. transformers reads an end id of 2 as "a legacy CLIP checkpoint" and pools elsewhere.
_PAD, _BOS, _MASK, _EOS = SPECIAL_TOKENS = ("<|pad|>", "<|startoftext|>", "<|mask|>", "<|endoftext|>")


def train_tokenizer(texts: list[str], context: int = CONTEXT) -> PreTrainedTokenizerFast:
    """Trains a lower-casing byte-level BPE, so that any text has tokens and "Pleural" is "pleural"."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A {_EOS}",
        special_tokens=[(token, core.token_to_id(token)) for token in (_BOS, _EOS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=_BOS,
        eos_token=_EOS,
        pad_token=_PAD,
        mask_token=_MASK,
        model_max_length=context,
        padding_side="right",
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """A CLIP with random weights, small enough to ship."""
    blocks = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "projection_dim": WIDTH,
    }
    config = CLIPConfig(
        text_config={
            **blocks,
            "num_hidden_layers": TEXT_BLOCKS,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": CONTEXT,
            "hidden_act": "quick_gelu",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            **blocks,
            "num_hidden_layers": IMAGE_BLOCKS,
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_act": "quick_gelu",
        },
        projection_dim=WIDTH,
        logit_scale_init_value=2.6592,
    )
    return CLIPModel(config)


def image_processor() -> CLIPImageProcessor:
    """Resize to the model's square and normalise every channel alike, because most domains are grey."""
    return CLIPImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[CHANNEL_MEAN] * 3,
        image_std=[CHANNEL_STD] * 3,
    )


def save(folder: Path, model: CLIPModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Saves weights as fp16, tokenizer and preprocessing; leaves the model as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    small = CLIPModel(model.config)
    small.load_state_dict(model.state_dict())
    small.to(torch.float16).save_pretrained(folder)
    # safetensors writes for the owner only; an installed package is read by everyone.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)


def load(folder: Path) -> tuple[CLIPModel, PreTrainedTokenizerFast, CLIPImageProcessor]:
    """Loads what ``save`` saved, as any user of transformers would, in float32."""
    return (
        CLIPModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval(),
        PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True),
        CLIPImageProcessor.from_pretrained(folder, local_files_only=True),
    )
