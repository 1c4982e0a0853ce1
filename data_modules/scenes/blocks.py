"""Blocks of tiles: read from disk and stretched once, then cut.

A tile at a random place touches several blocks of a compressed file, and each is decoded for it. Tiles that lie
together are read together here: one read, one pass over the values, and the tiles are views of it.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from data_modules.scenes.files import Box

BUDGET = 256 * 2**20
"""Bytes of stretched blocks that a process keeps."""


@dataclass(frozen=True)
class Block:
    """Pixels that were read as one.

    Attributes:
        left: Column of the scene that the first one is.
        top: Row of the scene that the first one is.
        reduce: Pixels of the scene along the side of one of these.
        pixels: 0..255, `[C, H, W]`.
        seen: Where the sensor saw something, `[H, W]`; None where it saw everything.
    """

    left: int
    top: int
    reduce: int
    pixels: np.ndarray
    seen: np.ndarray | None

    def cut(self, box: Box) -> tuple[np.ndarray, np.ndarray | None]:
        """Pixels `[C, h, w]` and what was seen `[h, w]` of a window of the scene; views."""
        x, y = (box[0] - self.left) // self.reduce, (box[1] - self.top) // self.reduce
        place = (slice(y, y + box[3] // self.reduce), slice(x, x + box[2] // self.reduce))
        return self.pixels[:, *place], None if self.seen is None else self.seen[place]

    @property
    def bytes(self) -> int:
        """Memory."""
        return self.pixels.nbytes + (0 if self.seen is None else self.seen.nbytes)


class BlockCache:
    """The last blocks of a process; threads that want the same one wait for whoever reads it.

    Args:
        budget: Bytes to keep.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._held: OrderedDict[object, Future[Block]] = OrderedDict()
        self._size = 0

    def get(self, key: object, made: Callable[[], Block]) -> Block:
        """The block of a key."""
        if self._process != os.getpid():
            # A fork copies locks as they are, held ones too.
            self.__init__(self.budget)  # type: ignore[misc]
        with self._lock:
            future = self._held.get(key)
            mine = future is None
            if future is None:
                future = self._held[key] = Future()
            self._held.move_to_end(key)
        if mine:
            try:
                block = made()
            except BaseException as error:
                with self._lock:
                    self._held.pop(key, None)
                future.set_exception(error)
                raise
            future.set_result(block)
            with self._lock:
                self._size += block.bytes
                while self._size > self.budget and len(self._held) > 1:
                    self._forget_oldest()
        return future.result()

    def clear(self) -> None:
        """Forget all blocks."""
        with self._lock:
            self._held.clear()
            self._size = 0

    def _forget_oldest(self) -> None:
        key, future = next(iter(self._held.items()))
        if not future.done():
            # It is being read; it comes up again when it is no longer the oldest.
            self._held.move_to_end(key)
            return
        del self._held[key]
        self._size -= future.result().bytes


blocks = BlockCache()
"""The cache of this process."""


def union(boxes: Sequence[Box]) -> Box:
    """The smallest window around windows."""
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return left, top, right - left, bottom - top
