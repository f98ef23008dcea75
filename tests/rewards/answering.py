"""Batches of boxed answers, and a module's stand-in that rolls out what was written for it."""

import torch

from tests.helpers import make_prompts, make_rollouts


def boxed(*answers):
    """Texts of one group: ``None`` has no box, ``""`` an empty one."""
    return tuple("I do not know." if answer is None else rf"Let me see. \boxed{{{answer}}}" for answer in answers)


def answered(*groups, pairs=False, **kwargs):
    """Rollouts whose answers are ``groups`` ``[P][G]``; with ``pairs`` prompt 2i + 1 is the rephrasing of 2i."""
    fields = {name: kwargs.pop(name) for name in ("answers", "graders") if name in kwargs}
    if pairs:
        fields |= {
            "questions": tuple(f"q{i // 2}" for i in range(len(groups))),
            "views": tuple(i % 2 for i in range(len(groups))),
        }
    prompts = make_prompts(len(groups), **fields)
    return make_rollouts(prompts, len(groups[0]), texts=tuple(boxed(*group) for group in groups), **kwargs)


class ScriptedAnswerer:
    """What a source may ask of a module, written beforehand; remembers what it was asked."""

    def __init__(self, *teacher, self_certainty=None, entropy=None, group_size=4):
        self.script, self.group_size, self.asked = teacher, group_size, []
        self.certainties = {"self_certainty": self_certainty, "entropy": entropy}

    def roll_out(self, prompts, stage, *, group_size=None, teacher=False):
        self.asked.append((prompts, stage, group_size, teacher))
        return make_rollouts(prompts, len(self.script[0]), texts=tuple(boxed(*group) for group in self.script))

    def certainty(self, rollouts):
        return {name: torch.tensor(values) for name, values in self.certainties.items()}
