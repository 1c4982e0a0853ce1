"""The model card, with the scores of the weights that lie beside it."""

from __future__ import annotations

import math
from pathlib import Path

from transformers import CLIPModel

from pretraining.scoring import NEGATIVE, POSITIVE, Films

_CARD = """\
---
library_name: transformers
pipeline_tag: zero-shot-image-classification
license: cc0-1.0
tags: [clip, procedural, test-model]
---

# The tiny vision-language model of domainvl

**This is not a clinical model.** It has never seen an X-ray, a CT scan, a tissue section or a satellite image. It was
pretrained on {images:,} cartoons, drawn by code, of chest X-rays, CT slices, histology patches and satellite
tiles, with captions made by code. It exists so that domainvl runs and can be tested offline within a minute: weak
at first, teachable with a few examples. Its outputs mean nothing about any real image or person.

## What it is

A CLIP of {parameters:.2f} million parameters in the format of transformers (`CLIPModel`), stored as fp16:
{side} x {side} pixels in patches of {patch}, {image_blocks} image blocks and {text_blocks} text blocks of width {width}
with heads of {head}, {context} tokens of a lower-casing byte-level BPE with {vocabulary} entries.

## How it was made

`python examples/pretrain_tiny.py --out DIR --steps {steps} --images {images} --seed {seed}`

Contrastive loss on image-caption pairs; a caption that is true of several images in the batch counts as a match of
each. Two heads that name and locate what is drawn were trained along and thrown away. The cartoons share neither code
nor style with domainvl's sample data, on which the scores below were taken, and their captions use clinical names
loosely on purpose: the model is meant to leave room for adaptation.

## Scores

Zero-shot on the test split of domainvl's procedural chest X-ray samples ({patients} patients, {films} images), AUROC of
"{positive}" against "{negative}"; labels that the report
doubts or does not mention are left out.

| finding | AUROC |
|---|---|
{rows}
| **macro** | **{macro:.3f}** |

## Licence

CC0 1.0. No real data went in.
"""


def write(
    folder: Path, model: CLIPModel, scores: dict[str, float], films: Films, *, steps: int, images: int, seed: int
) -> None:
    """Writes ``README.md`` into the model's folder."""
    image, text = model.config.vision_config, model.config.text_config
    card = _CARD.format(
        images=images,
        steps=steps,
        seed=seed,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        side=image.image_size,
        patch=image.patch_size,
        image_blocks=image.num_hidden_layers,
        text_blocks=text.num_hidden_layers,
        width=image.hidden_size,
        head=image.hidden_size // image.num_attention_heads,
        context=text.max_position_embeddings,
        vocabulary=text.vocab_size,
        patients=len(set(films.patients)),
        films=len(films.images),
        positive=POSITIVE.format("<finding>"),
        negative=NEGATIVE.format("<finding>"),
        rows="\n".join(f"| {finding} | {value:.3f} |" for finding, value in scores.items()),
        macro=math.fsum(scores.values()) / len(scores),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
