"""An adapter: what is learned on top of a frozen backbone, and nothing else.

Every hook defaults to the identity, so a method overrides only what it changes:

    attach        makes the parameters (the backbone is known)
    prime         sees the zero-shot class features (heads start there)
    take_support  sees the frozen features of the training images (caches start there)
    prompt        replaces a template of the prompt set (CoOp learns the words around the name)
    words         edits text prompts before positions are added (CoOp)
    edit          edits tokens in front of a block (VPT, MaPLe, MMRL)
    readout       turns a finished state into features; `reads` says of which tokens; see `locals`, `pool_tiles`
    logits        turns features into class scores; the key `image.logits` is what the model predicts with
    choose        sets what no gradient reaches (Tip-Adapter's factors), on the validation split alone
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from domainvl.adapters._bags import mean_tile
from domainvl.adapters._saved import check_tensors
from domainvl.adapters._scores import cosine_logits
from domainvl.backbones.base import Backbone
from domainvl.features import Features, TextInputs
from domainvl.speed import PLAIN, Speed
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower

Side = Literal["image", "text"]
SIDES: tuple[Side, Side] = ("image", "text")


class Adapter(nn.Module, ABC):
    """Base of all adapters.

    Attributes:
        support_views: How many augmented passes over the training images `take_support` wants to see; 0 for none.
        text_per_image: Whether class features depend on the image (CoCoOp, Crane); then `encode_per_image` makes them.
        chooses: Whether `choose` wants to be called.
        read_sides: The sides on which `readout` and `locals`, where a method overrides them, do something of its own.
    """

    support_views: int = 0
    text_per_image: bool = False
    chooses: bool = False
    read_sides: ClassVar[tuple[Side, ...]] = SIDES

    def config(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values; `type(self)(**self.config())` starts over."""
        raise NotImplementedError(f"{type(self).__name__}: config() must return the constructor's arguments")

    def attach(self, backbone: Backbone) -> None:
        """Make the parameters for this backbone, frozen already. Called once; `prime` may make more, afterwards."""

    def prime(self, classes: Tensor) -> None:
        """Take the zero-shot class features, normalised, `[C, D]`. Called once, before weights are loaded."""

    def see(self, tower: Tower, image: Any) -> Tensor:
        """What `take_support` is given of images `[B, ...]`, from the untouched model: its features `[B, D]`."""
        feature: Tensor = tower(image)
        return feature

    def take_support(self, features: Tensor, targets: Tensor) -> None:
        """Take what the frozen model sees in the training images. Called once, after `prime`, when training starts.

        Args:
            features: What `see` gives, not normalised, `[support_views, N, D]`.
            targets: 1 where an image shows what a class prompt says, `[N, C]`; in multi-label data the columns of the
                yes prompts are followed by those of the no prompts, and an unknown label has 0 in both.
        """

    def epoch_ended(self, epoch: int, epochs: int) -> None:
        """Called after every training epoch (from 0, of `epochs`); weight averaging happens here."""

    def first_block(self, side: Side, tower: Tower) -> int:
        """The first block whose input this adapter changes; `tower.depth` when it changes none."""
        return tower.depth

    def prompt(self, template: str, negative: bool = False) -> str:
        """What to use in place of a template; `negative` ones say that a finding is absent."""
        return template

    def words(self, state: TokenState, inputs: TextInputs) -> TokenState:
        """Edit the word embeddings of `inputs`."""
        return state

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """Edit the tokens that enter block `index`."""
        return state

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """Features of a finished state."""
        return {f"{side}.pooled": tower.project(tower.pool(state))}

    def locals(self, side: Side, tower: Tower, state: TokenState) -> tuple[Tensor, Tensor]:
        """Local features of a finished state that holds all tokens, `[B, L, D]`, and which are real, `[B, L]`.

        A method that puts another projection behind a tower sends its tokens through it too.
        """
        return tower.locals(state)

    def pool_tiles(self, bag: Features) -> Features:
        """Features of slides from those of their tiles (`_bags` says how a bag looks); the mean direction."""
        return {"image.pooled": mean_tile(bag)}

    def reads(self, side: Side) -> Collection[str] | None:
        """Spans whose tokens `readout` looks at, besides what the tower pools; None when it may look at any token."""
        return () if type(self).readout is Adapter.readout else None

    def same_rows(self) -> bool:
        """Whether `edit` puts the same tokens behind the prefix of all texts, reads no others and draws nothing."""
        return type(self).edit is Adapter.edit

    def prefix(self, side: Side, tower: Tower, inputs: Any, speed: Speed = PLAIN) -> TokenState:
        """The state that enters the first edited block: constant in training, so it can be computed once."""
        first = self.first_block(side, tower)
        words = self.words if side == "text" else None
        with torch.set_grad_enabled(torch.is_grad_enabled() and words is not None and first == 0):
            return tower.run(tower.embed(inputs, words), stop=first, reads=self._unread(side, speed))

    def finish(self, side: Side, tower: Tower, prefix: TokenState, speed: Speed = PLAIN) -> Features:
        """Features from a `prefix`."""
        state = tower.run(
            prefix,
            edit=partial(self.edit, side),
            start=self.first_block(side, tower),
            rows=speed.rows and self.same_rows(),
            reads=self._unread(side, speed),
        )
        return self.readout(side, tower, state)

    def encode(self, side: Side, tower: Tower, inputs: Any, speed: Speed = PLAIN) -> Features:
        """Features of pixels or texts."""
        return self.finish(side, tower, self.prefix(side, tower, inputs, speed), speed)

    def _unread(self, side: Side, speed: Speed) -> Collection[str] | None:
        return self.reads(side) if speed.unread else None

    def encode_per_image(self, tower: Tower, inputs: Any, image: Tensor) -> Tensor:
        """Text features for every image, `[B, R, D]`, from image features `[B, D]`; see `text_per_image`."""
        raise TypeError(f"{type(self).__name__} has the same class features for every image")

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """Class scores from `image.pooled` `[B, D]` and `text.pooled` `[C, D]` (`[B, C, D]` with `text_per_image`).

        `novel` says that the classes are not those of the training; methods that trust one of their heads
        only on classes that it has seen leave it out then.
        """
        return {"image.logits": cosine_logits(features["image.pooled"], features["text.pooled"], scale)}

    def penalty(self) -> Tensor | None:
        """A term of the loss that needs nothing but the parameters; the task adds it to the objectives."""
        return None

    def choose(self, features: Features, scale: Tensor, measure: Callable[[Tensor], float]) -> None:
        """Set values that no gradient reaches. Called once, after the last training epoch, if `chooses`.

        The task calls it with the validation split and has no way to call it with another, so that no number of the
        test split was ever a choice.

        Args:
            features: What `logits` reads, for all validation images.
            scale: The backbone's factor on cosines.
            measure: What class scores like those of `logits` are worth on that split; higher is better.
        """

    def facts(self) -> dict[str, Any]:
        """What `metrics.json` says about this adapter: values that were chosen, and on what."""
        return {}

    def only_known_classes(self) -> bool:
        """Whether the adapter can score only the classes it was trained with (a probe, a cache)."""
        return False

    @contextmanager
    def off(self) -> Iterator[None]:
        """Run the backbone as if the adapter were not there; methods that change its layers override this."""
        yield

    def tensors(self) -> dict[str, Tensor]:
        """What is saved: everything that was learned, by name."""
        return {name: tensor.detach() for name, tensor in self.state_dict().items()}

    def export(self, folder: Path, base: str | None) -> None:
        """Write what other libraries can read into `folder`; `base` is the Hub id of the backbone, if it has one."""

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave; missing or unknown names are errors."""
        check_tensors(type(self).__name__, self.tensors(), tensors)
        # What an adapter keeps for checkpoints alone is in its state and not among its tensors.
        self.load_state_dict(tensors, strict=False)
