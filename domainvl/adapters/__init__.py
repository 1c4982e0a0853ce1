"""What is learned on top of a frozen backbone: one method, one file."""

from domainvl.adapters.abmil import ABMIL
from domainvl.adapters.base import Adapter
from domainvl.adapters.clam import CLAM
from domainvl.adapters.clap import CLAP
from domainvl.adapters.clip_adapter import CLIPAdapter
from domainvl.adapters.cocoop import CoCoOp
from domainvl.adapters.compose import Compose
from domainvl.adapters.coop import CoOp
from domainvl.adapters.crane import Crane
from domainvl.adapters.dcar import DCAR
from domainvl.adapters.depth_embedding import DepthEmbedding
from domainvl.adapters.joint_stack import JointStack
from domainvl.adapters.lora import LoRA
from domainvl.adapters.maple import MaPLe
from domainvl.adapters.mmrl import MMRL
from domainvl.adapters.mmrlpp import MMRLpp
from domainvl.adapters.probe import LinearProbe
from domainvl.adapters.promptsrc import PromptSRC
from domainvl.adapters.sgva import SgVA
from domainvl.adapters.side_tuning import SideTuning
from domainvl.adapters.slice_attention import SliceAttention
from domainvl.adapters.slice_transformer import SliceTransformer
from domainvl.adapters.st_adapter import STAdapter
from domainvl.adapters.tip_adapter import TipAdapter
from domainvl.adapters.vila_mil import ViLaMIL
from domainvl.adapters.vpt import VPT

__all__ = [
    "ABMIL",
    "CLAM",
    "CLAP",
    "DCAR",
    "MMRL",
    "VPT",
    "Adapter",
    "CLIPAdapter",
    "CoCoOp",
    "CoOp",
    "Compose",
    "Crane",
    "DepthEmbedding",
    "JointStack",
    "LinearProbe",
    "LoRA",
    "MMRLpp",
    "MaPLe",
    "PromptSRC",
    "STAdapter",
    "SgVA",
    "SideTuning",
    "SliceAttention",
    "SliceTransformer",
    "TipAdapter",
    "ViLaMIL",
]
