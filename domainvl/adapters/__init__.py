"""What is learned on top of a frozen backbone: one method, one file."""

from domainvl.adapters.base import Adapter

__all__ = ["Adapter"]
