"""Contracts of data: labels, manifests, splits, shots, prompts, rejects.

`domainvl.data.module.DataModule` is not imported here, because it needs Lightning.
"""

from domainvl.data.augment import Augment
from domainvl.data.bank import PromptBank
from domainvl.data.labels import Label, LabelPolicy, parse_label
from domainvl.data.manifest import SPLITS, Manifest, Record, Split, parse_split
from domainvl.data.prompts import PromptSet
from domainvl.data.rejects import Reject, Rejects, TooManyRejects, UnreadableImage

__all__ = [
    "SPLITS",
    "Augment",
    "Label",
    "LabelPolicy",
    "Manifest",
    "PromptBank",
    "PromptSet",
    "Record",
    "Reject",
    "Rejects",
    "Split",
    "TooManyRejects",
    "UnreadableImage",
    "parse_label",
    "parse_split",
]
