"""Checkpoints of open_clip: its own ViTs, CoCa, SigLIP on timm trunks, BiomedCLIP and its kin."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from domainvl.backbones._loading import Source, copy_articles, locate, read_json, require_files, weights_digest
from domainvl.backbones._structure import Places, of_byte_pairs, of_surface, through
from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.data.preset import Fit, Preset
from domainvl.features import TextInputs
from domainvl.towers.hf_text import HFText
from domainvl.towers.openclip import OpenClipText, open_clip_towers

_FILES = ("*.json", "*.txt", "*.model")
_SAFE = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
_PICKLED = ("open_clip_pytorch_model.bin", "pytorch_model.bin")
_FITS: dict[str, Fit] = {"shortest": "crop", "squash": "squash", "longest": "pad"}


class OpenClip(Backbone):
    """A model of open_clip.

    Weights come from safetensors, or from a pickled state dict through torch's `weights_only` reader; no code of the
    checkpoint is run. Pictures and texts are prepared as `open_clip_config.json` says.

    Args:
        name: Hub id (`hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224`), a local folder with
            `open_clip_config.json`, or an architecture of open_clip (`ViT-B-16`) together with `pretrained`.
        pretrained: Local weights file; for an architecture name only.
        revision: Branch, tag or commit on the Hub.
        text_model: Folder or Hub id with the config and tokenizer of a BERT text encoder, where the checkpoint names
            one and does not bring it along. Only its small files are read, never its weights.
    """

    def __init__(
        self,
        name: str,
        pretrained: str | None = None,
        revision: str | None = None,
        text_model: str | None = None,
    ) -> None:
        super().__init__()
        source, config, weights = _resolve(name, pretrained, revision)
        model_config = config["model_cfg"]
        folders = _text_folders(source, model_config.get("text_cfg", {}), text_model)
        self.text: OpenClipText | HFText
        self.model = _build(source.name, model_config, folders)
        _load_weights(source.name, self.model, weights)
        self.image, self.text = open_clip_towers(self.model)
        self.logit_scale = self.model.logit_scale
        self.logit_bias = self.model.logit_bias
        self.preset = _preset(source.name, config.get("preprocess_cfg", {}), self.model.visual.image_size)
        self._encode = _tokenizer(source.name, model_config.get("text_cfg", {}), folders)
        self._source = source
        # Beside the weights of an architecture lies whatever else is in that folder.
        self._folders = [folder for folder in folders if pretrained is None or folder is not source]
        self._described = config
        self._config: dict[str, Any] = {
            "name": source.place if pretrained is None else name,
            "pretrained": None if pretrained is None else {"folder": Path(pretrained).name},
            "revision": source.revision,
            "text_model": None if text_model is None else folders[0].place,
        }
        self._weights = weights_digest(self.model)
        self.eval()

    @property
    def library(self) -> nn.Module:
        """The open_clip model."""
        return self.model

    def tokenize(self, texts: Sequence[str]) -> TextInputs:
        """Texts to ids, cut after the longest text; CoCa's and SigLIP's keep their fixed length."""
        if isinstance(texts, str):
            raise TypeError("OpenClip.tokenize: give a list of texts, not one string")
        if not texts:
            raise ValueError("OpenClip.tokenize: no text given")
        ids = self._encode(list(texts))
        if isinstance(self.text, HFText):
            keep = ids != self.text.encoder.config.pad_token_id
        else:
            end = None if self.text.fixed_length else self.text.end_of_text(ids)
            if end is None:
                return TextInputs(ids)
            keep = torch.arange(ids.shape[1]) <= end[:, None]
        longest = int(keep.sum(dim=1).max())
        ids, keep = ids[:, :longest], keep[:, :longest]
        return TextInputs(ids, None if bool(keep.all()) else keep)

    def places(self, texts: Sequence[str], ids: Tensor) -> list[Places]:
        """See `Backbone.places`."""
        return [_places(self._encode, text, row) for text, row in zip(texts, ids.tolist(), strict=True)]

    def write(self, folder: Path) -> None:
        """See `Backbone.write`: as open_clip reads it, under `local-dir:FOLDER`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        described = deepcopy(self._described)
        text = described["model_cfg"].get("text_cfg", {})
        # Who made the checkpoint may have named a folder of his machine.
        named = {key: Path(str(text[key])) for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)}
        text.update({key: path.name for key, path in named.items() if path.is_absolute()})
        (folder / "open_clip_config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        tensors = {name: tensor.detach().contiguous().clone() for name, tensor in self.model.state_dict().items()}
        save_file(tensors, folder / _SAFE[0], metadata={"format": "pt"})
        copy_articles(self._folders, folder)

    def spec(self) -> BackboneSpec:
        """Which model this is."""
        source = self._source
        return BackboneSpec("OpenClip", source.name, source.revision, self._weights, self.preset.digest)

    def config(self) -> dict[str, Any]:
        """See `Backbone.config`."""
        return dict(self._config)


def _resolve(name: str, pretrained: str | None, revision: str | None) -> tuple[Source, dict[str, Any], Path]:
    """Where the files are, the content of `open_clip_config.json`, and the weights file."""
    import open_clip

    hub = name.removeprefix("hf-hub:")
    if hub == name and name in open_clip.list_models():
        return _architecture(name, pretrained, revision)
    if pretrained is not None:
        raise ValueError(
            f"OpenClip: pretrained={pretrained!r} goes with the name of an architecture, and {name!r} is none (see "
            "open_clip.list_models()); a folder or Hub id brings its own weights"
        )
    source = locate("OpenClip", hub, revision, (*_FILES, *_SAFE))
    config = read_json("OpenClip", require_files("OpenClip", source, "open_clip_config.json"))
    if "model_cfg" not in config:
        raise ValueError(f"OpenClip: open_clip_config.json of {source.name!r} has no 'model_cfg'")
    there = [choice for choice in (*_SAFE, *_PICKLED) if (source.folder / choice).is_file()]
    if not there and source.revision is not None:
        # Older repositories hold pickled weights alone; they are fetched only where there is nothing better.
        source = locate("OpenClip", hub, source.revision, (*_FILES, *_PICKLED))
    return source, config, require_files("OpenClip", source, *_SAFE, *_PICKLED)


def _architecture(name: str, pretrained: str | None, revision: str | None) -> tuple[Source, dict[str, Any], Path]:
    import open_clip

    if pretrained is None or not Path(pretrained).expanduser().is_file():
        raise ValueError(
            f"OpenClip: {name!r} is an architecture and needs pretrained=<weights file>, got {pretrained!r}; "
            "to load from the Hub give its id, e.g. hf-hub:laion/CLIP-ViT-B-16-laion2B-s34B-b88K"
        )
    if revision is not None:
        raise ValueError(f"OpenClip: revision={revision!r} goes with a Hub id, not with an architecture; leave it out")
    keys = ("mean", "std", "interpolation", "resize_mode")
    known = [
        {key: value for key, value in open_clip.get_pretrained_cfg(name, tag).items() if key in keys}
        for tag in open_clip.list_pretrained_tags_by_model(name)
    ]
    if any(other != known[0] for other in known[1:]):
        raise ValueError(
            f"OpenClip: published weights of {name!r} want different preprocessing, and a weights file does not say "
            "which; put it into a folder as open_clip_model.safetensors or open_clip_pytorch_model.bin beside an "
            "open_clip_config.json with model_cfg and preprocess_cfg, and give the folder"
        )
    path = Path(pretrained).expanduser()
    config = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": known[0] if known else {}}
    return Source(path.parent, f"{name}:{path.name}", None), config, path


def _text_folders(source: Source, text_config: Mapping[str, Any], text_model: str | None) -> list[Source]:
    """Where the text encoder's own config and tokenizer may lie, best first."""
    if text_model is not None:
        return [locate("OpenClip", text_model, None, _FILES), source]
    return [source]


def _build(name: str, config: Mapping[str, Any], folders: Sequence[Source]) -> Any:
    """The model without weights; nothing is downloaded here."""
    from open_clip.coca_model import CoCa
    from open_clip.model import CLIP, CustomTextCLIP

    config = dict(deepcopy(config))
    vision, text = config["vision_cfg"], config["text_cfg"]
    # Dropping patches is an option of training from scratch, which checkpoints remember.
    vision["patch_dropout"] = 0.0
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text["hf_model_name"] = str(_text_config_folder(name, str(text["hf_model_name"]), folders))
        text["hf_model_pretrained"] = False
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    kind = (CoCa if "multimodal_cfg" in config else CustomTextCLIP) if custom else CLIP
    return kind(**config).eval()


def _text_config_folder(name: str, wanted: str, folders: Sequence[Source]) -> Path:
    for folder in folders:
        path = folder.folder / "config.json"
        if path.is_file() and read_json("OpenClip", path).get("model_type") in ("bert", "roberta", "xlm-roberta"):
            return folder.folder
    if Path(wanted).is_dir():
        return Path(wanted)
    try:
        return locate("OpenClip", wanted, None, ("config.json",)).folder
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"OpenClip: the text encoder of {name!r} is described by {wanted!r}, which cannot be had: {error}\n"
            f"Its config.json is enough: put it beside open_clip_config.json, or give text_model=<its folder>"
        ) from None


