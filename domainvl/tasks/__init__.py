"""LightningModules that put a backbone, an adapter and objectives to work."""

from domainvl.tasks.base import Task
from domainvl.tasks.classification import Classification
from domainvl.tasks.schedule import Schedule, TorchSchedule, WarmupCosine

__all__ = ["Classification", "Schedule", "Task", "TorchSchedule", "WarmupCosine"]
