"""Losses and masks beside TRL's own: its trainer makes batch, weights, masks, loss and gradient; ours are of the same rows and weights."""

import pytest
import torch

pytest.importorskip("trl")

from trl.rewards import get_soft_overlong_punishment

from lightning_focal.functional import soft_overlong_punishment
from lightning_focal.models import load_policy
from lightning_focal.modules import Update
from lightning_focal.modules.update import Sequences, UpdateSums, sequence_measures
from tests.integrations.grpo import TINY, make
from tests.modules.helpers import backward_of_step

pytestmark = pytest.mark.trl
LONGEST, TEMPERATURE = 7, 0.9
PPO = {"loss_type": "dapo", "epsilon": 0.2, "epsilon_high": 0.28}
GSPO = {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.08}
CLIPS = {"clip_low": 0.2, "clip_high": 0.28}

OURS_GSPO = {"importance_sampling_level": "sequence", "clip_low": 0.05, "clip_high": 0.08}
MEAN, FIXED = {"loss_aggregation": "sequence_mean"}, {"loss_aggregation": "fixed_length", "fixed_length": LONGEST}
CISPO, ENTROPY, TRUNCATED = {"loss_type": "cispo", "clip_low": 1.0}, {"entropy_coef": 0.03}, {"mask_truncated_completions": True}

CASES = {
    "dapo": (PPO, CLIPS),
    "dr_grpo": (PPO | {"loss_type": "dr_grpo"}, CLIPS | FIXED),
    "grpo": (PPO | {"loss_type": "grpo"}, CLIPS | MEAN),
    "delta": (PPO | {"delta": 1.5}, CLIPS | {"dual_clip": 1.5}),
    "gspo": (GSPO, OURS_GSPO | MEAN),
    "gspo_token_mean": (GSPO | {"loss_type": "dapo"}, OURS_GSPO),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.4}, CISPO | {"clip_high": 0.4}),
    "cispo_sequence": (
        {"loss_type": "cispo", "epsilon_high": 1.05, "importance_sampling_level": "sequence"},
        CISPO | {"clip_high": 0.05, "importance_sampling_level": "sequence"},
    ),
    "entropy": (PPO | ENTROPY, CLIPS | ENTROPY),
    "entropy_fixed_length": (PPO | {"loss_type": "dr_grpo"} | ENTROPY, CLIPS | FIXED | ENTROPY),
    "truncated": (PPO | TRUNCATED, CLIPS | TRUNCATED),
    "truncated_gspo": (GSPO | TRUNCATED, OURS_GSPO | MEAN | TRUNCATED),
}
for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
    for loss, (theirs, ours) in {"": (PPO, CLIPS), "_gspo": CASES["gspo"]}.items():
        limits = {"vllm_importance_sampling_clip_max": 1.3, "vllm_importance_sampling_clip_min": 0.8}
        CASES[mode + loss] = (
            theirs | limits | {"vllm_importance_sampling_mode": mode},
            ours | {"importance_sampling_mode": mode, "importance_cap": 1.3, "importance_floor": 0.8},
        )


def scripted(prompts, trainer):
    """Responses of 1 to 7 tokens, half of them ended, with log-probabilities of a sampler that is off by a little."""
    generator, model = torch.Generator().manual_seed(len(prompts)), ours_of(trainer.model)
    made = {"prompt_ids": [], "completion_ids": [], "logprobs": []}
    for i in range(len(prompts)):
        length = 1 + int(torch.randint(LONGEST, (), generator=generator))
        ids = torch.randint(4, 200, (length,), generator=generator).tolist()
        ids = ids[:-1] + [trainer.eos_token_ids[0]] if i % 2 else ids
        prompt = torch.randint(4, 200, (2 + i % 3,), generator=generator).tolist()
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
        logp = (logits / TEMPERATURE).log_softmax(-1)[range(length), ids]
        made["prompt_ids"].append(prompt)
        made["completion_ids"].append(ids)
        made["logprobs"].append((logp + 0.15 * torch.randn(length, generator=generator)).tolist())
    return made


