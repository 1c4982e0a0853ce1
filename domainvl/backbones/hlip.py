"""HLIP for chest CT (Zhao et al., arXiv 2505.21862) from the file that its authors published.

That is `vit_base_chestct_h2_token2744.pt`, a training checkpoint of open_clip with CXR-BERT as text encoder. Nothing is
downloaded here but the tokenizer. Models for several scans of a study and text encoders with LoRA are refused.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import nn

from domainvl.backbones._loading import locate, weights_digest
from domainvl.backbones._published import (
    PublishedVolumes,
    VolumeModel,
    below,
    bert_of,
    known_only,
    linear,
    read_weights,
)
from domainvl.backbones._texts import load_bert_tokenizer
from domainvl.backbones.ctclip import CXR_BERT
from domainvl.data.volumes.preset import HLIP as PRESET
from domainvl.data.volumes.preset import VolumePreset
from domainvl.towers.hf_text import HFText
from domainvl.towers.hlip import Hlip, HlipModel


class HLIP(PublishedVolumes):
    """HLIP: a ViT with attention within slices and over scans, and CXR-BERT.

    Args:
        weights: The checkpoint, `.pt` or `.safetensors`.
        tokenizer: Hub id or folder of CXR-BERT's tokenizer.
        tokenizer_revision: Branch, tag or commit of `tokenizer` on the Hub.
        preset: Preprocessing of volumes.
        heads: Attention heads of the image encoder, which the tensors do not tell.
        whole: Its blocks that see the whole scan; None is every third one.
    """

    def __init__(
        self,
        weights: str,
        tokenizer: str = CXR_BERT,
        tokenizer_revision: str | None = None,
        preset: VolumePreset = PRESET,
        heads: int = 12,
        whole: Collection[int] | None = None,
    ) -> None:
        super().__init__()
        self.preset = preset
        tensors = read_weights("HLIP", weights)
        known_only("HLIP", tensors, ("visual.", "text.transformer.", "text.proj.", "logit_scale", "logit_bias"))
        if "logit_scale" not in tensors:
            raise ValueError("HLIP: the checkpoint lacks logit_scale; it is no HLIP")
        image = HlipModel.from_published(below(tensors, "visual.trunk."), heads)
        text = bert_of("HLIP", below(tensors, "text.transformer."))
        into, text_into = (linear("HLIP", tensors, name) for name in ("visual.head.proj", "text.proj"))
        self.model = VolumeModel(image, text, into, text_into)
        self.image = Hlip(image, into, whole, "image")
        self.text = tower = HFText(text, "cls", text_into, "text")
        self._context = tower.context
        self.logit_scale = nn.Parameter(tensors["logit_scale"].clone())
        self.logit_bias = nn.Parameter(tensors["logit_bias"].clone()) if "logit_bias" in tensors else None
        self._words = locate("HLIP", tokenizer, tokenizer_revision, ("*.json", "*.txt"))
        self.tokenizer = load_bert_tokenizer("HLIP", self._words)
        self._config = {"heads": heads, "whole": None if whole is None else sorted(whole)}
        self._name, self._weights = Path(weights).name, weights_digest(self.model)
        self.eval()
