"""The map of one scene: scores of tiles, kept row by row on disk, and the files that are made of them.

Scores are written as rows of tiles are finished; whatever kills the process, what was finished is there, and the same
call goes on with the rest. Blending and files depend on nothing but the scores, so a map that was interrupted has the
bytes of one that was not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from data_modules.scenes.blend import blended, hat
from data_modules.scenes.map_files import NOTHING, draft, write_picture, write_rasters, write_regions
from data_modules.scenes.map_tiles import MapStream, MapTiles
from domainvl.data.store import Store

_STRIP = 256


@dataclass(frozen=True)
class MapSettings:
    """How a map is made.

    Attributes:
        cell: Pixels of the scene along the side of a cell of the map; a quarter of the stride when None.
        threshold: Least score of a region.
    """

    cell: int | None = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.cell is not None and self.cell < 1:
            raise ValueError(f"MapSettings: cell is {self.cell}; give pixels of the scene, 1 or more")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"MapSettings: threshold is {self.threshold}; give a probability")


class SceneMap:
    """A map that is being made.

    Args:
        folder: Where it goes; one that holds a part of the same map goes on.
        tiles: The tiles of the scene.
        classes: What is scored.
        model: What tells the model that scores from others.
        settings: How the map is made.
    """

    def __init__(
        self, folder: Path, tiles: MapTiles, classes: Sequence[str], model: str, settings: MapSettings
    ) -> None:
        if len(classes) > NOTHING - 1:
            raise ValueError(f"SceneMap: there are {len(classes)} classes; a class map holds {NOTHING - 1} at most")
        self.folder = folder
        self.tiles = tiles
        self.classes = list(classes)
        self.settings = settings
        stride = tiles.tiling.stride
        self.cell = settings.cell or max(1, stride // 4)
        folder.mkdir(parents=True, exist_ok=True)
        self._claim(model)
        self._rows, columns = len(tiles.tops), len(tiles.lefts)
        self._store = Store(folder / "scores", self._rows, {"scores": ((columns, len(classes)), torch.float32)})
        self._held: dict[int, torch.Tensor] = {}

    @property
    def missing(self) -> list[int]:
        """Rows of tiles that are not scored yet."""
        return torch.nonzero(self._store.missing(torch.arange(self._rows))).flatten().tolist()

    def loader(self, batch_size: int, workers: int) -> DataLoader[Any]:
        """Batches of the missing rows, in order."""
        return MapStream(self.tiles, self.missing, batch_size).loader(workers)

    def add(self, place: torch.Tensor, scores: np.ndarray) -> None:
        """Take scores `[B, C]` of tiles at rows and columns `[B, 2]` in; rows come one after the other."""
        row = int(place[0, 0])
        self._keep(before=row)
        held = self._held.setdefault(row, self._blank())
        held[place[:, 1].cpu()] = torch.from_numpy(scores)

    def finish(self) -> dict[str, Any]:
        """Write the files; facts about them."""
        self._keep(before=self._rows)
        for row in self.missing:
            # Nothing of it was seen, so no batch came.
            self._store.write(torch.tensor([row]), {"scores": self._blank()[None]})
        one, cell = self.tiles.header, self.cell
        shape = (-(-one.height // cell), -(-one.width // cell))
        size = self.tiles.tiling.size
        down, across = hat(self.tiles.tops, size, cell, shape[0]), hat(self.tiles.lefts, size, cell, shape[1])

        def strips() -> Iterator[tuple[int, np.ndarray]]:
            return blended(self._scores, down, across, _STRIP)

        write_rasters(self.folder, one, cell, shape, self.classes, strips)
        regions = write_regions(self.folder, self.classes, self.settings.threshold)
        write_picture(self.folder, self.tiles.path, one, self.tiles.look, self.classes)
        facts = {"rows": shape[0], "columns": shape[1], "cell": cell, "regions": regions, "classes": self.classes}
        with draft(self.folder / "map.json") as target:
            target.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        return facts

    def _scores(self, row: int) -> np.ndarray:
        found: np.ndarray = self._store.read(torch.tensor([row]))["scores"][0].numpy()
        return found

    def _blank(self) -> torch.Tensor:
        return torch.full((len(self.tiles.lefts), len(self.classes)), float("nan"))

    def _keep(self, before: int) -> None:
        """Write rows that are complete, because a later one has begun."""
        for row in [row for row in self._held if row < before]:
            self._store.write(torch.tensor([row]), {"scores": self._held.pop(row)[None]})

    def _claim(self, model: str) -> None:
        """Refuse a folder that holds another map."""
        tiles = self.tiles
        state = tiles.path.stat()
        about = {
            "model": model,
            "scene": [tiles.path.name, state.st_size, state.st_mtime_ns],
            "header": asdict(tiles.header),
            "tiling": asdict(tiles.tiling),
            "look": asdict(tiles.look),
            "preset": tiles.preset.digest,
            "classes": self.classes,
            "cell": self.cell,
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        mark = self.folder / ".map"
        if not mark.exists():
            if (self.folder / "scores").exists():
                shutil.rmtree(self.folder / "scores")
            with draft(mark) as target:
                target.write_text(digest, encoding="utf-8")
        if mark.read_text(encoding="utf-8") != digest:
            raise ValueError(
                f"SceneMap: {self.folder} holds a map of another scene, model or setting; name another folder"
            )
