"""Questions in, pairs out: rephrasings by a chat server or a local model."""

from lightning_focal.rephrasing.checks import INSTRUCTION, Checks, Rejection, read_instruction
from lightning_focal.rephrasing.journal import Journal
from lightning_focal.rephrasing.numbers import number_words, numbers_changed, numerals
from lightning_focal.rephrasing.work import Tally, rephrase, work_through
from lightning_focal.rephrasing.writers import Ask, LocalWriter, ServerWriter, Writer

__all__ = ["INSTRUCTION", "Ask", "Checks", "Journal", "LocalWriter", "Rejection", "ServerWriter", "Tally", "Writer"]
__all__ += ["number_words", "numbers_changed", "numerals", "read_instruction", "rephrase", "work_through"]
