"""Which image comes when, on which process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence, Sized

import torch
from torch.utils.data import DistributedSampler


class TrainSampler(DistributedSampler[int]):
    """A new order every epoch that depends on seed and epoch alone, so a resumed run sees what it would have seen.

    All processes draw the same order and take every `world`-th item of it. When that does not come out even, the
    first items of the order are repeated, so that all processes take equally many steps. It derives from
    DistributedSampler because that is how Lightning knows not to wrap it in one of its own.

    Args:
        data: Anything with a length.
        seed: Seed of the order.
        rank: Number of this process.
        world: Number of processes.
        studies: Study of each item; one item of each is drawn in every epoch. None for all items.
    """

    def __init__(
        self, data: Sized, seed: int, rank: int = 0, world: int = 1, studies: Sequence[int] | None = None
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(
                f"{type(self).__name__}: rank {rank} is not one of the {world} processes, 0 to {world - 1}"
            )
        self.data = data
        self.seed = seed
        self.rank = rank
        self.num_replicas = world
        self.epoch = 0
        self._members: list[list[int]] | None = None
        if studies is not None:
            members: dict[int, list[int]] = {}
            for item, study in enumerate(studies):
                members.setdefault(study, []).append(item)
            self._members = list(members.values())

    def generator(self) -> torch.Generator:
        """Random numbers of this epoch."""
        digest = hashlib.blake2b(f"{self.seed}:{self.epoch}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big"))

    def order(self) -> list[int]:
        """The order of the whole data set in this epoch, or of one item of each study."""
        generator = self.generator()
        order: list[int] = torch.randperm(self._total(), generator=generator).tolist()
        if self._members is None:
            return order
        places = torch.rand(len(self._members), generator=generator).tolist()
        chosen = [own[int(place * len(own))] for own, place in zip(self._members, places, strict=True)]
        return [chosen[study] for study in order]

    def _total(self) -> int:
        return len(self.data) if self._members is None else len(self._members)

    def __iter__(self) -> Iterator[int]:
        order = self.order()
        missing = -len(order) % self.num_replicas
        order += (order * missing)[:missing]
        return iter(order[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        return -(-self._total() // self.num_replicas)


class EvalSampler(TrainSampler):
    """The data set in its own order, every item once, also over several processes."""

    def __init__(self, data: Sized, rank: int = 0, world: int = 1) -> None:
        super().__init__(data, seed=0, rank=rank, world=world)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, len(self.data), self.num_replicas))

    def __len__(self) -> int:
        return len(range(self.rank, len(self.data), self.num_replicas))