def _load_weights(name: str, model: nn.Module, path: Path) -> None:
    from open_clip.factory import load_checkpoint

    if path.suffix not in (".safetensors", ".bin", ".pt", ".pth"):
        raise ValueError(f"OpenClip: weights file {path.name!r} is neither .safetensors nor .bin, .pt, .pth")
    try:
        load_checkpoint(model, str(path), strict=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"OpenClip: {path.name!r} of {name!r} holds more than tensors, and code from files is not run "
            f"({str(error).splitlines()[0][:120]}); load it where it is trusted and save its state dict as safetensors"
        ) from None
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ValueError(
            f"OpenClip: {path.name!r} does not fit the architecture of {name!r}: {' '.join(lines[:3])[:300]}"
        ) from None


def _tokenizer(name: str, text: Mapping[str, Any], folders: Sequence[Source]) -> Any:
    """Texts to ids `[N, context]`, always padded to the whole context."""
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    options = dict(text.get("tokenizer_kwargs") or {})
    context = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    if not text.get("hf_tokenizer_name"):
        return SimpleTokenizer(context_length=context, **options)
    for folder in folders:
        if any((folder.folder / file).is_file() for file in ("tokenizer.json", "vocab.txt", "spiece.model")):
            return HFTokenizer(
                str(folder.folder), context_length=context, tokenizer_mode=text.get("tokenizer_mode"), **options
            )
    raise ValueError(
        f"OpenClip: {name!r} has no tokenizer files (tokenizer.json, tokenizer_config.json); copy those of "
        f"{text['hf_tokenizer_name']!r} beside open_clip_config.json, or give text_model=<their folder>"
    )


