"""Merlin (Blankemeier et al., arXiv 2406.06512) from the file that its authors published.

That is `i3_resnet_clinical_longformer_best_clip_04-02-2024_23-21-36_epoch_99.pt`. Nothing is downloaded here but the
tokenizer. Texts are prepared as their code does: lower case, words and runs of other signs apart, 1,024 ids.

`logit_scale` starts at 1.0 in their code and no released code reads it; it is taken as the log of the factor here,
which changes no ranking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from domainvl.backbones._loading import locate, weights_digest
from domainvl.backbones._published import (
    PublishedVolumes,
    VolumeModel,
    below,
    known_only,
    linear,
    longformer_of,
    read_weights,
)
from domainvl.backbones._texts import load_tokenizer
from domainvl.data.volumes.preset import MERLIN, VolumePreset
from domainvl.features import TextInputs
from domainvl.towers.hf_longformer import HFLongformer
from domainvl.towers.merlin import MerlinCNN, MerlinModel

_WORDS = re.compile(r"\w+|[^\w\s]+")
_CONTEXT = 1024


class Merlin(PublishedVolumes):
    """Merlin: an inflated ResNet-152 and Clinical-Longformer.

    Args:
        weights: The checkpoint, `.pt` or `.safetensors`.
        tokenizer: Hub id or folder of Clinical-Longformer's tokenizer.
        tokenizer_revision: Branch, tag or commit of `tokenizer` on the Hub.
        preset: Preprocessing of volumes.
        window: Attention window of the text encoder, which the tensors do not tell.
    """

    def __init__(
        self,
        weights: str,
        tokenizer: str = "yikuan8/Clinical-Longformer",
        tokenizer_revision: str | None = None,
        preset: VolumePreset = MERLIN,
        window: int = 512,
    ) -> None:
        super().__init__()
        self.preset = preset
        tensors = read_weights("Merlin", weights)
        known_only("Merlin", tensors, ("encode_image.i3_resnet.", "encode_text.", "logit_scale"))
        if "logit_scale" not in tensors:
            raise ValueError("Merlin: the checkpoint lacks logit_scale; it is no Merlin with a text encoder")
        image = MerlinModel.from_published(below(tensors, "encode_image.i3_resnet."))
        text = longformer_of("Merlin", below(tensors, "encode_text.text_encoder."), window)
        text_into = linear("Merlin", tensors, "encode_text.linear_layer")
        # The image encoder ends in the shared space by itself.
        self.model = VolumeModel(image, text, nn.Identity(), text_into)
        self.image = MerlinCNN(image, "image")
        self.text = tower = HFLongformer(text, "cls", text_into, "text")
        self._context = min(_CONTEXT, tower.context)
        self.logit_scale, self.logit_bias = nn.Parameter(tensors["logit_scale"].clone()), None
        self._words = locate("Merlin", tokenizer, tokenizer_revision, ("*.json", "*.txt", "*.model"))
        self.tokenizer = load_tokenizer("Merlin", self._words)
        self._config = {"window": window}
        self._name, self._weights = Path(weights).name, weights_digest(self.model)
        self.eval()

    def tokenize(self, texts: Sequence[str]) -> TextInputs:
        """See `Backbone.tokenize`: as the authors prepare texts, cut after the longest one."""
        if isinstance(texts, str):
            raise TypeError("Merlin.tokenize: give a list of texts, not one string")
        plain = [" ".join(_WORDS.findall(text.lower())) for text in texts]
        return super().tokenize(plain)
