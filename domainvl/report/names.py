"""What numbers are called on a page, and how they are written."""

from __future__ import annotations

import re

from domainvl.evaluation.bootstrap import Interval

MODELS = {"zero_shot": "zero-shot", "adapted": "adapted"}

_METRICS = {
    "auroc_macro": ("Mean AUROC", "how often an image with the finding is ranked above one without it"),
    "auprc_macro": ("Mean AUPRC", "precision averaged over all recalls; chance is the share of positives"),
    "accuracy": ("Accuracy", "share of decisions that are right"),
    "accuracy_balanced": ("Balanced accuracy", "as if all classes were equally common"),
    "f1_macro": ("Mean F1", "balance of precision and recall at the decision threshold"),
    "f1_macro_tuned": ("Mean F1, tuned", "at thresholds that validation chose"),
    "f1_weighted_tuned": ("Weighted F1, tuned", "the same, classes counted by their positives"),
    "calibration_error": ("Calibration error", "gap between stated and seen probability; lower is better"),
    "mean_recall": ("Mean recall", "mean of R@1, R@5 and R@10, both ways"),
    "cnr": ("Contrast to noise", "how far the map stands out inside the box, whatever its sign"),
    "cnr_signed": ("Contrast to noise, signed", "above 0: the map is higher inside the box"),
    "miou": ("Mean IoU", "overlap of map and box over fixed thresholds"),
    "pointing": ("Pointing game", "how often the map's highest point lies in the box"),
}
_WAYS = {"i2t": ("Image to text", "image", "text"), "t2i": ("Text to image", "text", "image")}
_RETRIEVAL = re.compile(r"(i2t|t2i)_(?:([rp])(\d+)|median_rank)")
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
LOWER_IS_BETTER = ("calibration_error", "median_rank")


def metric(name: str) -> tuple[str, str]:
    """A metric in words, and what it says."""
    found = _RETRIEVAL.fullmatch(name)
    if found is None:
        return _METRICS.get(name, (name, ""))
    way, kind, k = found.groups()
    title, asks, holds = _WAYS[way]
    if kind == "r" and k == "1":
        return f"{title}, R@1", f"how often the {holds} that is found first is the own one"
    if kind == "p" and k == "1":
        return f"{title}, P@1", f"how often the {holds} that is found first has the same findings"
    if kind == "r":
        return f"{title}, R@{k}", f"share of {asks}s whose own {holds} is among the first {k}"
    if kind == "p":
        return f"{title}, P@{k}", f"share of the first {k} {holds}s with the same findings"
    return f"{title}, median rank", f"where the own {holds} is found; lower is better"


def digits(name: str) -> int:
    """Decimals of a metric."""
    return 1 if name.endswith("median_rank") else 3


def number(value: float | None, places: int = 3, signed: bool = False) -> str:
    """A value, with a true minus sign."""
    if value is None:
        return DASH
    return f"{value:{'+' if signed else ''}.{places}f}".replace("-", MINUS)


def span(value: Interval, places: int = 3, signed: bool = False) -> str:
    """The interval of a value; empty where there is none."""
    if value.low is None or value.high is None:
        return ""
    return f"{number(value.low, places, signed)} to {number(value.high, places, signed)}"


def counted(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def share(part: int, of: int) -> str:
    """A share in per cent; a dash of nothing."""
    return f"{100 * part / of:.0f} %" if of else DASH
