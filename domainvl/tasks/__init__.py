"""LightningModules that put a backbone, an adapter and objectives to work."""

from domainvl.tasks.alignment import Alignment
from domainvl.tasks.base import Task
from domainvl.tasks.classification import Classification
from domainvl.tasks.queue import Queue
from domainvl.tasks.schedule import Schedule, TorchSchedule, WarmupCosine
from domainvl.tasks.slide import SlideClassification
from domainvl.tasks.teacher import Teacher

__all__ = [
    "Alignment",
    "Classification",
    "Queue",
    "Schedule",
    "SlideClassification",
    "Task",
    "Teacher",
    "TorchSchedule",
    "WarmupCosine",
]
