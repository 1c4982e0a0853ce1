"""Phrase grounding: how well the similarity of a phrase to every place of an image points at the boxes of the phrase.

    cnr         contrast-to-noise ratio, |m_in - m_out| / sqrt(v_in + v_out), of the map inside and outside the boxes
                (MS-CXR, BioViL; population variances)
    cnr_signed  without the bars: a map that is dark where it should be bright scores below 0, as |.| hides
    miou        intersection over union of boxes and map > t, mean over fixed thresholds t (BioViL: 0.1 to 0.5)
    pointing    whether the highest place is inside a box; of several equally high ones, the share that is

All boxes of a phrase are one region (their union). Boxes are `(left, top, right, bottom)` in pixels of what the model
sees (after the preset's resize and crop), of volumes `(left, top, front, right, bottom, back)`; right, bottom and back
exclusive. A pixel is inside if its centre is. What a crop has cut away of a box is ignored, and counted where all of a
box is gone: a phrase that has no box left has no score, and is counted too. Maps are compared at pixel resolution;
patch maps go through `upsample` first.

Fixed thresholds on raw cosines favour models whose cosines happen to reach 0.5. `rescale: minmax` stretches every map
to 0..1 before the thresholds; numbers of the two kinds must not be mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from domainvl.evaluation.metrics import Bools, Floats

# Interpolation in single precision makes equal numbers differ by less than this share of them.
_FLAT = 1e-6

GROUNDING = ("cnr", "cnr_signed", "miou", "pointing")


@dataclass(frozen=True)
class GroundingProtocol:
    """How maps are scored.

    Attributes:
        thresholds: Of the intersection over union.
        rescale: `none` (raw cosines) or `minmax` (every map to 0..1), for the thresholds.
    """

    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    rescale: Literal["none", "minmax"] = "none"

    def __post_init__(self) -> None:
        if not self.thresholds:
            raise ValueError("GroundingProtocol: no thresholds; give at least one, as 0.1 to 0.5")
        if self.rescale not in ("none", "minmax"):
            raise ValueError(f"GroundingProtocol: rescale is {self.rescale!r}; choose 'none' or 'minmax'")


BIOVIL = GroundingProtocol()


@dataclass(frozen=True)
class PhraseScore:
    """One phrase; NaN where there is no score.

    Attributes:
        cnr: Contrast-to-noise ratio.
        cnr_signed: The same with its sign.
        miou: Mean intersection over union.
        pointing: Share of the highest places that is inside.
        boxes: Boxes of the phrase.
        outside: Boxes that the crop has cut away.
    """

    cnr: float
    cnr_signed: float
    miou: float
    pointing: float
    boxes: int
    outside: int


def upsample(patches: NDArray[np.floating], size: Sequence[int]) -> NDArray[np.float32]:
    """A patch map at pixel resolution: bilinear between patch centres (trilinear in volumes), constant beyond them.

    Args:
        patches: Similarities on the patch grid, `[H, W]` or `[D, H, W]`.
        size: Pixels along every axis.
    """
    import torch
    import torch.nn.functional as F

    if patches.ndim not in (2, 3) or len(size) != patches.ndim:
        raise ValueError(
            f"upsample: a map of shape {patches.shape} to {tuple(size)}; give [H, W] or [D, H, W] and as many sizes"
        )
    mode = "bilinear" if patches.ndim == 2 else "trilinear"
    grid = torch.from_numpy(np.ascontiguousarray(patches, dtype=np.float32))[None, None]
    return F.interpolate(grid, size=tuple(size), mode=mode, align_corners=False)[0, 0].numpy()


def region(boxes: Sequence[Sequence[float]], size: Sequence[int]) -> tuple[Bools, int]:
    """The union of boxes as a mask, and how many of them have no pixel in it.

    Args:
        boxes: `(left, top, right, bottom)`, in volumes `(left, top, front, right, bottom, back)`.
        size: Shape of the mask, `(H, W)` or `(D, H, W)`.
    """
    axes = len(size)
    mask = np.zeros(tuple(size), dtype=np.bool_)
    outside = 0
    for box in boxes:
        values = np.asarray(box, dtype=np.float64)
        if values.shape != (2 * axes,) or not np.isfinite(values).all() or not (values[:axes] < values[axes:]).all():
            raise ValueError(
                f"region: box {tuple(np.round(values, 1).tolist())}; give {2 * axes} numbers, each lower edge below "
                "its upper one: (left, top, right, bottom), in volumes (left, top, front, right, bottom, back)"
            )
        # Boxes name x first, arrays have it last. A centre at n + 0.5 is inside from low to below high.
        edges = np.ceil(values - 0.5)
        spans = []
        for axis, length in enumerate(size):
            place = axes - 1 - axis
            low, high = np.clip(edges[[place, axes + place]], 0, length).astype(int)
            spans.append(slice(low, high))
        if mask[tuple(spans)].size:
            mask[tuple(spans)] = True
        else:
            outside += 1
    return mask, outside


def score_phrase(
    similarity: NDArray[np.floating], boxes: Sequence[Sequence[float]], protocol: GroundingProtocol = BIOVIL
) -> PhraseScore:
    """Compare a similarity map with the boxes of its phrase.

    Args:
        similarity: Cosines at pixel resolution, `[H, W]` or `[D, H, W]`.
        boxes: At least one, in pixels of the map.
        protocol: Thresholds.
    """
    if similarity.ndim not in (2, 3) or not np.issubdtype(similarity.dtype, np.floating):
        raise ValueError(
            f"score_phrase: the map is {similarity.dtype} {similarity.shape}, expected floats [H, W] or [D, H, W]"
        )
    if not np.isfinite(similarity).all():
        raise ValueError("score_phrase: the map holds NaN or infinity; the model diverged")
    if not boxes:
        raise ValueError("score_phrase: no boxes; leave out phrases without any")
    mask, outside = region(boxes, similarity.shape)
    if not mask.any():
        return PhraseScore(np.nan, np.nan, np.nan, np.nan, len(boxes), outside)
    values = similarity.astype(np.float64)
    signed = _contrast_to_noise(values[mask], values[~mask])
    highest = values >= values.max() - _FLAT * np.abs(values).max()
    pointing = float(np.count_nonzero(highest & mask) / np.count_nonzero(highest))
    if protocol.rescale == "minmax":
        span = values.max() - values.min()
        values = (values - values.min()) / span if span > 0 else np.zeros_like(values)
    overlaps = []
    for threshold in protocol.thresholds:
        called = values > threshold
        overlaps.append(np.count_nonzero(called & mask) / np.count_nonzero(called | mask))
    return PhraseScore(abs(signed), signed, float(np.mean(overlaps)), pointing, len(boxes), outside)


def _contrast_to_noise(inside: Floats, outside: Floats) -> float:
    """0 for a map that is flat everywhere; NaN where nothing is outside, or two flat levels leave no noise."""
    if not outside.size:
        return float("nan")
    contrast, noise = inside.mean() - outside.mean(), np.sqrt(inside.var() + outside.var())
    flat = _FLAT * max(np.abs(inside).max(), np.abs(outside).max())
    if noise <= flat:
        return 0.0 if abs(contrast) <= flat else float("nan")
    return float(contrast / noise)


@dataclass(frozen=True, eq=False)
class Phrases:
    """Scores of one model on many phrases. Patients stay out of the repr.

    Attributes:
        patients: Whose image each phrase describes, `[P]`.
        scores: One per phrase, `[P]`.
    """

    patients: Sequence[str] = field(repr=False)
    scores: Sequence[PhraseScore] = field(repr=False)

    def __post_init__(self) -> None:
        if not self.scores or len(self.patients) != len(self.scores):
            raise ValueError(
                f"Phrases: {len(self.scores)} scores of {len(self.patients)} patients; give one patient per phrase, "
                "and at least one phrase"
            )

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def table(self) -> Floats:
        """Scores in the order of `GROUNDING`, `[P, 4]`."""
        return np.array([[getattr(score, name) for name in GROUNDING] for score in self.scores], dtype=np.float64)

    def values(self) -> dict[str, Floats]:
        """Means over the phrases that have a score, `[]` each."""
        return {name: value[0] for name, value in self(np.ones((1, len(self)))).items()}

    def __call__(self, weights: Floats) -> dict[str, Floats]:
        """The means under every row of `weights`, `[R, P]`; `[R]` each, NaN where no phrase is left."""
        table = self.table
        known = ~np.isnan(table)
        with np.errstate(invalid="ignore"):
            means = weights @ np.where(known, table, 0) / (weights @ known)
        return {name: means[:, column] for column, name in enumerate(GROUNDING)}

    def facts(self) -> dict[str, Any]:
        """Counts for `metrics.json`."""
        return {
            "phrases": len(self),
            "boxes": sum(score.boxes for score in self.scores),
            "boxes_outside": sum(score.outside for score in self.scores),
            "phrases_without_box": sum(score.outside == score.boxes for score in self.scores),
            "phrases_without_contrast": int(np.isnan(self.table[:, 0]).sum()),
        }
