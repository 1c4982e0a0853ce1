"""The order of training tiles: random, and block by block, so that each block is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized

import torch

from domainvl.data.sampler import TrainSampler


class BlockSampler(TrainSampler):
    """A new order every epoch: blocks are shuffled, and the tiles of `mix` blocks that follow each other are.

    Every process takes a part of the order that hangs together, and so does every worker: batches take turns, because
    that is how a DataLoader deals them out. All tiles come once per epoch.

    Args:
        data: The tiles.
        blocks: Positions in each block.
        seed: Seed of the order.
        rank: Number of this process.
        world: Number of processes.
        mix: Blocks whose tiles are mixed; a process keeps them all in memory.
        batch_size: Tiles per batch.
        workers: Processes that read.
    """

    def __init__(
        self,
        data: Sized,
        blocks: Sequence[Sequence[int]],
        seed: int,
        rank: int = 0,
        world: int = 1,
        *,
        mix: int = 16,
        batch_size: int = 32,
        workers: int = 0,
    ) -> None:
        super().__init__(data, seed, rank, world)
        if mix < 1:
            raise ValueError(f"BlockSampler: mix is {mix}; give 1 (tiles of one block together) or more")
        self._blocks = [list(block) for block in blocks]
        self._mix = mix
        self._batch = batch_size
        self._workers = max(1, workers)

    def order(self) -> list[int]:
        """The order of the whole data set in this epoch."""
        generator = self.generator()
        blocks = torch.randperm(len(self._blocks), generator=generator).tolist()
        found: list[int] = []
        for start in range(0, len(blocks), self._mix):
            tiles = [tile for block in blocks[start : start + self._mix] for tile in self._blocks[block]]
            found += [tiles[place] for place in torch.randperm(len(tiles), generator=generator).tolist()]
        return found

    def __iter__(self) -> Iterator[int]:
        order, count = self.order(), len(self)
        order += order[: count * self.num_replicas - len(order)]
        own = order[self.rank * count : (self.rank + 1) * count]
        # Whole batches only; what is left over comes last and costs a second reading of few blocks.
        each = len(own) // self._workers // self._batch * self._batch
        for batch in range(0, each, self._batch):
            for worker in range(self._workers):
                start = worker * each + batch
                yield from own[start : start + self._batch]
        yield from own[self._workers * each :]
