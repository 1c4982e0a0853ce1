"""Contracts of data: labels, manifests, splits, shots, prompts, rejects.

`domainvl.data.module.DataModule` is not imported here, because it needs Lightning.
"""

from domainvl.data.augment import Augment
from domainvl.data.bank import PromptBank
from domainvl.data.boxes import Box, preset_box
from domainvl.data.decoder import Decoder, PictureDecoder
from domainvl.data.labels import Label, LabelPolicy, parse_label
from domainvl.data.loading import Loading
from domainvl.data.manifest import SPLITS, Manifest, Record, Split, parse_split
from domainvl.data.prompts import PromptSet
from domainvl.data.rejects import Reject, Rejects, TooManyRejects, UnreadableImage
from domainvl.data.splits import SplitRule
from domainvl.data.texts.views import TextViews

__all__ = [
    "SPLITS",
    "Augment",
    "Box",
    "Decoder",
    "Label",
    "LabelPolicy",
    "Loading",
    "Manifest",
    "PictureDecoder",
    "PromptBank",
    "PromptSet",
    "Record",
    "Reject",
    "Rejects",
    "Split",
    "SplitRule",
    "TextViews",
    "TooManyRejects",
    "UnreadableImage",
    "parse_label",
    "parse_split",
    "preset_box",
]
