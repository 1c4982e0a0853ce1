"""What is learned on top of a frozen backbone: one method, one file."""

from domainvl.adapters.base import Adapter
from domainvl.adapters.coop import CoOp
from domainvl.adapters.lora import LoRA
from domainvl.adapters.mmrl import MMRL
from domainvl.adapters.mmrlpp import MMRLpp
from domainvl.adapters.probe import LinearProbe

__all__ = ["MMRL", "Adapter", "CoOp", "LinearProbe", "LoRA", "MMRLpp"]
