"""Slow, plain ways to compute what the module computes, and parts that misbehave on purpose."""

import csv
import math

import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.judges import Judge, Outcome, Verdict
from lightning_focal.models import response_measures
from lightning_focal.modules.loss import grpo_loss, step_normaliser
from lightning_focal.modules.update import Update, UpdateSums, micro_batches, sequence_measures
from lightning_focal.rewards import GroupAdvantage
from lightning_focal.rewards.stages import Advantage


def full_logp(model, prompt, response, temperature=1.0):
    """Log-probabilities of one unpadded response by transformers' own logits, ``[len(response)]``, with gradient."""
    sequence = torch.tensor([[*prompt, *response]])
    logits = model(sequence).logits[0, len(prompt) - 1 : -1].float() / temperature
    return torch.stack([torch.log_softmax(row, -1)[token] for row, token in zip(logits, response, strict=True)])


def rows_of(sequences):
    """``[(prompt ids, response ids)]`` without padding."""
    return [
        (p[pm].tolist(), r[rm].tolist())
        for p, pm, r, rm in zip(
            sequences.prompt_ids, sequences.prompt_mask, sequences.response_ids, sequences.response_mask, strict=True
        )
    ]


def group_advantages(rewards, epsilon=1e-6):
    """``[P, G]`` GRPO advantages, one group at a time."""
    out = []
    for group in rewards:
        mean = sum(group) / len(group)
        std = math.sqrt(sum((r - mean) ** 2 for r in group) / (len(group) - 1))
        out.append([(r - mean) / (std + epsilon) if max(group) > min(group) else 0.0 for r in group])
    return np.array(out)


def logp_of(model, rows, temperature=1.0, micro_batch_size=8, micro_batch_tokens=None):
    """``[N, T]`` log-probabilities of responses, micro-batch by micro-batch."""
    update = Update(micro_batch_size=micro_batch_size, micro_batch_tokens=micro_batch_tokens)
    return sequence_measures(model, rows, temperature, update)["logp"]


def backward_of_step(model, rows, update, temperature=1.0, normaliser=None, sums=None):
    """Forward and backward of one optimiser step as ``GRPOModule.training_step`` makes them; returns the step's losses."""
    normaliser, sums = step_normaliser(rows, update) if normaliser is None else normaliser, sums or UpdateSums()
    bonus, tokens = update.entropy_coef > 0, rows.loss_mask.sum()
    for part in micro_batches(model, rows, update):
        names = ["entropy", "router_loss"] if update.router_aux_coef else ["entropy"]
        options = {"temperature": temperature, "sizes": part.sizes, "gradients": bonus}
        logp, measured = response_measures(model, *part.tokens, names, **options)
        loss, watched = grpo_loss(part, logp, update, normaliser, measured, len(part) / len(rows), tokens)
        loss.backward()
        sums.add(watched)
    return {name.removeprefix("loss/"): value for name, value in sums.step.items()}


def metrics(folder, times=False, stage=""):
    """Rows of metrics.csv as mappings, those of one stage if so asked; without the columns that hold times."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [{k: v for k, v in row.items() if times or "/time/" not in k} for row in csv.DictReader(file)]
    return [row for row in rows if not stage or row[f"{stage}/reward/mean"] != ""]


def column(folder, name):
    """One column of metrics.csv as floats, empty cells left out."""
    return [float(row[name]) for row in metrics(folder, times=True) if row[name] != ""]


def weights_of(module):
    return {name: value.detach().clone() for name, value in module.policy.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(left[key].equal(right[key]) for key in left)


def saving(folder, every=2):
    """Leaves ``folder/step=N.ckpt`` after each ``every`` optimiser steps."""
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=every, save_top_k=-1)


def assert_same_end(one, other):
    """Two runs have the same weights and wrote the same, to the last bit."""
    assert same(weights_of(one.module), weights_of(other.module))
    assert metrics(one.folder) == metrics(other.folder)


class FailingJudge(Judge):
    """Never manages to judge anything."""

    def judge(self, requests):
        return [tuple(Verdict(Outcome.ERROR, None, "judge is down") for _ in request.criteria) for request in requests]


class BrokenAdvantage(Advantage):
    """NaN in the batches given by number, GRPO otherwise."""

    def __init__(self, *broken):
        self.broken, self.calls = broken, -1

    def __call__(self, scores, weights, rewards, valid):
        self.calls += 1
        advantages = GroupAdvantage()(scores, weights, rewards, valid)
        return torch.full_like(advantages, torch.nan) if self.calls in self.broken else advantages


class AlwaysBroken(BrokenAdvantage):
    """NaN in every batch."""

    def __init__(self):
        super().__init__(*range(1000))
