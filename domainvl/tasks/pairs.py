"""Features of image-report pairs, in every role that somebody asks for.

A part is an image or a text in one of the views that a batch holds; it goes through its tower once per role. What an
adapter reads besides (`image@rep.pooled`) comes with the part that it belongs to.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Batch, FeatureKey, Features, TextInputs
from domainvl.speed import Speed
from domainvl.tasks.class_scores import PLAIN_ADAPTER
from domainvl.tasks.image_pass import CachedPass
from domainvl.tasks.organ_pass import OrganPass
from domainvl.tasks.text_pass import Said, TextPass
from domainvl.tokens import TokenState
from domainvl.towers.attention import attention_of
from domainvl.towers.base import Tower
from domainvl.towers.locals import pool_words

LOCAL = frozenset({"tokens", "mask", "grid", "sentences"})
"""Streams that want every token of the finished state."""


@dataclass(frozen=True, order=True)
class Part:
    """One input of a tower: `image`, `image@second`, `text`, `text@caption`."""

    side: Side
    view: str = ""

    @property
    def key(self) -> str:
        """Where a batch has it, and what its features begin with."""
        return f"{self.side}@{self.view}" if self.view else self.side


@dataclass(frozen=True)
class Pictured:
    """Images and what is known of them.

    Attributes:
        image: What the tower takes, `[B, ...]`.
        organs: Number of the organ of every voxel, `[B, D, H, W]`, where features of organs are wanted.
        slots: `index` and `view` `[B, 2]`, where the frozen blocks were run before (`CachedPass`).
    """

    image: Tensor
    organs: Tensor | None = None
    slots: Tensor | None = None

    def rows(self, rows: slice) -> Pictured:
        """Some of the images."""
        organs, slots = (None if part is None else part[rows] for part in (self.organs, self.slots))
        return Pictured(self.image[rows], organs, slots)

    def __len__(self) -> int:
        return len(self.image)


class PairPass:
    """Both towers over the pairs of a batch.

    Args:
        backbone: The model.
        adapter: What is learned.
        speed: What may be skipped.
        wanted: Feature keys that somebody reads.
        views: Names of the views that batches hold besides the plain one: `image@second`, `text@caption`.
        chunk: Images, or texts, that go through a tower at once. More are recomputed in the backward pass, chunk by
            chunk with the same random numbers, so that memory does not grow with the batch (GradCache, Gao et al.
            2021). None for all at once.
        texts: What the text tower says, remembered; for adapters that leave it alone (`leaves_texts_alone`).
        organs: The organs that batches hold; `image@NAME` are the features of one.

    Attributes:
        images: What the frozen blocks of the image tower say of training images, remembered; None computes it.
    """

    images: CachedPass | None = None

    def __init__(
        self,
        backbone: Backbone,
        adapter: Adapter | None,
        speed: Speed,
        wanted: Collection[str],
        views: Collection[str] = (),
        chunk: int | None = None,
        texts: TextPass | None = None,
        organs: OrganPass | None = None,
    ) -> None:
        self.backbone, self.adapter, self.speed, self.chunk = backbone, adapter or PLAIN_ADAPTER, speed, chunk
        self._wanted = [FeatureKey.parse(key) for key in sorted(wanted)]
        self._views = frozenset(views)
        self._texts = texts
        self.organs = organs or OrganPass()

    def roles(self) -> set[str]:
        """Roles that are asked for."""
        return {key.role for key in self._wanted}

    def views(self, role: str) -> set[str]:
        """Batch keys that a role reads."""
        return {part.key for part in self.parts(role)}

    def parts(self, role: str) -> dict[Part, frozenset[str]]:
        """What goes through a tower for a role, and which streams are wanted of all of its tokens."""
        found: dict[Part, frozenset[str]] = {}
        for key in self._wanted:
            if key.role != role or key.source not in ("image", "text"):
                continue
            side: Side = "image" if key.source == "image" else "text"
            known = not key.view or f"{key.source}@{key.view}" in self._views
            part = Part(side, key.view if known else "")
            streams = {key.stream} & (LOCAL | {"attention"}) if known else {"tokens"} if self.organs.reads(key) else ()
            found[part] = found.get(part, frozenset()).union(streams)
        return found

    def student(self, batch: Batch) -> Features:
        """Features of the adapted model, with gradients."""
        return self._role("", batch, self.adapter)

    @torch.no_grad()
    def frozen(self, batch: Batch) -> Features:
        """Features of the untouched model."""
        with self.adapter.off():
            return self._role("frozen", batch, PLAIN_ADAPTER)

    @torch.no_grad()
    def teacher(self, batch: Batch) -> Features:
        """Features of the adapted model as it is now, under the role `ema`."""
        return self._role("ema", batch, self.adapter)

    def encode(
        self, adapter: Adapter, side: Side, inputs: Any, tokens: bool = False, attention: bool = False
    ) -> Features:
        """Features of pixels `[B, 3, S, S]` or what `inputs` gives.

        Args:
            adapter: Whose features.
            side: Which tower.
            inputs: What it takes.
            tokens: Local features too.
            attention: How much attention patches get too, where the tower knows.
        """
        if isinstance(inputs, Said):
            features = adapter.readout(side, inputs.tower, inputs.state)
            return features | _locals(adapter, side, inputs.tower, inputs.state, inputs) if tokens else features
        tower = self.backbone.image if side == "image" else self.backbone.text
        whole = tokens or attention
        # What only locals and attention read must not be skipped in the last block.
        speed = replace(self.speed, unread=False) if whole else self.speed
        given = inputs.image if isinstance(inputs, Pictured) else inputs
        first, last = adapter.first_block(side, tower), tower.depth - 1
        attention = attention and last >= 0
        if attention and first > last:
            # The last block is asked what it attends to, so it is no part of what is constant.
            prefix = tower.run(tower.embed(given), stop=last)
        else:
            prefix = self._remembered(inputs) or adapter.prefix(side, tower, given, speed)
        if not whole:
            return adapter.finish(side, tower, prefix, speed)
        entered: list[TokenState] = []

        def edit(index: int, state: TokenState) -> TokenState:
            state = state if index < first else adapter.edit(side, index, state)
            if index == last:
                entered.append(state)
            return state

        state = tower.run(prefix, edit=edit, start=min(first, last) if attention else first)
        features = adapter.readout(side, tower, state)
        if tokens:
            features |= _locals(adapter, side, tower, state, inputs)
            if isinstance(inputs, Pictured) and inputs.organs is not None:
                features |= self.organs.features(features, inputs.organs)
        shares = attention_of(tower, entered[0]) if attention else None
        return features if shares is None else features | {f"{side}.attention": shares}

    def _remembered(self, inputs: Any) -> TokenState | None:
        if self.images is None or not isinstance(inputs, Pictured) or inputs.slots is None:
            return None
        index, view = inputs.slots.unbind(dim=1)
        return self.images(inputs.image, index, view).prefix

    def _role(self, role: str, batch: Batch, adapter: Adapter) -> Features:
        features: Features = {}
        for part, streams in sorted(self.parts(role).items()):
            made = self._part(part, streams, batch, adapter)
            for name, value in made.items():
                key = FeatureKey.parse(name)
                if not part.view:
                    features[str(replace(key, role=role))] = value
                elif not key.view:
                    features[str(replace(key, role=role, view=part.view))] = value
        return features

    def _part(self, part: Part, streams: frozenset[str], batch: Batch, adapter: Adapter) -> Features:
        """Features of a part; texts that are the same, as those of healthy organs are, go through the tower once."""
        tokens = bool(streams & LOCAL)
        if part.side == "image":
            inputs = self.inputs(part, batch, tokens, remembered=adapter is self.adapter)
            return self._chunks(adapter, part.side, inputs, tokens, "attention" in streams)
        texts: Sequence[str] = batch[part.key]
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        inputs = self.inputs(part, {part.key: list(distinct)}, tokens)
        made = self._chunks(adapter, part.side, inputs, tokens, attention=False)
        if len(distinct) == len(texts):
            return made
        places = torch.tensor([distinct[text] for text in texts], device=self.backbone.logit_scale.device)
        return {key: value[places] for key, value in made.items()}

    def inputs(self, part: Part, batch: Batch, tokens: bool = False, remembered: bool = False) -> Any:
        """What the tower takes."""
        if part.side == "image":
            if part.view:
                return batch[part.key]
            organs = batch["organs"] if tokens and self.organs else None
            slots = torch.stack([batch["index"], batch["view"]], dim=1) if remembered and "view" in batch else None
            return Pictured(batch["image"], organs, slots)
        texts: Sequence[str] = batch[part.key]
        if self._texts is not None:
            return self._texts(texts)
        tokenized = self.backbone.structured(texts) if tokens else self.backbone.tokenize(texts)
        return tokenized.to(self.backbone.logit_scale.device)

    def _chunks(self, adapter: Adapter, side: Side, inputs: Any, tokens: bool, attention: bool) -> Features:
        count = len(inputs)
        if self.chunk is None or count <= self.chunk:
            return self.encode(adapter, side, inputs, tokens, attention)
        rows = [slice(start, start + self.chunk) for start in range(0, count, self.chunk)]
        if not torch.is_grad_enabled():
            return _joined([self.encode(adapter, side, _rows(inputs, row), tokens, attention) for row in rows])
        encode = partial(checkpoint, self.encode, adapter, side, use_reentrant=False)
        return _joined([encode(_rows(inputs, row), tokens, attention) for row in rows])


def _locals(adapter: Adapter, side: Side, tower: Tower, state: TokenState, inputs: Any) -> Features:
    """Local features of a finished state; of texts words."""
    local, mask = adapter.locals(side, tower, state)
    features: Features = {}
    if isinstance(inputs, (TextInputs, Said)) and inputs.words is not None and inputs.sentences is not None:
        local, mask, features["text.sentences"] = pool_words(local, inputs.words, inputs.sentences)
    features |= {f"{side}.tokens": local, f"{side}.mask": mask}
    grid = tower.local_grid(state)
    if grid is not None:
        features[f"{side}.grid"] = torch.tensor(grid, device=local.device)
    return features


def _rows(inputs: Any, rows: slice) -> Any:
    return inputs.rows(rows) if isinstance(inputs, (TextInputs, Said, Pictured)) else inputs[rows]


def _joined(parts: Sequence[Features]) -> Features:
    """Chunks one after the other; texts of a chunk may have fewer words than those of another."""
    return {
        key: parts[0][key] if key.endswith(".grid") else _stacked([part[key] for part in parts]) for key in parts[0]
    }


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    if parts[0].dim() == 1 or (parts[0].dim() == 2 and parts[0].is_floating_point()):
        return torch.cat(list(parts))
    length = max(part.shape[1] for part in parts)
    padded = []
    for part in parts:
        fill = -1 if part.dtype == torch.long else 0
        missing = part.new_full((part.shape[0], length - part.shape[1], *part.shape[2:]), fill)
        padded.append(torch.cat([part, missing], dim=1))
    return torch.cat(padded)
