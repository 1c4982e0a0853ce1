"""The tiny language model's card."""

from __future__ import annotations

from pathlib import Path

from transformers import LlamaForCausalLM

_CARD = """\
---
library_name: transformers
pipeline_tag: feature-extraction
license: cc0-1.0
tags: [llama, procedural, test-model]
---

# The tiny language model of domainvl

**This is not a clinical model.** It has never read a report about a person. It was trained on {reports:,} chest X-ray
reports made by code, and knows hardly another word. It exists so that domainvl runs and can be tested offline with a
language model as text encoder; what it makes of any other text means nothing.

## What it is

A Llama of {parameters:.2f} million parameters in the format of transformers (`LlamaForCausalLM`), stored as fp16:
{blocks} blocks of width {width} with {heads} heads, {keys} of them for keys and values, {context} tokens of a
lower-casing byte-level BPE with {vocabulary} entries. domainvl reads it without its causal mask and takes the mean over
a text's tokens.

## How it was made

`python examples/pretrain_tiny_llm.py --out DIR --steps {steps} --patients {patients} --seed {seed}`

For half of the steps the next word is asked for, behind a causal mask. For the other half it is hidden words, without
that mask (masked next token prediction, as in LLM2Vec), and findings and impression of a report are to find each other
by the means of their tokens (as LLM2CLIP does with captions of an image). The reports have the wording of domainvl's
sample data and are of other made-up people; no picture was shown.

## Score

Among {held} reports that it has not read, the impression nearest to given findings reads like their own for
{found:.0%}; by chance that would be {chance:.1%}.

## Licence

CC0 1.0. No real data went in.
"""


def write(
    folder: Path,
    model: LlamaForCausalLM,
    *,
    reports: int,
    patients: int,
    held: int,
    found: float,
    chance: float,
    steps: int,
    seed: int,
) -> None:
    """Write ``README.md`` into the model's folder."""
    config = model.config
    card = _CARD.format(
        reports=reports,
        patients=patients,
        held=held,
        found=found,
        chance=chance,
        steps=steps,
        seed=seed,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        blocks=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        keys=config.num_key_value_heads,
        context=config.max_position_embeddings,
        vocabulary=config.vocab_size,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
