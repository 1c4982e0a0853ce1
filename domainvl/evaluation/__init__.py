"""Numbers to believe: metrics, patient-level intervals, and how they are shown. Numpy in and out."""

from domainvl.evaluation.alignment_files import write_alignment
from domainvl.evaluation.alignment_result import (
    AlignmentEvaluation,
    AlignmentPredictions,
    Embeddings,
    evaluate_alignment,
    headline_alignment,
    retrieve,
)
from domainvl.evaluation.bootstrap import Interval
from domainvl.evaluation.files import write_metrics, write_predictions
from domainvl.evaluation.findings import CT_RATE_16, CT_RATE_18, FindingProtocol, FindingResult, evaluate_findings
from domainvl.evaluation.grounding import GroundingProtocol, Phrases, PhraseScore, score_phrase, upsample
from domainvl.evaluation.image_copies import Fingerprints
from domainvl.evaluation.leakage import Leakage, SplitContent, check_leakage
from domainvl.evaluation.metrics import METRICS
from domainvl.evaluation.predictions import Predictions
from domainvl.evaluation.probe import Probe, ProbeData, linear_probe
from domainvl.evaluation.result import ClassResult, Evaluation, evaluate, headline
from domainvl.evaluation.retrieval import SCAN, STUDY, Pairs, Retrieval, RetrievalProtocol, plan
from domainvl.evaluation.sampling import exclusive_sample, patient_subsets
from domainvl.evaluation.table import print_alignment, print_table

__all__ = [
    "CT_RATE_16",
    "CT_RATE_18",
    "METRICS",
    "SCAN",
    "STUDY",
    "AlignmentEvaluation",
    "AlignmentPredictions",
    "ClassResult",
    "Embeddings",
    "Evaluation",
    "FindingProtocol",
    "FindingResult",
    "Fingerprints",
    "GroundingProtocol",
    "Interval",
    "Leakage",
    "Pairs",
    "PhraseScore",
    "Phrases",
    "Predictions",
    "Probe",
    "ProbeData",
    "Retrieval",
    "RetrievalProtocol",
    "SplitContent",
    "check_leakage",
    "evaluate",
    "evaluate_alignment",
    "evaluate_findings",
    "exclusive_sample",
    "headline",
    "headline_alignment",
    "linear_probe",
    "patient_subsets",
    "plan",
    "print_alignment",
    "print_table",
    "retrieve",
    "score_phrase",
    "upsample",
    "write_alignment",
    "write_metrics",
    "write_predictions",
]
