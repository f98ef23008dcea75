"""One training step against TRL's GRPOTrainer on the same job, both libraries in turns in one process (A B A B).

Equal are: initial weights, reference, tokenizer, prompts and their order, forced response lengths, sampling, rewards, KL, clips, optimiser
and its settings, precision, micro-batches, gradient checkpointing (off), threads. Ours runs through Trainer and GRPOModule. The work is
verified: tokens and updates are counted, and on TRL's own first rollouts both libraries' losses and gradient norms are compared.

    python benchmarks/step_vs_trl.py --size tiny --json benchmarks/results/step_vs_trl_tiny.json
    python benchmarks/step_vs_trl.py --size small --precision bf16
    python benchmarks/step_vs_trl.py --size qwen --precision bf16 --accelerator gpu

Ratios are TRL's time / ours, in pairs of neighbouring steps; the memory ratio is our peak / TRL's, each in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from provenance import provenance
from steps import (
    JOBS,
    KL,
    MICRO,
    PHASES,
    RATE,
    REWARDS,
    Turns,
    busy,
    job_update,
    make_ours,
    policy_folder,
    questions,
    quiet,
    shift_reference,
    spread,
    timed,
)

NORM_TOLERANCE = 1e-3
"""Largest relative difference of the first gradient norms in float32."""

# -- TRL --------------------------------------------------------------------------------------------------------------------------


def make_trl(folder, job, options, steps, turns, output, first):
    """A function that trains; what the first step computed is put into ``first``."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    def reward(name, function):
        def scored(completions, **kwargs):
            return [function(completion[0]["content"]) for completion in completions]

        scored.__name__ = name
        return scored

    chats = [[{"role": "user", "content": q}] for q in questions(job, job.prompts * steps, options.mixed)]
    extra = {} if options.mixed else {"generation_kwargs": {"min_new_tokens": job.tokens}}
    config = GRPOConfig(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=MICRO,
        gradient_accumulation_steps=job.prompts * job.group // MICRO,
        num_generations=job.group,
        max_completion_length=job.tokens,
        temperature=1.0,
        beta=KL,
        loss_type="dapo",  # the mean over the batch's tokens
        reward_weights=[1 / len(REWARDS)] * len(REWARDS),
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=options.precision == "bf16" or options.trl == "defaults",
        gradient_checkpointing=options.trl == "defaults",
        use_cpu=options.accelerator == "cpu",
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **extra,
    )

    class Handover(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            turns.end("trl", state.global_step >= steps)

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=[reward(*pair) for pair in REWARDS.items()],
        args=config,
        train_dataset=Dataset.from_dict({"prompt": chats}),
        processing_class=tokenizer,
        callbacks=[Handover()],
    )
    shift_reference(trainer.ref_model)
    trainer._generate = timed(turns, "trl", "generate", trainer._generate)
    trainer._calculate_rewards = timed(turns, "trl", "rewards", trainer._calculate_rewards)
    logp, loss, clip = trainer._get_per_token_logps_and_entropies, trainer._compute_loss, trainer.accelerator.clip_grad_norm_
    first |= {"batches": [], "loss": 0.0, "norm": None, "tokens": [], "texts": [], "updates": lambda: trainer.state.global_step}
    scored = trainer._calculate_rewards

    def reference_or_policy(model, *args, **kwargs):
        is_reference = model is trainer.ref_model
        with turns.phase("trl", "reference") if is_reference else contextlib.nullcontext():
            return logp(model, *args, **kwargs)

    def watched_loss(model, inputs):
        value = loss(model, inputs)
        if first["norm"] is None:
            first["batches"].append({k: v.clone() if torch.is_tensor(v) else v for k, v in inputs.items()})
            first["loss"] += float(value.detach())
        return value

    def watched_norm(*args, **kwargs):
        norm = clip(*args, **kwargs)
        first["norm"] = float(norm) if first["norm"] is None else first["norm"]
        return norm

    def watched_rewards(inputs, prompts, completions, completion_ids):
        first["tokens"].append(sum(map(len, completion_ids)))
        first["texts"] = first["texts"] or [completion[0]["content"] for completion in completions]
        return scored(inputs, prompts, completions, completion_ids)

    trainer._get_per_token_logps_and_entropies, trainer._compute_loss = reference_or_policy, watched_loss
    trainer.accelerator.clip_grad_norm_, trainer._calculate_rewards = watched_norm, watched_rewards
    return trainer.train


