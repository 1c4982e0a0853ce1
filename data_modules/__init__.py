"""Data modules: chest X-rays, CT, histology patches and slides, satellite scenes, with public layouts."""

from data_modules.ct import CTVolumes, Preparation
from data_modules.cxr import ChestXrays
from data_modules.patches import HistologyPatches
from data_modules.readers.bach import Bach
from data_modules.readers.bigearthnet import BigEarthNetV1, BigEarthNetV2
from data_modules.readers.chexpert import CheXpert, CheXpertPlus
from data_modules.readers.crc import NctCrcHe
from data_modules.readers.ct_rate import CtRate
from data_modules.readers.filtered import VisibleSentences
from data_modules.readers.fmow import Fmow
from data_modules.readers.generic import ClassFolders, ImageTable
from data_modules.readers.label_maps import HounsfieldOrgans, OrganMaps
from data_modules.readers.layout import Layout
from data_modules.readers.merlin import MerlinCT
from data_modules.readers.mhist import Mhist
from data_modules.readers.mimic import MimicCxrJpg
from data_modules.readers.nih import ChestXray14
from data_modules.readers.openi import OpenI
from data_modules.readers.padchest import PadChest
from data_modules.readers.pannuke import PanNuke
from data_modules.readers.pcam import PatchCamelyon
from data_modules.readers.quilt import Quilt1M
from data_modules.readers.rad_chest import RadChestCT
from data_modules.readers.scene_captions import (
    CaptionLines,
    KarpathyCaptions,
    Rsicd,
    Rsitmd,
    SydneyCaptions,
    UcmCaptions,
)
from data_modules.readers.scene_folders import Aid, EuroSat, EuroSatMS, PatternNet, Resisc45, UcMerced
from data_modules.readers.skyscript import SkyScript
from data_modules.readers.slide_table import SlideTable
from data_modules.readers.slide_tiles import TilePlan
from data_modules.readers.tar_pairs import Rs5m, TarPairs
from data_modules.readers.tile_table import TileTable
from data_modules.readers.volume_folders import VolumeFolders
from data_modules.satellite import Satellite
from data_modules.scenes.plan import Tiling
from data_modules.scenes.split import SpatialSplit
from data_modules.scenes.stretch import FixedRange, Percentiles, SensorRange, ZScore
from data_modules.slides import WholeSlides
from data_modules.whole_slides.decoder import Embedding
from data_modules.whole_slides.heatmaps import SlideHeatmaps

__all__ = [
    "Aid",
    "Bach",
    "BigEarthNetV1",
    "BigEarthNetV2",
    "CTVolumes",
    "CaptionLines",
    "CheXpert",
    "CheXpertPlus",
    "ChestXray14",
    "ChestXrays",
    "ClassFolders",
    "CtRate",
    "Embedding",
    "EuroSat",
    "EuroSatMS",
    "FixedRange",
    "Fmow",
    "HistologyPatches",
    "HounsfieldOrgans",
    "ImageTable",
    "KarpathyCaptions",
    "Layout",
    "MerlinCT",
    "Mhist",
    "MimicCxrJpg",
    "NctCrcHe",
    "OpenI",
    "OrganMaps",
    "PadChest",
    "PanNuke",
    "PatchCamelyon",
    "PatternNet",
    "Percentiles",
    "Preparation",
    "Quilt1M",
    "RadChestCT",
    "Resisc45",
    "Rs5m",
    "Rsicd",
    "Rsitmd",
    "Satellite",
    "SensorRange",
    "SkyScript",
    "SlideHeatmaps",
    "SlideTable",
    "SpatialSplit",
    "SydneyCaptions",
    "TarPairs",
    "TilePlan",
    "TileTable",
    "Tiling",
    "UcMerced",
    "UcmCaptions",
    "VisibleSentences",
    "VolumeFolders",
    "WholeSlides",
    "ZScore",
]
