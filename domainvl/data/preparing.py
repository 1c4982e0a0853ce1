"""From a manifest as it was read to one that can be trained on: rows counted, patients split, everything checked."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch.utilities import rank_zero_only

from domainvl.data.manifest import Manifest, Record, Split
from domainvl.data.names import listing
from domainvl.data.paths import existing_root
from domainvl.data.rejects import Rejects
from domainvl.data.splits import SplitRule, assigned, check_disjoint

_LICENCES_SHOWN: set[str] = set()


@dataclass(frozen=True)
class Adopted:
    """What a saved adapter says about its data.

    Attributes:
        classes: Classes that it tells apart.
        multilabel: Whether an image may show several of them.
    """

    classes: tuple[str, ...]
    multilabel: bool


def prepared(
    manifest: Manifest, rejects: Rejects, rule: SplitRule, wanted: Sequence[str] | None, adopted: Adopted | None
) -> Manifest:
    """The manifest with classes chosen, duplicates out and splits assigned and checked.

    Args:
        manifest: As it was read.
        rejects: Takes its rejected rows in, and stops where they are too many.
        rule: How patients are split where the data set has no split of its own.
        wanted: Classes to use; all when None.
        adopted: What the adapter that will be used was trained on.
    """
    _tell(manifest)
    rows = manifest.rows
    manifest = manifest.without_duplicates()
    rejects.total += rows
    rejects.add(manifest.rejected)
    rejects.check()
    if not manifest.records:
        raise ValueError(f"{manifest.name}: {manifest.root} holds no image that can be used")
    manifest = assigned(manifest, rule)
    check_disjoint(manifest)
    if adopted is not None and adopted.multilabel != manifest.multilabel:
        kinds = ("one label per image", "several labels per image")
        raise ValueError(
            f"{manifest.name}: this data set has {kinds[manifest.multilabel]}, the adapter was trained with "
            f"{kinds[adopted.multilabel]}; use data of the same kind"
        )
    if wanted is not None:
        manifest = manifest.with_classes(wanted)
    _check_some_exist(manifest)
    return manifest


def nonempty(manifest: Manifest, split: Split) -> list[int]:
    """Positions of the records of a split; ValueError when there are none."""
    positions = manifest.positions(split)
    if not positions:
        counts = (f"{name} {count}" for name, count in manifest.counts().items())
        raise ValueError(
            f"{manifest.name}: the {split} split is empty; images per split: {listing(counts)}. Check the split column "
            "and which classes and views are asked for"
        )
    return positions


def folder_manifest(folder: str, suffixes: Sequence[str], owner: str) -> Manifest:
    """Every file below a folder whose name ends in one of `suffixes`, as a data set without labels."""
    root = existing_root(folder, owner)
    paths = sorted(path for path in root.rglob("*") if path.name.lower().endswith(tuple(suffixes)) and path.is_file())
    if not paths:
        raise ValueError(f"{owner}: no image lies in predict_folder {root}; looked for {', '.join(suffixes)}")
    names = [path.relative_to(root).as_posix() for path in paths]
    return Manifest("predict", root, tuple(Record(name, name, name) for name in names))


@rank_zero_only
def _tell(manifest: Manifest) -> None:
    if manifest.licence and manifest.name not in _LICENCES_SHOWN:
        _LICENCES_SHOWN.add(manifest.name)
        print(f"{manifest.name}: {manifest.licence}", file=sys.stderr)
    for text in manifest.warnings:
        warnings.warn(f"{manifest.name}: {text}", stacklevel=2)


def _check_some_exist(manifest: Manifest) -> None:
    """A wrong root should say so, not fail image by image."""
    probe = [record.path for record in manifest.records[:100]]
    if any((manifest.root / path).exists() for path in probe):
        return
    top, below, _ = probe[0].partition("/")
    raise FileNotFoundError(
        f"{manifest.name}: none of the first {len(probe)} images exists below {manifest.root}"
        f"{f', which should hold the folder {top!r}' if below else ''}; give the root that the paths in the table are "
        "relative to"
    )
