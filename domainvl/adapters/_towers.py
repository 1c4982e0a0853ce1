"""What methods ask of the towers that they edit."""

from __future__ import annotations

from domainvl.towers.base import Tower


def require_token_editing(method: str, *towers: Tower) -> None:
    """Raise for towers (CNNs) into whose blocks no token can be put."""
    for tower in towers:
        if not tower.token_editing:
            raise TypeError(
                f"{method} puts tokens between transformer blocks, which {type(tower).__name__} does not "
                "take; use LinearProbe with this backbone, or a backbone with a ViT image tower"
            )


def prompt_depth(method: str, depth: int | None, *towers: Tower) -> int:
    """Number of blocks that get prompts in these towers; without `depth` three quarters of the shallower one."""
    most = min(tower.depth for tower in towers)
    if depth is None:
        return max(1, most * 3 // 4)
    if depth > most:
        named = " and ".join(f"{type(tower).__name__} ({tower.depth} blocks)" for tower in towers)
        raise ValueError(f"{method}: depth must lie in 1..{most} for {named}, got {depth}")
    return depth


def require_block(method: str, first: int, side: str, tower: Tower) -> int:
    """`first`, a block of this tower; raise where it has none of that number."""
    if not 0 <= first < tower.depth:
        raise ValueError(
            f"{method}: first_block must lie in 0..{tower.depth - 1} for the {side} tower "
            f"({type(tower).__name__}, {tower.depth} blocks), got {first}"
        )
    return first
