"""Numbers to believe: metrics, patient-level intervals, and how they are shown. Numpy in and out."""

from domainvl.evaluation.bootstrap import Interval
from domainvl.evaluation.files import write_metrics, write_predictions
from domainvl.evaluation.metrics import METRICS
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.result import ClassResult, Evaluation, evaluate, headline
from domainvl.evaluation.table import print_table

__all__ = [
    "METRICS",
    "ClassResult",
    "Evaluation",
    "Interval",
    "Predictions",
    "evaluate",
    "headline",
    "print_table",
    "write_metrics",
    "write_predictions",
]
