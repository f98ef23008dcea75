"""Does it learn, and is a step the step of the paper?"""

import numpy as np
import torch

from lightning_focal.generation import Sampling
from lightning_focal.models import encode_chat
from lightning_focal.modules import GRPOModule, Update
from lightning_focal.rewards import FocalReward, StaticReward
from tests.conftest import adam
from tests.modules.helpers import full_logp, group_advantages, rows_of

TARGET = ({"name": "target", "check": {"kind": "exact", "text": "a"}},)


def target_probability(module, rows):
    token = module.tokenizer("a", add_special_tokens=False)["input_ids"]
    assert len(token) == 1
    with torch.no_grad():
        return [float(full_logp(module.policy, encode_chat(module.tokenizer, row.messages), token).exp()) for row in rows]


def test_tiny_policy_learns_a_one_token_target(run_tiny, rubric_file):
    run = run_tiny(
        FocalReward(),
        fit=False,
        group_size=64,
        sampling=Sampling(max_new_tokens=1),
        optimizer=adam(1.5e-2),
        data_train=rubric_file(4, rubric=TARGET),
        data_batch_size=4,
        update=Update(micro_batch_size=256),
        trainer_max_epochs=14,
    )
    seen = []
    run.module.on_train_start = lambda: seen.append(max(target_probability(run.module, run.data.rows["train"])))
    run.trainer.fit(run.module, datamodule=run.data)
    assert seen[0] < 0.05
    assert min(target_probability(run.module, run.data.rows["train"])) > 0.9


def test_one_step_equals_a_hand_written_grpo_step(run_tiny, learned, monkeypatch):
    """Plain loops: transformers' logits of one sequence at a time, group advantages by NumPy, AdamW of torch."""

    def adamw(parameters):  # a large eps: the first step would otherwise be the sign of gradients that round to either side of 0
        return torch.optim.AdamW(parameters, lr=1e-2, eps=1e-3)

    answered, answer = [], GRPOModule.answer
    monkeypatch.setattr(GRPOModule, "answer", lambda *args: answered.append(answer(*args)) or answered[-1])
    run = run_tiny(StaticReward(), optimizer=adamw, trainer_limit_train_batches=1)
    ((model, sequences),), answers = learned, answered[0]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.train()
    weights = np.array([2, 1, 1]) / 4  # points of the rubric, a fault by its absolute value
    rewards = (answers.scores.scores.numpy() * weights).sum(-1)
    advantages = group_advantages(rewards.tolist()).reshape(-1)
    assert np.abs(advantages).max() > 0.5
    rows = rows_of(sequences)
    tokens = sum(len(response) for _, response in rows)
    optimizer = adamw(model.parameters())
    loss = 0.0
    for (prompt, response), advantage in zip(rows, advantages, strict=True):
        logp = full_logp(model, prompt, response)
        ratio = (logp - logp.detach()).exp()
        loss = loss - (ratio * float(advantage)).sum() / tokens
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

    assert torch.allclose(torch.as_tensor(advantages, dtype=torch.float32), sequences.advantages, atol=1e-5)
    logged = run.trainer.callback_metrics
    assert abs(float(logged["train/policy/grad_norm"]) - float(norm)) < 1e-4
    assert abs(float(logged["train/loss/policy"]) - float(loss.detach())) < 1e-5
    by_hand = dict(model.named_parameters())
    for name, parameter in run.module.policy.named_parameters():
        assert (parameter - by_hand[name]).abs().max() < 1e-6, name
    assert max(float((by_hand[name] - before[name]).abs().max()) for name in by_hand) > 1e-3
