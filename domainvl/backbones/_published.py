"""Checkpoints that were published as files of training code: reading them, and text encoders from tensors alone."""

from __future__ import annotations

import pickle
import zipfile
from abc import ABC
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.backbones._loading import Source
from domainvl.backbones._texts import encode
from domainvl.backbones.base import BackboneSpec
from domainvl.backbones.volume import VolumeBackbone
from domainvl.features import TextInputs
from domainvl.towers._shared import fill

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_HEAD = 64
"""Size of an attention head in every BERT of the usual sizes; the tensors do not tell."""


class VolumeModel(nn.Module):
    """Two encoders and their projections: what PEFT sees as the model."""

    def __init__(
        self, image: nn.Module, text: nn.Module, image_projection: nn.Module, text_projection: nn.Module
    ) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.image_projection, self.text_projection = image_projection, text_projection


class PublishedVolumes(VolumeBackbone, ABC):
    """A model of volumes and reports from one file of tensors; constructors fill in the attributes."""

    model: VolumeModel
    tokenizer: Any
    _context: int
    _name: str
    _weights: str
    _words: Source
    _config: dict[str, Any]

    @property
    def library(self) -> nn.Module:
        """See `Backbone.library`: a module with `image`, `text` and the two projections."""
        return self.model

    def tokenize(self, texts: Sequence[str]) -> TextInputs:
        """See `Backbone.tokenize`: cut after the longest text."""
        return encode(type(self).__name__, self.tokenizer, texts, self._context, fixed=False)

    def spec(self) -> BackboneSpec:
        """See `Backbone.spec`: which file this is."""
        return BackboneSpec(type(self).__name__, self._name, None, self._weights, self.preset.digest)

    def config(self) -> dict[str, Any]:
        """See `Backbone.config`: of the file its name, who loads the model has to have it."""
        words = {"tokenizer": self._words.place, "tokenizer_revision": self._words.revision}
        return {"weights": {"folder": self._name}, **words, "preset": self.preset, **self._config}


def read_weights(owner: str, path: str) -> dict[str, Tensor]:
    """The tensors of a file, whatever the training wrapped around them; nothing in it is executed."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(
            f"{owner}: weights {file.name!r} is no file; download the checkpoint from its authors (their licence "
            "decides who may) and give its path"
        )
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    if file.suffix not in _PICKLED:
        raise ValueError(f"{owner}: weights {file.name!r} is none of .safetensors, {', '.join(_PICKLED)}")
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{owner}: {file.name!r} cannot be read as tensors alone ({reason}); if it holds other objects, convert it "
            "to safetensors on a machine that trusts it"
        ) from None
    for wrapper in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{owner}: {file.name!r} holds no tensors by name")
    return {str(name).removeprefix("module."): tensor for name, tensor in found.items()}


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def known_only(owner: str, tensors: Mapping[str, Tensor], prefixes: Sequence[str]) -> None:
    """Refuse a checkpoint with a part that nobody asks for: it would be another model."""
    others = sorted(name for name in tensors if not name.startswith(tuple(prefixes)))
    if others:
        raise ValueError(
            f"{owner}: the checkpoint holds {len(others)} tensors that this model lacks, e.g. {others[:3]}"
        )


def linear(owner: str, tensors: Mapping[str, Tensor], name: str) -> nn.Linear:
    """A linear layer from `name.weight` and, if there is one, `name.bias`."""
    weight = tensors.get(f"{name}.weight")
    if weight is None or weight.dim() != 2:
        raise ValueError(f"{owner}: the checkpoint lacks the matrix {name}.weight")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in tensors)
    fill(owner, layer, below(tensors, f"{name}."))
    return layer


def bert_of(owner: str, tensors: Mapping[str, Tensor]) -> Any:
    """A `BertModel` without pooling layer, in the size of its tensors."""
    from transformers import BertConfig, BertModel

    config = BertConfig(**_sizes(owner, tensors))
    model = BertModel._from_config(config, add_pooling_layer=False, attn_implementation="sdpa")
    unused = ("pooler.", "embeddings.position_ids")
    fill(owner, model, {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)})
    return model.eval()


def longformer_of(owner: str, tensors: Mapping[str, Tensor], window: int) -> Any:
    """A `LongformerModel` in the size of its tensors; the window they do not tell."""
    from transformers import LongformerConfig, LongformerModel

    sizes = _sizes(owner, tensors)
    config = LongformerConfig(
        **sizes,
        attention_window=[window] * sizes["num_hidden_layers"],
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=1e-5,
    )
    model = LongformerModel(config, add_pooling_layer=False)
    unused = ("pooler.", "embeddings.position_ids")
    fill(owner, model, {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)})
    return model.eval()


def _sizes(owner: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    tables = [tensors.get(f"embeddings.{name}.weight") for name in names]
    inner = tensors.get("encoder.layer.0.intermediate.dense.weight")
    words, places, types = tables
    if words is None or places is None or types is None or inner is None or words.shape[1] % _HEAD:
        raise ValueError(f"{owner}: the text encoder of the checkpoint is no BERT with heads of {_HEAD} values")
    return {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_attention_heads": words.shape[1] // _HEAD,
        "intermediate_size": inner.shape[0],
        "num_hidden_layers": len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")}),
        "max_position_embeddings": places.shape[0],
        "type_vocab_size": types.shape[0],
    }
