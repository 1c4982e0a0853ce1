"""One row per objective: what it is made of and what is special about it. `test_contract.py` does the rest.

A row says how to make the objective; everything in `sample()` is on offer. What a row may say besides:

    gradient     features that a gradient reaches, where that is not every pooled, tokens or logits without a role
    permutes     False where the order of records matters
    distributed  False where two processes cannot equal one (say why beside the row)
    batch        batch keys that the sample lacks
    idle         True where this step trains none of the objective's own parameters
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from domainvl.objectives import (
    Alip,
    Context,
    GloriaLocal,
    InfoNCE,
    LabelContrast,
    MgcaPrototype,
    MgcaToken,
    Objective,
    OrganContrast,
    PhraseRegions,
    PriorAttribution,
    PriorBelief,
    SigLIP,
    TclLocalGlobal,
    VillaMapping,
    VillaRegions,
)
from domainvl.objectives.base import alone
from domainvl.objectives.targets import (
    FalseNegativeFilter,
    HardNegatives,
    LabelOverlap,
    LabelSmoothing,
    Momentum,
    SameGroup,
    SemanticBank,
    TextSimilarity,
)

SIZE, WIDTH, PATCHES, WORDS, CLASSES, QUEUE = 6, 8, 4, 5, 3, 7
ORGANS = ("liver", "spleen")


@dataclass(frozen=True)
class Case:
    """An objective in the suite."""

    name: str
    make: Callable[[], Objective]
    gradient: frozenset[str] | None = None
    permutes: bool = True
    distributed: bool = True
    batch: dict[str, Any] = field(default_factory=dict)
    idle: bool = False

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("InfoNCE", InfoNCE),
    Case("InfoNCE-tiled", lambda: InfoNCE(tiled=True, label_smoothing=0.1)),
    Case("InfoNCE-ALIGN", lambda: InfoNCE(label_smoothing=0.1)),
    Case("InfoNCE-one-way", lambda: InfoNCE("image.pooled", "text@caption.pooled", symmetric=False)),
    Case("InfoNCE-second", lambda: InfoNCE("image.pooled", "image@second.pooled")),
    Case("InfoNCE-groups", lambda: InfoNCE(targets=[SameGroup("study"), SameGroup("group", drop=True)])),
    Case("InfoNCE-labels", lambda: InfoNCE(targets=[LabelOverlap(None)])),
    Case("InfoNCE-texts", lambda: InfoNCE(targets=[TextSimilarity(0.3, soft=True)])),
    Case("InfoNCE-UniME", lambda: InfoNCE(targets=[FalseNegativeFilter(), HardNegatives(2)], symmetric=False)),
    Case("InfoNCE-smooth", lambda: InfoNCE(targets=[SameGroup(), LabelSmoothing(0.2)])),
    Case("InfoNCE-ALBEF", lambda: InfoNCE(targets=[Momentum(0.4)], teacher=True, queue=True)),
    Case("InfoNCE-queue", lambda: InfoNCE(targets=[SameGroup(), LabelOverlap(1.0), Momentum(0.4)], queue=True)),
    Case(
        "InfoNCE-queue-tiled",
        lambda: InfoNCE(targets=[SameGroup(), LabelOverlap(1.0), Momentum(0.4)], queue=True, tiled=True),
    ),
    Case("SigLIP", SigLIP),
    Case("SigLIP-groups", lambda: SigLIP(targets=[SameGroup(), SameGroup("group", drop=True)], own_bias=-1.0)),
    Case("LabelContrast", LabelContrast),
    Case("LabelContrast-tiled", lambda: LabelContrast(targets=[LabelOverlap(None)], inner=0.5, tiled=True)),
    Case("TclLocalGlobal", TclLocalGlobal),
    Case("TclLocalGlobal-pooled", lambda: TclLocalGlobal(tokens="image.tokens", pool=2), frozenset({"image.pooled"})),
    Case("TclLocalGlobal-text", lambda: TclLocalGlobal("text.pooled", "ema/text.tokens")),
    Case("Alip", Alip),
    Case("Alip-published", lambda: Alip(gate_caption=True, start=1.0, targets=[SameGroup()])),
    Case("GloriaLocal", GloriaLocal),
    Case("GloriaLocal-paper", lambda: GloriaLocal(aggregate="mean", word_softmax=False)),
    Case(
        "GloriaLocal-groups",
        lambda: GloriaLocal(targets=[SameGroup("study")]),
        frozenset({"image.tokens", "text.tokens"}),
    ),
    Case("PhraseRegions", PhraseRegions),
    Case(
        "PhraseRegions-texts",
        lambda: PhraseRegions(targets=[SameGroup("study"), TextSimilarity(0.9, text="text.pooled")]),
        frozenset({"image.tokens", "text.pooled"}),
    ),
    Case("PriorAttribution", PriorAttribution),
    Case("PriorBelief", PriorBelief),
    Case("PriorBelief-hard", lambda: PriorBelief(keep=0.5, targets=[SameGroup("study")])),
    Case("MgcaToken", MgcaToken),
    Case("MgcaPrototype", lambda: MgcaPrototype(prototypes=5)),
    Case("InfoNCE-bank", lambda: InfoNCE(targets=[SemanticBank(2, 0.1)])),
    Case(
        "InfoNCE-bank-queue",
        lambda: InfoNCE(targets=[SameGroup(), SemanticBank(3, 0.1, text="text.pooled")], queue=True, tiled=True),
    ),
    Case("OrganContrast", lambda: OrganContrast(ORGANS, ["The {organ} is fine"])),
    Case("OrganContrast-bank", lambda: OrganContrast(ORGANS, ["The {organ} is fine"], [SemanticBank(2, 0.1)], 9.0)),
    Case("VillaMapping", lambda: VillaMapping(CLASSES)),
    Case("VillaMapping-published", lambda: VillaMapping(keep=0.8, as_published=True)),
    Case("VillaRegions", lambda: VillaRegions(VillaMapping(CLASSES), mapping_epochs=1), idle=True),
    Case("VillaRegions-alone", lambda: VillaRegions(VillaMapping(), 0, whole=False, regions=2), idle=True),
]


def sample(size: int = SIZE, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Features and batch of a step: everything that any objective may need.

    Words and patches past a record's length hold noise, which nobody may read.
    """
    draw = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    features = {}
    for role in ("", "ema/", "frozen/"):
        for source in ("image", "image@second", "text", "text@caption", "text@second"):
            features[f"{role}{source}.pooled"] = noise(size, WIDTH)
            length = PATCHES if source.startswith("image") else WORDS
            features[f"{role}{source}.tokens"] = noise(size, length, WIDTH)
            features[f"{role}{source}.mask"] = torch.ones(size, length, dtype=torch.bool)
            if source.startswith("image"):
                features[f"{role}{source}.grid"] = torch.tensor([2, 2])
            else:
                lengths = torch.arange(size) % (WORDS - 1) + 2
                mask = torch.arange(WORDS) < lengths[:, None]
                features[f"{role}{source}.mask"] = mask
                features[f"{role}{source}.sentences"] = (torch.arange(WORDS) // 2).expand(size, -1).where(mask, -1)
    for key in [key for key in features if key.endswith(".mask")]:
        mask = features[key]
        features[key.replace(".mask", ".attention")] = torch.rand(mask.shape, generator=draw).where(mask, 9.0)
    for source in ("image", "text"):
        features[f"queue/{source}.pooled"] = noise(QUEUE, WIDTH)
    features["frozen/text@classes.pooled"] = noise(CLASSES, WIDTH)
    batch: dict[str, Any] = {
        "index": torch.arange(size),
        "group": torch.arange(size) // 3,
        "study": torch.arange(size) // 2,
        "label": (noise(size, CLASSES) > 0).float(),
        "valid": noise(size, CLASSES) > -1,
        "queue/group": torch.arange(QUEUE) % 2,
        "queue/study": torch.arange(QUEUE) % 3,
        "queue/label": (noise(QUEUE, CLASSES) > 0).float(),
        "queue/valid": noise(QUEUE, CLASSES) > -1,
    }
    batch["label"] = torch.where(batch["valid"], batch["label"], torch.nan)
    for place, organ in enumerate(ORGANS):
        for role in ("", "frozen/"):
            features[f"{role}image@{organ}.pooled"] = noise(size, WIDTH)
            features[f"{role}text@{organ}.pooled"] = noise(size, WIDTH)
        features[f"image@{organ}.mask"] = torch.arange(size) % 4 != place
        fine = f"The {organ} is fine."
        batch[f"text@{organ}"] = [(fine, "Enlarged.", fine, "A lesion.", "", "Cysts.")[row % 6] for row in range(size)]
    return features, batch


def rows_of(features, batch, rows):
    """The same step with these records alone, in this order; the queue stays."""
    whole = [k for k in features if k.startswith("queue/") or k.endswith(".grid") or "@classes" in k]
    kept = {k: v if k in whole else v[rows] for k, v in features.items()}
    taken = {k: v if k.startswith("queue/") or isinstance(v, list) else v[rows] for k, v in batch.items()}
    return kept, taken | {k: [v[row] for row in rows.tolist()] for k, v in batch.items() if isinstance(v, list)}


def context(scale=None, gather=alone, offset=0, step=5):
    """A step in the middle of training."""
    scale = torch.tensor(7.0) if scale is None else scale
    return Context(scale=scale, epoch=1, step=step, gather=gather, offset=offset, bias=torch.tensor(-2.0))


def built(case: Case) -> Objective:
    """The objective, with heads that are always the same."""
    torch.manual_seed(11)
    objective = case.make()
    features, _ = sample()
    objective.attach({key: value.shape[-1] for key, value in features.items()})
    return objective
