"""Focal weights in verl's own batch: its TransferQueue, its replay buffer, its trainer's advantages; no GPU, no model."""

import numpy as np
import pytest
import torch

pytest.importorskip("verl")
pytest.importorskip("transfer_queue")
from tests.test_package import fresh

pytestmark = [pytest.mark.verl, pytest.mark.filterwarnings("ignore")]

UIDS, G, LENGTHS = ("p", "q"), 4, (3, 5, 2, 4)
RIGHT = {"p": [1.0, 1.0, 1.0, 0.0], "q": [0.0, 1.0, 0.0, 0.0]}
SHORT = {"p": [0.0, 0.0, 1.0, 0.0], "q": [1.0, 1.0, 0.0, None]}
KEYS = [f"{uid}_{session}_0" for uid in UIDS for session in range(G)]


@pytest.fixture(scope="module")
def queue():
    import ray
    import transfer_queue as tq

    for attempt in range(3):  # Ray gives its own processes half a minute to start, which a busy machine may not
        try:
            ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
            break
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    tq.init()
    yield tq
    tq.close()
    ray.shutdown()


def fill(tq):
    """What verl's agent loop leaves behind: one prompt entry, and one entry for each response."""
    from tensordict import TensorDict
    from tensordict.tensorclass import NonTensorStack

    def jagged(rows):
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    lengths = LENGTHS * len(UIDS)
    infos = [{"reward_extra_info": {"right": RIGHT[uid][i], "short": SHORT[uid][i]}} for uid in UIDS for i in range(G)]
    rewards = [torch.zeros(n) for n in lengths]
    for reward, info in zip(rewards, infos, strict=True):
        reward[-1] = info["reward_extra_info"]["right"]
    fields = TensorDict(
        {
            "uid": NonTensorStack(*[uid for uid in UIDS for _ in range(G)]),
            "extra_fields": NonTensorStack(*infos),
            "rm_scores": jagged(rewards),
            "response_mask": jagged([torch.ones(n, dtype=torch.int64) for n in lengths]),
        },
        batch_size=len(KEYS),
    )
    tq.kv_batch_put(keys=KEYS, partition_id="train", fields=fields, tags=[{"status": "success", "seq_len": n} for n in lengths])
    prompt = {"is_prompt": True, "status": "finished", "global_steps": 1}
    tq.kv_batch_put(keys=list(UIDS), partition_id="train", tags=[prompt] * len(UIDS))


def buffer(name, **sampler_kwargs):
    from omegaconf import OmegaConf
    from verl.utils.import_utils import load_extern_type

    cls = load_extern_type("pkg://lightning_focal.integrations.verl", name)
    return cls(
        trainer_mode="sync",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=8,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create(sampler_kwargs),
        refill_fn=None,
    )


