"""A checkpoint as a Hugging Face folder: from one process and from several, whole, merged, or adapters alone."""

import os
import pickle
import shutil

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from lightning_focal.cli import main
from lightning_focal.commands.export import export_checkpoint
from lightning_focal.models import Lora, check_shards, load_policy, read_weights
from lightning_focal.runs import why_broken
from tests.conftest import TINY, write_rows
from tests.modules import parallel, sharded_checkpoints
from tests.modules.helpers import column
from tests.processes import run_ranks


@pytest.fixture
def trained(run_tiny, tmp_path):
    """A run folder with a checkpoint and the configuration it was trained with."""

    def train(lora=None):
        from lightning.pytorch.callbacks import ModelCheckpoint

        saving = ModelCheckpoint(tmp_path / "run" / "checkpoints", filename="last")
        run = run_tiny(None, saving, trainer_enable_checkpointing=True, trainer_limit_train_batches=2, lora=lora)
        model = {"policy": TINY, "lora": None if lora is None else {"r": lora.r, "alpha": lora.alpha}}
        (run.folder / "config.yaml").write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
        return run, run.folder / "checkpoints" / "last.ckpt"

    return train


IDS = torch.tensor([[5, 9, 200, 31, 7]])


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_a_checkpoint_becomes_a_policy_folder(trained, tmp_path, capsys):
    run, path = trained()
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "policy")])
    assert str(tmp_path / "policy") in capsys.readouterr().out
    model, tokenizer = load_policy(tmp_path / "policy")
    assert logits(model).equal(logits(run.module.policy))
    assert not logits(model).equal(logits(load_policy(TINY)[0]))
    assert tokenizer.chat_template
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert logits(AutoModelForCausalLM.from_pretrained(tmp_path / "policy")).equal(logits(model))


def test_another_precision(trained, tmp_path):
    _, path = trained()
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "p"), "--dtype", "bfloat16"])
    assert load_policy(tmp_path / "p", dtype="auto")[0].dtype == torch.bfloat16


def test_adapters_are_merged_or_written_alone(trained, tmp_path):
    import peft

    run, path = trained(Lora(r=2, alpha=4.0))
    expected = logits(run.module.policy)
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "merged")])
    torch.testing.assert_close(logits(load_policy(tmp_path / "merged")[0]), expected, atol=1e-5, rtol=1e-5)
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "adapter"), "--adapter"])
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(os.listdir(tmp_path / "adapter"))
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = peft.PeftModel.from_pretrained(load_policy(TINY)[0], tmp_path / "adapter")
    assert logits(again).equal(expected)
    assert (logits(load_policy(TINY)[0]) - expected).abs().max() > 1e-4  # the adapters do something
    torch.testing.assert_close(logits(again.merge_and_unload()), logits(load_policy(tmp_path / "merged")[0]), atol=1e-6, rtol=0)


def test_tied_weights(run_tiny, tmp_path):
    model, tokenizer = load_policy(TINY)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    tokenizer.save_pretrained(tmp_path / "tied")
    state = {f"policy.{name}": value + 1 for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    export_checkpoint(tmp_path / "x.ckpt", tmp_path / "out", {"policy": str(tmp_path / "tied")})
    again, _ = load_policy(tmp_path / "out")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert again.lm_head.weight.equal(model.lm_head.weight + 1)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"adapter": True}, "`--adapter` needs a run with `model.lora`"),
    ({"part": "teacher"}, r"holds no weights named teacher\.model\."),
    ({"model": {"policy": TINY.replace("layers=1", "layers=2")}}, "does not fit the configuration: .* weights are missing"),
    ({"model": {"policy": TINY, "lora": {"r": 2}}}, "does not fit the configuration"),
    ({"ckpt_path": "nowhere.ckpt"}, "'nowhere.ckpt' does not exist"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(trained, tmp_path, arguments, message):
    _, path = trained()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export_checkpoint(**{"ckpt_path": path, "out": tmp_path / "p", "model": {"policy": TINY}, **arguments})
    assert not (tmp_path / "p").exists()


def test_configuration_is_found_or_asked_for(trained, tmp_path):
    run, path = trained()
    shutil.move(run.folder / "config.yaml", tmp_path / "elsewhere.yaml")
    with pytest.raises(SystemExit):
        main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "p")])
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"policy": TINY}))
    (tmp_path / "elsewhere.yaml").write_text("model: model.yaml\n")
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "p"), "--config", str(tmp_path / "elsewhere.yaml")])
    assert (tmp_path / "p" / "model.safetensors").exists()


