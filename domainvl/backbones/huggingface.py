"""CLIP and SigLIP checkpoints in the format of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.backbones._loading import Source, copy_articles, locate, read_json, require_files, weights_digest
from domainvl.backbones._processor import read_preset
from domainvl.backbones._structure import Places
from domainvl.backbones._texts import encode, load_tokenizer, places_of
from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.features import TextInputs
from domainvl.towers.base import Tower
from domainvl.towers.hf_clip import HFClipImage, HFClipText
from domainvl.towers.hf_siglip import HFSiglipImage, HFSiglipText

_PATTERNS = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")


class HuggingFace(Backbone):
    """A dual encoder of transformers, told by the checkpoint's `model_type`: clip, or siglip (SigLIP 2 included).

    Weights come from safetensors alone and no code of the checkpoint is run. Pictures and texts are
    prepared as the checkpoint's own files say.

    Args:
        name: Hub id (`openai/clip-vit-base-patch16`), local folder, or `builtin:tiny`.
        revision: Branch, tag or commit on the Hub.
    """

    def __init__(self, name: str, revision: str | None = None) -> None:
        super().__init__()
        source = locate("HuggingFace", name, revision, _PATTERNS)
        kind = read_json("HuggingFace", require_files("HuggingFace", source, "config.json")).get("model_type")
        _refuse_unsupported(source.name, kind)
        require_files("HuggingFace", source, "model.safetensors", "model.safetensors.index.json")
        self.model: Any = load_model("HuggingFace", source, str(kind))
        self.image: Tower
        self.text: Tower
        if kind == "clip":
            self.image, self.text = HFClipImage(self.model), HFClipText(self.model)
        else:
            self.image, self.text = HFSiglipImage(self.model), HFSiglipText(self.model)
        self.logit_scale = self.model.logit_scale
        self.logit_bias = getattr(self.model, "logit_bias", None)
        self.preset = read_preset("HuggingFace", source, self.model.config.vision_config.image_size)
        self.tokenizer = load_tokenizer("HuggingFace", source)
        self._source = source
        # An adapter may change layers later; what is named is what was loaded.
        self._weights = weights_digest(self.model)
        self.eval()
        self._check_tokenizer()

    @property
    def library(self) -> nn.Module:
        """The transformers model."""
        return self.model

    def tokenize(self, texts: Sequence[str]) -> TextInputs:
        """Texts to ids: CLIP's are cut after the longest text, SigLIP's padded to its fixed length."""
        return encode("HuggingFace", self.tokenizer, texts, self._context, fixed=self._fixed_length)

    def places(self, texts: Sequence[str], ids: Tensor) -> list[Places]:
        """See `Backbone.places`."""
        return places_of(self.tokenizer, texts, ids, fixed=self._fixed_length)

    @property
    def folder(self) -> Path:
        """Where the checkpoint lies."""
        return self._source.folder

    def write(self, folder: Path) -> None:
        """See `Backbone.write`: as transformers reads it."""
        self.model.save_pretrained(folder)
        copy_articles([self._source], folder)

    def spec(self) -> BackboneSpec:
        """Which model this is."""
        source = self._source
        return BackboneSpec("HuggingFace", source.name, source.revision, self._weights, self.preset.digest)

    def config(self) -> dict[str, Any]:
        """See `Backbone.config`."""
        return {"name": self._source.place, "revision": self._source.revision}

    @property
    def _context(self) -> int:
        return self.model.config.text_config.max_position_embeddings

    @property
    def _fixed_length(self) -> bool:
        return self.model.config.model_type != "clip"

    def _check_tokenizer(self) -> None:
        words = self.model.text_model.embeddings.token_embedding.num_embeddings
        ids = self.tokenize(["a test"]).ids[0]
        if int(ids.max()) >= words:
            raise ValueError(
                f"HuggingFace: the tokenizer of {self._source.name!r} gives id {int(ids.max())}, the text "
                f"encoder knows {words}; tokenizer and weights do not belong together"
            )
        if isinstance(self.text, HFClipText):
            read = int(self.text.end_of_text(ids[None]))
            if int(ids[read]) != self.tokenizer.eos_token_id:
                raise ValueError(
                    f"HuggingFace: the text encoder of {self._source.name!r} is pooled at position {read} "
                    f"of the ids {ids.tolist()}, where its tokenizer puts no end of text "
                    f"({self.tokenizer.eos_token_id}); correct text_config.eos_token_id (the legacy value 2 "
                    "means: the highest id of the text)"
                )


def _refuse_unsupported(name: str, kind: object) -> None:
    if kind == "siglip2":
        raise ValueError(
            f"HuggingFace: {name!r} is a NaFlex model (model_type siglip2): it takes images of any shape as "
            "lists of patches, which a Preset of one size cannot express; use the fixed-resolution SigLIP "
            "2 of the same size, e.g. google/siglip2-base-patch16-224"
        )
    if kind not in ("clip", "siglip"):
        raise ValueError(
            f"HuggingFace: {name!r} has model_type {kind!r}; supported are clip and siglip (which SigLIP 2 "
            "of fixed resolution also has). OpenClip loads open_clip checkpoints, Pair joins a timm image "
            "encoder and a BERT"
        )


def load_model(owner: str, source: Source, kind: str) -> Any:
    """A CLIP or SigLIP of transformers in fp32, whole."""
    import transformers

    family: Any = {"clip": transformers.CLIPModel, "siglip": transformers.SiglipModel}[kind]
    model, info = family.from_pretrained(
        source.folder,
        use_safetensors=True,
        local_files_only=True,
        dtype=torch.float32,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    # transformers fills a missing tensor with random numbers and only warns.
    missing = sorted(info["missing_keys"]) + sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing:
        raise ValueError(
            f"{owner}: the weights of {source.name!r} lack {len(missing)} tensors of its config, e.g. "
            f"{missing[:3]}; download the checkpoint again"
        )
    return model.eval()
