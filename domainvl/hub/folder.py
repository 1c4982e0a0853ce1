"""Adapters on disk: one small folder that says what it belongs to.

    domainvl.json            what it is: method, arguments, backbone, preset, classes, prompts, versions
    domainvl.safetensors     what was learned
    README.md                model card
    recipe.yaml              how it was made
    adapter_config.json, adapter_model.safetensors    the LoRA part once more, as peft reads it without us

A folder may come from anyone, so it is input and not code: tensors are safetensors, and a method is looked up among
the names that `domainvl.adapters` exports. Nothing here touches the network.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

import domainvl
from domainvl.adapters import Adapter, Compose
from domainvl.backbones.base import Backbone, BackboneSpec
from domainvl.hub.card import CARD, AdapterCard, read_adapter_card
from domainvl.hub.readme import hub_id, model_card, without_paths
from domainvl.hub.untrusted import check_sizes, inner_file, read_tensors

TENSORS = "domainvl.safetensors"
FILES = (CARD, TENSORS, "README.md", "recipe.yaml", "adapter_config.json", "adapter_model.safetensors")
"""What an adapter folder may hold; nothing else is downloaded."""
_LIBRARIES = ("torch", "transformers", "open_clip_torch", "timm", "peft", "safetensors")
_ADAPTER, _SCALE = "adapter.", "logit_scale"


@dataclass(frozen=True)
class SavedAdapter:
    """A folder that was read and fits a backbone.

    Attributes:
        card: What it is.
        tensors: What `Adapter.load_tensors` takes.
        logit_scale: The log of the temperature, if it was trained.
    """

    card: AdapterCard
    tensors: dict[str, Tensor]
    logit_scale: Tensor | None = None


def save_adapter(
    folder: Path | str,
    adapter: Adapter,
    *,
    backbone: BackboneSpec,
    classes: Sequence[str],
    multilabel: bool,
    prompts: Mapping[str, Any],
    recipe: str,
    metrics: Mapping[str, Any] | None = None,
    logit_scale: Tensor | None = None,
    model: Mapping[str, Any] | None = None,
    preparation: Mapping[str, Any] | None = None,
) -> Path:
    """Write an adapter; the folder appears whole or not at all, in place of an older adapter of that name.

    Args:
        folder: Where to.
        adapter: A trained adapter.
        backbone: The model it was trained on, `Backbone.spec()`.
        classes: Class names in the order of the training.
        multilabel: Whether classes may occur together.
        prompts: Templates, negatives and names as plain values.
        recipe: The run's configuration in YAML; absolute paths in it are replaced.
        metrics: The run's `metrics.json`, for the card.
        logit_scale: The log of the temperature, if it was trained.
        model: How the backbone is made again, `described(backbone)`; without it who loads the adapter has to know.
        preparation: What the data module did in front of the backbone, `DataModule.preparation_facts()`.
    """
    folder = Path(folder)
    _refuse_foreign(folder)
    card = AdapterCard(
        adapter=type(adapter).__name__,
        init_args=adapter.config(),
        backbone=backbone,
        classes=list(classes),
        multilabel=multilabel,
        prompts=dict(prompts),
        versions=_versions(),
        model=dict(model or {}),
        preparation=dict(preparation or {}),
    )
    card.build()  # Refuses what could never be loaded again, before anything is written.
    tensors = {_ADAPTER + name: tensor for name, tensor in adapter.tensors().items()}
    if logit_scale is not None:
        tensors[_SCALE] = logit_scale.detach()
    tensors = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    clean = without_paths(recipe)
    with _whole(folder) as staging:
        text = json.dumps(asdict(card), indent=2, ensure_ascii=False) + "\n"
        (staging / CARD).write_text(text, encoding="utf-8")
        # Not save_file: it makes files that nobody else on the machine can read.
        (staging / TENSORS).write_bytes(save(tensors, metadata={"format": "pt"}))
        (staging / "recipe.yaml").write_text(clean, encoding="utf-8")
        (staging / "README.md").write_text(model_card(card, clean, metrics), encoding="utf-8")
        adapter.export(staging, hub_id(backbone))
    return folder


def copy_adapter(
    source: Path, folder: Path, metrics: Mapping[str, Any] | None, facts: Mapping[str, Any] | None, licence: str | None
) -> Path:
    """Write an adapter folder to another place, with a model card that says more; whole or not at all.

    Args:
        source: An adapter folder.
        folder: Where to; an older adapter there is replaced.
        metrics: See `model_card`, as for all that follow.
        facts: Counts of the data.
        licence: Of the model below.
    """
    card = read_adapter_card(source)
    recipe = without_paths(inner_file(source, "recipe.yaml").read_text(encoding="utf-8"))
    with _whole(folder) as staging:
        for name in FILES:
            if inner_file(source, name).is_file():
                shutil.copyfile(source / name, staging / name)
        (staging / "recipe.yaml").write_text(recipe, encoding="utf-8")
        text = model_card(card, recipe, metrics, facts, licence)
        (staging / "README.md").write_text(text, encoding="utf-8")
    return folder


def read_adapter(folder: Path | str, backbone: BackboneSpec) -> SavedAdapter:
    """Read a folder whole and check that it belongs to `backbone`.

    This is what a task wants: `task.adopt(saved.card.build(), saved.tensors, saved.card.classes)`; its set-up calls
    attach, prime and load_tensors when the zero-shot class features are known.
    """
    folder = Path(folder)
    card = read_adapter_card(folder)
    card.check(backbone)
    path = inner_file(folder, TENSORS)
    if not path.is_file():
        raise ValueError(f"{folder} has no {TENSORS}; copy or download the adapter again")
    tensors = read_tensors(path)
    check_sizes(folder / CARD, card.init_args, tensors)
    scale = tensors.pop(_SCALE, None)
    if scale is not None and (scale.numel() != 1 or not scale.is_floating_point()):
        raise ValueError(f"{path}: {_SCALE} should be one number, got {scale.dtype} {tuple(scale.shape)}")
    unknown = sorted(name for name in tensors if not name.startswith(_ADAPTER))
    if unknown:
        raise ValueError(f"{path} holds tensors that no adapter has: {unknown[:5]}")
    return SavedAdapter(card, {name.removeprefix(_ADAPTER): t for name, t in tensors.items()}, scale)


def load_adapter(
    folder: Path | str, backbone: Backbone, class_features: Tensor | None = None
) -> tuple[Adapter, AdapterCard]:
    """A trained adapter, ready to use on `backbone`, outside of a task.

    The order inside is attach (LoRA puts its layers into the backbone), prime (LinearProbe makes its rows), load.
    A trained temperature is written into the backbone.

    Args:
        folder: What `save_adapter` wrote.
        backbone: The model it was trained on, frozen, without LoRA layers.
        class_features: Zero-shot class features `[C, D]`, normalised, of `card.classes` (in multi-label data those
            of the positive prompts, then of the negative ones); needed by methods that start from them.
    """
    saved = read_adapter(folder, backbone.spec())
    adapter = saved.card.build()
    parts = [*adapter.parts] if isinstance(adapter, Compose) else [adapter]
    primed = any(getattr(type(part), "prime") is not Adapter.prime for part in parts)  # noqa: B009  # a Module to mypy
    if primed and class_features is None:
        raise ValueError(
            f"load_adapter: {saved.card.adapter} starts from the zero-shot class features; pass class_features"
        )
    adapter.attach(backbone)
    if class_features is not None:
        adapter.prime(class_features)
    adapter.load_tensors(saved.tensors)
    if saved.logit_scale is not None:
        backbone.logit_scale.data.copy_(saved.logit_scale)
    return adapter.eval(), saved.card


def _versions() -> dict[str, str]:
    found = {"domainvl": domainvl.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` once everything is there."""
    _refuse_foreign(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    staging.mkdir()
    try:
        yield staging
        _swap(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not (folder / CARD).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} exists and is no adapter folder (it has no {CARD}); it would be replaced whole, so choose "
            "another name"
        )


def _swap(new: Path, target: Path) -> None:
    if not target.exists():
        os.rename(new, target)
        return
    old = new.with_name(new.name + ".old")
    os.rename(target, old)
    os.rename(new, target)
    shutil.rmtree(old)
