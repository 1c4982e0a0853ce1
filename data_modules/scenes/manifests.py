"""Manifests of tiles: records placed on the globe and split there, or all tiles of scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data_modules.scenes.plan import ScenePlan, Tiling, grid_plan, made_plan, read_headers
from data_modules.scenes.split import Assigned, SpatialSplit, assign
from domainvl.data.manifest import Manifest, Record
from domainvl.data.names import listing
from domainvl.data.rejects import Reject


@dataclass(frozen=True)
class Placed:
    """A manifest whose tiles have places and splits.

    Attributes:
        manifest: The tiles that are used.
        plan: Where they lie, in the manifest's order.
        assigned: The split of all tiles, of those that were left out, too.
        left_out: Tiles within the buffer.
    """

    manifest: Manifest
    plan: ScenePlan
    assigned: Assigned
    left_out: tuple[Reject, ...]


def placed_manifest(manifest: Manifest, tiling: Tiling, rule: SpatialSplit) -> Placed:
    """Place tiles of a table on the globe and split them there, unless the table has splits of its own."""
    records = sorted(manifest.records, key=lambda record: record.path)
    headers, rejected = read_headers(manifest.root, sorted({record.path for record in records}))
    gone = {reject.path: reject.reason for reject in rejected}
    bad = [Reject(record.row, record.key, gone[record.path]) for record in records if record.path in gone]
    usable = []
    for record in records:
        if record.path in gone:
            continue
        one = headers[record.path]
        left, top, width, height = record.part
        if left + width > one.width or top + height > one.height:
            reason = f"the window lies outside the raster of {one.width} x {one.height}"
            bad.append(Reject(record.row, record.key, reason))
        else:
            usable.append(record)
    boxes: dict[str, list[tuple[int, ...]]] = {scene: [] for scene in headers}
    for record in usable:
        boxes[record.path].append(record.part)
    plan = made_plan(headers, [np.array(held, dtype=np.int64).reshape(-1, 4) for held in boxes.values()], tiling)
    order = {(record.path, record.part): record for record in usable}
    windows = zip(plan.scene.tolist(), plan.boxes.tolist(), strict=True)
    ordered = [order[plan.scenes[scene], tuple(box)] for scene, box in windows]
    own = [record.split for record in ordered if record.split is not None]
    if own and len(own) < len(ordered):
        raise ValueError(
            f"{manifest.name}: {len(ordered) - len(own)} of {len(ordered)} tiles name no split; fill the split "
            "column in, or name no split column to have places split for you"
        )
    assigned = assign(rule, plan.places, own or None)
    kept = np.array([row for row, split in enumerate(assigned.split) if split is not None], dtype=np.int64)
    chosen = tuple(
        replace(ordered[row], patient=assigned.place[row], split=assigned.split[row]) for row in kept.tolist()
    )
    out = tuple(
        Reject(record.row, record.key, "left out: it lies within the buffer around test or validation tiles")
        for record, split in zip(ordered, assigned.split, strict=True)
        if split is None
    )
    found = replace(manifest, records=chosen, rejected=(*manifest.rejected, *bad))
    return Placed(found, plan[kept], assigned, out)


def scenes_manifest(root: Path, scenes: Sequence[str], tiling: Tiling, name: str) -> tuple[Manifest, ScenePlan]:
    """All tiles of scenes, without labels, block by block."""
    headers, rejected = read_headers(root, scenes)
    if not headers:
        reasons = listing(f"{reject.path}: {reject.reason}" for reject in rejected)
        raise ValueError(f"{name}: no scene can be used; {reasons}")
    plan = grid_plan(headers, tiling)
    records = []
    for row in range(len(plan)):
        path, part = plan.scenes[int(plan.scene[row])], plan.box(row)
        tile = f"{path}#{','.join(map(str, part))}"
        records.append(Record(tile, path, f"{plan.places.lon[row]:.5f},{plan.places.lat[row]:.5f}", part=part))
    return Manifest(name, root, tuple(records), rejected=tuple(rejected)), plan
