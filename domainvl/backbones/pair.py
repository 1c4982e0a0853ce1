"""Any timm image encoder joined with any BERT-like text encoder or language model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from domainvl.backbones._llm import check_room, encode_behind, load_latent, load_llm, places_behind
from domainvl.backbones._loading import Source, locate, read_json, require_files, weights_digest
from domainvl.backbones._structure import Places
from domainvl.backbones._texts import encode, load_tokenizer
from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.data.preset import Fit, Preset
from domainvl.features import TextInputs
from domainvl.towers.hf_llm import LLM_TYPES, HFLanguageModel
from domainvl.towers.hf_text import HFText
from domainvl.towers.latent_attention import LatentAttention
from domainvl.towers.timm_vit import timm_tower

_IMAGE_FILES = ("config.json", "model.safetensors")
_TEXT_FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors", "pytorch_model.bin")
_BERT_TYPES = ("bert", "roberta", "xlm-roberta")
PairPooling = Literal["cls", "mean", "last", "latent"]
_FITS: dict[str, Fit] = {"center": "crop", "squash": "squash"}


class PairModel(nn.Module):
    """Two encoders, two projections and a temperature: what PEFT sees as the model."""

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        sizes: tuple[int, int],
        out_dim: int,
        seed: int,
        latent: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        generator = torch.Generator().manual_seed(seed)
        self.image_projection = _projection(sizes[0], out_dim, generator)
        self.text_projection = _projection(sizes[1], out_dim, generator)
        self.text_pooling = latent


class Pair(Backbone):
    """An image encoder and a text encoder that have never seen each other.

    The two projections into a shared space are UNTRAINED: random, from `seed`. Zero-shot prediction is chance until
    the pair has been aligned on image-text pairs; use it as the start of an alignment, not of few-shot learning.

    Args:
        image: Hub id (`timm/vit_base_patch16_224.augreg_in21k`) or local folder in timm's format: config.json and
            model.safetensors.
        text: Hub id or local folder, in the format of transformers, of a BERT, RoBERTa or XLM-RoBERTa, or of a language
            model (Llama, Mistral, Qwen2, Qwen3, Gemma 2), which then reads without its causal mask.
        out_dim: Size of the shared space.
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
        out_dim: int = 512,
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
        if out_dim < 1 or temperature <= 0:
            raise ValueError(f"Pair: out_dim and temperature must be positive, got {out_dim} and {temperature}")
        if pooling not in (None, "cls", "mean", "last", "latent"):
            raise ValueError(f"Pair: pooling {pooling!r} is not one of cls, mean, last, latent")
        pictures = locate("Pair", image, image_revision, _IMAGE_FILES)
        texts = locate("Pair", text, text_revision, _TEXT_FILES)
        kind = _text_kind(texts)
        pooling = pooling or ("mean" if kind in LLM_TYPES else "cls")
        _check_text_options(kind, pooling, instruction, causal)
        image_model, self.preset = _load_image(pictures)
        text_model, latent = _load_text(texts, kind, pooling, seed)
        sizes = (timm_tower(image_model).out_dim, text_model.config.hidden_size)
        self.model = PairModel(image_model, text_model, sizes, out_dim, seed, latent)
        self.image = timm_tower(image_model, self.model.image_projection, "image")
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
        self._weights = weights_digest(self.model)
        self.eval()

    @property
    def library(self) -> nn.Module:
        """A module with `image`, `text` and the two projections."""
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
        return BackboneSpec("Pair", f"{image.name}+{text.name}", joined, self._weights, self.preset.digest)


def _projection(width: int, out_dim: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(width, out_dim, bias=False)
    with torch.no_grad():
        layer.weight.normal_(std=width**-0.5, generator=generator)
    return layer


def _load_image(source: Source) -> tuple[nn.Module, Preset]:
    import timm
    from safetensors.torch import load_file

    config = read_json("Pair", require_files("Pair", source, "config.json"))
    weights = require_files("Pair", source, "model.safetensors")
    name = config.get("architecture")
    if name not in timm.list_models():
        raise ValueError(
            f"Pair: config.json of {source.name!r} names the architecture {name!r}, which timm does not know; `image` "
            "takes checkpoints in timm's format"
        )
    data = config.get("pretrained_cfg", config)
    options = dict(config.get("model_args", {}))
    if data.get("fixed_input_size") and "img_size" not in options:
        options["img_size"] = data["input_size"][-1]
    model = timm.create_model(name, pretrained=False, **{**options, "num_classes": 0})
    heads = data.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)
    # The classifier of the pretraining is no part of an image encoder.
    tensors = {
        key: tensor
        for key, tensor in load_file(weights).items()
        if not any(key.startswith(f"{head}.") for head in heads)
    }
    missing, unknown = model.load_state_dict(tensors, strict=False)
    if missing or unknown:
        raise ValueError(
            f"Pair: the weights of {source.name!r} do not fit timm's {name!r}; missing {missing[:3]}, "
            f"unknown {unknown[:3]}"
        )
    return model.eval(), _timm_preset(source.name, data)


def _timm_preset(name: str, data: Mapping[str, Any]) -> Preset:
    size = data["input_size"]
    if size[0] != 3 or size[1] != size[2]:
        raise ValueError(
            f"Pair: {name!r} takes images of shape {tuple(size)}; accepted are square ones with 3 channels"
        )
    mode = data.get("crop_mode", "center")
    if mode not in _FITS:
        raise ValueError(f"Pair: {name!r} asks for crop_mode {mode!r}; accepted are {', '.join(_FITS)}")
    resize = math.floor(size[1] / data.get("crop_pct", 0.875))
    return Preset(
        name=name,
        size=size[1],
        fit=_FITS[mode],
        interpolation=data.get("interpolation", "bicubic"),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        resize=None if resize == size[1] else resize,
    )


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
