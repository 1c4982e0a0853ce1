"""Finished run folders without a fit: predictions drawn from a generator, everything else written by the real code."""

import csv
import json
from pathlib import Path

import numpy as np
import yaml

from domainvl.evaluation import Predictions, evaluate, write_metrics, write_predictions
from domainvl.report import Record, Seen, pictured

PATIENT = "patient-Zebedee"
EVIL = "<script>alert('x')</script> & \"Co\""
"""A class name that breaks a page that forgets to escape."""

SPLIT = "3f2a9c"
FACTS = {
    "finished": "2026-01-02T03:04:05+00:00",
    "training": {
        "parameters": 2000,
        "trained": 100,
        "device": "cpu",
        "processes": 1,
        "precision": "32-true",
        "epochs": 3,
        "steps": 9,
        "seconds": 75.0,
    },
    "memory": {"process": 2**30, "device": None},
    "data": {
        "name": "table.csv",
        "licence": "research only",
        "multilabel": True,
        "classes": [],
        "shots": 4,
        "rows": 500,
        "rejected": 3,
        "left_out": 0,
        "splits": {"train": {"images": 40, "patients": 40}, "test": {"images": 120, "patients": 80}},
    },
    "leakage": {"crops": True, "train/test": {"patients": {"count": 0, "of": 80}, "identical_images": None}},
}
CONFIG = {
    "model": {
        "class_path": "domainvl.tasks.Classification",
        "init_args": {
            "backbone": {"class_path": "domainvl.backbones.HuggingFace", "init_args": {"name": "builtin:tiny"}},
            "adapter": {"class_path": "domainvl.adapters.LoRA", "init_args": {"rank": 8}},
            "objectives": {"ce": {"class_path": "domainvl.objectives.BinaryCrossEntropy", "init_args": {}}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003}},
        },
    },
    "data": {"class_path": "data_modules.ChestXrays", "init_args": {"root": "/home/someone/secret", "shots": 4}},
}


def predictions(
    *, rows: int = 120, multilabel: bool = True, classes: int = 3, adapted: float | None = 2.0, seed: int = 0
) -> Predictions:
    """Scores that know more of the labels when adapted; three of four images share their patient with another."""
    draw = np.random.default_rng(0)
    names = [EVIL, *(f"Finding {number}" for number in range(1, classes))]
    labels = draw.integers(2, size=(rows, classes)) if multilabel else draw.integers(classes, size=rows)
    binary = labels if multilabel else labels[:, None] == np.arange(classes)
    noise = np.random.default_rng(seed).normal(size=(2, rows, classes))

    def scores(skill: float, own: np.ndarray) -> np.ndarray:
        logits = skill * (2 * binary - 1) + own
        if multilabel:
            return 1 / (1 + np.exp(-logits))
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    return Predictions(
        ids=[f"images/{PATIENT}-{row}.jpg" for row in range(rows)],
        patients=[f"{PATIENT}-{row * 2 // 3}" for row in range(rows)],
        classes=names,
        multilabel=multilabel,
        labels=labels,
        valid=draw.random((rows, classes)) < 0.9 if multilabel else None,
        zero_shot=scores(0.2, noise[0]),
        adapted=None if adapted is None else scores(adapted, noise[1]),
    )


def pictures(folder: Path) -> dict[str, Seen]:
    """Grey squares for all images that a page would show, with maps and a box."""
    record = Record.read(folder)
    draw = np.random.default_rng(0)
    labels = list(record.metrics["per_class"])
    return {
        image: Seen(
            draw.integers(256, size=(24, 24), dtype=np.uint8),
            {(model, label): draw.normal(size=(4, 4)) for model in record.models for label in labels},
            [(f"a {label.upper()} that nobody may read", (0.25, 0.25, 0.5, 0.75)) for label in labels],
        )
        for image in pictured(record)
    }


def run_folder(
    folder: Path, found: Predictions | None = None, *, old: bool = False, split: str = SPLIT, resamples: int = 100
) -> Path:
    """A finished run; `old` ones have what the first release wrote and no more."""
    folder.mkdir(parents=True)
    found = found or predictions()
    hashes = {"split": split, "preset": "p1", "backbone": "b1"}
    evaluation = evaluate(found, seed=1, resamples=resamples)
    write_metrics(folder / "metrics.json", evaluation, split="test", hashes=hashes, seed=1)
    write_predictions(folder / "predictions.csv", found)
    if old:
        return folder
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "run.json").write_text(json.dumps(FACTS))
    (folder / "checkpoints").mkdir()
    with (folder / "rejects.csv").open("w", newline="") as file:
        rows = [(7, f"{PATIENT}.jpg", "the file does not exist"), (9, "b", f"label '{PATIENT}' is none <b>")]
        csv.writer(file).writerows([("row", "path", "reason"), *rows, (11, "c", "label 'other' is none <b>")])
    with (folder / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("epoch", "step", "test/accuracy", "train/loss", "train/ce", "val/auroc_macro"),
                (0, 2, "", 0.9, 0.8, ""),
                (1, 5, "", 0.6, 0.5, 0.7),
                (2, 8, "", 0.4, 0.3, 0.8),
                (3, 9, 0.8, "", "", ""),
            ]
        )
    return folder