def _places(tokenizer: Any, text: str, ids: Sequence[int]) -> Places:
    """Where in its text every token comes from."""
    from open_clip.tokenizer import SimpleTokenizer

    if not isinstance(tokenizer, SimpleTokenizer):
        read = tokenizer.clean_fn(text)
        if not tokenizer.tokenizer.is_fast or tokenizer.tokenizer_mode:
            return through(of_surface(tokenizer.tokenizer, ids, read), read, text)
        row = tokenizer.tokenizer(
            read,
            max_length=len(ids),
            padding="max_length",
            truncation=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        pairs = zip(row["special_tokens_mask"], row["offset_mapping"], strict=True)
        return through([None if special else tuple(span) for special, span in pairs], read, text)
    if tokenizer.reduction_fn is not None:
        raise ValueError(
            "OpenClip.structured: this model's reduction_mask drops tokens at random, so nothing says which words are "
            "left; use a model without it"
        )
    end = ids.index(tokenizer.eot_token_id)
    return [None, *of_byte_pairs(tokenizer, text)[: end - 1], *[None] * (len(ids) - end)]


def _preset(name: str, config: Mapping[str, Any], image_size: int | Sequence[int]) -> Preset:
    from open_clip.transform import PreprocessCfg

    sizes = {image_size} if isinstance(image_size, int) else set(image_size)
    if len(sizes) != 1:
        raise ValueError(f"OpenClip: {name!r} takes images of {tuple(image_size)} pixels; accepted are square ones")  # type: ignore[arg-type]
    given = {key: value for key, value in config.items() if value is not None}
    known = PreprocessCfg()
    mode = given.get("resize_mode", known.resize_mode)
    if mode not in _FITS:
        raise ValueError(f"OpenClip: {name!r} asks for resize_mode {mode!r}; accepted are {', '.join(_FITS)}")
    if mode == "longest" and given.get("fill_color", 0) != 0:
        raise ValueError(f"OpenClip: {name!r} pads with fill_color {given['fill_color']!r}; accepted is 0")
    interpolation = given.get("interpolation", known.interpolation)
    return Preset(
        name=name,
        size=sizes.pop(),
        fit=_FITS[mode],
        # open_clip's "random" is for training; it evaluates with bicubic.
        interpolation="bicubic" if interpolation == "random" else interpolation,
        mean=_three(given.get("mean", known.mean)),
        std=_three(given.get("std", known.std)),
    )


def _three(value: float | Sequence[float]) -> tuple[float, ...]:
    return (value,) * 3 if isinstance(value, (int, float)) else tuple(value)
