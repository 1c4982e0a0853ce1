"""Data modules of the four domains; so far chest X-rays and CT, with the layouts of the public data sets."""

from data_modules.ct import CTVolumes, Preparation
from data_modules.cxr import ChestXrays
from data_modules.readers.chexpert import CheXpert, CheXpertPlus
from data_modules.readers.ct_rate import CtRate
from data_modules.readers.generic import ClassFolders, ImageTable
from data_modules.readers.label_maps import HounsfieldOrgans, OrganMaps
from data_modules.readers.layout import Layout
from data_modules.readers.merlin import MerlinCT
from data_modules.readers.mimic import MimicCxrJpg
from data_modules.readers.nih import ChestXray14
from data_modules.readers.openi import OpenI
from data_modules.readers.padchest import PadChest
from data_modules.readers.rad_chest import RadChestCT
from data_modules.readers.volume_folders import VolumeFolders

__all__ = [
    "CTVolumes",
    "CheXpert",
    "CheXpertPlus",
    "ChestXray14",
    "ChestXrays",
    "ClassFolders",
    "CtRate",
    "HounsfieldOrgans",
    "ImageTable",
    "Layout",
    "MerlinCT",
    "MimicCxrJpg",
    "OpenI",
    "OrganMaps",
    "PadChest",
    "Preparation",
    "RadChestCT",
    "VolumeFolders",
]
