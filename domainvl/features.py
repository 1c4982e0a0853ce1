"""The vocabulary that towers, adapters, objectives and tasks share.

`Features` is a flat dict. A key reads `[role/]source[@view].stream`:

    role    (nothing), frozen, ema, old      who made it: the adapted model, the untouched one, a teacher ...
            queue                            features of earlier batches, [M, D]; only as many as there are
    source  image, text, or another modality
    view    a second readout or a second view of the same thing: `image@rep.pooled` are MMRL's representation tokens
    stream  pooled [B, D], logits [B, C]
            tokens [B, L, D], mask [B, L]    patches or words in the shared space, special and inserted tokens left out;
                                             of an organ (`image@lungs`) mask [B] says whether it is in the image
            attention [B, L]                 how much of it the pooled output takes from each token, where known
                                             (of a slide `[B, K, L]`, scores of K branches in front of the softmax)
            sentences [B, L]                 which sentence a word belongs to, -1 for padding
            grid                             how patches lie, (H, W) or (D, H, W)

Pooled features are not normalised; whoever compares them does that. `Batch` holds what a DataModule yields, see
`domainvl.data.module` for its keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

Features = dict[str, Tensor]
Batch = Mapping[str, Any]

ROLES = ("ema", "frozen", "old", "queue")
STREAMS = ("attention", "grid", "logits", "mask", "pooled", "sentences", "tokens")

_KEY = re.compile(r"^(?:(?P<role>\w+)/)?(?P<source>\w+)(?:@(?P<view>\w+))?\.(?P<stream>\w+)$")


@dataclass(frozen=True)
class FeatureKey:
    """A parsed key of `Features`."""

    source: str
    stream: str
    role: str = ""
    view: str = ""

    @classmethod
    def parse(cls, key: str) -> FeatureKey:
        """Read a key; a malformed one raises ValueError that says how a key looks."""
        found = _KEY.match(key)
        if found is None:
            raise ValueError(f"{key!r} is no feature key: it reads [role/]source[@view].stream, e.g. 'image.pooled'")
        role, stream = found["role"] or "", found["stream"]
        if role and role not in ROLES:
            raise ValueError(f"feature key {key!r}: unknown role {role!r}, known are {', '.join(ROLES)}")
        if stream not in STREAMS:
            raise ValueError(f"feature key {key!r}: unknown stream {stream!r}, known are {', '.join(STREAMS)}")
        return cls(found["source"], stream, role, found["view"] or "")

    def __str__(self) -> str:
        role = f"{self.role}/" if self.role else ""
        view = f"@{self.view}" if self.view else ""
        return f"{role}{self.source}{view}.{self.stream}"


@dataclass(frozen=True)
class TextInputs:
    """Tokenised texts.

    Attributes:
        ids: Token ids, `[N, L]`; cut after the longest text where the tower allows it.
        keep: True where an id is real, `[N, L]`; None when the model reads its padding too (SigLIP).
        owner: Which class each text speaks of, `[N]`; None where that is not known.
        words: Number of the word (`domainvl.data.texts.spans.word_spans`) that a token belongs to, `[N, L]`; -1 for
            special tokens, padding and punctuation; None where nobody asked.
        sentences: Number of the sentence that a token belongs to, `[N, L]`; -1 for special tokens and padding.
        pooled: Which tokens are the text, `[N, L]`: neither special nor padding nor part of an instruction, which is
            read and not pooled; None where the tower tells by itself.
        negative: True where a text says that a finding is absent, `[N]`; None where no text could.
    """

    ids: Tensor
    keep: Tensor | None = None
    owner: Tensor | None = None
    words: Tensor | None = None
    sentences: Tensor | None = None
    pooled: Tensor | None = None
    negative: Tensor | None = None

    def to(self, device: Any) -> TextInputs:
        """The same texts on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def repeat(self, times: int) -> TextInputs:
        """All texts, one after the other, `times` over: `[times * N, L]`."""
        return self._each(lambda tensor: tensor.repeat(times, *(1 for _ in tensor.shape[1:])))

    def rows(self, rows: slice | Tensor) -> TextInputs:
        """Some of the texts."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> TextInputs:
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in found.items() if value is not None})

    def __len__(self) -> int:
        return self.ids.shape[0]
