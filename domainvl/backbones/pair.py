"""Any timm image encoder, or that of a CLIP, joined with any BERT-like text encoder or language model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domainvl.backbones._images import IMAGE_FILES, clip_size, load_image
from domainvl.backbones._llm import check_room, encode_behind, front, load_latent, load_llm, places_behind
from domainvl.backbones._loading import Source, locate, read_json, require_files, weights_digest
from domainvl.backbones._structure import Places
from domainvl.backbones._texts import encode, load_tokenizer
from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.features import TextInputs
from domainvl.towers.base import Tower
from domainvl.towers.hf_clip import HFClipImage
from domainvl.towers.hf_llm import LLM_TYPES, HFLanguageModel
from domainvl.towers.hf_text import HFText
from domainvl.towers.latent_attention import LatentAttention
from domainvl.towers.timm_vit import timm_tower

_OUT_DIM = 512
_TEXT_FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors", "pytorch_model.bin")
_BERT_TYPES = ("bert", "roberta", "xlm-roberta")
PairPooling = Literal["cls", "mean", "last", "latent"]


class PairModel(nn.Module):
    """Two encoders and their projections: what PEFT sees as the model. A CLIP's own projection is part of `image`."""

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        sizes: tuple[int | None, int],
        out_dim: int,
        seed: int,
        latent: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        generator = torch.Generator().manual_seed(seed)
        self.image_projection = None if sizes[0] is None else _projection(sizes[0], out_dim, generator)
        self.text_projection = _projection(sizes[1], out_dim, generator)
        self.text_pooling = latent


class Pair(Backbone):
    """An image encoder and a text encoder that have never seen each other.

    The projections into a shared space are UNTRAINED: random, from `seed`; only the image encoder of a CLIP brings its
    own, into the space that it was trained in. Zero-shot prediction is chance until the pair has been aligned on
    image-text pairs; use it as the start of an alignment, not of few-shot learning.

    Args:
        image: Hub id (`timm/vit_base_patch16_224.augreg_in21k`) or local folder in timm's format (config.json and
            model.safetensors), or a CLIP of transformers, whose image encoder is taken (`builtin:tiny`).
        text: Hub id or local folder, in the format of transformers, of a BERT, RoBERTa or XLM-RoBERTa, or of a language
            model (Llama, Mistral, Qwen2, Qwen3, Gemma 2), which then reads without its causal mask
            (`builtin:tiny-llm`).
        out_dim: Size of the shared space; None for 512, or for that of the CLIP.
        pooling: How the text encoder's tokens become one feature: cls or mean for a BERT (default cls); mean, last or
            latent for a language model (default mean). The latent attention comes from the checkpoint where it has
            one (LLM2Vec4CXR) and is untrained otherwise.
        context: Most ids that a text is cut to.
        seed: Of the projections.
        temperature: Initial temperature; cosines are divided by it.
        image_revision: Branch, tag or commit of `image` on the Hub.
        text_revision: Branch, tag or commit of `text` on the Hub.
        instruction: For a language model: what it reads in front of every text; it is not pooled.
        causal: For a language model: keep its causal mask.
    """

    def __init__(
        self,
        image: str,
        text: str,
        out_dim: int | None = None,
        pooling: PairPooling | None = None,
        context: int = 256,
        seed: int = 0,
        temperature: float = 0.07,
        image_revision: str | None = None,
        text_revision: str | None = None,
        instruction: str = "",
        causal: bool = False,
    ) -> None:
        super().__init__()
        if (out_dim is not None and out_dim < 1) or temperature <= 0:
            raise ValueError(f"Pair: out_dim and temperature must be positive, got {out_dim} and {temperature}")
        if pooling not in (None, "cls", "mean", "last", "latent"):
            raise ValueError(f"Pair: pooling {pooling!r} is not one of cls, mean, last, latent")
        pictures = locate("Pair", image, image_revision, IMAGE_FILES)
        texts = locate("Pair", text, text_revision, _TEXT_FILES)
        kind = _text_kind(texts)
        pooling = pooling or ("mean" if kind in LLM_TYPES else "cls")
        _check_text_options(kind, pooling, instruction, causal)
        image_model, self.preset = load_image("Pair", pictures)
        text_model, latent = _load_text(texts, kind, pooling, seed)
        own = clip_size(image_model)
        if own is not None and out_dim not in (None, own):
            raise ValueError(f"Pair: out_dim is {out_dim}, but the CLIP {image!r} projects to {own}; leave it out")
        sizes = (timm_tower(image_model).out_dim if own is None else None, text_model.config.hidden_size)
        self.model = PairModel(image_model, text_model, sizes, own or out_dim or _OUT_DIM, seed, latent)
        self.image: Tower
        if own is None:
            self.image = timm_tower(image_model, self.model.image_projection, "image")
        else:
            self.image = HFClipImage(image_model, "image")
        projection = self.model.text_projection
        self.text: HFText | HFLanguageModel
        if pooling == "cls" or kind in _BERT_TYPES:
            self.text = HFText(text_model, "cls" if pooling == "cls" else "mean", projection, "text")
        else:
            self.text = HFLanguageModel(text_model, pooling, projection, "text", causal, latent)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.logit_bias = None
        self.tokenizer = load_tokenizer("Pair", texts)
        self._context = min(context, self.text.context)
        self._instruction = instruction
        check_room("Pair", self.tokenizer, self._context, instruction)
        self._sources = (pictures, texts)
        self._config: dict[str, Any] = {
            "image": pictures.place,
            "text": texts.place,
            "out_dim": out_dim,
            "pooling": pooling,
            "context": context,
            "seed": seed,
            "temperature": temperature,
            "image_revision": pictures.revision,
            "text_revision": texts.revision,
            "instruction": instruction,
            "causal": causal,
        }
        self._weights = weights_digest(self.model)
        self.eval()

    @property
    def library(self) -> nn.Module:
        """A module with `image`, `text` and the projections."""
        return self.model

    def tokenize(self, texts: Sequence[str]) -> TextInputs:
        """Texts to ids, cut after the longest text."""
        if isinstance(self.text, HFLanguageModel):
            return encode_behind("Pair", self.tokenizer, texts, self._context, self._instruction)
        return encode("Pair", self.tokenizer, texts, self._context, fixed=False)

    def places(self, texts: Sequence[str], ids: Tensor) -> list[Places]:
        """See `Backbone.places`."""
        return places_behind(self.tokenizer, texts, ids, self._instruction)

    def spec(self) -> BackboneSpec:
        """Which models these are: both names and both commits, joined by `+`."""
        image, text = self._sources
        revisions = [source.revision or "" for source in self._sources]
        joined = "+".join(revisions) if any(revisions) else None
        name = f"{image.name}+{text.name}"
        return BackboneSpec("Pair", name, joined, self._weights, self.preset.digest, self._reading())

    def config(self) -> dict[str, Any]:
        """See `Backbone.config`."""
        return dict(self._config)

    def _reading(self) -> str:
        said = f"{self.text.pooling} over at most {self._context} tokens"
        if not isinstance(self.text, HFLanguageModel):
            return said
        mask = "causal" if self.text.causal else "both ways"
        return f"{said}, {mask}, behind {front(self._instruction)!r}"


