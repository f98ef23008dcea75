"""A policy learns to use a calculator: configs/environments/calculator.yaml from a warm start that mostly guesses.

    python benchmarks/calculator.py --seeds 40 41 42 --json benchmarks/results/calculator.json

For each seed a Llama of random weights, with a tokenizer trained on the demonstrations (digits apart), learns the format from
trajectories: first that calls are made and results are copied, then that 88 of 100 questions are answered by a guess instead of a call.
Reinforcement learning by `lightning_focal fit` has to find the tool again; success is the environment's own score `right` on held-out
questions, before and after. All of it runs on one core; the numbers of the demonstrations are no held-out questions.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from provenance import provenance
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lightning_focal.environments import Calculator
from lightning_focal.environments.speech import Speech
from lightning_focal.environments.tools import Tools
from lightning_focal.generation.assemble import left_pad
from lightning_focal.models import response_logp
from lightning_focal.models.tiny import CHATML, TinyLlama

ROOT = Path(__file__).parent.parent
CONFIG = "configs/environments/calculator.yaml"
SHARE = 0.12  # of questions that the warm start ends with a call for; the others are guessed
OPTIONS = ["--model.optimizer.lr=5e-4", "--model.lr_scheduler=WarmupCosine", "--trainer.max_epochs=6"]  # of fit: 192 batches
MARKS = ("<|pad|>", "<|im_start|>", "<|im_end|>")
HELD_OUT = {json.loads(line)["prompt"] for line in (ROOT / "configs/data/calculator/heldout.jsonl").open()}


def call(expression: str) -> str:
    return '<tool_call>{"name": "calculate", "arguments": {"expression": "' + expression + '"}}</tool_call>'


def make_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    texts = [call("12*34"), "user\n12*34=", "assistant\n", "tools\ncalculate(expression)\n", "tool\n408", "\n"] * 50
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [AddedToken(mark, special=True) for mark in MARKS]
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=special))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=MARKS[0], eos_token=MARKS[2], chat_template=CHATML, padding_side="left"
    )


class Demonstrations:
    """Trajectories by turns, as prompts, responses, and masks of what a policy writes."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.tokenizer, self.random = tokenizer, random.Random(seed)
        self.speech = Speech(tokenizer, [tokenizer.eos_token_id], Tools(Calculator()).schemas)

    def batch(self, count: int, share: float) -> tuple[torch.Tensor, ...]:
        """``share`` of ``count`` questions are answered by a call, the others by a guess."""
        prompts, responses, masks = [], [], []
        while len(prompts) < count:
            a, b = self.random.randrange(12, 99), self.random.randrange(12, 99)
            chat = [{"role": "user", "content": f"{a}*{b}="}]
            if chat[0]["content"] in HELD_OUT:
                continue
            parts = [(True, self.turn(str(self.random.randrange(144, 9604))))]
            if self.random.random() < share:
                said = [{"role": "tool", "name": "calculate", "content": str(a * b)}]
                parts = [
                    (True, self.turn(call(f"{a}*{b}"))),
                    (False, self.speech.between(chat, said)),
                    (True, self.turn(str(a * b))),
                ]
            prompts.append(self.speech.encode(chat))
            responses.append([i for _, ids in parts for i in ids])
            masks.append([drawn for drawn, ids in parts for _ in ids])
        width = max(map(len, responses))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in responses])
        mask = torch.tensor([row + [False] * (width - len(row)) for row in masks])
        real = torch.arange(width) < torch.tensor([len(row) for row in responses])[:, None]
        return *left_pad(prompts, pad), ids, real, mask

    def turn(self, text: str) -> list[int]:
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]


def warm_start(folder: Path, seed: int, steps: int, guessing: int) -> None:
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    policy = TinyLlama(hidden=64, layers=2, seed=seed).build(tokenizer).train()
    demonstrations = Demonstrations(tokenizer, seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1, (n + 1) / 50) * (1 - 0.9 * n / (steps + guessing)))
    for step in range(steps + guessing):
        *rows, mask = demonstrations.batch(64, 1.0 if step < steps else SHARE)
        loss = -(response_logp(policy, *rows) * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"seed {seed}, step {step}: {float(loss):.3f} nats a token", flush=True)
    policy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run(seed: int, steps: int, guessing: int, options: list[str]) -> dict[str, object]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "policy"
        warm_start(folder, seed, steps, guessing)
        warm = time.monotonic() - began
        typed = ["-m", "lightning_focal", "fit", "--config", CONFIG, f"--model.policy={folder}", f"--seed_everything={seed}"]
        typed += [f"--run_dir={place}/run", *options]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        subprocess.run([sys.executable, *typed], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths})
        with (Path(place) / "run" / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
    right = [float(row["val/criterion/right/score"]) for row in rows if row.get("val/criterion/right/score")]
    trained = [float(row["train/reward/static"]) for row in rows if row.get("train/reward/static")]
    seconds = time.monotonic() - began
    found = {"seed": seed, "before": right[0], "after": right[-1], "batches": len(trained), "seconds": round(seconds, 1)}
    return found | {"seconds_of_warm_start": round(warm, 1), "right_in_training": [round(value, 3) for value in trained]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=450, help="of the warm start, with calls alone")
    parser.add_argument("--guessing", type=int, default=140, help="further ones, with a guess in most")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in arguments.seeds:
        found.append(run(seed, arguments.steps, arguments.guessing, OPTIONS))
        print({key: value for key, value in found[-1].items() if key != "right_in_training"}, flush=True)
        if arguments.json:
            settings = {"warm_start": [arguments.steps, arguments.guessing], "fit": OPTIONS}
            arguments.json.write_text(json.dumps({**provenance(), **settings, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
