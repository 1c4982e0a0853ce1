"""The tiny language model: a Llama that reads made-up reports, taught as LLM2Vec and LLM2CLIP teach large ones.

1. The next word, with the causal mask.
2. Hidden words, without that mask: the word in place i is asked of place i - 1 still (masked next token prediction).
3. Together with the second: findings and impression of one report find each other by the means of their tokens.

It sees words alone, no picture, and the reports are of people who are in no sample set.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from domainvl.data.texts.reports import split_report
from domainvl.features import TextInputs
from domainvl.samples.cxr.cases import ARCHIVE, WARD, draw_patients
from domainvl.samples.cxr.reports import report
from domainvl.towers import HFLanguageModel

WIDTH, BLOCKS, HEADS, KEY_HEADS, HIDDEN = 128, 4, 4, 2, 384
CONTEXT = 256
_FAR = 1_000_003
"""Keeps people apart from those of sample sets, whose seeds are small numbers."""


def draw_reports(patients: int, seed: int) -> list[str]:
    """Reports of people of both kinds, half of them each."""
    rng = np.random.default_rng([seed, 7])
    people = [one for kind in (ARCHIVE, WARD) for one in draw_patients(_FAR + seed, patients // 2, kind)]
    return [report(rng, study) for one in people for study in one.studies]


def sections(reports: Sequence[str]) -> list[tuple[str, str]]:
    """Findings and impression of reports."""
    parts = [split_report(text) for text in reports]
    return [(part.findings, part.impression) for part in parts]


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights, small enough to ship."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=HIDDEN,
            num_hidden_layers=BLOCKS,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_HEADS,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def save(folder: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save weights as fp16 and the tokenizer; leaves the model as it was."""
    folder.mkdir(parents=True, exist_ok=True)
    small = LlamaForCausalLM(model.config)
    small.load_state_dict(model.state_dict())
    small.to(torch.float16).save_pretrained(folder)
    # How to write texts, which this model is not for.
    (folder / "generation_config.json").unlink(missing_ok=True)
    # safetensors writes for the owner only; an installed package is read by everyone.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load what ``save`` saved, as any user of transformers would, in float32."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    return model, PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def tokenized(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> TextInputs:
    """Texts as ids, and which of them are words."""
    found = tokenizer(list(texts), padding=True, truncation=True, max_length=CONTEXT, return_tensors="pt")
    ids, keep = found["input_ids"], found["attention_mask"].bool()
    special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    return TextInputs(ids, keep, pooled=keep & ~special)


def tokens_of(model: LlamaForCausalLM, inputs: TextInputs, *, causal: bool) -> Tensor:
    """What the model makes of every token `[B, L, D]`, by the tower that domainvl reads it with."""
    tower = HFLanguageModel(model.model, causal=causal)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return tower.norm(tower.run(tower.embed(inputs)).tokens)


def meaning(tokens: Tensor, inputs: TextInputs) -> Tensor:
    """The mean over words, of unit length, `[B, D]`."""
    words = inputs.pooled[..., None]
    return functional.normalize((tokens.float() * words).sum(1) / words.sum(1), dim=-1)


@torch.no_grad()
def found_impressions(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, reports: Sequence[str]
) -> tuple[float, float]:
    """Share of findings to which, of all impressions, one that reads like their own is nearest; and by chance."""
    parts = sections(reports)
    found = [tokenized(tokenizer, texts) for texts in zip(*parts, strict=True)]
    findings, impressions = (meaning(tokens_of(model, inputs, causal=False), inputs) for inputs in found)
    nearest = (findings @ impressions.T).argmax(dim=1).tolist()
    same = np.array([[own == other for _, other in parts] for _, own in parts])
    return float(same[np.arange(len(parts)), nearest].mean()), float(same.mean())
