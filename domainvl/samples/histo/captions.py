"""What is said about a patch: a caption, a remark that fits several, and a region of interest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from domainvl.samples.histo.cases import Patch

_NAMES: Mapping[str, Sequence[str]] = {
    "adipose tissue": ("adipose tissue", "mature fat cells", "fat with empty round cells"),
    "glands": ("glands", "round glands with open lumens", "normal mucosa with glands"),
    "lymphocytes": ("lymphocytes", "many small round nuclei", "a dense lymphocytic infiltrate"),
    "necrosis": ("necrosis", "granular dead debris", "necrotic debris without nuclei"),
    "stroma": ("stroma", "wavy pink fibres", "fibrous stroma"),
    "tumor": ("tumor", "crowded large dark nuclei", "sheets of tumor cells"),
}
_WHOLE = (
    "Histology patch showing {}.",
    "H&E image of tissue with {}.",
    "Microscope image of {}.",
    "Most of this field is {}.",
    "Here we see {}.",
)
_EDGE = (
    "At the edge, {}.",
    "Also seen: {}.",
    "It borders on {}.",
    "To one side, {}.",
)
_REMARKS = (
    "Sections show {} and {}.",
    "Fields with {} next to {}.",
    "{} together with {} in this slide.",
)
_ALONE = ("Sections show {}.", "Fields of {} only.", "This slide is rich in {}.")


def caption(rng: np.random.Generator, patch: Patch) -> str:
    """What fills the patch, and what else is there."""
    said = _one(rng, _WHOLE).format(_name(rng, patch.kind))
    edges = [_capital(_one(rng, _EDGE).format(_name(rng, other))) for other in patch.besides]
    return " ".join([said, *edges])


def remark(rng: np.random.Generator, patch: Patch) -> str:
    """What is true of all patches with the same tissues."""
    names = [_name(rng, kind) for kind in sorted({patch.kind, *patch.besides})]
    return _capital(_one(rng, _REMARKS if len(names) == 2 else _ALONE).format(*names))


def region(rng: np.random.Generator, patch: Patch) -> str:
    """A few words about what is pointed at."""
    return _name(rng, patch.kind)


def _name(rng: np.random.Generator, kind: str) -> str:
    return _one(rng, _NAMES[kind])


def _one(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