# -- equal work -------------------------------------------------------------------------------------------------------------------


def loss_on(first, folder, options):
    """Our loss and gradient norm from the initial weights, on the rollouts of TRL's first step."""
    from lightning_focal.models import load_policy, response_logp
    from lightning_focal.modules.loss import grpo_loss, step_normaliser
    from lightning_focal.modules.update import Sequences, micro_batches, sequence_measures

    policy, _ = load_policy(folder)
    reference, _ = load_policy(folder)
    shift_reference(reference)
    device = first["batches"][0]["prompt_ids"].device
    policy, reference = policy.to(device).train(), reference.to(device)
    joined = {
        key: torch.cat([batch[key] for batch in first["batches"]])
        for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages")
    }
    sequences = Sequences(
        joined["prompt_ids"],
        joined["prompt_mask"].bool(),
        joined["completion_ids"],
        joined["completion_mask"].bool(),
        joined["advantages"],
        torch.ones(len(joined["advantages"]), dtype=torch.bool, device=device),
    )
    update = job_update()
    with torch.autocast(device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        ref = sequence_measures(reference, sequences, 1.0, update)["logp"]
        sequences = Sequences(**{**sequences.__dict__, "ref_logp": ref})
        normaliser, total = step_normaliser(sequences, update), 0.0
        for part in micro_batches(policy, sequences, update):
            loss, _ = grpo_loss(part, response_logp(policy, *part.tokens), update, normaliser)
            loss.backward()
            total += float(loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), float("inf"))
    return {
        "trl_loss": first["loss"],
        "our_loss": total,
        "trl_gradient_norm": first["norm"],
        "our_gradient_norm": float(norm),
        "loss_difference": abs(first["loss"] - total),
        "gradient_norm_relative_difference": abs(first["norm"] - float(norm)) / first["norm"],
    }


def advantages_on(first, job, strategy):
    """Largest difference between our advantages and TRL's, on TRL's first texts and in its order."""
    from lightning_focal.types import CriterionScores

    scores = torch.tensor([[f(text) for f in REWARDS.values()] for text in first["texts"]]).reshape(-1, job.group, len(REWARDS))
    weights = torch.full((len(scores), len(REWARDS)), 1 / len(REWARDS))
    ours = strategy.shape(
        CriterionScores(scores, torch.ones_like(scores, dtype=torch.bool), weights, (tuple(REWARDS),) * len(scores))
    ).advantages.flatten()
    theirs = torch.cat([batch["advantages"] for batch in first["batches"]]).cpu()  # shuffled
    return float((ours.sort().values - theirs.sort().values).abs().max())


# -- memory ---------------------------------------------------------------------------------------------------------------------


def one_library(options, name):
    """Run three steps of one library and print its peak memory in bytes over the last two."""
    job, seen, first = JOBS[options.size], {}, {}
    turns = Turns([name], options.threads)
    with tempfile.TemporaryDirectory() as folder:
        source = policy_folder(job, Path(folder) / "policy")
        make = make_trl if name == "trl" else make_ours
        worker = make(source, job, options, 3, turns, folder, first if name == "trl" else seen)
        end = turns.end

        def reset_then_end(which, last):
            if not turns.steps[name]:  # the optimiser's state is there from now on
                first.get("batches", []).clear()
                if torch.cuda.is_available() and options.accelerator == "gpu":
                    torch.cuda.reset_peak_memory_stats()
                else:
                    Path("/proc/self/clear_refs").write_text("5")
            end(which, last)

        turns.end = reset_then_end
        turns.run({name: worker})
    if torch.cuda.is_available() and options.accelerator == "gpu":
        print(torch.cuda.max_memory_allocated())
        return
    print(1024 * next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))


def peak(options, name):
    # Fixed thresholds keep the allocator from holding on to freed blocks, in both libraries.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the memory run of {name} failed:\n{done.stderr[-3000:]}")
    return int(done.stdout.strip().splitlines()[-1])


