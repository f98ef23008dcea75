"""Recorded rollouts under another strategy."""

import json
import math
import re

import pytest
import torch

from lightning_focal.callbacks import ScoredRollouts
from lightning_focal.callbacks.rollout_table import rollout_rows
from lightning_focal.cli import main
from lightning_focal.files import write_parquet
from lightning_focal.rewards import FocalReward, StaticReward
from lightning_focal.studies.replay import compare_ranks, read_rollouts, replay
from lightning_focal.types import CriterionScores, Prompts, Rollouts
from tests.report.made_run import make_run


def _answers(batch, strategy):
    p, n, c = 3, 4, 3
    scores = (torch.rand(p, n, c, generator=torch.Generator().manual_seed(batch)) > 0.5).float()
    mask = torch.ones(p, n, c, dtype=torch.bool)
    mask[2, :, 2] = False  # padding
    mask[0, 1, 0] = False  # a failed judgement
    failed = torch.zeros_like(mask)
    failed[0, 1, 0] = True
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.75, 0.25, 0.0]])
    names = (("a", "b", "c"), ("a", "b", "c"), ("a", "b"))

    def said(i, j, k):
        return "error" if failed[i, j, k] else "met" if scores[i, j, k] else "not_met"

    outcomes = tuple(tuple(tuple(said(i, j, k) for k in range(len(names[i]))) for j in range(n)) for i in range(p))
    made = CriterionScores(scores * mask, mask, weights, names, failed=failed, outcomes=outcomes)
    ids = tuple(f"q{i}" for i in range(p))
    rollouts = Rollouts(
        Prompts(ids, tuple(({"role": "user", "content": i},) for i in ids)),
        tuple(tuple(f"{i} answer {j}" for j in range(n)) for i in ids),
        *(torch.ones(p, 2, dtype=dtype) for dtype in (torch.int64, torch.bool)),
        *(torch.ones(p, n, 3, dtype=dtype) for dtype in (torch.int64, torch.bool)),
        torch.zeros(p, n, dtype=torch.bool),
    )
    strategy.observe(made)
    return ScoredRollouts("train", batch, rollouts, made, strategy.shape(made))


@pytest.fixture
def recorded(tmp_path):
    strategy = FocalReward(gamma=2.0, scope="running")
    answers = [_answers(batch, strategy) for batch in range(3)]
    for batch, answer in enumerate(answers):
        write_parquet(tmp_path / "rollouts" / f"train-{batch:06d}-r0.parquet", rollout_rows(answer, batch))
    return tmp_path / "rollouts", answers


def test_reading_gives_back_what_was_recorded(recorded):
    folder, answers = recorded
    batches = list(read_rollouts(folder))
    assert [batch.batch for batch in batches] == [0, 1, 2]
    for batch, answer in zip(batches, answers, strict=True):
        assert batch.responses == answer.rollouts.texts
        for part in ("mask", "scores", "weights", "failed"):
            assert torch.equal(getattr(batch.scores, part).float(), getattr(answer.scores, part).float())
    _, rows = replay(FocalReward(gamma=2.0, scope="running"), batches)
    expected = torch.cat([answer.shaped.rewards.flatten() for answer in answers])
    torch.testing.assert_close(torch.tensor([row["reward"] for row in rows]), expected, atol=1e-6, rtol=0)


def test_static_flips_nothing(recorded):
    summary, rows = replay(StaticReward(), list(read_rollouts(recorded[0])))
    assert summary["flipped_share"] == summary["kendall_distance"] == summary["new_best_share"] == 0
    assert summary["rollouts"] == len(rows) == 36


def test_ranks_against_a_plain_loop():
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randint(0, 4, (20, 6), generator=generator).double() for _ in range(2))
    valid = torch.rand(20, 6, generator=generator) > 0.2
    flipped = split = pairs = 0
    for p in range(20):
        for i in range(6):
            for j in range(i + 1, 6):
                if valid[p, i] and valid[p, j]:
                    x, y = float(a[p, i] - a[p, j]), float(b[p, i] - b[p, j])
                    pairs += x != 0 or y != 0
                    flipped += x * y < 0
                    split += (x == 0) != (y == 0)
    got = compare_ranks(a, b, valid)
    assert (int(got["pairs"]), int(got["flipped"]), int(got["split"])) == (pairs, flipped, split)
    assert float(got["kendall_distance"]) == flipped + split / 2
    order = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    turned = compare_ranks(order, order.flip(1), torch.ones(1, 4, dtype=torch.bool))
    assert float(turned["kendall_distance"]) == math.comb(4, 2)


def test_command_writes_table_figure_rows(tmp_path, capsys):
    folder, out = make_run(tmp_path / "run", batches=6), tmp_path / "out"
    arguments = ["--reward=FocalReward", "--grid", "{gamma: [0, 3]}", "--out", str(out), "--show=1"]
    main(["replay", "--rollouts", str(folder / "rollouts"), *arguments])
    printed = capsys.readouterr().out
    assert "48 rollouts in 6 batches" in printed
    assert len(re.findall(r"batch \d+, train-\d+: rollout \d in place of \d \(reward \+0\.\d+\)\n  was best: ", printed)) == 1
    content = json.loads((out / "replay.json").read_text())
    assert [result["arguments"] for result in content["results"]] == [{"gamma": 0}, {"gamma": 3}]
    assert content["results"][0]["flipped_share"] == 0 < content["results"][1]["flipped_share"]
    assert "| gamma 3 |" in (out / "replay.md").read_text()
    assert {"replay.png", "rows-00.parquet", "rows-01.parquet"} <= {path.name for path in out.iterdir()}


def test_what_cannot_be_replayed_is_named(recorded, tmp_path, capsys):
    import pyarrow.parquet as pq

    folder, _ = recorded
    with pytest.raises(FileNotFoundError, match=r"no train-\*.parquet in .*nowhere"):
        list(read_rollouts(tmp_path / "nowhere"))
    with pytest.raises(SystemExit):
        main(["replay", "--rollouts", str(folder), "--reward=FocalReward", "--grid", "{gamma: []}"])
    assert "error: `grid.gamma` must be a list of values, got []" in capsys.readouterr().err
    file = folder / "train-000001-r0.parquet"
    write_parquet(file, pq.read_table(file).to_pylist()[:-1])
    with pytest.raises(ValueError, match="batch 1: the group of 'q2' has 3 rollouts, others 4"):
        list(read_rollouts(folder))
