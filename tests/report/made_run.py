"""Run folders without a run: made-up answers, written by what writes real ones."""

import random

import torch
import yaml

from lightning_focal.callbacks import ScoredRollouts
from lightning_focal.callbacks.held_out import prompt_scores
from lightning_focal.callbacks.rollout_table import rollout_rows, rollout_schema
from lightning_focal.files import write_json, write_parquet, write_text
from lightning_focal.intervals import bootstrap_interval as interval_of
from lightning_focal.modules.measures import BatchMeasures
from lightning_focal.rewards import FocalReward
from lightning_focal.runs import CSVLog
from lightning_focal.types import CriterionScores, Prompts, Rollouts, log_key

NINE = (
    ("at most 40 words", ("axis:brevity", "level:easy")),
    ("no filler", ("axis:brevity", "level:hard")),
    ("says what is unsure", ("axis:caution", "level:hard")),
    ("sends to a doctor", ("axis:caution", "level:medium")),
    ("names the steps", ("axis:content", "level:medium")),
    ("asks back", ("axis:engagement", "level:hard")),
    ("a list", ("axis:format", "level:easy")),
    ("does not invent", ("axis:honesty", "level:medium")),
    ("calm", ("axis:tone", "level:easy")),
)
WORDS = ("tea", "steep", "minutes", "water", "boil", "ask", "doctor", "not", "sure", "perhaps", "first", "then", "cups", "calm")


def make_run(
    folder,
    batches=6,
    prompts=2,
    group=4,
    held_out=4,
    seed=0,
    criteria=NINE,
    strategy="FocalReward",
    gamma=1.0,
    words=None,
    length=30,
    evaluations=(0, None),
    rollouts=True,
    say=None,
    extra=None,
    second=None,
):
    """Write a run folder.

    Args:
        folder: where to.
        batches, prompts, group: size of the run.
        held_out: number of held-out prompts.
        criteria: ``(name, tags)`` each.
        words: that responses are made of.
        length: words in a response.
        evaluations: after which batches the held-out prompts are answered; None = the last one.
        rollouts: write rollouts/*.parquet.
        say: ``say(stage, batch, prompt, rollout)`` in place of made-up responses.
        extra: ``extra(batch)`` gives further values to log.
        second: ``second(batch, score)`` gives the score of a held-out prompt by a second judge.
    """
    dice = random.Random(seed)
    focal, parts = strategy == "FocalReward", folder / "rollouts"
    log, history, keys = CSVLog(folder), [], sorted({log_key(*criterion) for criterion in criteria})
    made = _Maker(dice, criteria, FocalReward(gamma=gamma if focal else 0.0), group, words or WORDS, length, say)
    for batch in range(batches + 1):
        if batch in [batches if at is None else at for at in evaluations]:
            answers = made.answers("val", batch, [f"held-{i}" for i in range(held_out)], batch / max(1, batches))
            measures = BatchMeasures("val", keys).add(answers.rollouts, answers.scores, answers.shaped).compute()
            scores = prompt_scores(answers)
            interval = interval_of(list(scores.values()))
            measures |= dict(zip(("val/held_out/mean", "val/held_out/low", "val/held_out/high"), interval, strict=True))
            history.append({"batch": batch, "scores": scores, "measures": measures})
            if second:
                other = history[-1]["held_out_judge"] = {name: second(batch, score) for name, score in scores.items()}
                ends = dict(zip(("mean", "low", "high"), interval_of(list(other.values())), strict=True))
                measures |= {f"val/held_out_judge/{name}": value for name, value in ends.items()}
            write_json(folder / "held_out.json", {"level": 0.95, "evaluations": history})
            if rollouts:
                write_parquet(parts / f"val-{batch:06d}-0000-r0.parquet", rollout_rows(answers, batch), rollout_schema())
        if batch < batches:
            ids = [f"train-{(batch * prompts + i) % 40}" for i in range(prompts)]
            answers = made.answers("train", batch, ids, batch / batches)
            measures = BatchMeasures("train", keys).add(answers.rollouts, answers.scores, answers.shaped).compute()
            log.log_metrics({**measures, **(extra(batch) if extra else {})}, step=batch)
            if rollouts:
                write_parquet(parts / f"train-{batch:06d}-r0.parquet", rollout_rows(answers, batch), rollout_schema())
    reward = {"class_path": f"lightning_focal.rewards.{strategy}", "init_args": {"gamma": gamma} if focal else {}}
    config = {"seed_everything": seed, "run_dir": str(folder), "reward": reward}
    config["model"] = {"policy": f"random:tiny-llama?seed={seed}"}
    write_text(folder / "config.yaml", "# lightning.pytorch==2.6\n" + yaml.safe_dump(config))
    return folder


class _Maker:
    def __init__(self, dice, criteria, strategy, group, words, length, say):
        self.dice, self.criteria, self.strategy, self.group = dice, criteria, strategy, group
        self.words, self.length, self.say = words, length, say

    def answers(self, stage, batch, ids, done):
        dice, p, g, c = self.dice, len(ids), self.group, len(self.criteria)
        rates = [min(1.0, 0.1 + 0.8 * k / max(1, c - 1) + done * (0.3 if k % 3 else -0.05)) for k in range(c)]

        def each(make):
            return tuple(tuple(tuple(make(i, j, k) for k in range(c)) for j in range(g)) for i in range(p))

        kinds = each(lambda *_: dice.choices(("judged", "error", "not_applicable"), (97, 1, 2))[0])
        raw = each(lambda i, j, k: float(dice.random() < rates[k]))
        words = {1.0: "met", 0.0: "not_met"}
        mask = torch.tensor(each(lambda i, j, k: kinds[i][j][k] == "judged"))
        judged = CriterionScores(
            torch.where(mask, torch.tensor(raw), torch.zeros(())),
            mask,
            torch.full((p, c), 1.0 / c),
            names=(tuple(name for name, _ in self.criteria),) * p,
            tags=(tuple(tuple(tags) for _, tags in self.criteria),) * p,
            failed=torch.tensor(each(lambda i, j, k: kinds[i][j][k] == "error")),
            outcomes=each(lambda i, j, k: words[raw[i][j][k]] if kinds[i][j][k] == "judged" else kinds[i][j][k]),
            reasons=each(lambda i, j, k: f"{dice.randint(0, 60)} words, 40 asked" if k < 2 else ""),
        )
        say = self.say or (lambda *_: " ".join(dice.choices(self.words, k=self.length)))
        rollouts = Rollouts(
            Prompts(tuple(ids), tuple(({"role": "user", "content": f"Question {name}: how do I make tea?"},) for name in ids)),
            tuple(tuple(say(stage, batch, i, j) for j in range(g)) for i in range(p)),
            *(make(p, 4, dtype=kind) for make, kind in ((torch.zeros, torch.int64), (torch.ones, torch.bool))),
            *(make(p, g, 8, dtype=kind) for make, kind in ((torch.zeros, torch.int64), (torch.ones, torch.bool))),
            torch.zeros(p, g, dtype=torch.bool),
        )
        if stage == "train":
            self.strategy.observe(judged)
        return ScoredRollouts(stage, 0, rollouts, judged, self.strategy.shape(judged))
