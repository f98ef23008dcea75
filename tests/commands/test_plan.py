"""What every process will hold: counted on the policy itself, beside arithmetic by hand."""

import json
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from lightning_focal.cli import main
from lightning_focal.commands.plan import architecture
from lightning_focal.commands.plan_memory import Job, count_parameters, memory, together
from lightning_focal.models import Lora, Sharding, load_policy, policy_config
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
SCALE = ROOT / "configs" / "scale"


def qwen(vocabulary, hidden, layers, heads, kv_heads, head, inner, experts=1):
    """Parameters of Qwen3, by hand: embeddings and output layer, attention with norms of queries and keys, experts, norms."""
    attention = hidden * head * (2 * heads + 2 * kv_heads) + 2 * head
    networks = experts * 3 * hidden * inner + (experts * hidden if experts > 1 else 0)
    return 2 * vocabulary * hidden + layers * (attention + networks + 2 * hidden) + hidden


@pytest.mark.parametrize(("name", "expected"), [
    ("Qwen3-8B", qwen(151936, 4096, 36, 32, 8, 128, 12288)),
    ("Qwen3-30B-A3B", qwen(151936, 2048, 48, 32, 4, 128, 768, 128)),
])  # fmt: skip
def test_architectures_have_as_many_parameters_as_their_names_say(name, expected):
    counts = count_parameters(architecture(f"Qwen/{name}", [SCALE]), "float32", None, Sharding(), 8)
    assert counts.total == counts.trained == expected
    assert counts.held == pytest.approx(expected / 8, rel=1e-3)
    assert counts.block * counts.blocks + counts.outside == expected


def test_shards_are_those_of_a_real_split():
    """As ``torch.chunk`` cuts rows, which is how FSDP2 does: what does not divide evenly is rounded up on the first process."""
    config, _ = policy_config(TINY)
    model, _ = load_policy(TINY)
    assert count_parameters(config, "float32", None, Sharding(), 3).held == sum(p.chunk(3)[0].numel() for p in model.parameters())
    whole = count_parameters(config, "float32", None, Sharding(), 1)
    assert whole.held == whole.total == sum(p.numel() for p in model.parameters())
    adapted = count_parameters(config, "bfloat16", Lora(r=2, target_modules=["q_proj"]), Sharding(), 2)
    assert adapted.trained == 2 * (32 + 32)  # one layer: A [2, 32], B [32, 2]
    assert adapted.held_trained == adapted.trained // 2


def shares_of(**kwargs):
    usual = {"dtype": "float32", "compute_dtype": "bfloat16", "states": 2, "split": True, "offload": False, "teacher": None}
    usual |= {"reference_dtype": None, "rollout_dtype": "bfloat16", "rollouts": 4, "prompt_tokens": 10, "new_tokens": 20}
    job = Job(**{**usual, "micro_tokens": 30, "checkpointing": True, **kwargs})
    config, _ = policy_config(TINY)  # hidden 32, one layer, one key/value head of 16
    counts = count_parameters(config, "float32", None, Sharding(), 2 if job.split else 1)
    return counts, {share.name: share for share in memory(counts, config, job)}


def test_bytes_by_hand():
    counts, shares = shares_of(teacher="host", reference_dtype="bfloat16")
    assert shares["weights"].device == shares["gradients"].device == counts.held * 4
    assert shares["optimiser"].device == counts.held * 8
    assert (shares["teacher"].device, shares["teacher"].host) == (0, counts.held * 4)
    assert shares["reference"].device == counts.held * 2
    assert shares["rollout copy, whole"].device == counts.total * 2
    assert shares["key/value cache"].device == 4 * 30 * (2 * 1 * 1 * 16 * 2)
    inside = (8 * 32 + 8 * 32 + 4 * 64) * 2  # bytes a token: norms and sums, then attention and the wide layer
    assert shares["activations"].device == 30 * (32 * 2 + inside)
    samples, learns = (together(list(shares.values()), phase) for phase in ("samples", "learns"))
    learning = sum(shares[name].device for name in ("gradients", "gathered blocks", "activations"))
    assert samples[0] - learns[0] == shares["key/value cache"].device - learning


def test_offloaded_shards_wait_in_main_memory_and_replicas_gather_nothing():
    counts, shares = shares_of(offload=True)
    assert shares["weights"].device == shares["optimiser"].device == 0
    assert shares["weights"].host + shares["gradients"].host + shares["optimiser"].host == counts.held * 16
    assert shares["gathered blocks"].device > 0
    counts, shares = shares_of(split=False, rollouts=0, rollout_dtype=None)
    assert counts.held == counts.total
    assert not {"gathered blocks", "rollout copy, whole"} & shares.keys()
    assert shares["key/value cache"].device == 0  # a server keeps it


@pytest.mark.parametrize("path", sorted(SCALE.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_of_scale_plans(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    began = time.perf_counter()
    main(["plan", "--config", str(path), "--memory", "141" if "30b" in path.stem else "80"])
    assert time.perf_counter() - began < 60
    said = capsys.readouterr().out
    assert "parameters in" in said
    assert "fits a device of" in said  # what its first lines promise
    declared = yaml.safe_load(path.read_text())["trainer"]
    strategy = declared.get("strategy", {})
    if "init_args" in strategy:
        assert strategy["init_args"]["data_parallel_size"] == declared["devices"] * declared["num_nodes"]


@pytest.mark.parametrize(("arguments", "said"), [
    (["--devices=3", "--nodes=2", "--model.lora.r=2", "--memory=0.000001"], "2 x 3 devices, replicated"),
    (["--model.lora.r=2", "--memory=0.000001"], "trained); all of them on each process | does not fit a device of 1e-06 GB"),
    (["--devices=4", "--trainer.strategy=fsdp"], "4 devices, split by FSDP"),
    (["--devices=2", "--trainer.strategy=ModelParallelStrategy"], "`trainer.strategy.tensor_parallel_size` must be 1, got auto"),
    (["--config=nowhere.yaml"], "`--config` must be an existing file"),
    (["--architecture=nowhere.json"], "`--architecture` must be an existing config.json, got 'nowhere.json'"),
])  # fmt: skip
def test_devices_and_options_of_fit(capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) if "must be" in said else nullcontext():
        main(["plan", "--config", "configs/focal_tiny.yaml", *arguments])
    shown = " ".join("".join(capsys.readouterr()).split())
    assert all(words in shown for words in said.split(" | "))


def test_an_architecture_by_hand(tmp_path):
    content = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 7}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert architecture("x/y", given=str(tmp_path / "mine.json")).num_hidden_layers == 3
