"""Losses: one file each."""

from domainvl.objectives.base import Context, Objective

__all__ = ["Context", "Objective"]
