"""How well the model does, without any training, on samples that it never saw."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

POSITIVE = "a chest x-ray showing {}."
NEGATIVE = "a chest x-ray showing no {}."
FINDINGS = ("Cardiomegaly", "Pleural Effusion", "Pneumothorax", "Consolidation", "Lung Lesion")


@dataclass(frozen=True)
class Films:
    """One split of the chest X-ray samples: images, and labels ``[N, F]`` with NaN where the report says nothing."""

    images: list[Image.Image]
    labels: NDArray[np.float64]
    patients: tuple[str, ...]


def read_films(folder: Path, split: str) -> Films:
    """Reads the samples' JPEG and DICOM files; doubted and unmentioned findings do not count."""
    with (folder / "studies.csv").open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["split"] == split]
    value = {"1": 1.0, "0": 0.0}
    return Films(
        images=[_open(folder / row["image"]) for row in rows],
        labels=np.array([[value.get(row[finding], np.nan) for finding in FINDINGS] for row in rows]),
        patients=tuple(row["patient"] for row in rows),
    )


@torch.no_grad()
def zero_shot_auroc(
    model: CLIPModel, tokenizer: PreTrainedTokenizerFast, processor: CLIPImageProcessor, films: Films
) -> dict[str, float]:
    """AUROC of each finding: how much nearer an image is to the finding's prompt than to its denial."""
    image = image_features(model, processor, films.images)
    names = [finding.lower() for finding in FINDINGS]
    present = _text(model, tokenizer, [POSITIVE.format(name) for name in names])
    absent = _text(model, tokenizer, [NEGATIVE.format(name) for name in names])
    margin = (image @ (present - absent).T).numpy()
    return {finding: auroc(margin[:, i], films.labels[:, i]) for i, finding in enumerate(FINDINGS)}


@torch.no_grad()
def image_features(model: CLIPModel, processor: CLIPImageProcessor, images: list[Image.Image]) -> Tensor:
    """Normalised features ``[N, D]``."""
    features = []
    for start in range(0, len(images), 64):
        pixels = processor(images=images[start : start + 64], return_tensors="pt")["pixel_values"]
        features.append(functional.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1))
    return torch.cat(features)


def auroc(scores: NDArray[np.float32], labels: NDArray[np.float64]) -> float:
    """Area under the ROC curve by ranks; ties count half, NaN labels not at all."""
    known = ~np.isnan(labels)
    positive, negative = scores[known & (labels == 1)], scores[known & (labels == 0)]
    if not len(positive) or not len(negative):
        return float("nan")
    above = (positive[:, None] > negative[None]).mean()
    ties = (positive[:, None] == negative[None]).mean()
    return float(above + ties / 2)


def _text(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> Tensor:
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    return functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)


def _open(path: Path) -> Image.Image:
    if path.suffix == ".dcm":
        return _open_dicom(path)
    with Image.open(path) as image:
        return image.convert("RGB")


def _open_dicom(path: Path) -> Image.Image:
    import pydicom
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    film = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(film.pixel_array, film), film).astype(np.float32)
    # The window's output spans the range that the modality rescale can reach, whatever this image holds.
    ends = np.array([[0, 2**film.BitsStored - 1]], dtype=film.pixel_array.dtype)
    low, high = (
        apply_voi_lut(apply_modality_lut(ends, film), film).min(),
        apply_voi_lut(apply_modality_lut(ends, film), film).max(),
    )
    grey = (shown - low) / (high - low)
    if film.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return Image.fromarray(np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)).convert("RGB")
