"""LightningDataModules: prompts in whole groups, in an order that can be resumed."""

from lightning_focal.data.curriculum import Curriculum
from lightning_focal.data.loader import PromptLoader
from lightning_focal.data.module import PromptDataModule, RandomPrompts
from lightning_focal.data.pair_files import PairRow, read_pairs, read_questions
from lightning_focal.data.pairs import PairDataModule
from lightning_focal.data.reasoning_gym import ReasoningGymData
from lightning_focal.data.rubric_data import RubricDataModule, prompts_of

__all__ = ["Curriculum", "PairDataModule", "PairRow", "PromptDataModule", "PromptLoader", "RandomPrompts"]
__all__ += ["ReasoningGymData", "RubricDataModule", "prompts_of", "read_pairs", "read_questions"]
