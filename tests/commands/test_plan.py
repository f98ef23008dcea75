"""What every process will hold: counted on the policy itself, beside arithmetic by hand."""

import json
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch.distributed as dist
import yaml

from lightning_focal.cli import main
from lightning_focal.commands.plan import architecture
from lightning_focal.commands.plan_memory import Job, memory, together
from lightning_focal.commands.plan_sharded import count_parameters
from lightning_focal.models import Lora, Sharding, load_policy, policy_config
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
SCALE = ROOT / "configs" / "scale"


def qwen(vocabulary, hidden, layers, heads, kv_heads, head, inner, experts=1):
    """Parameters of Qwen3, by hand: embeddings and output layer, attention with norms of queries and keys, experts, norms."""
    attention = hidden * head * (2 * heads + 2 * kv_heads) + 2 * head
    networks = experts * 3 * hidden * inner + (experts * hidden if experts > 1 else 0)
    return 2 * vocabulary * hidden + layers * (attention + networks + 2 * hidden) + hidden


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen3-8B", qwen(151936, 4096, 36, 32, 8, 128, 12288)),
        ("Qwen3-30B-A3B", qwen(151936, 2048, 48, 32, 4, 128, 768, 128)),
    ],
)
def test_architectures_have_as_many_parameters_as_their_names_say(name, expected):
    config = architecture(f"Qwen/{name}", str(SCALE / "any.yaml"))
    began = time.perf_counter()
    counts = count_parameters(config, "float32", None, Sharding(), 8, True)
    assert time.perf_counter() - began < 60
    assert counts.total == counts.trained == expected
    assert counts.held == pytest.approx(expected / 8, rel=1e-3)
    assert counts.block * counts.blocks + counts.outside == expected
    assert not dist.is_initialized()