def advantages(tq, name, estimator, **sampler_kwargs):
    """``[P][G]`` advantages at each response's last token, as verl's own trainer computes and stores them; and the metrics."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.v1 import get_trainer_cls

    fill(tq)
    batch, metrics = buffer(name, **sampler_kwargs).sample(global_steps=1, partition_id="train", batch_size=len(UIDS))
    cls = get_trainer_cls("sync")
    trainer = cls.__new__(cls)  # its __init__ builds workers on GPUs; what is used here reads `config` alone
    algorithm = {"use_kl_in_reward": False, "adv_estimator": estimator, "gamma": 1.0, "lam": 1.0}
    trainer.config = OmegaConf.create({"algorithm": algorithm, "actor_rollout_ref": {"rollout": {"n": G}}})
    trainer._compute_advantage(batch, metrics={})
    data = tq.kv_batch_get(keys=KEYS, partition_id="train", select_fields=["advantages", "rm_scores"])
    assert all((row == row[-1]).all() for row in data["advantages"].unbind())
    assert all((row[:-1] == 0).all() for row in data["rm_scores"].unbind())
    rows = torch.stack([row[-1] for row in data["advantages"].unbind()]).reshape(len(UIDS), G)
    rewards = torch.stack([row[-1] for row in data["rm_scores"].unbind()]).reshape(len(UIDS), G)
    tq.kv_clear(keys=[*KEYS, *UIDS], partition_id="train")
    return rows, rewards, metrics


def wanted(gamma, epsilon=0.05):
    """Focal rewards by a loop in NumPy: masked scores, weights of a prompt, criterion weights 1."""
    rewards = np.zeros((len(UIDS), G))
    for p, uid in enumerate(UIDS):
        scores = np.array(
            [[right, np.nan if short is None else short] for right, short in zip(RIGHT[uid], SHORT[uid], strict=True)]
        )
        judged = ~np.isnan(scores)
        base = np.array([0.5, 0.5])
        reward = [(base[m] @ s[m]) / base[m].sum() for s, m in zip(scores, judged, strict=True)]
        q = np.exp(reward) / np.exp(reward).sum()
        sigma = [(q[judged[:, c]] @ scores[judged[:, c], c]) / q[judged[:, c]].sum() for c in range(2)]
        w = base * (1 - np.array(sigma) + epsilon) ** gamma
        w /= w.sum()
        rewards[p] = [2 * (w[m] @ s[m]) / w[m].sum() for s, m in zip(scores, judged, strict=True)]
    return torch.tensor(rewards, dtype=torch.float32)


@pytest.mark.parametrize(
    ("name", "gamma"), [("FocalReplayBuffer", 0.0), ("FocalReplayBuffer", 1.0), ("FocalReplayBufferAsync", 3.0)]
)
def test_grpo_of_verl_on_focal_rewards(queue, name, gamma):
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    rows, rewards, metrics = advantages(queue, name, "grpo", criteria=["right", "short"], strategy={"gamma": gamma})
    torch.testing.assert_close(rewards, wanted(gamma), atol=1e-6, rtol=1e-6)
    index = np.array([uid for uid in UIDS for _ in range(G)], dtype=object)
    ones = torch.ones(len(KEYS), 1)
    theirs, _ = compute_grpo_outcome_advantage(wanted(gamma).reshape(-1, 1), ones, index)
    torch.testing.assert_close(rows, theirs.reshape(len(UIDS), G), atol=1e-5, rtol=1e-5)
    assert metrics["focal/right/score"] == pytest.approx(0.5)
    assert metrics["focal/short/score"] == pytest.approx(3 / 7)
    assert metrics["focal/right/weight"] + metrics["focal/short/weight"] == pytest.approx(1)
    assert metrics["focal/judged"] == 1.0


def test_our_advantages_through_our_estimator(queue):
    from lightning_focal.integrations.columns import shape_columns
    from lightning_focal.rewards import StandardisedFocalReward

    strategy = {"class_path": "StandardisedFocalReward"}
    settings = {"criteria": ["right", "short"], "strategy": strategy, "write": "advantages"}
    rows, _, _ = advantages(queue, "FocalReplayBuffer", "lightning_focal", **settings)
    rows_ = [{"right": RIGHT[uid][i], "short": SHORT[uid][i]} for uid in UIDS for i in range(G)]
    ours = shape_columns(StandardisedFocalReward(), rows_, [uid for uid in UIDS for _ in range(G)], {"right": 1.0, "short": 1.0})
    torch.testing.assert_close(rows.reshape(-1), ours.advantages)


def test_verl_finds_the_estimator_by_itself():
    """By its entry point, in any process that imports verl; no Lightning is loaded by that."""
    code = (
        "import sys, verl; from verl.trainer.ppo.core_algos import get_adv_estimator_fn as find; "
        "print(find('lightning_focal').__module__, 'lightning' in sys.modules)"
    )
    assert fresh(code).splitlines()[-1] == "lightning_focal.integrations.verl_plugin False"


@pytest.mark.parametrize(("settings", "said"), [
    ({}, "sampler_kwargs.criteria` must list keys"),
    ({"criteria": ["right"], "weights": [1, 2]}, "one weight per criterion \\(1\\), got 2"),
    ({"criteria": ["right"], "write": "reward"}, "'rewards' or 'advantages'"),
    ({"criteria": ["right"], "strategy": {"class_path": "Nothing"}}, "cannot be made"),
    ({"criteria": ["right"], "strategy": {"gama": 1}}, "gama"),
    ({"criteria": ["right"], "strategy": {"gamma": -1}}, "`gamma` must be >= 0"),
])  # fmt: skip
def test_wrong_settings_are_refused_before_anything_starts(settings, said):
    with pytest.raises(ValueError, match=said):
        buffer("FocalReplayBuffer", **settings)


def test_a_criterion_that_nothing_returns_is_named():
    from lightning_focal.integrations.verl import Criteria

    with pytest.raises(ValueError, match=r"no reward function returned 'rigth'; there are \['right'\]"):
        Criteria(["rigth"]).reward([{"right": 1.0}], ["p"])
