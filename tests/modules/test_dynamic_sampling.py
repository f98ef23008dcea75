"""Batches refilled where groups hold no contrast: which groups are kept, what is counted, logged and recorded, and what does not change."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_focal.callbacks import HeldOut, RolloutTable
from lightning_focal.data import Curriculum, ReasoningGymData
from lightning_focal.functional import varied_groups
from lightning_focal.generation import Sampling, ScriptedGenerator
from lightning_focal.modules import DynamicSampling, GRPOModule, Update, grpo
from lightning_focal.modules.dynamic_sampling import GroupSampler, joined, question_levels, taken
from lightning_focal.modules.replay_buffer import Judged
from lightning_focal.report.contents import all_figures
from lightning_focal.report.levels import run_levels
from lightning_focal.report.methods import group_runs
from lightning_focal.report.page import pack_rollouts
from lightning_focal.report.run import read_run
from lightning_focal.rewards import FocalReward, MajorityVoteReward, StaticReward
from lightning_focal.runs.saving import RunCheckpoint
from lightning_focal.studies.replay import read_rollouts
from lightning_focal.types import Prompts
from tests.conftest import TINY, hard_rows
from tests.helpers import make_prompts, make_rollouts, make_scores
from tests.modules.helpers import column, metrics, same, weights_of

SAME, VARIED = ["a"], ["a", "AAAAAAAA"]
ONE = SimpleNamespace(count=1, rank=0, sum=lambda value: value, gather=lambda values: values)


def rows_of(folder):
    return [row for path in sorted((folder / "rollouts").glob("train-*.parquet")) for row in pq.read_table(path).to_pylist()]


def scripted(solved, count=8):
    """A generator that answers some rows always alike, the others in two ways."""
    return ScriptedGenerator({f"row-{i}": SAME if i in solved else VARIED for i in range(count)})


# -- which groups hold a contrast ------------------------------------------------------------------------------------------------


def test_a_group_varies_where_numpy_finds_two_scores_of_a_criterion_that_weighs():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        scores, mask = rng.choice([0.0, 0.3, 1.0], (1, 3, 2)), rng.random((1, 3, 2)) < 0.6
        weights = rng.choice([0.0, 0.5], (1, 2))
        expected = any(
            weights[0, c] > 0 and len({s for s, m in zip(scores[0, :, c], mask[0, :, c], strict=True) if m}) > 1 for c in range(2)
        )
        found.append(expected)
        assert varied_groups(torch.tensor(scores), torch.tensor(weights), torch.tensor(mask)).tolist() == [expected]
    assert 0.2 < np.mean(found) < 0.8


# -- a whole run -----------------------------------------------------------------------------------------------------------------


def test_rejected_groups_are_counted_recorded_and_observed_but_not_learnt_from(run_tiny, rubric_file):
    """Half of the prompts are always answered alike: two solved, two hopeless. Held-out prompts are left alone."""
    alike = {"row-0": SAME, "row-1": SAME, "row-2": ["AAAAAAAA"], "row-3": ["AAAAAAAA"]}
    run = run_tiny(
        FocalReward(gamma=1.0, scope="running"),
        HeldOut(),
        RolloutTable(),
        generator=ScriptedGenerator({f"row-{i}": VARIED for i in range(8)} | alike),
        dynamic_sampling=DynamicSampling(max_rounds=5),
        trainer_max_epochs=2,
        sampling=Sampling(max_new_tokens=12),
        data_val=rubric_file(3, "val.jsonl"),
    )
    rows, sums = rows_of(run.folder), np.zeros(3)
    assert sum(row["rejected"] for row in rows) > 0
    for number, logged in enumerate(metrics(run.folder, stage="train")):
        batch = [row for row in rows if row["batch"] == number]
        kept = {row["prompt_id"] for row in batch if not row["rejected"]}
        rejected = {row["prompt_id"] for row in batch if row["rejected"]}
        assert len(kept) == 2  # a batch has as many groups as without
        assert not kept & rejected
        assert kept <= {f"row-{i}" for i in range(4, 8)}
        assert rejected <= {f"row-{i}" for i in range(4)}
        assert float(logged["train/sampling/rejected"]) == len(rejected)
        assert float(logged["train/sampling/generated"]) == len(kept | rejected) / 2
        assert float(logged["train/sampling/contrastive"]) == 1.0
        assert float(logged["train/reward/valid_share"]) == 1.0
        static = [row["static_reward"] for row in batch]  # of all that was judged
        assert float(logged["train/reward/static"]) == pytest.approx(np.mean(static), abs=1e-6)
        sums += [float(logged[f"train/sampling/{name}"]) for name in ("rejected", "solved", "hopeless")]
    assert number == 7
    assert sums[0] == sums[1] + sums[2]
    assert min(sums) >= 2  # once an epoch at least
    assert run.module.version == run.trainer.global_step == 8  # a batch is one step

    held_out = [row for path in (run.folder / "rollouts").glob("val-*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(held_out) == 3 * 3 * 2  # before, and after each epoch; three prompts, two rollouts
    assert not any(row["rejected"] for row in held_out)

    fresh = FocalReward(gamma=1.0, scope="running")  # that observes every recorded group, kept and rejected
    for batch in read_rollouts(run.folder / "rollouts"):
        fresh.observe(batch.scores)
    for key in run.strategy.keys:
        assert fresh.level_of(key) == pytest.approx(run.strategy.level_of(key), abs=1e-6)

    shown = read_run(run.folder, rollouts=1000)
    views = {views.name: views for views in all_figures(group_runs([shown]), {shown.folder: run_levels(shown)})}
    (health,) = views["health"].views.values()
    (panel,) = (panel for panel in health.panels if panel.title == "groups left out")
    assert [curve.name for curve in panel.curves] == ["left out", "solved", "hopeless"]
    assert sum(pack_rollouts([("run", shown.train.rows)])["out"]) == sum(row["rejected"] for row in rows)


def test_a_place_that_cannot_be_filled_keeps_its_group(run_tiny):
    """Every prompt is solved: the bound ends the search, and the batch is the one it would have been."""
    options = {"generator": scripted(range(8)), "sampling": Sampling(max_new_tokens=12), "trainer_limit_train_batches": 2}
    plain = run_tiny(StaticReward(), RolloutTable(), folder="plain", **options)
    run = run_tiny(StaticReward(), RolloutTable(), dynamic_sampling=DynamicSampling(max_rounds=3), **options)
    kept = [row["prompt_id"] for row in rows_of(run.folder) if not row["rejected"]]
    assert kept == [row["prompt_id"] for row in rows_of(plain.folder)]
    for name, value in (("rounds", 3.0), ("generated", 3.0), ("contrastive", 0.0)):
        assert column(run.folder, f"train/sampling/{name}") == [value] * 2
    assert same(weights_of(run.module), weights_of(plain.module))


@pytest.mark.parametrize("real", [False, True], ids=["nothing to reject", "no refill"])
def test_where_nothing_is_refilled_the_run_is_the_one_without_bit_for_bit(run_tiny, real):
    options = {"update": Update(mini_batches=2), "trainer_limit_train_batches": 2}
    options |= {} if real else {"generator": scripted([]), "sampling": Sampling(max_new_tokens=12)}
    plain = run_tiny(folder="plain", **options)
    run = run_tiny(dynamic_sampling=DynamicSampling(max_rounds=1) if real else DynamicSampling(), **options)
    assert same(weights_of(run.module), weights_of(plain.module))
    assert [{k: v for k, v in row.items() if "/sampling/" not in k} for row in metrics(run.folder)] == metrics(plain.folder)
    assert column(run.folder, "train/sampling/generated") == [1.0] * 2


def test_both_views_of_a_question_stay_together():
    """A question is kept where one of its wordings varies; both are then part of the update."""

    def of_rows(rows):
        names = [f"q{row}" for row in rows]
        return Prompts(
            ids=(*names, *(f"{name}/rephrased" for name in names)),
            messages=((),) * 2 * len(rows),
            questions=(*names, *names),
            views=(0,) * len(rows) + (1,) * len(rows),
        )

    class AllSame:
        batch_size = 2
        take = staticmethod(of_rows)

        def __init__(self):
            self.left = [2, 3, 4]

        def spare(self, count):
            found, self.left = self.left[:count], self.left[count:]
            return found

    def judged(prompts):
        # q1 varies in its second wording alone, q2 in neither, q3 in both
        table = {"q3": 0.0, "q3/rephrased": 0.0, "q1/rephrased": 0.0}
        return Judged(make_rollouts(prompts), make_scores([[[1.0], [table.get(name, 1.0)]] for name in prompts.ids]))

    sampler = GroupSampler(DynamicSampling(max_rounds=9), ONE)
    sampled = sampler.fill(judged(of_rows([0, 1])), judged, AllSame(), StaticReward().base_weights)
    assert sampled.kept.rollouts.prompts.ids == ("q3", "q1", "q3/rephrased", "q1/rephrased")  # place by place, originals first
    assert sampled.rejected.rollouts.prompts.questions == ("q0", "q0", "q2", "q2")
    assert sampled.counts["rejected"] == 2
    assert sampled.counts["rounds"] == 3


# -- resumed ---------------------------------------------------------------------------------------------------------------------


def everything_run(run_tiny, folder, *callbacks, **kwargs):
    """Refills, replay and a curriculum; three epochs of four batches by a real policy."""
    return run_tiny(
        FocalReward(gamma=1.0, scope="running"),
        RolloutTable(),
        *callbacks,
        folder=folder,
        dynamic_sampling=DynamicSampling(max_rounds=3, replay_buffer_size=4),
        data_curriculum=Curriculum(band=(0.1, 0.9), revisit=0.3),
        update=Update(mini_batches=2),
        trainer_max_epochs=3,
        trainer_enable_checkpointing=bool(callbacks),
        **kwargs,
    )


@pytest.fixture
def whole(run_tiny, rubric_file, tmp_path):
    saving = ModelCheckpoint(tmp_path / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    run = everything_run(run_tiny, "whole", saving, data_train=rubric_file(rows=hard_rows()))
    for name in ("rejected", "replayed", "skipped"):  # there is something to go wrong
        assert sum(column(run.folder, f"train/sampling/{name}")) > 0, name
    return run


@pytest.mark.slow
@pytest.mark.parametrize("batches", [3, 8, 11])
def test_resumed_run_equals_the_uninterrupted_one(run_tiny, tmp_path, whole, batches):
    shutil.copytree(whole.folder, tmp_path / "resumed")
    options = {"data_train": str(tmp_path / "train.jsonl")}
    resumed = everything_run(run_tiny, "resumed", **options, ckpt_path=str(tmp_path / "checkpoints" / f"step={2 * batches}.ckpt"))
    assert same(weights_of(resumed.module), weights_of(whole.module))
    assert metrics(resumed.folder) == metrics(whole.folder)
    assert rows_of(resumed.folder) == rows_of(whole.folder)
    loaders = [run.trainer.train_dataloader.state_dict() for run in (resumed, whole)]
    assert loaders[0] == loaders[1]
    kept = [run.module.sampler.buffer.entries for run in (resumed, whole)]
    assert list(kept[0]) == list(kept[1])
    assert all(kept[0][name]["response_ids"].equal(kept[1][name]["response_ids"]) for name in kept[0])


@pytest.mark.slow
def test_the_checkpoint_loads_safely(whole, tmp_path):
    saved = torch.load(tmp_path / "checkpoints" / "step=24.ckpt", weights_only=True)
    assert len(saved["lightning_focal"]["replay_buffer"]) == 4
    loader = saved["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]
    assert loader["levels"].keys() == {f"row-{i}" for i in range(8)}


@pytest.mark.slow
def test_the_pages_name_what_is_logged(whole):
    """In the how-to and in the table of log keys."""
    logged = {name for name in metrics(whole.folder)[0] if "/sampling/" in name}
    for page in ("howto/dynamic_sampling.md", "reference/cli.md"):
        text = (Path(__file__).parents[2] / "docs" / page).read_text(encoding="utf-8")
        assert set(re.findall(r"`(train/sampling/\w+)`", "\n".join(re.findall(r"^\| `train.*", text, re.MULTILINE)))) == logged


@pytest.mark.slow
@pytest.mark.parametrize("batches", [6, 7])
def test_resumed_from_a_checkpoint_that_was_written_when_the_next_batch_was_drawn(run_tiny, rubric_file, tmp_path, batches):
    options = {"data_train": rubric_file(rows=hard_rows())}
    saving = RunCheckpoint(every_n_batches=1, keep=100)
    whole = everything_run(run_tiny, "whole", saving, **options)
    assert sum(column(whole.folder, "train/sampling/skipped")) > 0
    shutil.copytree(whole.folder, tmp_path / "resumed")
    resumed = everything_run(run_tiny, "resumed", **options, ckpt_path=str(saving.folder / f"step={2 * batches}.ckpt"))
    assert rows_of(resumed.folder) == rows_of(whole.folder)
    assert metrics(resumed.folder) == metrics(whole.folder)


@pytest.mark.slow
def test_resumed_between_epochs_knows_levels_and_place(run_tiny, rubric_file, tmp_path):
    """Saved at the end of an epoch, where the Trainer does not hand a loader its state back."""
    options = {"data_train": rubric_file(rows=hard_rows())}
    saving = ModelCheckpoint(tmp_path / "epochs", filename="{epoch}", save_top_k=-1)
    whole = everything_run(run_tiny, "whole", saving, **options)
    shutil.copytree(whole.folder, tmp_path / "resumed")
    resumed = everything_run(run_tiny, "resumed", **options, ckpt_path=str(tmp_path / "epochs" / "epoch=0.ckpt"))
    assert same(weights_of(resumed.module), weights_of(whole.module))
    assert metrics(resumed.folder) == metrics(whole.folder)


# -- replay ----------------------------------------------------------------------------------------------------------------------


def test_a_replayed_row_is_an_old_one_and_its_ratio_is_to_the_policy_that_wrote_it(run_tiny, monkeypatch):
    seen = []
    plain = grpo.grpo_loss

    def spy(rows, logp, *arguments):
        seen.append((rows, logp.detach()))
        return plain(rows, logp, *arguments)

    monkeypatch.setattr(grpo, "grpo_loss", spy)
    options = {"trainer_max_epochs": 6, "update": Update(micro_batch_size=1000)}
    run = run_tiny(StaticReward(), RolloutTable(), dynamic_sampling=DynamicSampling(replay_buffer_size=8), **options)
    replayed = 0
    for number, (rows, logp) in enumerate(seen):
        if rows.old_logp is None:  # nothing replayed in this batch, and its first step: the ratio is 1
            continue
        apart = ((rows.old_logp - logp).abs() * rows.response_mask).amax(1) > 1e-4
        for row in apart.nonzero().flatten().tolist():
            replayed += 1
            mask = rows.response_mask[row]
            matches = [
                before.sampling_logp[i][before.response_mask[i]]
                for before, _ in seen[:number]
                for i in range(len(before))
                if before.response_ids[i][before.response_mask[i]].tolist() == rows.response_ids[row][mask].tolist()
                and before.prompt_ids[i][before.prompt_mask[i]].tolist() == rows.prompt_ids[row][rows.prompt_mask[row]].tolist()
            ]
            assert any(rows.old_logp[row][mask].equal(found) for found in matches)  # as it was recorded then
            assert float(rows.advantages[row]) > 0
    table = [row for row in rows_of(run.folder) if row["policy_version"] < row["batch"]]
    assert replayed == len(table) == sum(column(run.folder, "train/sampling/replayed")) > 0
    for row in table:  # the others of its group are alike and worse
        group = [r for r in rows_of(run.folder) if (r["batch"], r["prompt_id"]) == (row["batch"], row["prompt_id"])]
        others = {r["static_reward"] for r in group if r["rollout"] != row["rollout"]}
        assert len(others) == 1
        assert others.pop() < row["static_reward"]


def test_a_kept_rollout_is_mixed_into_its_group_alone():
    kept = make_scores([[[1.0, 0.0], [0.0, 0.0]]], outcomes=((("met", "not_met"), ("not_met", "not_met")),))
    old = Judged(make_rollouts(make_prompts(1), tokens=5, logp=torch.full((1, 2, 5), -0.5), version=3), kept)
    # a tie of sums, whose rewards are the same, is a contrast
    later = make_scores([[[0.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]], outcomes=((("not_met",) * 2,) * 2,) * 2)
    new = Judged(make_rollouts(make_prompts(2), tokens=3, logp=torch.full((2, 2, 3), -1.0), version=9), later)

    class Given:
        batch_size, take = 2, None

        def spare(self, count):
            return []

    sampler = GroupSampler(DynamicSampling(max_rounds=1, replay_buffer_size=2), ONE)
    base = StaticReward().base_weights
    assert sampler.fill(old, None, Given(), base).counts["replayed"] == 0
    sampled = sampler.fill(new, None, Given(), base)
    rollouts, scores = sampled.kept
    assert sampled.counts["replayed"] == 1
    assert sampled.counts["contrastive"] == 1
    assert rollouts.versions.tolist() == [[9, 3], [9, 9]]
    assert rollouts.lengths.tolist() == [[3, 5], [3, 3]]
    assert rollouts.logp[0, 1].tolist() == [-0.5] * 5
    assert rollouts.texts == (("answer 0.0", "answer 0.0"), ("answer 1.0", "answer 1.1"))
    assert scores.scores.tolist() == [[[0, 0], [1, 0]], [[1, 0], [0, 1]]]
    assert scores.outcomes[0] == (("not_met", "not_met"), ("met", "not_met"))
    assert sampled.judged.scores.scores[0].tolist() == [[0, 0], [0, 0]]  # levels see what the policy wrote


# -- groups, taken and joined ----------------------------------------------------------------------------------------------------


def test_joined_groups_are_those_that_went_in():
    """Prompts, responses and rubrics of different lengths, outcomes, failures in one part alone, an empty part."""
    one = Judged(
        make_rollouts(
            make_prompts(2), tokens=2, prompt_ids=torch.full((2, 3), 7), prompt_mask=torch.ones(2, 3, dtype=torch.bool)
        ),
        make_scores([[[1.0, 0.0], [0.5, None]], [[0.0, 1.0], [0.0, 0.0]]], measures={"judge/x": torch.tensor(1.0)}),
    )
    failed = torch.zeros(1, 2, 1, dtype=torch.bool)
    failed[0, 1] = True
    two = Judged(
        make_rollouts(
            make_prompts(1), tokens=4, prompt_ids=torch.full((1, 5), 9), prompt_mask=torch.ones(1, 5, dtype=torch.bool)
        ),
        make_scores([[[1.0], [None]]], failed=failed, measures={"judge/x": torch.tensor(3.0)}),
    )
    none = taken(two, [])
    whole = joined([one, none, two])
    assert whole.rollouts.prompt_ids.tolist() == [[0, 0, 7, 7, 7]] * 2 + [[9] * 5]
    assert whole.rollouts.lengths.tolist() == [[2, 2], [2, 2], [4, 4]]
    assert whole.scores.names == (("a", "b"), ("a", "b"), ("a",))
    assert whole.scores.mask[2].tolist() == [[True, False], [False, False]]
    assert whole.scores.failed.nonzero().tolist() == [[2, 1, 0]]
    assert float(whole.scores.measures["judge/x"].mean()) == pytest.approx((1 + 3 + 3) / 3)
    type(whole.scores)(**vars(whole.scores))  # still passes its own checks
    type(whole.rollouts)(**vars(whole.rollouts))
    back = taken(whole, [2, 0])
    assert back.scores.names == (("a",), ("a", "b"))
    assert question_levels(back, StaticReward().base_weights(back.scores)) == {"p0": pytest.approx(2 / 3)}  # failed is not 0


# -- bad input -------------------------------------------------------------------------------------------------------------------


def test_what_cannot_work_is_refused_before_a_model_is_loaded(run_tiny, tmp_path):
    with pytest.raises(ValueError, match=r"`dynamic_sampling\.max_rounds` must be >= 1, got 0"):
        DynamicSampling(max_rounds=0)
    with pytest.raises(ValueError, match=r"`dynamic_sampling\.replay_buffer_size` must be >= 0, got -1"):
        DynamicSampling(replay_buffer_size=-1)
    with pytest.raises(ValueError, match=r"needs `model\.group_size` >= 2, got 1"):
        GRPOModule(TINY, group_size=1, dynamic_sampling=DynamicSampling())
    run = run_tiny(fit=False, dynamic_sampling=DynamicSampling())
    run.data.train_dataloader = lambda: [None] * 3
    with pytest.raises(ValueError, match=r"needs a loader that has further prompts.*got list"):
        run.trainer.fit(run.module, datamodule=run.data)
    assert run.module.policy is None
    votes = run_tiny(MajorityVoteReward(equivalence="string"), fit=False, dynamic_sampling=DynamicSampling(replay_buffer_size=1))
    with pytest.raises(ValueError, match=r"`model\.dynamic_sampling\.replay_buffer_size` must be 0 with MajorityVoteReward"):
        votes.trainer.fit(votes.module, datamodule=ReasoningGymData("chain_sum", train=4, val=2, batch_size=2))
    blind = run_tiny(StaticReward(), fit=False, generator=scripted([]), dynamic_sampling=DynamicSampling(replay_buffer_size=1))
    with pytest.raises(ValueError, match="needs the sampler's log-probabilities"):
        blind.trainer.fit(blind.module, datamodule=blind.data)
