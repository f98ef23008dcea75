"""TRL's vLLM in the trainer's process. TRL 1.16 takes vLLM up to 0.31, and its other mode, a server, needs CUDA (docs/howto/trl.md)."""

import pytest
import torch

pytest.importorskip("trl")
pytest.importorskip("vllm")

from trl.generation.vllm_generation import VLLMGeneration

from lightning_focal.foreign import load_vllm_weights
from lightning_focal.models import export_policy, load_policy
from lightning_focal.rewards import FocalReward
from tests.integrations.grpo import fit, logs
from tests.integrations.test_trl import assert_ours

pytestmark = [pytest.mark.trl, pytest.mark.vllm]
POLICY = "random:tiny-llama?hidden=128&layers=1&heads=2&kv_heads=1&std=0.1"  # heads of a size that vLLM has kernels for


def hand_over(self):
    """On a CPU vLLM has packed the weights and thrown the originals away, so that TRL's way ends in an AttributeError."""
    assert not load_vllm_weights(self.llm, [(name, value.detach()) for name, value in self._iter_named_params()])
    self.llm.reset_prefix_cache()


def test_responses_of_trls_vllm_are_weighed(tmp_path, monkeypatch):
    """Three steps: advantages and logs are ours, and the engine samples from the weights that the trainer has just moved."""
    for name, value in {"ENABLE_V1_MULTIPROCESSING": "0", "CPU_KVCACHE_SPACE": "1", "CPU_OMP_THREADS_BIND": "nobind"}.items():
        monkeypatch.setenv(f"VLLM_{name}", value)
    monkeypatch.setattr("torch._dynamo.config.disable", True)  # TRL has no `enforce_eager`
    if on_cpu := not torch.cuda.is_available():
        monkeypatch.setattr(VLLMGeneration, "sync_weights", hand_over)
    export_policy(*load_policy(POLICY), tmp_path / "policy")
    trainer = fit(
        tmp_path / "run",
        FocalReward(gamma=1.0),
        policy=str(tmp_path / "policy"),
        use_vllm=True,
        vllm_mode="colocate",
        vllm_max_model_length=256,
        vllm_gpu_memory_utilization=0.1,
        use_cpu=on_cpu,
        max_steps=3,
    )
    rows = logs(trainer)[:-1]
    assert_ours(trainer.seen, rows)
    assert len({row["loss"] for row in rows}) == 3
    assert max(row["sampling/sampling_logp_difference/mean"] for row in rows) < 0.05  # nats a token, of an engine in bfloat16