# -- nothing in a checkpoint is run -----------------------------------------------------------------------------------------------


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    torch.save({"state_dict": {"policy.x": torch.zeros(1)}, "more": Bomb(tmp_path / "ran")}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="is refused"):
        read_weights(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()


def test_an_index_of_shards_with_code_in_it_is_refused(tmp_path):
    folder = tmp_path / "shards.ckpt"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ValueError, match="which no index of weights needs"):
        read_weights(folder)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"model": {"policy": TINY}}))
    rows = write_rows(tmp_path / "rows.jsonl", [])
    given = [f"--config={config}", "--reward=StaticReward", "--data=RubricDataModule", f"--data.train={rows}"]
    with pytest.raises(SystemExit):  # a run that was to go on from it
        main(["fit", *given, f"--ckpt_path={folder}"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name", [("os", "system"), ("builtins", "eval"), ("torch.distributed.checkpoint.metadata", "os.system"), ("torch", "load")]
)
def test_only_data_is_named_by_an_index(tmp_path, name):
    (tmp_path / ".metadata").write_bytes(f"c{name[0]}\n{name[1]}\n.".encode())
    with pytest.raises(ValueError, match="is refused"):
        check_shards(tmp_path)


# -- checkpoints of two processes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    run_ranks(sharded_checkpoints.worker, str(folder))
    return folder


@pytest.mark.slow  # two processes
@pytest.mark.parametrize(("case", "kind"), sharded_checkpoints.SAVED)
def test_a_resumed_run_ends_as_the_uninterrupted_one(sharded, case, kind):
    whole, resumed = (sharded / f"{name}-{case}-{kind}" for name in ("whole", "resumed"))
    assert (whole / "checkpoints" / "step=2.ckpt").is_dir() == kind.endswith("shards")
    assert why_broken(whole / "checkpoints" / "step=2.ckpt") is None
    for rank in range(2):
        one, other = (torch.load(run / f"result-{rank}.pt") for run in (whole, resumed))
        assert all(other["weights"][name].equal(value) for name, value in one["weights"].items())
        assert all(theirs.equal(mine) for mine, theirs in zip(one["teacher"], other["teacher"], strict=True))
    assert column(resumed, "train/loss/total") == column(whole, "train/loss/total")[2:]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kind"), sharded_checkpoints.SAVED)
def test_both_kinds_are_exported(sharded, tmp_path, case, kind):
    run = sharded / f"whole-{case}-{kind}"
    model = {"policy": parallel.LAYERS, "lora": {"r": 2} if case == "adapters" else None}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    main(["export", f"--ckpt_path={run}/checkpoints/step=4.ckpt", f"--out={tmp_path / 'p'}"])
    out = tmp_path / "p"
    final = torch.load(run / "result-0.pt")
    written = dict(load_policy(out)[0].named_parameters())
    assert written.keys() == final["weights"].keys()
    for name, value in final["weights"].items():
        torch.testing.assert_close(written[name], value, atol=1e-6 if case == "adapters" else 0, rtol=0)
    if case == "co_rewarding_2":
        taught = export_checkpoint(run / "checkpoints" / "step=4.ckpt", tmp_path / "t", model, part="teacher")
        for mine, (_, theirs) in zip(final["teacher"], sorted(load_policy(taught)[0].named_parameters()), strict=True):
            assert theirs.equal(mine)
