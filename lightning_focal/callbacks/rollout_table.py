"""Every rollout as a row of a parquet file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_focal.callbacks.observer import RolloutObserver, ScoredRollouts, batches_done
from lightning_focal.files import SetAside, set_aside_of, write_parquet
from lightning_focal.functional.choices import expect_choice

__all__ = ["RolloutTable", "rollout_rows", "rollout_schema"]

_STAGES = ("train", "val", "test", "predict")
_NAME = re.compile(r"(train|val)-(\d+)(?:-\d+)?-r\d+\.parquet")


def rollout_rows(scored: ScoredRollouts, batch: int) -> list[dict[str, Any]]:
    """Return one mapping a rollout: prompt, response, every criterion's verdict and reason, weights, reward, advantage.

    ``response`` is the whole of it, ``thought`` its thought (None where there is none), see :mod:`lightning_focal.thoughts`.
    ``batch`` is the number of rollout batches trained on before.
    ``trajectory`` is JSON: what was said after the prompt, message by message; None where there was one turn.
    Rows of groups that took no part in the update come last and are marked ``rejected``.
    """
    rollouts, scores, shaped = scored.rollouts, scored.scores, scored.shaped
    value, mask = scores.scores.double().tolist(), scores.mask.tolist()
    base, weight, saturation = scores.weights.double().tolist(), shaped.weights.double().tolist(), shaped.saturation.tolist()
    reward, static, advantage = shaped.rewards.tolist(), shaped.static.tolist(), shaped.advantages.tolist()
    valid, truncated, lengths = shaped.valid.tolist(), rollouts.truncated.tolist(), rollouts.lengths.tolist()
    versions = torch.full_like(rollouts.lengths, rollouts.version) if rollouts.versions is None else rollouts.versions
    version, told = versions.tolist(), rollouts.trajectories
    rows = []
    for p, prompt_id in enumerate(rollouts.prompts.ids):
        messages = [dict(message) for message in rollouts.prompts.messages[p]]
        for g, (text, (thought, _, finished)) in enumerate(zip(rollouts.texts[p], rollouts.responses[p], strict=True)):
            criteria = [
                {
                    "name": name,
                    "tags": list(scores.tags[p][c]) if scores.tags else [],
                    "score": value[p][g][c] if mask[p][g][c] else None,
                    "outcome": scores.outcomes[p][g][c] if scores.outcomes else "",
                    "reason": scores.reasons[p][g][c] if scores.reasons else "",
                    "prior_weight": base[p][c],
                    "weight": weight[p][c],
                    "saturation": saturation[p][c],
                }
                for c, name in enumerate(scores.names[p])
            ]
            rows.append(
                {
                    "stage": scored.stage,
                    "batch": batch,
                    "prompt_id": prompt_id,
                    "rollout": g,
                    "messages": messages,
                    "response": text,
                    "trajectory": None if told is None else json.dumps([dict(m) for m in told[p][g]], ensure_ascii=False),
                    "thought": thought,
                    "thought_finished": finished,
                    "tokens": lengths[p][g],
                    "truncated": truncated[p][g],
                    "valid": valid[p][g],
                    "reward": reward[p][g],
                    "static_reward": static[p][g],
                    "advantage": advantage[p][g],
                    "policy_version": version[p][g],
                    "rejected": False,
                    "criteria": criteria,
                }
            )
    return rows + [{**row, "rejected": True} for row in (rollout_rows(scored.rejected, batch) if scored.rejected else [])]


def rollout_schema() -> Any:
    """Return the ``pyarrow.Schema`` of :func:`rollout_rows`: the same for every file, whatever a batch lacks."""
    import pyarrow as pa

    text, whole, number = pa.string(), pa.int64(), pa.float64()
    criterion = {"name": text, "tags": pa.list_(text), "score": number, "outcome": text, "reason": text}
    criterion |= {"prior_weight": number, "weight": number, "saturation": number}
    columns = {"stage": text, "batch": whole, "prompt_id": text, "rollout": whole}
    columns |= {"messages": pa.list_(pa.struct({"role": text, "content": text})), "response": text}
    columns |= {"trajectory": text}
    columns |= {"thought": text, "thought_finished": pa.bool_()}
    columns |= {"tokens": whole, "truncated": pa.bool_(), "valid": pa.bool_()}
    columns |= {"reward": number, "static_reward": number, "advantage": number, "policy_version": whole, "rejected": pa.bool_()}
    return pa.schema(columns | {"criteria": pa.list_(pa.struct(criterion))})


class RolloutTable(RolloutObserver):
    """Writes each batch of rollouts to ``<folder>/<stage>-<batch>[-<part>]-r<rank>.parquet``.

    Files are written beside and renamed: a file that is there is whole. A resumed run sets the files behind its checkpoint aside and
    writes them again. What only tries whether everything works, `fast_dev_run` and the sanity check, is not recorded.

    Args:
        folder: where to; ``<run folder>/rollouts`` by default.
        stages: which stages to write: ``train``, ``val``, ``test``, ``predict``; all by default.

    Raises:
        ValueError: for another stage.
    """

    def __init__(self, folder: str | None = None, stages: list[str] | None = None) -> None:
        self.folder = folder
        self.stages = list(_STAGES) if stages is None else stages
        for i, stage in enumerate(self.stages):
            expect_choice(f"stages[{i}]", stage, _STAGES)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin again."""
        self._started = False

    _started = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set aside what a run wrote behind the checkpoint that this one goes on from, unless that was done before an evaluation."""
        if self._started:
            return
        self._started = True
        folder = self._place(trainer)  # a collective: asked for on every process
        if trainer.is_global_zero and folder.is_dir() and not _is_trial(trainer):
            done = batches_done(trainer)
            place = set_aside_of(trainer, folder.parent, done) if self.folder is None else SetAside(folder, done)
            for path in sorted(folder.glob("*.parquet")):
                found = _NAME.fullmatch(path.name)
                if found and int(found[2]) >= done + (found[1] == "val" and done > 0):  # a checkpoint lies behind its validation
                    place.keep(path)
        trainer.strategy.barrier()

    def _place(self, trainer: Trainer) -> Path:
        log_dir = trainer.log_dir
        return Path(self.folder or Path(log_dir or trainer.default_root_dir) / "rollouts")

    def on_rollouts(self, trainer: Trainer, pl_module: LightningModule, scored: ScoredRollouts) -> None:
        """See :class:`RolloutObserver`."""
        if _is_trial(trainer):
            return
        if trainer.state.fn == "fit":
            self.on_train_start(trainer, pl_module)
        if scored.stage not in self.stages:
            return
        folder = self._place(trainer)
        batch = batches_done(trainer)
        part = "" if scored.stage == "train" else f"-{scored.batch_idx:04d}"
        name = f"{scored.stage}-{batch:06d}{part}-r{trainer.global_rank}.parquet"
        write_parquet(folder / name, rollout_rows(scored, batch), rollout_schema())


def _is_trial(trainer: Any) -> bool:
    return bool(trainer.sanity_checking or getattr(trainer, "fast_dev_run", False))
