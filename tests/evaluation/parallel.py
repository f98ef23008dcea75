"""Runs of several processes with the callback, for the test beside."""

import json
from pathlib import Path

import torch

from lightning_focal.evaluation import LMEval, evaluate_tasks, flat_scores, load_tasks, policy_lm
from lightning_focal.models.weights import RolloutCopy
from tests.modules.parallel import fit, strategies


def worker(rank, folder, tasks, names, limit):
    """Train under every strategy; leaves the history of each process, and what one process alone says of the final weights."""
    for name in names:
        run = Path(folder) / name
        run.mkdir(parents=True, exist_ok=True)
        torch.distributed.barrier()
        watch = LMEval(tasks, batch_size=4, limit=limit)
        module = fit("static", run, strategies(2)[name](), 2, steps=1, callbacks=[watch])
        whole = RolloutCopy(module.policy, None).model
        alone = flat_scores(evaluate_tasks(policy_lm(whole, module.tokenizer, batch_size=4), load_tasks(tasks), limit=limit))
        (run / f"history-{rank}.json").write_text(json.dumps({"history": watch.history, "alone": alone}))
