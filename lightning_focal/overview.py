"""What ``lightning_focal`` says of itself: every command in a line, each with an example; read in no time, as nothing is imported."""

from __future__ import annotations

import textwrap

__all__ = ["OVERVIEW", "example"]

OVERVIEW = """\
usage: lightning_focal COMMAND [options]

Reinforcement learning on rubrics of many criteria (Focal Reward, static
weights, their neighbours) and without labels (Co-rewarding-I and -II, majority
voting, self-certainty, entropy).

run
  fit        train a policy
             lightning_focal fit --config configs/focal.yaml
             after a kill: the same command with --ckpt_path=last
  validate   answer the held-out prompts once
             lightning_focal validate --config RUN/config.yaml \\
                 --ckpt_path RUN/checkpoints/last.ckpt
  test       answer the test prompts; as validate
  predict    write responses and their criterion scores; as validate

prepare
  sft        a supervised warm start that ends in a policy folder
             lightning_focal sft --config configs/sft_chain_sum.yaml
  rephrase   questions in, pairs with a rephrasing out
             lightning_focal rephrase questions.jsonl --out pairs.jsonl \\
                 --server http://localhost:8000/v1 --model NAME

look
  eval       tasks of lm-evaluation-harness: checkpoints and exported folders
             lightning_focal eval --ckpt_path RUN/checkpoints/last.ckpt \\
                 --tasks configs/eval/rubric.yaml --out eval.json
  lm-eval    the harness's own command line, with a model for checkpoints
             lightning_focal lm-eval run --model lightning_focal \\
                 --model_args ckpt=RUN/checkpoints/last.ckpt --tasks gsm8k
  judge      is the judge's server there; how well does a judge agree with gold
             lightning_focal judge --check --url http://localhost:8000/v1 \\
                 --model NAME
             lightning_focal judge --agreement labelled.jsonl \\
                 --config configs/healthbench_judge.yaml
  rubrics    what is in a file of rubrics, and what is wrong with it
             lightning_focal rubrics configs/data/everyday/train.jsonl

scale
  plan       parameters and memory of every process, before a run
             lightning_focal plan --config configs/scale/qwen3_8b_fsdp2.yaml
  export     a checkpoint, whole or in shards, into a Hugging Face folder
             lightning_focal export --ckpt_path RUN/checkpoints/last.ckpt \\
                 --out POLICY

study
  report     what came out of some runs, as one HTML file
             lightning_focal report RUN
  replay     recorded rollouts under another strategy, without a model
             lightning_focal replay --rollouts RUN/rollouts \\
                 --reward=FocalReward --grid '{gamma: [0, 1, 3]}'
  ablate     a grid of runs over seeds: one table, one figure
             lightning_focal ablate --config configs/ablations/gamma.yaml

options
  COMMAND --help                      every option of a command
  fit --reward.help FocalReward       the options of one class
  fit --config FILE --print_config    the whole configuration a run would use
  fit --config FILE --quiet           nothing but warnings and what came out

Any value is overridden on the command line:
  --reward=StaticReward --reward.weights=uniform --model.group_size=16
"""


_NAMES = 2
_WORDS = 13
"""Columns at which names of commands begin, and what is said of them."""


def example(command: str) -> str:
    r"""Return the example of a command as it stands in the overview, from the margin on; "" for a command without one.

    Args:
        command: its name; what follows it (``judge --agreement``) makes no difference.

    >>> print(example("report"))
    lightning_focal report RUN
    >>> print(example("test"))
    lightning_focal test --config RUN/config.yaml \
        --ckpt_path RUN/checkpoints/last.ckpt
    """
    name = (command.split() or [""])[0]
    lines, there = [], False
    for line in OVERVIEW.splitlines():
        if not line.startswith(" " * _WORDS):
            there = line.startswith(" " * _NAMES + name + " ") and line[_NAMES + len(name) : _WORDS].isspace() and bool(name)
            if there and line.endswith("as validate"):
                return example("validate").replace("validate", name)
        elif there:
            lines.append(line)
    start = next((i for i, line in enumerate(lines) if "lightning_focal" in line), len(lines))
    return textwrap.dedent("\n".join(lines[start:]))