# -- main -------------------------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(JOBS), default="tiny")
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--mixed", action="store_true", help="prompts of mixed length, eos allowed")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--trl", choices=["tuned", "defaults"], default="tuned", help="defaults: bf16 and gradient checkpointing")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each library")
    parser.add_argument("--warmup", type=int, default=2, help="steps of each that are dropped")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=["ours", "trl"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    if options.only:
        one_library(options, options.only)
        return
    job, steps, first, seen = JOBS[options.size], options.warmup + options.rounds, {}, {}
    turns = Turns(["trl", "ours"], options.threads)
    with tempfile.TemporaryDirectory() as folder:
        source = policy_folder(job, Path(folder) / "policy")
        workers = {
            "trl": make_trl(source, job, options, steps, turns, folder, first),
            "ours": make_ours(source, job, options, steps, turns, folder, seen),
        }
        before, began = busy(), time.perf_counter()
        turns.run(workers)
        after, seconds = busy(), time.perf_counter() - began
        checks = loss_on(first, source, options)
    checks["advantage_difference"] = advantages_on(first, job, seen["strategy"])
    pairs = list(zip(turns.steps["trl"][options.warmup :], turns.steps["ours"][options.warmup :], strict=True))
    ratios = {phase: spread([theirs[phase] / ours[phase] for theirs, ours in pairs]) for phase in PHASES}
    others = (after[0] - before[0]) - (after[1] - before[1])
    result = {
        "ratio_total_median": ratios["total"]["median"],
        "ratios": ratios,
        "seconds": {
            name: {phase: spread([step[phase] for step in turns.steps[name][options.warmup :]]) for phase in (*PHASES, "rewards")}
            for name in turns.names
        },
        "work": {
            "tokens": {"trl": first["tokens"], "ours": seen["tokens"]},
            "updates": {"trl": first["updates"](), "ours": seen["updates"]()},
            **checks,
        },
        "options": {k: v for k, v in vars(options).items() if k not in ("json", "only")},
        "other_processes_cpu_share": others / seconds / (os.cpu_count() or 1),
    }
    if not options.no_memory:
        peaks = {name: peak(options, name) for name in ("trl", "ours")}
        result |= {"peak_bytes": peaks, "memory_ratio": peaks["ours"] / peaks["trl"]}
    if torch.cuda.is_available():
        result["gpu"] = torch.cuda.get_device_name()
    import transformers
    import trl

    result |= {"trl": trl.__version__, "transformers": transformers.__version__, "provenance": provenance()}
    report(result)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    verify(result, options)


def verify(result, options):
    work = result["work"]
    problems = []
    if not options.mixed and work["tokens"]["trl"] != work["tokens"]["ours"]:
        problems.append(f"tokens differ: {work['tokens']}")
    if work["updates"]["trl"] != work["updates"]["ours"]:
        problems.append(f"updates differ: {work['updates']}")
    if options.trl == "tuned" and work["loss_difference"] > (1e-4 if options.precision == "float32" else 1e-2):
        problems.append(f"losses differ: {work['trl_loss']} and {work['our_loss']}")
    tolerance = NORM_TOLERANCE if options.precision == "float32" else 1e-2
    if options.trl == "tuned" and work["gradient_norm_relative_difference"] > tolerance:
        problems.append(f"gradient norms differ: {work['trl_gradient_norm']} and {work['our_gradient_norm']}")
    if work["advantage_difference"] > 1e-4:
        problems.append(f"advantages differ by {work['advantage_difference']}")
    if problems:
        raise SystemExit("the work is not equal: " + "; ".join(problems))


def report(result):
    print(f"{'':10} {'TRL s':>8} {'ours s':>8}   TRL / ours: median [min, max]")
    for phase in PHASES:
        times = [result["seconds"][name][phase]["median"] for name in ("trl", "ours")]
        ratio = result["ratios"][phase]
        print(f"{phase:10} {times[0]:8.3f} {times[1]:8.3f}   {ratio['median']:.2f} [{ratio['min']:.2f}, {ratio['max']:.2f}]")
    if "memory_ratio" in result:
        peaks = result["peak_bytes"]
        print(
            f"peak memory: TRL {peaks['trl'] / 2**20:.0f} MiB, ours {peaks['ours'] / 2**20:.0f} MiB: {result['memory_ratio']:.2f}"
        )
    work = result["work"]
    print(
        f"equal work: {sum(work['tokens']['trl'])} and {sum(work['tokens']['ours'])} tokens, "
        f"{work['updates']['trl']} and {work['updates']['ours']} updates, first loss {work['trl_loss']:.6f} and "
        f"{work['our_loss']:.6f}, gradient norm {work['trl_gradient_norm']:.6f} and {work['our_gradient_norm']:.6f}"
    )
    print(f"other processes took {100 * result['other_processes_cpu_share']:.0f} % of the processors")


if __name__ == "__main__":
    main()
