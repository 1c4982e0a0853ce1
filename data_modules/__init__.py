"""Data modules of the four domains; so far chest X-rays, with the layouts of the public data sets."""

from data_modules.cxr import ChestXrays
from data_modules.readers.chexpert import CheXpert, CheXpertPlus
from data_modules.readers.generic import ClassFolders, ImageTable
from data_modules.readers.layout import Layout
from data_modules.readers.mimic import MimicCxrJpg
from data_modules.readers.nih import ChestXray14
from data_modules.readers.openi import OpenI
from data_modules.readers.padchest import PadChest

__all__ = [
    "CheXpert",
    "CheXpertPlus",
    "ChestXray14",
    "ChestXrays",
    "ClassFolders",
    "ImageTable",
    "Layout",
    "MimicCxrJpg",
    "OpenI",
    "PadChest",
]
