"""Runs cells one after the other and keeps between them what is the same for all: backbones, tables, pixels.

A few-shot cell is the run that `fit` makes of the same recipe, seed and shots, to the last digit (on one thread, where
the training pictures are not drawn per image): the random numbers are seeded as there, and a kept backbone draws none.
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, Trainer, seed_everything

from domainvl.backbones.base import Backbone
from domainvl.benchmark.cells import ZERO_SHOT, Cell
from domainvl.benchmark.parts import Part, parts, testing_part, training_part
from domainvl.console import parser as parsing
from domainvl.data.decoder import remember
from domainvl.data.manifest import Manifest
from domainvl.data.module import DataModule
from domainvl.data.preset import Preset
from domainvl.data.splits import split_hash
from domainvl.evaluation import evaluate
from domainvl.evaluation.files import plain, versions
from domainvl.tasks import Classification

if TYPE_CHECKING:
    from domainvl.data.volumes.preset import VolumePreset

PIXEL_GIB = 2.0
RESAMPLES = 1000


class Bench:
    """What one process keeps.

    Args:
        pixels: GiB of prepared images to keep.
    """

    def __init__(self, pixels: float = PIXEL_GIB) -> None:
        self._backbones: dict[str, Backbone] = {}
        self._manifests: dict[str, Manifest] = {}
        remember(pixels)

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train, test, and give what is kept of it: plain values for JSON."""
        began = time.monotonic()
        seed_everything(int(cell.config["seed_everything"]), workers=True, verbose=False)
        model, settings = self._build(cell.config)
        with tempfile.TemporaryDirectory(prefix="domainvl-") as folder:
            trainer = _trainer(settings, folder)
            whole = self._data(cell.config["data"], model.preset)
            tested = parts(cell.protocol, whole.classes, cell.targets)
            trained = None
            if cell.adapter != ZERO_SHOT:
                trained = self._fit(cell, model, trainer, whole, tested[0])
            results = {part.name: self._test(cell, model, trainer, whole, part, tested[0]) for part in tested}
        return plain(
            {
                "dataset": cell.dataset,
                "protocol": cell.protocol,
                "adapter": cell.adapter,
                "shots": cell.shots,
                "seed": cell.seed,
                "seconds": time.monotonic() - began,
                "multilabel": whole.multilabel,
                "hashes": {**whole.hashes(), **model.hashes()},
                "trained": trained,
                "facts": model.adapter.facts() if model.adapter is not None else {},
                "rejected": len(whole.rejects),
                "parts": results,
                "config": cell.config,
                "versions": versions(),
            }
        )

    def _fit(
        self, cell: Cell, model: Classification, trainer: Trainer, whole: DataModule, first: Part
    ) -> dict[str, Any]:
        """Train on what may be seen; nothing in it leads to a test image."""
        train, validate = _drawn(whole)
        manifest = training_part(whole.manifest, train, validate, first.classes, whole.policy)
        data = self._part(cell.config["data"], model.preset, whole, manifest, first.classes)
        trainer.fit(model, datamodule=data)
        used = [data.manifest.records[position] for position in data.manifest.positions("train")]
        return {
            "images": len(used),
            "hash": split_hash(used),
            "classes": data.classes,
            "parameters": sum(parameter.numel() for parameter in model.trained_parameters()),
            "selection": "validation split" if model.adapter is not None and model.adapter.chooses else "none",
        }

    def _test(
        self, cell: Cell, model: Classification, trainer: Trainer, whole: DataModule, part: Part, first: Part
    ) -> dict[str, Any]:
        """Test on one part; the trained model meets other classes as a saved adapter would."""
        spec = cell.config["data"] if part.dataset is None else cell.targets[part.dataset]
        source = whole if part.dataset is None else self._data(spec, model.preset)
        data = self._part(spec, model.preset, source, testing_part(source.manifest), part.classes)
        own = part == first
        adapter = None if own else model.adapter
        if adapter is not None and adapter.only_known_classes() and data.classes != model.classes:
            note = f"{type(adapter).__name__} knows only the classes that it was trained on"
            return {"classes": data.classes, "note": note}
        tester = model if own else self._reopened(cell, model)
        trainer.test(tester, datamodule=data, verbose=False)
        if tester.predictions is None:
            raise RuntimeError(f"the test made no predictions; part {part.name} has no images")
        evaluation = evaluate(tester.predictions, seed=int(cell.config["seed_everything"]), resamples=RESAMPLES)
        return {
            "classes": data.classes,
            "novel": tester.novel,
            "split": source.hashes()["split"],
            **evaluation.as_dict(),
        }

    def _reopened(self, cell: Cell, model: Classification) -> Classification:
        """A new task around the trained adapter, as after saving and loading it."""
        config = copy.deepcopy(cell.config)
        config["model"]["init_args"].update(adapter=None, objectives=None, optimizer=None, schedule=None)
        fresh, _ = self._build(config)
        if model.adapter is not None:
            tensors = {name: tensor.clone() for name, tensor in model.adapter.tensors().items()}
            fresh.adopt(type(model.adapter)(**model.adapter.config()), tensors, model.classes)
            if model.backbone.logit_scale.requires_grad:
                fresh.backbone.logit_scale.data.copy_(model.backbone.logit_scale.data)
        return fresh

    def _build(self, config: Mapping[str, Any]) -> tuple[Classification, dict[str, Any]]:
        parser, parsed = parsing.parse("benchmark", config, {})
        made = parser.instantiate(parsed, instantiators=[(self._backbone, Backbone, True)])
        return cast("Classification", made.model), dict(vars(made.trainer))

    def _backbone(self, cls: type[Backbone], *args: Any, **kwargs: Any) -> Backbone:
        """A backbone as it was loaded; adapters put layers into theirs, so each gets a copy."""
        kwargs.pop("applied_instantiation_links", None)
        key = repr((cls, args, sorted(kwargs.items())))
        if key not in self._backbones:
            # Loading must not move the random numbers, or a first cell would differ from a later one.
            with torch.random.fork_rng():
                self._backbones[key] = cls(*args, **kwargs)
        return copy.deepcopy(self._backbones[key])

    def _data(self, spec: Mapping[str, Any], preset: Preset | VolumePreset, **changes: Any) -> DataModule:
        """A data module of a recipe; tables are read once per process."""
        arguments = {**spec["init_args"], **changes}
        if arguments.get("preset") is None:
            arguments["preset"] = asdict(preset)
        data = _instantiate({"class_path": spec["class_path"], "init_args": arguments})
        if "shots" not in changes:
            apart = {name: value for name, value in arguments.items() if name not in ("shots", "seed")}
            key = json.dumps([spec["class_path"], apart], sort_keys=True, default=str)
            if key not in self._manifests:
                self._manifests[key] = data.read_manifest()
            _give(data, self._manifests[key])
        return data

    def _part(
        self,
        spec: Mapping[str, Any],
        preset: Preset | VolumePreset,
        whole: DataModule,
        manifest: Manifest,
        classes: Sequence[str] | None,
    ) -> DataModule:
        """A data module of some of the images: all of those for training are used, since shots were drawn before."""
        names = list(whole.classes if classes is None else classes)
        data = self._data(spec, preset, shots=None, classes=names)
        _give(data, manifest)
        rows = len(data.manifest.records)  # read now, so that the share of rejects is one of the whole
        data.rejects.total += max(0, whole.rejects.total - rows)
        return data


