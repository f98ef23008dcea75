"""Numbers of three models that no change of the code may move: rollouts, losses, gradients, weights after updates, a resumed run.

``python -m tests.test_golden`` writes golden.json anew, for a change that is meant to move them; say why in CHANGELOG.md.
"""

import csv
import json
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from lightning_focal.cli import main
from lightning_focal.models.tiny import byte_tokenizer

STORED = Path(__file__).with_name("golden.json")
CONFIG = Path(__file__).parents[1] / "configs" / "focal_tiny.yaml"
MODELS = {
    "llama": {},
    "qwen3": {"head_dim": 16, "tie_word_embeddings": True},
    "gemma3_text": {
        "head_dim": 16, "sliding_window": 32, "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 16, "tie_word_embeddings": True,
    },
}  # fmt: skip
COLUMNS = ("loss/policy", "loss/total", "policy/grad_norm", "policy/entropy", "policy/kl", "reward/mean", "balance/worst")
RUN = (
    "--trainer.max_epochs=2", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=0", "--model.update.mini_batches=2",
    "--model.update.kl_coef=0.05", "--model.reference=FrozenReference", "--model.update.micro_batch_size=5",
    "--trainer.precision=32-true", "--model.sampling.temperature=0.9", "--model.optimizer.init_args.lr=1e-4",
)  # fmt: skip


def policy(kind, folder):
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **MODELS[kind],
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def numbers(kind, folder):
    """What a run of four batches and eight updates gives, and what is left of it when it is resumed from the first epoch's end."""
    source, run = policy(kind, folder / "policy"), folder / "run"
    fit = ["fit", f"--config={CONFIG}", f"--model.policy={source}", f"--run_dir={run}", *RUN]
    main([*fit[:4], *RUN, "--trainer.max_epochs=1"])
    main([*fit, "--ckpt_path=last"])
    with open(run / "metrics.csv", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["train/loss/policy"]]
    found = {name: [float(row[f"train/{name}"]) for row in rows] for name in COLUMNS}
    tables = [pyarrow.parquet.read_table(part).to_pylist() for part in sorted((run / "rollouts").glob("*train*.parquet"))]
    found["responses"] = [row["response"] for table in tables for row in table]
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    found["weights"] = {name: float(value.double().norm()) for name, value in sorted(state.items()) if "policy." in name}
    return found


@pytest.mark.parametrize("kind", list(MODELS))
def test_numbers_stay(kind, tmp_path):
    stored, found = json.loads(STORED.read_text(encoding="utf-8"))[kind], numbers(kind, tmp_path)
    assert found.pop("responses") == stored.pop("responses")
    assert found.keys() == stored.keys()
    for name, value in stored.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name


def write(path):
    made = {}
    for kind in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            made[kind] = numbers(kind, Path(folder))
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else STORED)
