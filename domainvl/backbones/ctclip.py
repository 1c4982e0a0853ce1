"""CT-CLIP (Hamamci et al., arXiv 2403.17834) from the file that its authors published (`CT-CLIP_v2.pt`).

The weights are licensed CC BY-NC-SA and lie behind a form; nothing is downloaded here but the tokenizer. Logits are
exp(temperature) cos, as in their code.
"""

from __future__ import annotations

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
from domainvl.data.volumes.preset import CT_CLIP, VolumePreset
from domainvl.towers.ctvit import CTViT, CTViTModel
from domainvl.towers.hf_text import HFText

CXR_BERT = "microsoft/BiomedVLP-CXR-BERT-specialized"


class CTCLIP(PublishedVolumes):
    """CT-CLIP: CT-ViT and CXR-BERT.

    Args:
        weights: The checkpoint, `.pt` or `.safetensors`.
        tokenizer: Hub id or folder of CXR-BERT's tokenizer.
        tokenizer_revision: Branch, tag or commit of `tokenizer` on the Hub.
        preset: Preprocessing of volumes.
        patch: Voxels of a patch along D, H and W, which the tensors do not tell.
    """

    def __init__(
        self,
        weights: str,
        tokenizer: str = CXR_BERT,
        tokenizer_revision: str | None = None,
        preset: VolumePreset = CT_CLIP,
        patch: tuple[int, int, int] = (10, 20, 20),
    ) -> None:
        super().__init__()
        self.preset = preset
        tensors = read_weights("CTCLIP", weights)
        known_only("CTCLIP", tensors, ("visual_transformer.", "text_transformer.", "to_", "temperature"))
        if "temperature" not in tensors:
            raise ValueError("CTCLIP: the checkpoint lacks temperature; it is no CT-CLIP")
        image = CTViTModel.from_published(below(tensors, "visual_transformer."), patch)
        text = bert_of("CTCLIP", below(tensors, "text_transformer."))
        into, text_into = (linear("CTCLIP", tensors, name) for name in ("to_visual_latent", "to_text_latent"))
        self.model = VolumeModel(image, text, into, text_into)
        self.image = CTViT(image, into, "image")
        self.text = tower = HFText(text, "cls", text_into, "text")
        self._context = tower.context
        self.logit_scale, self.logit_bias = nn.Parameter(tensors["temperature"].clone()), None
        self._words = locate("CTCLIP", tokenizer, tokenizer_revision, ("*.json", "*.txt"))
        self.tokenizer = load_bert_tokenizer("CTCLIP", self._words)
        self._config = {"patch": list(patch)}
        self._name, self._weights = Path(weights).name, weights_digest(self.model)
        self.eval()
