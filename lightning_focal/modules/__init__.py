"""LightningModules: the algorithms, read top to bottom."""

from lightning_focal.modules.dynamic_sampling import DynamicSampling
from lightning_focal.modules.grpo import GRPOModule
from lightning_focal.modules.reference import FrozenReference, NoReference, Reference, TeacherReference
from lightning_focal.modules.schedule import WarmupCosine
from lightning_focal.modules.sft import SFTModule
from lightning_focal.modules.update import Update

__all__ = [
    "DynamicSampling",
    "FrozenReference",
    "GRPOModule",
    "NoReference",
    "Reference",
    "SFTModule",
    "TeacherReference",
    "Update",
    "WarmupCosine",
]
