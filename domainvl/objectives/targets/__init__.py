"""What counts as a match: policies for contrastive objectives, one file each."""

from domainvl.objectives.targets.base import Pairs, Sides, TargetPolicy, Tile, bind
from domainvl.objectives.targets.false_negatives import FalseNegativeFilter
from domainvl.objectives.targets.hard_negatives import HardNegatives
from domainvl.objectives.targets.identity import Identity
from domainvl.objectives.targets.label_overlap import LabelOverlap
from domainvl.objectives.targets.label_smoothing import LabelSmoothing
from domainvl.objectives.targets.momentum import Momentum
from domainvl.objectives.targets.same_group import SameGroup
from domainvl.objectives.targets.semantic_bank import SemanticBank
from domainvl.objectives.targets.text_similarity import TextSimilarity

__all__ = [
    "FalseNegativeFilter",
    "HardNegatives",
    "Identity",
    "LabelOverlap",
    "LabelSmoothing",
    "Momentum",
    "Pairs",
    "SameGroup",
    "SemanticBank",
    "Sides",
    "TargetPolicy",
    "TextSimilarity",
    "Tile",
    "bind",
]
