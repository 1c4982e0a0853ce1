"""Tensors of fixed shape on disk, one row per slot, filled one by one and shared by processes and runs.

    <cache>/views/<key>/meta.json  tokens.bin  pooled.bin  done.bin

Files are as long as they will ever be from the start, so a full disk is an error at once and not a crash in the middle
of training. A row counts once `done` says so, which is written behind it; two processes that fill the same row write
the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from math import prod
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import Tensor

Fields = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of one row, by name."""

_META = "meta.json"
_DRAFT = ".draft-"


class Store:
    """A folder of memory-mapped rows.

    Args:
        folder: Where it lies; made when it is not there.
        slots: Number of rows.
        fields: What a row holds.
    """

    def __init__(self, folder: Path, slots: int, fields: Fields) -> None:
        self._meta = json.dumps({"slots": slots, "fields": {k: [list(s), str(t)] for k, (s, t) in fields.items()}})
        if not folder.exists():
            self._make(folder, slots, fields)
        if (folder / _META).read_text(encoding="utf-8") != self._meta:
            raise ValueError(f"Store: {folder} holds something else than {self._meta}; delete the folder")
        # Says when it was last used, for `make_room`.
        os.utime(folder / _META)
        self.fields = {name: _mapped(folder / f"{name}.bin", (slots, *shape), t) for name, (shape, t) in fields.items()}
        self._done = _mapped(folder / "done.bin", (slots,), torch.uint8)

    def missing(self, slots: Tensor) -> Tensor:
        """Which of these rows are not filled yet, `[B]`."""
        return self._done[slots] == 0

    def write(self, slots: Tensor, rows: Mapping[str, Tensor]) -> None:
        """Fill rows."""
        for name, tensor in rows.items():
            self.fields[name][slots] = tensor.detach().cpu()
        self._done[slots] = 1

    def read(self, slots: Tensor) -> dict[str, Tensor]:
        """Rows as tensors of their own."""
        return {name: tensor[slots] for name, tensor in self.fields.items()}

    def _make(self, folder: Path, slots: int, fields: Fields) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(mkdtemp(prefix=_DRAFT, dir=folder.parent))
        try:
            sizes = {name: row_bytes({name: field}) for name, field in fields.items()} | {"done": 1}
            for name, size in sizes.items():
                with (draft / f"{name}.bin").open("wb") as file:
                    _reserve(file.fileno(), slots * size)
            (draft / _META).write_text(self._meta, encoding="utf-8")
            draft.rename(folder)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            # Where another process was faster its folder is as good.
            if not folder.exists():
                wanted = slots * row_bytes(fields) / 2**30
                message = f"Store: no room for {wanted:.1f} GiB; set `speed.cache` lower (0 for none) or DOMAINVL_CACHE"
                raise OSError(error.errno, message, str(folder)) from error


def row_bytes(fields: Fields) -> int:
    """Bytes of one row."""
    return sum(prod(shape) * dtype.itemsize for shape, dtype in fields.values())


def make_room(root: Path, needed: int, budget: int) -> None:
    """Delete the stores below `root` that were not used for longest, until `needed` more bytes stay in `budget`."""
    stores = []
    for folder in root.iterdir() if root.exists() else ():
        try:
            age = (folder / _META).stat().st_mtime
            stores.append((age, sum(file.stat().st_size for file in folder.iterdir()), folder))
        except FileNotFoundError:
            # Another process is making or deleting it; a draft that stayed for an hour was left by a killed one.
            if folder.name.startswith(_DRAFT) and _idle(folder) > 3600:
                shutil.rmtree(folder, ignore_errors=True)
    total = sum(size for _, size, _ in stores)
    for _, size, folder in sorted(stores):
        if total + needed <= budget:
            return
        # A run that still reads it keeps its mapped files.
        shutil.rmtree(folder, ignore_errors=True)
        total -= size


def _idle(folder: Path) -> float:
    """Seconds since something in a folder was last made; 0 when it is gone."""
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.from_file(str(path), shared=True, size=prod(shape), dtype=dtype).view(shape)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