def _drawn(whole: DataModule) -> tuple[list[int], list[int]]:
    """Positions to train and to validate on; images that cannot be read are replaced as `fit` replaces them."""
    if whole.shots is None:
        return whole.manifest.positions("train"), whole.manifest.positions("validate")
    whole.setup("fit")
    validation = whole.val_dataloader()
    loaders = [whole.train_dataloader(), *([] if isinstance(validation, list) else [validation])]
    found = [cast("Any", loader.dataset).positions for loader in loaders]
    return found[0], found[1] if len(found) > 1 else []


def _give(data: DataModule, manifest: Manifest) -> None:
    """Let a data module have a manifest in place of the one that it would read."""
    data.read_manifest = lambda: manifest  # type: ignore[method-assign]


def _instantiate(spec: Mapping[str, Any]) -> DataModule:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True, fail_untyped=False)
    made = parser.instantiate(parser.parse_object({"data": dict(spec)}))
    return cast("DataModule", made.data)


def _trainer(settings: Mapping[str, Any], folder: str) -> Trainer:
    settings = dict(settings)
    given = settings.pop("callbacks") or []
    callbacks = given if isinstance(given, list) else [given]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    if not callbacks:
        # Nobody would look; adapters that choose on the validation split read it themselves.
        quiet |= {"limit_val_batches": 0}
    return Trainer(**{**settings, **quiet, "devices": 1, "num_nodes": 1}, callbacks=callbacks, default_root_dir=folder)
