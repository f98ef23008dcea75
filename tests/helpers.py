"""Small batches by hand, and a Trainer's stand-in for callbacks."""

from types import SimpleNamespace

import numpy as np
import torch

from lightning_focal.callbacks import ScoredRollouts
from lightning_focal.judges import Judge, Outcome, Verdict
from lightning_focal.models import Lora, apply_lora
from lightning_focal.rewards import StaticReward
from lightning_focal.types import CriterionScores, Prompts, Rollouts


def adapted(model, std=0.1, **options):
    """The model with low-rank adapters that change what it computes."""
    policy = apply_lora(model, Lora(**{"r": 4, **options}))
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    return policy


def make_prompts(count=2, rubrics=(), **kwargs):
    return Prompts(
        ids=tuple(f"p{i}" for i in range(count)),
        messages=tuple(({"role": "user", "content": f"question {i}"},) for i in range(count)),
        rubrics=tuple(rubrics),
        **kwargs,
    )


def make_rollouts(prompts, group_size=2, tokens=3, texts=None, **kwargs):
    p = len(prompts)
    fields = {
        "texts": tuple(tuple(f"answer {i}.{g}" for g in range(group_size)) for i in range(p)),
        "prompt_ids": torch.zeros(p, 4, dtype=torch.int64),
        "prompt_mask": torch.ones(p, 4, dtype=torch.bool),
        "response_ids": torch.zeros(p, group_size, tokens, dtype=torch.int64),
        "response_mask": torch.ones(p, group_size, tokens, dtype=torch.bool),
        "truncated": torch.zeros(p, group_size, dtype=torch.bool),
        **({"texts": texts} if texts is not None else {}),
        **kwargs,
    }
    return Rollouts(prompts=prompts, **fields)


def make_scores(scores, weights=None, mask=None, names=None, **kwargs):
    """Nested lists ``[P][G][C]`` (None = masked) to float64 :class:`CriterionScores`; equal weights, names a, b, c, ..."""
    array = np.array(scores, dtype=float)  # None becomes NaN
    present = ~np.isnan(array)
    p, _, c = array.shape
    if names is None:
        names = tuple(tuple("abcdefgh"[:c]) for _ in range(p))
    if weights is None:
        weights = [[1 / len(row)] * len(row) + [0.0] * (c - len(row)) for row in names]
    return CriterionScores(
        scores=torch.tensor(np.nan_to_num(array)),
        mask=torch.tensor(present if mask is None else mask, dtype=torch.bool),
        weights=torch.tensor(weights, dtype=torch.float64),
        names=tuple(map(tuple, names)),
        **kwargs,
    )


def make_answers(scores, stage="train", batch_idx=0, strategy=None, **kwargs):
    """Answers to prompts ``p0``, ``p1``, ... that were scored like this."""
    p, g, _ = scores.scores.shape
    shaped = (strategy or StaticReward()).shape(scores)
    return ScoredRollouts(stage, batch_idx, make_rollouts(make_prompts(p), g, **kwargs), scores, shaped)


class TableJudge(Judge):
    """Looks verdicts up by ``(response, criterion name)``; remembers what it was asked."""

    def __init__(self, table):
        self.table, self.requests, self.validated = table, [], []

    def validate(self, criterion):
        self.validated.append(criterion.name)
        if criterion.check is None:
            raise ValueError(f"{criterion.where}: no check")

    def judge(self, requests):
        self.requests += requests
        return [tuple(self.table[request.response, c.name] for c in request.criteria) for request in requests]


MET, NOT_MET = Verdict(Outcome.MET, reason="seen"), Verdict(Outcome.NOT_MET, reason="not seen")
FAILED, NOT_APPLICABLE = Verdict(Outcome.ERROR, reason="broke"), Verdict(Outcome.NOT_APPLICABLE, reason="no list asked for")


class FakeTrainer:
    """What the callbacks read of a Trainer."""

    def __init__(self, folder=None, callbacks=(), rank=0, world_size=1, batches=0, **kwargs):
        self.folder, self.callbacks, self.loggers = folder, list(callbacks), []
        self.global_rank, self.world_size, self.is_global_zero = rank, world_size, rank == 0
        self.default_root_dir, self.ckpt_path, self.sanity_checking = str(folder), None, False
        self.log_dirs_asked = 0
        self.callback_metrics, self.checkpoint_callback, self.checkpoint_callbacks, self.datamodule = {}, None, [], None
        self.max_epochs, self.max_steps, self.estimated_stepping_batches = 1, -1, 10
        self.state = SimpleNamespace(fn="fit")
        self.strategy = SimpleNamespace(barrier=lambda: None)
        self.batches = batches
        for name, value in kwargs.items():
            setattr(self, name, value)

    @property
    def log_dir(self):
        """A collective in Lightning: every process has to ask equally often."""
        self.log_dirs_asked += 1
        return None if self.folder is None else str(self.folder)

    @property
    def fit_loop(self):
        progress = SimpleNamespace(total=SimpleNamespace(processed=self.batches))
        return SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
