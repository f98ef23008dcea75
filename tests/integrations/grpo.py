"""A small job for TRL: a policy of a few thousand parameters, three reward functions with holes, and trainers that remember."""

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from lightning_focal.integrations.trl import FocalGRPOTrainer
from lightning_focal.models import load_policy

TINY = "random:tiny-llama?hidden=32&layers=1&heads=2&kv_heads=1&std=0.1"
WEIGHTS = [0.5, 0.3, 0.2]
ROWS = [{"prompt": [{"role": "user", "content": f"Say {i}"}], "want": [True, False, None][i % 3]} for i in range(12)]


def text(completion):
    return completion if isinstance(completion, str) else completion[0]["content"]


def short(completions, **columns):
    return [1 - min(len(text(c)), 100) / 100 for c in completions]


def even(completions, **columns):
    """None for some completions of a group."""
    return [None if len(text(c)) % 5 == 0 else sum(map(ord, text(c))) % 7 / 6 for c in completions]


async def upper(completions, want, **columns):
    """None for whole groups."""
    return [None if w is None else float(any(x.isupper() for x in text(c)) == w) for c, w in zip(completions, want, strict=True)]


FUNCTIONS = [short, even, upper]


class Remembering(FocalGRPOTrainer):
    """Keeps what came in and went out, batch by batch."""

    def advantages_of(self, rewards):
        self.seen = [*getattr(self, "seen", []), (rewards, super().advantages_of(rewards))]
        return self.seen[-1][1]


def make(
    folder, reward=None, functions=FUNCTIONS, rows=ROWS, bounds=None, peft_config=None, kind=Remembering, policy=None, **settings
):
    """A trainer of TRL's own without ``reward``; ``policy`` is a folder."""
    torch.manual_seed(0)
    policy, tokenizer = (policy, None) if policy else load_policy(TINY)
    given = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 12,
        "learning_rate": 1e-2, "beta": 0.0, "reward_weights": WEIGHTS if functions is FUNCTIONS else None, "bf16": False,
        "max_steps": 20, "logging_steps": 1, "report_to": "none", "seed": 3, "use_cpu": True, "gradient_checkpointing": False,
        "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    data = Dataset.from_list(rows)
    fields = {
        "args": GRPOConfig(**given | settings),
        "train_dataset": data,
        "processing_class": tokenizer,
        "peft_config": peft_config,
    }
    if settings.get("eval_strategy"):
        fields["eval_dataset"] = data
    if reward is None:
        return GRPOTrainer(policy, list(functions), **fields)
    return kind(policy, list(functions), reward=reward, bounds=bounds, **fields)


def fit(folder, *arguments, resume=None, **settings):
    trainer = make(folder, *arguments, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def logs(trainer):
    """All that was logged but times."""
    return [{k: v for k, v in row.items() if "time" not in k and "per_second" not in k} for row in trainer.state.log_history]


def parameters(trainer):
    return {name: value.detach().clone() for name, value in trainer.accelerator.unwrap_model(trainer.model).named_parameters()}


def two_processes(rank, folder):
    """What one of two processes does: TRL's own run, ours with gamma 0, and with gamma 1 in each scope; groups lie across both."""
    from lightning_focal.rewards import FocalReward

    settings = {"per_device_train_batch_size": 2, "max_steps": 4}
    runs = [fit(f"{folder}/{name}", reward, **settings) for name, reward in (("trl", None), ("static", FocalReward(gamma=0.0)))]
    focal = fit(f"{folder}/focal", FocalReward(gamma=1.0, scope="running"), **settings)
    levels = focal.strategy.state_dict()
    grouped = fit(f"{folder}/grouped", FocalReward(gamma=1.0), **settings)
    torch.save(
        {"logs": [logs(run) for run in (*runs, focal, grouped)], "weights": [parameters(run) for run in (*runs, focal)],
         "seen": focal.seen, "grouped": grouped.seen, "state": levels}, f"{folder}/{rank}.pt",
    )  # fmt: skip
