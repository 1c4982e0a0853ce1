"""DCAR, in our own reading (after "Dual Prompt Learning ...", arXiv 2508.04028): the authors have released no code.

The paper is about retrieval and names three ideas: prompts in both towers, tokens weighted by their mutual information
with the image-text match, negatives weighted by category. What is built here, for classification:

    dual prompts  learned vectors in front of the class name, and new learned tokens in front of the first image blocks
    attributes    u_cl = project(norm(word l of class c behind the last block)), what each word says by itself
                  rho_cl = correlation of cos(f, u_cl) with "the image shows c" over the training images
                  I_cl = -1/2 log(1 - rho_cl^2), and 0 where rho_cl < 0; the mutual information of two normal variables
                  w_cl = softmax_l(I_cl / temperature) over the words of c, without a gradient
                  t_c  = norm(t_c) + share sum_l w_cl norm(u_cl)
    categories    `CategoryCrossEntropy`, an objective: similar classes weigh more among the negatives

f are frozen features of the training images, cached once; w follows the words as they are learned. Nothing here claims
parity with the paper; the losses, sizes and the estimate of the mutual information in it are not public.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from domainvl.adapters._saved import check_support
from domainvl.adapters._towers import require_token_editing
from domainvl.adapters.base import Adapter, Side
from domainvl.backbones.base import Backbone
from domainvl.features import Features, TextInputs
from domainvl.tokens import TokenState
from domainvl.towers.base import Tower

_WORDS, _IMAGE = "dcar_words", "dcar_image"


class DCAR(Adapter):
    """Prompts in both towers and class features that listen to informative words.

    Args:
        text_tokens: Learned vectors in front of the class name.
        image_tokens: Learned tokens in front of each prompted image block.
        depth: Number of image blocks that get new tokens, from the first.
        share: Weight of the attributes in a class feature.
        temperature: How much the most informative word stands out; lower is more.
        views: Augmented passes over the training images.
    """

    support: Tensor | None
    labels: Tensor | None

    def __init__(
        self,
        text_tokens: int = 4,
        image_tokens: int = 4,
        depth: int = 3,
        share: float = 0.5,
        temperature: float = 0.1,
        views: int = 1,
    ) -> None:
        super().__init__()
        if min(text_tokens, image_tokens, depth, views) < 1:
            raise ValueError(
                "DCAR: text_tokens, image_tokens, depth and views must be positive, got "
                f"{text_tokens}, {image_tokens}, {depth} and {views}"
            )
        if share < 0 or temperature <= 0:
            raise ValueError(
                f"DCAR: share must not be negative and temperature positive, got {share} and {temperature}"
            )
        self.text_tokens, self.image_tokens, self.depth = text_tokens, image_tokens, depth
        self.share, self.temperature, self.support_views = share, temperature, views
        self.register_buffer("support", None)
        self.register_buffer("labels", None)

    def config(self) -> dict[str, Any]:
        """See `Adapter.config`."""
        return {
            "text_tokens": self.text_tokens,
            "image_tokens": self.image_tokens,
            "depth": self.depth,
            "share": self.share,
            "temperature": self.temperature,
            "views": self.support_views,
        }

    def attach(self, backbone: Backbone) -> None:
        """See `Adapter.attach`."""
        require_token_editing("DCAR", backbone.image, backbone.text)
        if self.depth > backbone.image.depth:
            raise ValueError(f"DCAR: depth must be at most {backbone.image.depth} here, got {self.depth}")
        self.context = nn.Parameter(torch.randn(self.text_tokens, backbone.text.width) * 0.02)
        self.prompts = nn.Parameter(torch.randn(self.depth, self.image_tokens, backbone.image.width) * 0.02)
        self.to(backbone.logit_scale.device)

    def take_support(self, features: Tensor, targets: Tensor) -> None:
        """See `Adapter.take_support`."""
        self.support = F.normalize(features.float().flatten(0, 1), dim=-1)
        self.labels = targets.float().repeat(len(features), 1)

    def first_block(self, side: Side, tower: Tower) -> int:
        """See `Adapter.first_block`."""
        return 0

    def prompt(self, template: str, negative: bool = False) -> str:
        """See `Adapter.prompt`: one text per class, so that a word belongs to one class."""
        return "no {}." if negative else "{}."

    def words(self, state: TokenState, inputs: TextInputs) -> TokenState:
        """See `Adapter.words`."""
        return state.insert(self.context, at=state.prefix, name=_WORDS)

    def edit(self, side: Side, index: int, state: TokenState) -> TokenState:
        """See `Adapter.edit`."""
        if side == "text" or index >= self.depth:
            return state
        if index == 0:
            return state.insert(self.prompts[0], at=state.prefix, name=_IMAGE)
        return state.overwrite(self.prompts[index], name=_IMAGE)

    def readout(self, side: Side, tower: Tower, state: TokenState) -> Features:
        """See `Adapter.readout`; class features hold their attributes."""
        features = super().readout(side, tower, state)
        if side == "text" and self.share > 0:
            words, real = F.normalize(tower.project(tower.norm(state.tokens)).float(), dim=-1), _real_words(state)
            attributes = (self.weights(words.detach(), real)[..., None] * words).sum(dim=1)
            features["text.pooled"] = F.normalize(features["text.pooled"].float(), dim=-1) + self.share * attributes
        return features

    def weights(self, words: Tensor, real: Tensor) -> Tensor:
        """Weights of words `[C, L, D]` by what they tell of the training images, `[C, L]`; 0 where not `real`."""
        support, labels = cast(Tensor, self.support), cast(Tensor, self.labels)
        if self.support is None:
            raise RuntimeError("DCAR: take_support() or load_tensors() comes before class features")
        if len(words) != labels.shape[1]:
            raise ValueError(
                f"DCAR: {labels.shape[1]} classes have {len(words)} texts; it wants one each: "
                "no other `names`, no novel classes"
            )
        response = torch.einsum("nd,cld->ncl", support, words)
        response = response - response.mean(dim=0)
        match = labels - labels.mean(dim=0)
        spread = response.square().sum(dim=0).sqrt() * match.square().sum(dim=0).sqrt()[:, None]
        correlation = torch.einsum("ncl,nc->cl", response, match) / spread.clamp_min(1e-12)
        information = -0.5 * (1 - correlation.clamp(0, 0.999).square()).log()
        return (information / self.temperature).masked_fill(~real, -torch.inf).softmax(dim=-1).nan_to_num(0.0)

    def only_known_classes(self) -> bool:
        """See `Adapter.only_known_classes`: weights of words come from images of the class."""
        return True

    def logits(self, features: Features, scale: Tensor, novel: bool = False) -> Features:
        """See `Adapter.logits`."""
        if novel:
            raise ValueError("DCAR knows the classes of its training images alone; it cannot score novel ones")
        return super().logits(features, scale)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """See `Adapter.load_tensors`; an empty support takes the saved one's size."""
        support, labels = tensors.get("support"), tensors.get("labels")
        if self.support is None and support is not None and labels is not None:
            check_support("DCAR", {"support": support, "labels": labels})
            self.support, self.labels = support.to(self.context.device), labels.to(self.context.device)
        super().load_tensors(tensors)


def _real_words(state: TokenState) -> Tensor:
    """Words of the text itself: no start, no learned vector, not what is pooled, nothing behind it, `[C, L]`."""
    places = torch.arange(state.length, device=state.tokens.device)
    real = (places >= state.prefix).expand(state.tokens.shape[0], -1)
    if state.keep is not None:
        real = real & state.keep.bool()
    for span in state.spans.values():
        real = real & ~((places >= span.start) & (places < span.stop))
    if state.causal and state.readout is not None:
        real = real & (places < state.readout[:, None])
    return real
