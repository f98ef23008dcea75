"""Where ``lightning_focal`` starts: the overview at once, everything else once it is asked for."""

from __future__ import annotations

import sys

__all__ = ["OVERVIEW", "main"]

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


def main(args: list[str] | None = None) -> None:
    """Run the command line; without a command, or asked for help, print the overview.

    Args:
        args: as on the command line, without the program's name; None = ``sys.argv``.
    """
    given = sys.argv[1:] if args is None else args
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(OVERVIEW)
        raise SystemExit(0 if given else 2)
    from lightning_focal.cli import main as run  # seconds of imports

    run(args)
