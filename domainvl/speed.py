"""What training may skip without changing what it computes.

Every switch leaves values and gradients as they are, up to the rounding of sums in another order (1e-5 of the
100-scaled scores in fp32, measured), except `frozen="bf16"`, which says so. Where a tower or an adapter cannot do one
of them the plain computation runs instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FrozenType = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Speed:
    """Switches, each independent of the others.

    Attributes:
        rows: In causal text towers run the beginning that all prompts have in common (start token, template words,
            learned vectors) as one row, and give its keys and values to all rows. For adapters that treat all rows
            alike (`Adapter.same_rows`).
        unread: In the last block compute only the tokens that are read: what the tower pools and the spans that the
            adapter names (`Adapter.reads`).
        onednn: On the CPU multiply by frozen fp32 weights with oneDNN in place of MKL: twice as fast on AMD.
        cache: GiB on disk for what the frozen image tower says about training pictures, kept between epochs and runs;
            0 for none. Used when the pictures are finitely many (`views` of the data module, or no augmentation) and
            their features fit; they are read at the first block that the adapter changes. As much again may hold what
            a frozen text tower says about reports, under a hash of the text, never the text, and fingerprints of images
            that a comparison of splits has read.
        frozen: Number format of the frozen blocks. `bf16` halves their memory and changes scores a little (a tenth
            on the 100-scale, measured); what is learned and everything behind the last block stays in fp32.
    """

    rows: bool = True
    unread: bool = True
    onednn: bool = True
    cache: float = 4.0
    frozen: FrozenType = "fp32"

    def __post_init__(self) -> None:
        if self.cache < 0:
            raise ValueError(f"Speed: cache is {self.cache} GiB; it must not be negative, 0 switches it off")
        if self.frozen not in ("fp32", "bf16"):
            raise ValueError(f"Speed: frozen {self.frozen!r} is not one of fp32, bf16")


FAST = Speed()
PLAIN = Speed(rows=False, unread=False, onednn=False, cache=0.0)
