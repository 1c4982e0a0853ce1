"""Losses: one file each."""

from domainvl.objectives.alip import Alip
from domainvl.objectives.base import Context, Objective
from domainvl.objectives.binary_cross_entropy import BinaryCrossEntropy
from domainvl.objectives.category_cross_entropy import CategoryCrossEntropy
from domainvl.objectives.clam_instances import ClamInstances
from domainvl.objectives.class_cross_entropy import ClassCrossEntropy
from domainvl.objectives.distillation import Distillation
from domainvl.objectives.frozen_cosine import FrozenCosine
from domainvl.objectives.frozen_kl import FrozenKL
from domainvl.objectives.frozen_l1 import FrozenL1
from domainvl.objectives.gloria import GloriaLocal
from domainvl.objectives.infonce import InfoNCE
from domainvl.objectives.kdsp import KDSP
from domainvl.objectives.label_contrast import LabelContrast
from domainvl.objectives.mgca_prototype import MgcaPrototype
from domainvl.objectives.mgca_token import MgcaToken
from domainvl.objectives.organ_contrast import OrganContrast
from domainvl.objectives.phrase_regions import PhraseRegions
from domainvl.objectives.prior_attribution import PriorAttribution
from domainvl.objectives.prior_belief import PriorBelief
from domainvl.objectives.sccm import SCCM
from domainvl.objectives.siglip import SigLIP
from domainvl.objectives.tcl import TclLocalGlobal
from domainvl.objectives.villa_mapping import VillaMapping
from domainvl.objectives.villa_regions import VillaRegions

__all__ = [
    "KDSP",
    "SCCM",
    "Alip",
    "BinaryCrossEntropy",
    "CategoryCrossEntropy",
    "ClamInstances",
    "ClassCrossEntropy",
    "Context",
    "Distillation",
    "FrozenCosine",
    "FrozenKL",
    "FrozenL1",
    "GloriaLocal",
    "InfoNCE",
    "LabelContrast",
    "MgcaPrototype",
    "MgcaToken",
    "Objective",
    "OrganContrast",
    "PhraseRegions",
    "PriorAttribution",
    "PriorBelief",
    "SigLIP",
    "TclLocalGlobal",
    "VillaMapping",
    "VillaRegions",
]
