import json
import math

import pytest
import torch

from lightning_focal.callbacks import Answers
from lightning_focal.callbacks.rollout_table import rollout_rows
from lightning_focal.cli import main
from lightning_focal.files import write_parquet
from lightning_focal.rewards import FocalReward, StaticReward
from lightning_focal.studies.replay import compare_ranks, read_rollouts, replay
from lightning_focal.types import CriterionScores, Prompts, Rollouts


def _answers(batch, seed, strategy):
    g = torch.Generator().manual_seed(seed)
    p, n, c = 3, 4, 3
    scores = (torch.rand(p, n, c, generator=g) > 0.5).float()
    mask = torch.ones(p, n, c, dtype=torch.bool)
    mask[2, :, 2] = False  # padding
    mask[0, 1, 0] = False  # a failed judgement
    failed = torch.zeros_like(mask)
    failed[0, 1, 0] = True
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.75, 0.25, 0.0]])
    names = (("a", "b", "c"), ("a", "b", "c"), ("a", "b"))
    outcomes = tuple(
        tuple(
            tuple("error" if failed[i, j, k] else "met" if scores[i, j, k] else "not_met" for k in range(len(names[i])))
            for j in range(n)
        )
        for i in range(p)
    )
    reasons = tuple(tuple(tuple("because" for _ in names[i]) for _ in range(n)) for i in range(p))
    made = CriterionScores(scores * mask, mask, weights, names, failed=failed, outcomes=outcomes, reasons=reasons)
    ids = tuple(f"q{i}" for i in range(p))
    rollouts = Rollouts(
        Prompts(ids, tuple(({"role": "user", "content": i},) for i in ids)),
        tuple(tuple(f"{i} answer {j}" for j in range(n)) for i in ids),
        torch.ones(p, 2, dtype=torch.int64),
        torch.ones(p, 2, dtype=torch.bool),
        torch.ones(p, n, 3, dtype=torch.int64),
        torch.ones(p, n, 3, dtype=torch.bool),
        torch.zeros(p, n, dtype=torch.bool),
    )
    strategy.observe(made)
    return Answers("train", batch, rollouts, made, strategy.shape(made))


@pytest.fixture
def recorded(tmp_path):
    strategy = FocalReward(gamma=2.0, scope="running")
    answers = [_answers(batch, seed=batch, strategy=strategy) for batch in range(3)]
    for batch, answer in enumerate(answers):
        write_parquet(tmp_path / "rollouts" / f"train-{batch:06d}-r0.parquet", rollout_rows(answer, batch))
    return tmp_path / "rollouts", answers


def test_reading_gives_back_what_was_recorded(recorded):
    folder, answers = recorded
    batches = list(read_rollouts(folder))
    assert [batch.batch for batch in batches] == [0, 1, 2]
    for batch, answer in zip(batches, answers, strict=True):
        assert batch.responses == answer.rollouts.texts
        assert torch.equal(batch.scores.mask, answer.scores.mask)
        assert torch.equal(batch.scores.scores.float(), answer.scores.scores)
        assert torch.equal(batch.scores.weights.float(), answer.scores.weights)
        assert torch.equal(batch.scores.failed, answer.scores.failed)


def test_same_strategy_gives_the_recorded_rewards(recorded):
    folder, answers = recorded
    _, rows = replay(FocalReward(gamma=2.0, scope="running"), list(read_rollouts(folder)))
    expected = torch.cat([answer.shaped.rewards.flatten() for answer in answers])
    torch.testing.assert_close(torch.tensor([row["reward"] for row in rows]), expected, atol=1e-6, rtol=0)


def test_static_flips_nothing(recorded):
    summary, rows = replay(StaticReward(), list(read_rollouts(recorded[0])))
    assert summary["flipped_share"] == summary["kendall_distance"] == summary["new_best_share"] == 0
    assert summary["rollouts"] == len(rows) == 36


def test_ranks_against_a_plain_loop():
    generator = torch.Generator().manual_seed(3)
    a = torch.randint(0, 4, (20, 6), generator=generator).double()
    b = torch.randint(0, 4, (20, 6), generator=generator).double()
    valid = torch.rand(20, 6, generator=generator) > 0.2
    flipped = split = pairs = 0
    for p in range(20):
        for i in range(6):
            for j in range(i + 1, 6):
                if not (valid[p, i] and valid[p, j]):
                    continue
                x, y = float(a[p, i] - a[p, j]), float(b[p, i] - b[p, j])
                pairs += x != 0 or y != 0
                flipped += x * y < 0
                split += (x == 0) != (y == 0)
    got = compare_ranks(a, b, valid)
    assert (int(got["pairs"]), int(got["flipped"]), int(got["split"])) == (pairs, flipped, split)
    assert float(got["kendall_distance"]) == flipped + split / 2


def test_kendall_distance_against_scipy_free_definition():
    order = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    turned = order.flip(1)
    got = compare_ranks(order, turned, torch.ones(1, 4, dtype=torch.bool))
    assert float(got["kendall_distance"]) == math.comb(4, 2)


def test_command_writes_table_figure_rows(recorded, tmp_path, capsys):
    out = tmp_path / "out"
    main(["replay", "--rollouts", str(recorded[0]), "--reward=FocalReward", "--grid", "{gamma: [0, 3]}", "--out", str(out)])
    printed = capsys.readouterr().out
    assert "gamma 0" in printed
    assert "gamma 3" in printed
    content = json.loads((out / "replay.json").read_text())
    assert [result["arguments"] for result in content["results"]] == [{"gamma": 0}, {"gamma": 3}]
    assert content["results"][0]["flipped_share"] == 0
    assert {"replay.md", "replay.png", "rows-00.parquet", "rows-01.parquet"} <= {path.name for path in out.iterdir()}


def test_missing_rollouts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train-\*.parquet in .*nowhere"):
        list(read_rollouts(tmp_path / "nowhere"))


def test_half_a_group_is_refused(recorded):
    import pyarrow.parquet as pq

    folder, _ = recorded
    file = folder / "train-000001-r0.parquet"
    rows = pq.read_table(file).to_pylist()
    write_parquet(file, rows[:-1])
    with pytest.raises(ValueError, match="batch 1: the group of 'q2' has 3 rollouts, others 4"):
        list(read_rollouts(folder))
