"""Several methods on one backbone: `Compose([LoRA(...), MMRL(...)])`.

What every part may do, one after the other in the order of the list: make parameters, see the class features and the
training images, edit tokens in front of a block, hear of the end of an epoch, add a term to the loss, be switched off.
What one part at most may do: replace templates, edit words, make features of a side, make scores, make texts per image,
choose values, export. So LoRA goes with MMRL, CoOp or a probe, CoOp with CLIP-Adapter, and JointStack, which makes
features of texts, with SliceTransformer, which makes those of volumes; two heads do not go together. The first edited
block is the lowest of the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from domainvl.adapters._parts import check_pair, check_parts, overrides, overrides_on
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features, TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower


class Compose(Adapter):
    """Methods that work together.

    Args:
        adapters: The parts, in the order in which they edit tokens.
    """

    def __init__(self, adapters: list[Adapter]) -> None:
        super().__init__()
        if any(isinstance(part, Compose) for part in adapters):
            raise ValueError("Compose: a part is a Compose itself; put all parts into one list")
        check_parts(adapters)
        self.parts = nn.ModuleList(adapters)
        self.support_views = max(part.support_views for part in adapters)
        self.text_per_image = any(part.text_per_image for part in adapters)
        self.chooses = any(part.chooses for part in adapters)

    def _each(self) -> list[Adapter]:
        return cast("list[Adapter]", list(self.parts))

    def _who(self, hook: str) -> Adapter | None:
        """The part that overrides a hook which one may override."""
        return next((part for part in self._each() if overrides(part, hook)), None)

    def _reader(self, hook: str, side: Side) -> Adapter | None:
        """The part that overrides `readout` or `locals` for a side."""
        return next((part for part in self._each() if overrides_on(part, hook, side)), None)

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`; `domainvl.hub.make_adapter` turns the descriptions of the parts into adapters."""
        return {"adapters": [{"class_path": type(part).__name__, "init_args": part.config()} for part in self._each()]}

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        for part, other in combinations(self._each(), 2):
            check_pair(part, other, backbone)
            check_pair(other, part, backbone)
        for part in self._each():
            part.attach(backbone)

    def prime(self, classes: Tensor) -> None:
        """See `Adapter.prime`."""
        for part in self._each():
            part.prime(classes)

    def see(self, tower: Tower, image: Any) -> Tensor:
        """See `Adapter.see`."""
        part = self._who("see")
        return super().see(tower, image) if part is None else part.see(tower, image)

    def take_support(self, features: Tensor, targets: Tensor) -> None:
        """See `Adapter.take_support`; a part sees as many views as it wants."""
        for part in self._each():
            if part.support_views:
                part.take_support(features[: part.support_views], targets)

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """See `Adapter.epoch_ended`."""
        for part in self._each():
            part.epoch_ended(epoch, epochs)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return min(part.first_block(side, tower) for part in self._each())

    def prompt(self, template: str, negative: bool = False) -> str:
        """See `Adapter.prompt`."""
        part = self._who("prompt")
        return template if part is None else part.prompt(template, negative)

    def words(self, state: TokenState, inputs: TextInputs) -> TokenState:
        """See `Adapter.words`."""
        part = self._who("words")
        return state if part is None else part.words(state, inputs)

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`."""
        for part in self._each():
            state = part.edit(side, index, state)
        return state

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """See `Adapter.readout`."""
        part = self._reader("readout", side)
        return super().readout(side, tower, state) if part is None else part.readout(side, tower, state)

    def locals(self, side: Side, tower: Tower, state: TokenState) -> tuple[Tensor, Tensor]:
        """See `Adapter.locals`."""
        part = self._reader("locals", side)
        return super().locals(side, tower, state) if part is None else part.locals(side, tower, state)

    def pool_tiles(self, bag: Features) -> Features:
        """See `Adapter.pool_tiles`."""
        part = self._who("pool_tiles")
        return super().pool_tiles(bag) if part is None else part.pool_tiles(bag)

    def reads(self, side: Side) -> Collection[str] | None:
        """See `Adapter.reads`."""
        part = self._reader("readout", side)
        return () if part is None else part.reads(side)

    def same_rows(self) -> bool:
        """See `Adapter.same_rows`."""
        return all(part.same_rows() for part in self._each())

    def encode_per_image(self, tower: Tower, inputs: Any, image: Tensor) -> Tensor:
        """See `Adapter.encode_per_image`."""
        part = self._who("encode_per_image")
        if part is None:
            return super().encode_per_image(tower, inputs, image)
        return part.encode_per_image(tower, inputs, image)

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """See `Adapter.logits`."""
        part = self._who("logits")
        return super().logits(features, scale, novel) if part is None else part.logits(features, scale, novel)

    def penalty(self) -> Tensor | None:
        """See `Adapter.penalty`: the sum."""
        terms = [term for term in (part.penalty() for part in self._each()) if term is not None]
        return sum(terms[1:], terms[0]) if terms else None

    def choose(self, features: Features, scale: Tensor, measure: Callable[[Tensor], float]) -> None:
        """See `Adapter.choose`."""
        part = self._who("choose")
        if part is not None:
            part.choose(features, scale, measure)

    def facts(self) -> dict[str, Any]:
        """See `Adapter.facts`."""
        return {key: value for part in self._each() for key, value in part.facts().items()}

    def only_known_classes(self) -> bool:
        """See `Adapter.only_known_classes`."""
        return any(part.only_known_classes() for part in self._each())

    @contextmanager
    def off(self) -> Iterator[None]:
        """See `Adapter.off`."""
        with ExitStack() as stack:
            for part in self._each():
                stack.enter_context(part.off())
            yield

    def tensors(self) -> dict[str, Tensor]:
        """See `Adapter.tensors`; names start with the position of the part."""
        return {f"{i}.{name}": t for i, part in enumerate(self._each()) for name, t in part.tensors().items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """See `Adapter.load_tensors`."""
        split: list[dict[str, Tensor]] = [{} for _ in self.parts]
        for name, tensor in tensors.items():
            position, _, rest = name.partition(".")
            if not position.isdecimal() or int(position) >= len(split):
                raise ValueError(f"Compose: the saved adapter does not fit; unknown {name}, missing none of that part")
            split[int(position)][rest] = tensor
        for part, found in zip(self._each(), split, strict=True):
            part.load_tensors(found)

    def export(self, folder: Path, base: str | None) -> None:
        """See `Adapter.export`."""
        part = self._who("export")
        if part is not None:
            part.export(folder, base)
