"""A checkpoint as a Hugging Face folder: from one process and from several, whole, merged, or adapters alone."""

import os
import pickle
import shutil
from functools import cache

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM

from lightning_focal import FocalReward, GRPOModule, RubricDataModule, Sampling
from lightning_focal.cli import main
from lightning_focal.commands.export import export_checkpoint
from lightning_focal.models import Lora, load_policy, read_weights
from lightning_focal.runs import AtomicCheckpointIO, why_broken
from tests.conftest import TINY, adam, make_trainer, rubric_rows, write_rows
from tests.modules import parallel, sharded_checkpoints
from tests.modules.helpers import column
from tests.processes import run_ranks


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The policy after two batches, and its checkpoint in a run folder: ``trained()``, or with adapters; trained once each."""

    @cache
    def train(lora=None):
        folder = tmp_path_factory.mktemp("trained")
        optimizer, saving = adam(1e-2), ModelCheckpoint(folder / "checkpoints", filename="last")
        module = GRPOModule(TINY, group_size=4, sampling=Sampling(max_new_tokens=6), optimizer=optimizer, lora=lora)
        trainer = make_trainer(folder, [FocalReward(), saving], enable_checkpointing=True, plugins=[AtomicCheckpointIO()])
        trainer.fit(module, datamodule=RubricDataModule(str(write_rows(folder / "train.jsonl", rubric_rows(4))), batch_size=2))
        model = {"policy": TINY, "lora": None if lora is None else {"r": lora.r, "alpha": lora.alpha}}
        (folder / "config.yaml").write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
        return module.policy, folder / "checkpoints" / "last.ckpt"

    return train


IDS = torch.tensor([[5, 9, 200, 31, 7]])


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def test_a_checkpoint_becomes_a_policy_folder(trained, tmp_path, capsys):
    policy, path = trained()
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "policy")])
    assert str(tmp_path / "policy") in capsys.readouterr().out
    model, tokenizer = load_policy(tmp_path / "policy")
    assert logits(model).equal(logits(policy))
    assert not logits(model).equal(logits(load_policy(TINY)[0]))
    assert tokenizer.chat_template
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert logits(AutoModelForCausalLM.from_pretrained(tmp_path / "policy")).equal(logits(model))


def test_configuration_is_found_or_asked_for_and_another_precision(trained, tmp_path):
    path = str(shutil.copytree(trained()[1].parent, tmp_path / "run" / "checkpoints") / "last.ckpt")
    with pytest.raises(SystemExit):
        main(["export", "--ckpt_path", path, "--out", str(tmp_path / "p")])
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"policy": TINY}))
    config = tmp_path / "elsewhere.yaml"
    config.write_text("model: model.yaml\n")
    main(["export", "--ckpt_path", path, "--out", str(tmp_path / "p"), "--config", str(config), "--dtype", "bfloat16"])
    assert load_policy(tmp_path / "p", dtype="auto")[0].dtype == torch.bfloat16


def test_adapters_are_merged_or_written_alone(trained, tmp_path):
    import peft

    policy, path = trained(Lora(r=2, alpha=4.0))
    expected = logits(policy)
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "merged")])
    torch.testing.assert_close(logits(load_policy(tmp_path / "merged")[0]), expected, atol=1e-5, rtol=1e-5)
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "adapter"), "--adapter"])
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= set(os.listdir(tmp_path / "adapter"))
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = peft.PeftModel.from_pretrained(load_policy(TINY)[0], tmp_path / "adapter")
    assert logits(again).equal(expected)
    assert (logits(load_policy(TINY)[0]) - expected).abs().max() > 1e-4  # the adapters do something
    torch.testing.assert_close(logits(again.merge_and_unload()), logits(load_policy(tmp_path / "merged")[0]), atol=1e-6, rtol=0)


def test_tied_weights(tmp_path):
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


def test_what_does_not_fit_is_refused(trained, tmp_path):
    _, path = trained()
    for arguments, message in (
        ({"adapter": True}, "`--adapter` needs a run with `model.lora`"),
        ({"part": "teacher"}, r"holds no weights named teacher\.model\."),
        ({"model": {"policy": TINY.replace("layers=1", "layers=2")}}, "does not fit the configuration: .* weights are missing"),
        ({"model": {"policy": TINY, "lora": {"r": 2}}}, "does not fit the configuration"),
        ({"ckpt_path": "nowhere.ckpt"}, "'nowhere.ckpt' does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            export_checkpoint(**{"ckpt_path": path, "out": tmp_path / "p", "model": {"policy": TINY}, **arguments})
        assert not (tmp_path / "p").exists()


# -- nothing in a checkpoint is run -----------------------------------------------------------------------------------------------


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_checkpoint_and_an_index_of_shards_with_code_in_them_are_refused(tmp_path):
    torch.save({"state_dict": {"policy.x": torch.zeros(1)}, "more": Bomb(tmp_path / "ran")}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="is refused"):
        read_weights(tmp_path / "bad.ckpt")
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


# -- checkpoints of two processes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    run_ranks(sharded_checkpoints.worker, str(folder))
    return folder


@pytest.mark.slow  # two processes
@pytest.mark.parametrize(("case", "kind"), sharded_checkpoints.SAVED)
def test_a_resumed_run_ends_as_the_uninterrupted_one_and_both_kinds_are_exported(sharded, tmp_path, case, kind):
    whole, resumed = (sharded / f"{name}-{case}-{kind}" for name in ("whole", "resumed"))
    assert (whole / "checkpoints" / "step=2.ckpt").is_dir() == kind.endswith("shards")
    assert why_broken(whole / "checkpoints" / "step=2.ckpt") is None
    for rank in range(2):
        one, other = (torch.load(run / f"result-{rank}.pt") for run in (whole, resumed))
        assert all(other["weights"][name].equal(value) for name, value in one["weights"].items())
        assert all(theirs.equal(mine) for mine, theirs in zip(one["teacher"], other["teacher"], strict=True))
    assert column(resumed, "train/loss/total") == column(whole, "train/loss/total")[2:]
    model = {"policy": parallel.LAYERS, "lora": {"r": 2} if case == "adapters" else None}
    (whole / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    path = whole / "checkpoints" / "step=4.ckpt"
    main(["export", f"--ckpt_path={path}", f"--out={tmp_path / 'p'}"])
    final = torch.load(whole / "result-0.pt")
    written = dict(load_policy(tmp_path / "p")[0].named_parameters())
    assert written.keys() == final["weights"].keys()
    for name, value in final["weights"].items():
        torch.testing.assert_close(written[name], value, atol=1e-6 if case == "adapters" else 0, rtol=0)
    if case == "co_rewarding_2":
        taught = export_checkpoint(path, tmp_path / "t", model, part="teacher")
        for mine, (_, theirs) in zip(final["teacher"], sorted(load_policy(taught)[0].named_parameters()), strict=True):
            assert theirs.equal(mine)