def letters(completions, **columns):
    return [sum(map(ord, completion[0]["content"])) % 5 / 4 for completion in completions]


def ours_of(model):
    """The same weights in a policy that TRL has not patched."""
    policy, _ = load_policy(TINY)
    policy.load_state_dict(model.state_dict())
    return policy.train()


def theirs(folder, **settings):
    """A batch of TRL's, its loss and the gradients; the policy has moved since the rollouts were scored."""
    trainer = make(folder, functions=[letters], temperature=TEMPERATURE, max_completion_length=LONGEST, **settings)
    trainer.rollout_func = scripted
    trainer.use_vllm, trainer._last_loaded_step = True, trainer.state.global_step  # weights and ratios as beside an engine
    model = trainer.model.train()
    trainer.vllm_importance_sampling_correction = "vllm_importance_sampling_mode" in settings
    before = ours_of(model)
    batch = trainer._generate_and_score_completions([trainer.train_dataset[i // 4] for i in range(8)])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    whole = torch.tensor([len(ids) for ids in scripted(range(8), trainer)["completion_ids"]])
    rows = Sequences(
        batch["prompt_ids"],
        batch["prompt_mask"].bool(),
        batch["completion_ids"],
        torch.arange(batch["completion_ids"].shape[1]) < whole[:, None],
        batch["advantages"],
        torch.ones(8, dtype=torch.bool),
        sampling_logp=batch["sampling_per_token_logps"],
    )
    rows = Sequences(**vars(rows) | {"old_logp": sequence_measures(before, rows, TEMPERATURE, Update())["logp"]})
    if "old_per_token_logps" in batch:
        torch.testing.assert_close(torch.where(rows.response_mask, batch["old_per_token_logps"], 0), rows.old_logp)
    batch["old_per_token_logps"] = rows.old_logp
    if "importance_sampling_ratio" in batch:  # some are masked or truncated, some are not
        ratio = batch["importance_sampling_ratio"].expand_as(rows.old_logp)[rows.response_mask]
        assert 0 < float(((ratio == 0) | (ratio == 0.8) | (ratio == 1.3)).float().mean()) < 1
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer._compute_loss(model, batch)
    loss.backward()
    return trainer, rows, loss.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(("case", "micro_batch_size"), [("dapo", 8), ("gspo", 8), *((case, 3) for case in CASES)])
def test_loss_and_gradient_are_those_of_trl(tmp_path, case, micro_batch_size):
    settings, options = CASES[case]
    trainer, rows, loss, gradients = theirs(tmp_path, **settings)
    update, sums = Update(micro_batch_size=micro_batch_size, **options), UpdateSums()
    if update.mask_truncated_completions:
        rows = Sequences(**vars(rows) | {"valid": torch.arange(8) % 2 == 1})  # as `Sequences.of` has it: those without an end
    model = ours_of(trainer.model)
    ours = backward_of_step(model, rows, update, TEMPERATURE, sums=sums)["total"]
    counts = update.loss_aggregation != "token_mean"  # TRL's mean counts masked rows, too
    kept = float(rows.valid.double().mean()) if counts else 1.0
    assert float(ours) * kept == pytest.approx(float(loss), abs=1e-6)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad * kept, gradient, rtol=1e-4, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-3
    logged = trainer._metrics["train"]
    if "clip_ratio/region_mean" in logged and update.importance_sampling_level == "token" and not update.dual_clip:
        clipped = float(sums.means(["clip_fraction"], torch.device("cpu"), lambda x: x)["policy/clip_fraction"])
        assert clipped == pytest.approx(logged["clip_ratio/region_mean"][-1], abs=1e-6)
        assert 0 < clipped < 1


def test_the_punishment_is_that_of_trl():
    lengths = torch.arange(1, 130)
    theirs = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=30)([[1] * n for n in lengths.tolist()])
    assert soft_overlong_punishment(lengths, 100, 30).tolist() == pytest.approx(theirs, abs=1e-6)
