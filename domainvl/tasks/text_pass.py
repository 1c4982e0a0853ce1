"""What the frozen text tower says about texts: computed once, or read where it was computed before.

An adapter that leaves the text tower alone reads constants of it: what is pooled and, where words are compared, what
the tower makes of every token. They are kept on disk under a hash of the text, so that a report passes the tower once
and not once per epoch and run. The texts themselves are never written.

A text is computed in the batch in which it comes first. In batches of another length sums are rounded otherwise, in the
last bits, with and without this.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from domainvl import __version__
from domainvl.adapters.base import Adapter
from domainvl.backbones.base import Backbone
from domainvl.cache import cache_root
from domainvl.data.shelf import Key, Shelf
from domainvl.data.store import Fields
from domainvl.features import TextInputs
from domainvl.speed import Speed
from domainvl.tokens import TokenState
from domainvl.towers._shared import last_real
from domainvl.towers.finished import Finished, said
from domainvl.towers.locals import own_tokens

_COLUMNS = ("tokens", "content", "words", "sentences")
"""What a row has for every token."""

_STEP = 16
"""Texts are kept at lengths that are multiples of it."""

_PROBES = ("", "No acute Finding: 1.5 cm (left-sided), naïve/β?", "Effusion. " * 2000)
"""Texts that come out otherwise where a tokenizer, or how it is asked, differs."""


@dataclass(frozen=True)
class Said:
    """Texts that passed the tower.

    Attributes:
        tower: Reads the state; for `Adapter.readout` and `Adapter.locals`.
        state: What it said.
        words: As in `TextInputs`, where tokens were asked for.
        sentences: As in `TextInputs`.
    """

    tower: Finished
    state: TokenState
    words: Tensor | None = None
    sentences: Tensor | None = None

    def __len__(self) -> int:
        return len(self.state.tokens)

    def rows(self, rows: slice) -> Said:
        """Some of the texts."""
        state, words, sentences = self.state, self.words, self.sentences
        part = replace(
            state,
            tokens=state.tokens[rows],
            readout=None if state.readout is None else state.readout[rows],
            content=None if state.content is None else state.content[rows],
        )
        return Said(
            self.tower, part, None if words is None else words[rows], None if sentences is None else sentences[rows]
        )


def leaves_texts_alone(adapter: Adapter, backbone: Backbone) -> bool:
    """Whether what an adapter reads of texts is constant: it edits no block, and reads what is pooled alone."""
    untouched = adapter.first_block("text", backbone.text) == backbone.text.depth
    return untouched and not adapter.text_per_image and adapter.reads("text") == ()


class TextPass:
    """The frozen text tower with a memory.

    Args:
        backbone: The model, in the state that it is frozen in.
        speed: What may be skipped; `cache` is the budget, 0 keeps nothing.
        tokens: Keep what the tower makes of every token, with words and sentences, and not the pooled feature alone.
        setting: Whatever else changes the numbers (precision, device).
    """

    def __init__(self, backbone: Backbone, speed: Speed, tokens: bool, setting: str) -> None:
        self.backbone, self.speed, self.tokens = backbone, speed, tokens
        self._tower = Finished(backbone.text)
        self._setting = setting
        self._shelf: Shelf | None = None

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Said:
        """What the tower says of texts `[N]`."""
        keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        if self._shelf is None and self.speed.cache:
            self._open(None)
        rows = {} if self._shelf is None else self._shelf.read(list(distinct))
        missing = {key: text for key, text in distinct.items() if key not in rows}
        if missing:
            fresh = dict(zip(missing, self._compute(list(missing.values())), strict=True))
            self._keep(fresh)
            rows |= fresh
        return self._joined([rows[key] for key in keys])

    def _compute(self, texts: Sequence[str]) -> list[dict[str, Tensor]]:
        """A row per text, as it is kept, on the CPU."""
        backbone, tower = self.backbone, self.backbone.text
        inputs: TextInputs = backbone.structured(texts) if self.tokens else backbone.tokenize(texts)
        inputs = inputs.to(backbone.logit_scale.device)
        unread = self.speed.unread and not self.tokens
        state = tower.run(tower.embed(inputs), reads=() if unread else None)
        columns = {"pooled": tower.pool(state)}
        if self.tokens:
            tokens, content = own_tokens(state)
            columns |= {"tokens": tower.alone(tokens), "content": content}
            for name, value in (("words", inputs.words), ("sentences", inputs.sentences)):
                if value is None:
                    raise RuntimeError(f"TextPass: {type(backbone).__name__}.structured gives no {name}")
                columns[name] = value
        moved = {name: values.detach().cpu() for name, values in columns.items()}
        rows = [{name: values[row] for name, values in moved.items()} for row in range(len(texts))]
        if self.tokens:
            # What pads a batch is no part of a text.
            lengths = (last_real(inputs) + 1).cpu()
            rows = [
                {name: _longer(name, values, int(length)) for name, values in row.items()} | {"length": length}
                for row, length in zip(rows, lengths, strict=True)
            ]
        return rows

    def _keep(self, rows: Mapping[Key, dict[str, Tensor]]) -> None:
        if not self.speed.cache:
            return
        if self._shelf is None:
            self._open(next(iter(rows.values())))
        if self._shelf is None:
            raise RuntimeError("TextPass: the shelf did not open")
        kinds: dict[int, dict[Key, dict[str, Tensor]]] = {}
        for key, row in rows.items():
            kind = -(-int(row.get("length", torch.tensor(0))) // _STEP) * _STEP
            kinds.setdefault(kind, {})[key] = {name: _longer(name, values, kind) for name, values in row.items()}
        for kind, group in kinds.items():
            self._shelf.write(kind, group)

    def _joined(self, rows: Sequence[Mapping[str, Tensor]]) -> Said:
        """Rows as one batch, cut after the longest text."""
        device = self.backbone.logit_scale.device
        pooled = torch.stack([row["pooled"] for row in rows]).to(device)
        if not self.tokens:
            return Said(self._tower, said(pooled))
        length = max(int(row["length"]) for row in rows)
        columns = {
            name: torch.stack([_longer(name, row[name], length) for row in rows]).to(device) for name in _COLUMNS
        }
        state = said(pooled, columns["tokens"], columns["content"])
        return Said(self._tower, state, columns["words"], columns["sentences"])

    def _open(self, row: Mapping[str, Tensor] | None) -> None:
        """Open the shelf, whose shapes and number formats a first row tells; without one only if it is there."""
        folder = cache_root() / "texts" / self._key()
        layout = folder / "row.json"
        if row is not None and not layout.is_file():
            found = {
                name: [list(values.shape[1:] if name in _COLUMNS else values.shape), str(values.dtype)]
                for name, values in row.items()
            }
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f"row-{os.getpid()}.json"
            draft.write_text(json.dumps(found), encoding="utf-8")
            draft.rename(layout)
        if not layout.is_file():
            return
        known = json.loads(layout.read_text(encoding="utf-8"))
        shapes = {name: (tuple(shape), getattr(torch, kind.split(".")[1])) for name, (shape, kind) in known.items()}

        def fields(kind: int) -> Fields:
            return {name: ((kind, *shape) if name in _COLUMNS else shape, t) for name, (shape, t) in shapes.items()}

        self._shelf = Shelf(folder, fields, int(self.speed.cache * 2**30))

    def _key(self) -> str:
        tower = self.backbone.text
        plain = {name: value for name, value in vars(tower).items() if isinstance(value, (str, int, float, bool))}
        parts = {
            "version": __version__,
            "torch": torch.__version__,
            "backbone": self.backbone.spec().as_dict(),
            "tower": [type(tower).__name__, {name: value for name, value in plain.items() if name != "training"}],
            "tokenizer": _asked(self.backbone),
            "tokens": self.tokens,
            "speed": [self.speed.unread, self.speed.frozen, self.speed.onednn],
            "setting": self._setting,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _longer(name: str, values: Tensor, length: int) -> Tensor:
    """A row's column at another length: padded with nothing, or cut where it was padded."""
    if name not in _COLUMNS:
        return values
    whole = values.new_full((length, *values.shape[1:]), -1 if values.dtype == torch.int64 else 0)
    whole[: len(values)] = values[:length]
    return whole


def _asked(backbone: Backbone) -> str:
    """Digest of what the backbone makes of some texts."""
    digest = hashlib.sha256()
    for text in _PROBES:
        inputs = backbone.tokenize([text])
        for values in (inputs.ids, inputs.keep, inputs.pooled):
            digest.update(b"-" if values is None else f"{values.tolist()}".encode())
    return digest.hexdigest()
