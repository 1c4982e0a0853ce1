"""The images that one cell trains on and those that it is tested on, as manifests of their own.

What trains never holds a test image, nor a label of one, so that no objective, adapter or callback can choose by them;
test parts are made when the training is over. `domainvl.evaluation.protocols` has the rules.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from domainvl.data.labels import LabelPolicy
from domainvl.data.manifest import Manifest, Record
from domainvl.evaluation.protocols import cut_classes


@dataclass(frozen=True)
class Part:
    """Something to test on.

    Attributes:
        name: `all`, `base`, `novel`, or what another recipe is called.
        dataset: Which data: None for those that were trained on, else the name of a target.
        classes: Classes to tell apart; all of the data set's when None.
    """

    name: str
    dataset: str | None = None
    classes: tuple[str, ...] | None = None


def parts(protocol: str, classes: Sequence[str], targets: Collection[str]) -> list[Part]:
    """What a cell is tested on; the classes of the first part are those that it trains on."""
    if protocol == "few-shot":
        return [Part("all")]
    if protocol == "base-to-novel":
        base, novel = cut_classes(classes)
        return [Part("base", classes=tuple(base)), Part("novel", classes=tuple(novel))]
    same = tuple(classes) if protocol == "domain-generalisation" else None
    return [Part("source"), *(Part(name, name, same) for name in targets)]


def training_part(
    whole: Manifest,
    train: Sequence[int],
    validate: Sequence[int],
    seen: Sequence[str] | None,
    policy: LabelPolicy,
) -> Manifest:
    """The images to train and to choose on, and no other.

    Args:
        whole: The data set, with all its classes.
        train: Positions of the images that were drawn, in the order of the draw.
        validate: Positions of the validation images.
        seen: Classes that are trained on; all when None.
        policy: How uncertain labels count (multi-label).
    """
    records = [whole.records[position] for position in (*train, *validate)]
    if seen is not None and whole.multilabel:
        hidden = set(whole.classes) - set(seen)

        def shows(labels: Sequence[float | None], names: Collection[str]) -> bool:
            return any(label == 1 and name in names for label, name in zip(labels, whole.classes, strict=True))

        targets = [policy.targets(record.labels, whole.classes) for record in records]
        records = [
            record
            for record, labels in zip(records, targets, strict=True)
            if shows(labels, set(seen)) or not shows(labels, hidden)
        ]
    return _bare(whole, records)


def testing_part(whole: Manifest) -> Manifest:
    """The images to test on, and no other."""
    return _bare(whole, [record for record in whole.records if record.split == "test"])


def _bare(whole: Manifest, records: Sequence[Record]) -> Manifest:
    # Notices were given and rows rejected when the whole was read; validation images must not be carved out again.
    return replace(whole, records=tuple(records), rejected=(), carve=0.0, licence="", warnings=())
