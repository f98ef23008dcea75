"""LightningDataModules: prompts in whole groups, in an order that can be resumed."""

from lightning_focal.data.loader import PromptLoader
from lightning_focal.data.random_prompts import RandomPrompts
from lightning_focal.data.rubric_data import RubricDataModule, prompts_of

__all__ = ["PromptLoader", "RandomPrompts", "RubricDataModule", "prompts_of"]