def _projection(width: int, out_dim: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(width, out_dim, bias=False)
    with torch.no_grad():
        layer.weight.normal_(std=width**-0.5, generator=generator)
    return layer


def _text_kind(source: Source) -> str:
    """The model type of a text encoder that is known here."""
    kind = read_json("Pair", require_files("Pair", source, "config.json")).get("model_type")
    if kind not in (*_BERT_TYPES, *LLM_TYPES):
        raise ValueError(
            f"Pair: {source.name!r} has model_type {kind!r}; `text` takes {', '.join((*_BERT_TYPES, *LLM_TYPES))}"
        )
    return str(kind)


def _check_text_options(kind: str, pooling: str, instruction: str, causal: bool) -> None:
    known = ("mean", "last", "latent") if kind in LLM_TYPES else ("cls", "mean")
    if pooling not in known:
        raise ValueError(f"Pair: pooling {pooling!r} is not one of {', '.join(known)}, which a {kind} takes")
    if kind not in LLM_TYPES and (instruction or causal):
        raise ValueError(
            f"Pair: instruction and causal are for language models ({', '.join(LLM_TYPES)}), not for {kind}"
        )


def _load_text(source: Source, kind: str, pooling: str, seed: int) -> tuple[Any, LatentAttention | None]:
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=False)
    if kind in LLM_TYPES:
        model = load_llm("Pair", source, config)
        latent = load_latent("Pair", source, config.hidden_size, seed) if pooling == "latent" else None
        return model, latent
    require_files("Pair", source, "model.safetensors", "pytorch_model.bin")
    model, info = AutoModel.from_pretrained(
        source.folder,
        config=config,
        local_files_only=True,
        trust_remote_code=False,
        add_pooling_layer=False,
        dtype=torch.float32,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"Pair: the weights of {source.name!r} lack {len(missing)} tensors, e.g. {missing[:3]}")
    return model.eval(), None
