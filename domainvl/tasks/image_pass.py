"""What the frozen image tower says about pictures: computed, or read where it was computed before.

Of every picture two things are constants of training: the state that enters the first block that the adapter changes,
and the untouched model's feature. An adapter that leaves the image tower alone reads the pooled token of the state and
needs no image tower from the second epoch on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from domainvl import __version__
from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.cache import cache_root
from domainvl.data.store import Fields, Store, make_room, row_bytes
from domainvl.data.views import Pictures
from domainvl.speed import Speed
from domainvl.tokens import TokenState


@dataclass(frozen=True)
class Seen:
    """The frozen part of a step.

    Attributes:
        prefix: What enters the first block that the adapter changes.
        frozen: The untouched model's feature, `[B, D]`; None when nobody wants it.
    """

    prefix: TokenState
    frozen: Tensor | None


class ImagePass:
    """The frozen image tower. Blocks below the first edited one are the same in both models and run once.

    Args:
        backbone: The model.
        adapter: What is learned.
        speed: What may be skipped.
    """

    def __init__(self, backbone: Backbone, adapter: Adapter, speed: Speed) -> None:
        self.backbone, self.adapter, self.speed = backbone, adapter, speed
        self.first = adapter.first_block("image", backbone.image)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, frozen: bool) -> Seen:
        """Pixels `[B, 3, S, S]`; `frozen` says whether the untouched model's feature is wanted."""
        prefix = self.prefix(pixels)
        return Seen(prefix, self.untouched(prefix) if frozen else None)

    @torch.no_grad()
    def prefix(self, pixels: Tensor) -> TokenState:
        """See `Seen.prefix`."""
        return self.adapter.prefix("image", self.backbone.image, pixels, self.speed)

    @torch.no_grad()
    def untouched(self, prefix: TokenState) -> Tensor:
        """See `Seen.frozen`."""
        tower = self.backbone.image
        with self.adapter.off():
            state = tower.run(prefix, start=self.first, reads=() if self.speed.unread else None)
            return tower.project(tower.pool(state))


class CachedPass:
    """An `ImagePass` that remembers training pictures on disk.

    Args:
        image: Computes what is not there yet.
        pictures: All pictures.
        frozen: Whether the untouched model's feature is wanted.
        setting: Whatever else changes the numbers (precision, device).
    """

    def __init__(self, image: ImagePass, pictures: Pictures, frozen: bool, setting: str) -> None:
        self.image, self.pictures, self.setting = image, pictures, setting
        self.deep = image.first == image.backbone.image.depth
        self.frozen = frozen
        self._layout: TokenState | None = None
        self._store: Store | None = None
        self._refused = False

    def __call__(self, pixels: Tensor, index: Tensor, view: Tensor) -> Seen:
        """Pixels `[B, 3, S, S]` of the pictures (`index` `[B]`, `view` `[B]`)."""
        if self._store is None and not self._refused:
            self._open(pixels[:1])
        if self._store is None:
            return self.image(pixels, self.frozen)
        slots = self.pictures.slots(index, view)
        missing = self._store.missing(slots)
        if missing.any():
            fresh = self.image(pixels[missing.to(pixels.device)], self.frozen and not self.deep)
            self._store.write(slots[missing], self._row(fresh))
        rows = {name: tensor.to(pixels.device) for name, tensor in self._store.read(slots).items()}
        prefix = self._state(rows["tokens"]) if "tokens" in rows else self.image.prefix(pixels)
        if self.frozen and self.deep:
            return Seen(prefix, self.image.untouched(prefix))
        return Seen(prefix, rows.get("frozen"))

    def _open(self, pixels: Tensor) -> None:
        """Choose what is kept by what fits, in the shape that one picture shows."""
        seen = self.image(pixels, self.frozen and not self.deep)
        self._layout = seen.prefix
        budget = int(self.image.speed.cache * 2**30)
        row = self._row(seen)
        root = cache_root() / "views"
        for names in (tuple(row), ("frozen",)):
            fields: Fields = {name: (tuple(row[name].shape[1:]), row[name].dtype) for name in names if name in row}
            needed = self.pictures.count * (row_bytes(fields) + 1)
            if fields and needed <= budget:
                folder = root / self._key(fields)
                if not folder.exists():
                    make_room(root, needed, budget)
                self._store = Store(folder, self.pictures.count, fields)
                return
        self._refused = True

    def _row(self, seen: Seen) -> dict[str, Tensor]:
        row: dict[str, Tensor] = {}
        # Embedded pixels (first block 0) take more room than time.
        if self.image.first > 0:
            row["tokens"] = seen.prefix.tokens.unflatten(0, (-1, seen.prefix.parts))
        if seen.frozen is not None:
            row["frozen"] = seen.frozen
        return {name: tensor for name, tensor in row.items() if self._store is None or name in self._store.fields}

    def _state(self, tokens: Tensor) -> TokenState:
        if self._layout is None:
            raise RuntimeError("CachedPass: rows are read before their layout is known")
        tokens = tokens.flatten(0, 1)
        readout = self._layout.readout
        rows = None if readout is None else readout[:1].expand(len(tokens))
        return replace(self._layout, tokens=tokens, readout=rows, _mask=None)

    def _key(self, fields: Fields) -> str:
        spec = self.image.backbone.spec()
        parts = {
            "version": __version__,
            "torch": torch.__version__,
            "pictures": self.pictures.digest,
            "backbone": spec.as_dict(),
            "preset": spec.preset,
            "first": self.image.first,
            "speed": [self.image.speed.unread, self.image.speed.frozen],
            "fields": {name: [list(shape), str(dtype)] for name, (shape, dtype) in fields.items()},
            "setting": self.setting,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
