"""Every rollout as a row: nothing is lost, a masked score is null and never 0."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lightning_focal.callbacks import RolloutTable
from lightning_focal.callbacks.rollout_table import rollout_rows, rollout_schema
from lightning_focal.rewards import FocalReward
from tests.helpers import FakeTrainer, make_answers, make_scores

OUTCOMES = ((("met", "not_met"), ("graded", "error")), (("not_applicable",), ("met",)))
REASONS = ((("short", "3 commas"), ("half", "time-out")), (("no list",), ("yes",)))


def ragged(**kwargs):
    """P = 2, G = 2: a failed and a not applicable judgement, the second rubric is shorter."""
    failed = torch.zeros(2, 2, 2, dtype=torch.bool)
    failed[0, 1, 1] = True
    return make_scores(
        [[[1.0, 0.0], [0.5, None]], [[None, None], [1.0, None]]],
        [[0.75, 0.25], [1.0, 0.0]],
        names=(("a", "b"), ("c",)),
        tags=((("axis:x", "level:example"), ()), ((),)),
        failed=failed,
        outcomes=OUTCOMES,
        reasons=REASONS,
        **kwargs,
    )


def test_a_thought_has_a_column_of_its_own(tmp_path):
    texts = (("<think>a</think>b", "<think>a"), ("b", "<think></think>"))
    for thinks, thoughts in ((True, ["a", "a", None, ""]), (False, [None] * 4)):
        answers = make_answers(ragged(), texts=texts, thinks=thinks)
        rows = pa.Table.from_pylist(rollout_rows(answers, 0), schema=rollout_schema()).to_pylist()
        assert [row["response"] for row in rows] == [text for group in texts for text in group]
        assert [row["thought"] for row in rows] == thoughts
        assert [row["thought_finished"] for row in rows] == [True, not thinks, True, True]


def test_round_trip(tmp_path):
    truncated = torch.tensor([[False, True], [False, False]])
    mask = torch.ones(2, 2, 3, dtype=torch.bool)
    mask[0, 0, 1:] = False
    strategy = FocalReward()
    answers = make_answers(ragged(), strategy=strategy, truncated=truncated, response_mask=mask, version=7)
    RolloutTable().on_rollouts(FakeTrainer(tmp_path, batches=3), None, answers)
    rows = pq.read_table(tmp_path / "rollouts" / "train-000003-r0.parquet").to_pylist()
    assert rows == rollout_rows(answers, 3)
    assert [(row["prompt_id"], row["rollout"]) for row in rows] == [("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1)]
    shaped = answers.shaped
    for row, p, g in zip(rows, (0, 0, 1, 1), (0, 1, 0, 1), strict=True):
        assert row["response"] == f"answer {p}.{g}"
        assert row["messages"] == [{"role": "user", "content": f"question {p}"}]
        assert row["truncated"] == truncated[p, g].item()
        assert row["reward"] == shaped.rewards[p, g].item()
        assert row["static_reward"] == shaped.static[p, g].item()
        assert row["advantage"] == shaped.advantages[p, g].item()
        assert row["valid"] == shaped.valid[p, g].item()
        assert (row["stage"], row["batch"], row["policy_version"]) == ("train", 3, 7)
        assert [c["outcome"] for c in row["criteria"]] == list(OUTCOMES[p][g])
        assert [c["reason"] for c in row["criteria"]] == list(REASONS[p][g])
        assert [c["weight"] for c in row["criteria"]] == shaped.weights[p, : len(row["criteria"])].tolist()
        assert [c["saturation"] for c in row["criteria"]] == shaped.saturation[p, : len(row["criteria"])].tolist()
    assert [row["tokens"] for row in rows] == [1, 3, 3, 3]
    assert [c["prior_weight"] for c in rows[0]["criteria"]] == [0.75, 0.25]
    assert [c["tags"] for c in rows[0]["criteria"]] == [["axis:x", "level:example"], []]
    assert [c["name"] for c in rows[2]["criteria"]] == ["c"]  # no padding


def test_a_masked_score_is_null_and_words_and_tags_may_lack():
    rows = rollout_rows(make_answers(ragged()), 0)
    assert [[c["score"] for c in row["criteria"]] for row in rows] == [[1.0, 0.0], [0.5, None], [None], [1.0]]
    (row,) = rollout_rows(make_answers(make_scores([[[0.5]]])), 0)
    expected = {"name": "a", "tags": [], "score": 0.5, "outcome": "", "reason": "", "prior_weight": 1.0, "weight": 1.0}
    assert row["criteria"] == [expected | {"saturation": 0.5}]


def test_every_file_has_the_same_columns(tmp_path):
    """A folder is read as one table, also where a batch has no tags or no score at all."""
    table = RolloutTable(str(tmp_path))
    table.on_rollouts(FakeTrainer(batches=0), None, make_answers(ragged()))
    table.on_rollouts(FakeTrainer(batches=1), None, make_answers(make_scores([[[None]]])))
    whole = pq.read_table(tmp_path)
    assert whole.num_rows == 5
    assert whole.schema.field("criteria").type == rollout_schema().field("criteria").type
    assert set(rollout_schema().names) == set(rollout_rows(make_answers(ragged()), 0)[0])
    assert whole.column("reward").type == pa.float64()


def test_files_by_stage_batch_part_and_rank(tmp_path):
    table = RolloutTable()
    scores = make_scores([[[1.0]]])
    table.on_rollouts(FakeTrainer(tmp_path, batches=2), None, make_answers(scores))
    table.on_rollouts(FakeTrainer(tmp_path, rank=1, world_size=2, batches=2), None, make_answers(scores))
    for stage in ("val", "test", "predict"):
        table.on_rollouts(FakeTrainer(tmp_path, batches=2), None, make_answers(scores, stage, batch_idx=5))
    assert sorted(path.name for path in (tmp_path / "rollouts").iterdir()) == [
        "predict-000002-0005-r0.parquet",
        "test-000002-0005-r0.parquet",
        "train-000002-r0.parquet",
        "train-000002-r1.parquet",
        "val-000002-0005-r0.parquet",
    ]


@pytest.mark.parametrize("folder", [True, False])
def test_stages_can_be_chosen_and_the_folder_is_asked_for_on_every_rank(tmp_path, folder):
    """The Trainer's folder is a collective; without a logger the root folder is taken."""
    trainers = [FakeTrainer(tmp_path if folder else None, default_root_dir=str(tmp_path), rank=r, world_size=2) for r in range(2)]
    for trainer in trainers:
        for stage in ("train", "val"):
            RolloutTable(stages=["val"]).on_rollouts(trainer, None, make_answers(make_scores([[[1.0]]]), stage))
    names = sorted(path.name for path in (tmp_path / "rollouts").iterdir())
    assert names == [f"val-000000-0000-r{rank}.parquet" for rank in range(2)]
    assert trainers[0].log_dirs_asked == trainers[1].log_dirs_asked


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    table, trainer = RolloutTable(), FakeTrainer(tmp_path)
    table.on_rollouts(trainer, None, make_answers(make_scores([[[1.0]]])))
    (path,) = (tmp_path / "rollouts").iterdir()
    before = path.read_bytes()

    def full(table, where, **kwargs):
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        table.on_rollouts(trainer, None, make_answers(make_scores([[[0.0]]])))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
