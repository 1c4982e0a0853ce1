"""What is learned on top of a frozen backbone: one method, one file."""

from domainvl.adapters.base import Adapter
from domainvl.adapters.mmrl import MMRL

__all__ = ["MMRL", "Adapter"]
