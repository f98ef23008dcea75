"""What ``lightning_focal`` says of itself: every command in a line, each with an example; read in no time, as nothing is imported."""

from __future__ import annotations

__all__ = ["EXAMPLES", "OVERVIEW"]

_COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "run": {
        "fit": ("train a policy; after a kill, the same with --ckpt_path=last", "--config configs/focal.yaml"),
        "validate": ("answer the held-out prompts once", "--config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt"),
        "test": ("answer the test prompts once", "--config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt"),
        "predict": ("write responses and their scores", "--config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt"),
    },
    "prepare": {
        "sft": ("a supervised warm start that ends in a policy folder", "--config configs/sft_chain_sum.yaml"),
        "rephrase": (
            "questions in, pairs with a rephrasing out",
            "questions.jsonl --out pairs.jsonl --server http://localhost:8000/v1 --model NAME",
        ),
    },
    "look": {
        "eval": (
            "tasks of lm-evaluation-harness: checkpoints and exported folders",
            "--ckpt_path RUN/checkpoints/last.ckpt --tasks configs/eval/rubric.yaml --out eval.json",
        ),
        "lm-eval": (
            "the harness's own command line, with a model for checkpoints",
            "run --model lightning_focal --model_args ckpt=RUN/checkpoints/last.ckpt --tasks gsm8k",
        ),
        "judge": (
            "is a judge's server there; --agreement: how good is a judge",
            "--check --url http://localhost:8000/v1 --model NAME",
        ),
        "rubrics": ("what is in a file of rubrics, and what is wrong with it", "configs/data/everyday/train.jsonl"),
    },
    "scale": {
        "plan": ("parameters and memory of every process, before a run", "--config configs/scale/qwen3_8b_fsdp2.yaml"),
        "export": (
            "a checkpoint, whole or in shards, into a Hugging Face folder",
            "--ckpt_path RUN/checkpoints/last.ckpt --out POLICY",
        ),
    },
    "study": {
        "report": ("what came out of some runs, as one HTML file", "RUN"),
        "replay": (
            "recorded rollouts under another strategy, without a model",
            "--rollouts RUN/rollouts --reward=FocalReward --grid '{gamma: [0, 1, 3]}'",
        ),
        "ablate": ("a grid of runs over seeds: one table, one figure", "--config configs/ablations/gamma.yaml"),
    },
}

EXAMPLES = {name: f"lightning_focal {name} {words}" for group in _COMMANDS.values() for name, (_, words) in group.items()}
"""A command line of every command."""

_LINES = "\n".join(
    f"{title}\n" + "".join(f"  {name:<10} {about}\n" for name, (about, _) in group.items()) for title, group in _COMMANDS.items()
)

OVERVIEW = f"""\
usage: lightning_focal COMMAND [options]

Reinforcement learning on rubrics of many criteria (Focal Reward, static
weights, their neighbours) and without labels (Co-rewarding-I and -II, majority
voting, self-certainty, entropy).

{_LINES}
options
  COMMAND --help                      every option of a command, an example
  fit --reward.help FocalReward       the options of one class
  fit --config FILE --print_config    the whole configuration a run would use
  fit --config FILE --quiet           nothing but warnings and what came out

Any value is overridden on the command line:
  {EXAMPLES["fit"]} \\
      --reward=StaticReward --reward.weights=uniform --model.group_size=16
"""
