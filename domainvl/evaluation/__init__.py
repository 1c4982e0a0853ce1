"""Numbers to believe: metrics, patient-level intervals, and how they are shown. Numpy in and out."""

from domainvl.evaluation.bootstrap import Interval
from domainvl.evaluation.files import write_metrics, write_predictions
from domainvl.evaluation.findings import CT_RATE_16, CT_RATE_18, FindingProtocol, FindingResult, evaluate_findings
from domainvl.evaluation.metrics import METRICS
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.result import ClassResult, Evaluation, evaluate, headline
from domainvl.evaluation.table import print_table

__all__ = [
    "CT_RATE_16",
    "CT_RATE_18",
    "METRICS",
    "ClassResult",
    "Evaluation",
    "FindingProtocol",
    "FindingResult",
    "Interval",
    "Predictions",
    "evaluate",
    "evaluate_findings",
    "headline",
    "print_table",
    "write_metrics",
    "write_predictions",
]
