"""k shots per class, drawn by patient.

Single-label data follow Dassl (`dassl/data/datasets/base_dataset.py`), the protocol of CoOp and its descendants, to the
draw: Python's `random` seeded once, classes in order of first appearance in the training list, `random.sample` of k
each, then the same on the validation list with min(k, 4). Dassl knows no patients; we draw patients instead of images
and one image of each, which is the same draw where every image is its own patient. Dassl takes what there is when a
class is smaller than k; for training we stop, because the result would be called k-shot and not be it.

Multi-label data have no such protocol. Ours: k rounds; in each round every class draws one more patient with a positive
image, and so does "no finding of these", patients without any positive or uncertain label. Patients who were not drawn
before go first. So a k-shot set has at most k * (C + 1) images, and the 1-shot set is part of the 2-shot set.

An image that cannot be read is passed over and the next one drawn; the other draws stay as they were.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

from domainvl.data.labels import Label, LabelPolicy
from domainvl.data.manifest import Manifest
from domainvl.data.splits import uniform

DASSL_VALIDATION = 4
NONE_OF_THEM = "none of the classes"


def check_shots(shots: int | None, owner: str) -> None:
    """Raise unless `shots` is None (all data) or a positive number."""
    if shots is not None and shots < 1:
        raise ValueError(
            f"{owner}: shots is {shots}; give 1, 2, 4, 8, 16 or another positive number, or null for all data"
        )


def draw(
    manifest: Manifest,
    train: Sequence[int],
    validate: Sequence[int],
    shots: int,
    seed: int,
    policy: LabelPolicy,
    unreadable: Collection[int] = (),
) -> tuple[list[int], list[int]]:
    """Positions of the few-shot training and validation images, in the manifest.

    Args:
        manifest: The data set.
        train: Positions of the training split.
        validate: Positions of the validation split.
        shots: k.
        seed: Seed of the draw.
        policy: How uncertain and blank labels count (multi-label).
        unreadable: Positions to pass over.
    """
    rule = _draw_multilabel if manifest.multilabel else _draw_single
    generator = random.Random(seed)
    few = min(shots, DASSL_VALIDATION)
    return (
        rule(manifest, train, shots, seed, policy, unreadable, generator, strict=True),
        rule(manifest, validate, few, seed, policy, unreadable, generator, strict=False),
    )


def _draw_single(
    manifest: Manifest,
    positions: Sequence[int],
    shots: int,
    seed: int,
    policy: LabelPolicy,
    unreadable: Collection[int],
    generator: random.Random,
    *,
    strict: bool,
) -> list[int]:
    by_class: dict[int, dict[str, list[int]]] = {}
    for position in positions:
        record = manifest.records[position]
        target = record.labels.index(Label.POSITIVE)
        by_class.setdefault(target, {}).setdefault(record.patient, []).append(position)
    if strict:
        for target, name in enumerate(manifest.classes):
            usable = [patient for patient, own in by_class.get(target, {}).items() if set(own) - set(unreadable)]
            _check_enough(manifest, name, len(usable), shots)
    chosen = []
    for patients in by_class.values():
        names = list(patients)
        drawn = generator.sample(names, min(shots, len(names)))
        waiting = iter(_shuffled(set(names) - set(drawn), f"spare:{seed}"))
        for patient in drawn:
            image = _image_of(manifest, patients[patient], seed, unreadable)
            # Replacements come from a draw of their own: `generator` must stay where Dassl's would be.
            while image is None and (patient := next(waiting, "")):
                image = _image_of(manifest, patients[patient], seed, unreadable)
            if image is not None:
                chosen.append(image)
    return chosen


def _draw_multilabel(
    manifest: Manifest,
    positions: Sequence[int],
    shots: int,
    seed: int,
    policy: LabelPolicy,
    unreadable: Collection[int],
    generator: random.Random,
    *,
    strict: bool,
) -> list[int]:
    groups = _groups(manifest, positions, policy, unreadable)
    if strict:
        for name, patients in groups.items():
            _check_enough(manifest, name, len(patients), shots)
    queues = {name: _shuffled(patients, f"shot:{seed}:{name}") for name, patients in groups.items()}
    drawn: set[str] = set()
    chosen: dict[int, None] = {}
    for _ in range(shots):
        for name, queue in queues.items():
            if not queue:
                continue
            patient = next((one for one in queue if one not in drawn), queue[0])
            queue.remove(patient)
            drawn.add(patient)
            image = _image_of(manifest, groups[name][patient], seed, ())
            if image is not None:
                chosen[image] = None
    return list(chosen)


def _groups(
    manifest: Manifest, positions: Sequence[int], policy: LabelPolicy, unreadable: Collection[int]
) -> dict[str, dict[str, list[int]]]:
    """Positions by class and patient, and of the patients who have none of the classes."""
    groups: dict[str, dict[str, list[int]]] = {name: {} for name in (*manifest.classes, NONE_OF_THEM)}
    touched: set[str] = set()
    for position in positions:
        record = manifest.records[position]
        targets = policy.targets(record.labels, manifest.classes)
        if 1.0 in targets or Label.UNCERTAIN in record.labels:
            touched.add(record.patient)
        if position in unreadable:
            continue
        for name, target in zip(manifest.classes, targets, strict=False):
            if target == 1.0:
                groups[name].setdefault(record.patient, []).append(position)
        if 0.0 in targets and 1.0 not in targets:
            groups[NONE_OF_THEM].setdefault(record.patient, []).append(position)
    groups[NONE_OF_THEM] = {name: own for name, own in groups[NONE_OF_THEM].items() if name not in touched}
    return groups


def _shuffled(names: Iterable[str], key: str) -> list[str]:
    """An order in which each name's place depends on the name and the key alone."""
    return sorted(names, key=lambda name: uniform(key, name))


def _image_of(manifest: Manifest, positions: Sequence[int], seed: int, unreadable: Collection[int]) -> int | None:
    """One of a patient's images, by a draw that does not depend on where in the table they stand."""
    by_key = {manifest.records[position].key: position for position in positions if position not in unreadable}
    return by_key[_shuffled(by_key, f"image:{seed}")[0]] if by_key else None


def _check_enough(manifest: Manifest, name: str, patients: int, shots: int) -> None:
    if patients >= shots:
        return
    advice = "give fewer shots, or leave the class out with classes: [...]"
    if name == NONE_OF_THEM:
        advice = "give fewer shots, or say with labels: {blank: negative} that what is not mentioned is absent"
    raise ValueError(
        f"{manifest.name}: shots is {shots}, but only {patients} training patients have {name!r} in an image that "
        f"can be used; {advice}"
    )