def test_shards_are_those_of_a_real_split():
    """What does not divide evenly is rounded up on the first process."""
    config, _ = policy_config(TINY)
    model, _ = load_policy(TINY)
    counts = count_parameters(config, "float32", None, Sharding(), 3, True)
    assert counts.held == sum(-(-p.shape[0] // 3) * p[0].numel() for p in model.parameters())
    whole = count_parameters(config, "float32", None, Sharding(), 3, False)
    assert whole.held == whole.total == sum(p.numel() for p in model.parameters())


def test_layers_computed_together_are_held_in_slices():
    """Linear layers by half, what is outside of blocks shared by all, norms of a block on each process whole."""
    config, _ = policy_config("random:tiny-llama?hidden=32&layers=1&heads=4&kv_heads=2")
    linear = 32 * (32 + 16 + 16) + 32 * 32 + 3 * 32 * 64
    counts = count_parameters(config, "float32", None, Sharding(), 2, True, tensor_parallel=2)
    assert counts.total == linear + 2 * 32 + 2 * 259 * 32 + 32
    assert counts.block == linear / 2 + 2 * 32
    assert counts.held == counts.block + 2 * 130 * 32 + 32 / 2
    pairs = count_parameters(config, "float32", None, Sharding(), 4, True, tensor_parallel=2)
    assert pairs.block == counts.block
    assert pairs.held == counts.block / 2 + 2 * 65 * 32 + 32 / 4


def test_adapters_alone_are_trained():
    config, _ = policy_config(TINY)
    counts = count_parameters(config, "bfloat16", Lora(r=2, target_modules=["q_proj"]), Sharding(), 2, True)
    assert counts.trained == 2 * (32 + 32)  # one layer: A [2, 32], B [32, 2]
    assert counts.held_trained == counts.trained // 2


def job(**kwargs):
    usual = {"dtype": "float32", "compute_dtype": "bfloat16", "states": 2, "split": True, "offload": False, "teacher": None}
    usual |= {"reference_dtype": None, "rollout_dtype": "bfloat16", "rollouts": 4, "prompt_tokens": 10, "new_tokens": 20}
    usual["micro_tokens"] = 30
    return Job(**{**usual, "checkpointing": True, **kwargs})


def shares_of(**kwargs):
    config, _ = policy_config(TINY)  # hidden 32, one layer, one key/value head of 16
    counts = count_parameters(config, "float32", None, Sharding(), 2, kwargs.get("split", True))
    return counts, {share.name: share for share in memory(counts, config, job(**kwargs))}


def test_bytes_by_hand():
    counts, shares = shares_of(teacher="host", reference_dtype="bfloat16")
    assert shares["weights"].device == shares["gradients"].device == counts.held * 4
    assert shares["optimiser"].device == counts.held * 8
    assert (shares["teacher"].device, shares["teacher"].host) == (0, counts.held * 4)
    assert shares["reference"].device == counts.held * 2
    assert shares["rollout copy, whole"].device == counts.total * 2
    assert shares["key/value cache"].device == 4 * 30 * (2 * 1 * 1 * 16 * 2)
    samples, learns = (together(list(shares.values()), phase) for phase in ("samples", "learns"))
    assert samples[0] - learns[0] == shares["key/value cache"].device - sum(
        shares[name].device for name in ("gradients", "gathered blocks", "activations")
    )


def test_a_reference_in_a_file_is_not_there_while_the_policy_learns():
    counts, shares = shares_of(reference_dtype="float32", reference_filed=True)
    _, kept = shares_of(reference_dtype="float32")
    assert shares["reference"].device == kept["reference"].device == counts.held * 4
    found, usual = ([together(list(s.values()), phase)[0] for phase in ("samples", "learns")] for s in (shares, kept))
    assert (found[0] - usual[0], found[1] - usual[1]) == (0, -counts.held * 4)


def test_a_process_keeps_what_it_computes_of_a_layer():
    _, alone = shares_of()
    _, together = shares_of(tensor_parallel=2)
    inside = (8 * 32 + 8 * 32 + 4 * 64) * 2  # bytes a token: norms and sums, then attention and the wide layer
    assert alone["activations"].device == 30 * (32 * 2 + inside)
    assert together["activations"].device == 30 * (32 * 2 + inside - (8 * 32 + 4 * 64) * 2 / 2)


def test_offloaded_shards_wait_in_main_memory():
    counts, shares = shares_of(offload=True)
    assert shares["weights"].device == shares["optimiser"].device == 0
    assert shares["weights"].host + shares["gradients"].host + shares["optimiser"].host == counts.held * 16
    assert shares["gathered blocks"].device > 0


def test_replicas_gather_nothing_and_a_server_keeps_the_cache():
    counts, shares = shares_of(split=False, rollouts=0, rollout_dtype=None)
    assert counts.held == counts.total
    assert not {"gathered blocks", "rollout copy, whole"} & shares.keys()
    assert shares["key/value cache"].device == 0


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


def test_devices_and_options_of_fit(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    main(
        [
            "plan",
            "--config",
            "configs/focal_tiny.yaml",
            "--devices",
            "3",
            "--nodes",
            "2",
            "--model.lora.r=2",
            "--memory",
            "0.000001",
        ]
    )
    said = capsys.readouterr().out
    assert "2 x 3 devices, replicated" in said
    assert "trained)" in said
    assert "does not fit a device of 1e-06 GB" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--devices", "4", "--trainer.strategy.tensor_parallel_size=2"], "split by FSDP2, tensor parallel 2"),
        (["--devices", "3", "--trainer.strategy.tensor_parallel_size=2"], "must divide the number of devices, 3, got 2"),
        (
            ["--devices", "4", "--trainer.strategy.tensor_parallel_size=4"],
            "must divide the policy's num_key_value_heads = 2, got 4",
        ),
    ],
)
def test_layers_computed_together_are_planned(capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(ROOT)
    policy = "--model.policy=random:tiny-llama?heads=4&kv_heads=2"
    command = ["plan", "--config", "configs/focal_tiny.yaml", policy, "--trainer.strategy=ModelParallelStrategy", *arguments]
    with pytest.raises(SystemExit) if "must" in said else nullcontext():
        main(command)
    printed = capsys.readouterr()
    assert said in " ".join((printed.out + printed.err).split())


def test_an_architecture_by_hand(tmp_path, capsys):
    (tmp_path / "mine.json").write_text(
        json.dumps({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 7})
    )
    assert architecture("x/y", "nowhere.yaml", str(tmp_path / "mine.json")).num_hidden_layers == 3
    with pytest.raises(FileNotFoundError, match="`--architecture` must be an existing"):
        architecture("x/y", "nowhere.yaml", "nowhere.json")
    with pytest.raises(SystemExit):
        main(["plan", "--config", str(tmp_path / "none.yaml")])
    assert "`--config` must be an existing file" in capsys.readouterr().err
