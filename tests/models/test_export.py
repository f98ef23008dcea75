"""A policy folder: whole, plain, and equal to the last bit."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lightning_focal.models import encode_chat, export_policy, load_policy
from lightning_focal.models import export as module
from lightning_focal.models.export import hub_weights, write_description, write_weights

from .architectures import make

TINY = "random:tiny-llama?hidden=32&layers=2&std=0.3"
IDS = torch.tensor([[5, 9, 200, 31, 7]])


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


def stored(folder):
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def names(folder):
    return set(stored(folder))


def test_read_back_to_the_last_bit(tmp_path):
    model, tokenizer = load_policy(TINY)
    folder = export_policy(model, tokenizer, tmp_path / "policy")
    assert folder == tmp_path / "policy"
    again, its_tokenizer = load_policy(folder)
    assert logits(again).equal(logits(model))
    assert logits(AutoModelForCausalLM.from_pretrained(folder)).equal(logits(model))
    assert names(folder) == set(dict(model.named_parameters()))
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    chat = [{"role": "system", "content": "Sé brief."}, {"role": "user", "content": "1 + 1 =\n\t€"}]
    for other in (its_tokenizer, AutoTokenizer.from_pretrained(folder)):
        assert encode_chat(other, chat) == encode_chat(tokenizer, chat)
        assert other.decode(tokenizer("a , b 's é€")["input_ids"]) == "a , b 's é€"
        assert (other.eos_token_id, other.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
        assert (len(other), other.chat_template) == (len(tokenizer), tokenizer.chat_template)
    assert again.generation_config.eos_token_id == tokenizer.eos_token_id
    assert {path.name for path in tmp_path.iterdir()} == {"policy"}


def test_another_precision_stays(tmp_path):
    model, tokenizer = load_policy(TINY, dtype="bfloat16")
    again, _ = load_policy(export_policy(model, tokenizer, tmp_path / "p"), dtype="auto")
    assert again.dtype == torch.bfloat16
    assert logits(again).equal(logits(model))
    export_policy(model, tokenizer, tmp_path / "others", write=False)  # only one process writes
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_tied_weights_are_stored_once(tmp_path):
    model, tokenizer = load_policy(TINY)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    folder = export_policy(model, tokenizer, tmp_path / "p")
    assert "lm_head.weight" not in names(folder)
    again, _ = load_policy(folder)
    assert logits(again).equal(logits(model))
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_an_earlier_export_is_replaced_and_stays_where_that_fails(tmp_path):
    first, tokenizer = load_policy(TINY)
    second, _ = load_policy(f"{TINY}&seed=1")
    export_policy(first, tokenizer, tmp_path / "p")
    (tmp_path / "p" / "left.txt").write_text("from before")
    export_policy(second, tokenizer, tmp_path / "p")
    assert not (tmp_path / "p" / "left.txt").exists()

    class Broken:
        def save_pretrained(self, folder):
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        export_policy(first, Broken(), tmp_path / "p")
    assert logits(load_policy(tmp_path / "p")[0]).equal(logits(second))
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    with pytest.raises(OSError, match="no space left"):
        export_policy(first, Broken(), tmp_path / "deep" / "new")
    assert not any((tmp_path / "deep").iterdir())


def test_other_peoples_folders_are_left_alone(tmp_path):
    model, tokenizer = load_policy(TINY)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear")
    (tmp_path / "file").write_text("x")
    for place in ("notes", "file"):
        with pytest.raises(
            ValueError, match=r"`folder` must be new, empty or an exported policy, got .*, which holds something else"
        ):
            export_policy(model, tokenizer, tmp_path / place)
    assert (tmp_path / "notes" / "diary.txt").read_text() == "dear"
    (tmp_path / "empty").mkdir()
    assert json.loads((export_policy(model, tokenizer, tmp_path / "empty") / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("kind", ["llama", "qwen3_moe"])
def test_names_and_values_are_those_of_a_published_checkpoint(kind, tmp_path):
    policy, _ = make(kind)
    policy.save_pretrained(tmp_path)
    expected, got = stored(tmp_path), dict(hub_weights(policy))
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], expected[name]) for name in got)


def test_many_files_hold_everything_once(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(module, "_FILE_BYTES", 20_000)
    write_description(*tiny, tmp_path)
    write_weights(tiny[0], tmp_path, dtype=torch.bfloat16)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    expected, got = {name: value.bfloat16() for name, value in hub_weights(tiny[0])}, stored(tmp_path)
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], expected[name]) for name in got)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(tiny[0].parameters(), again.parameters(), strict=True))
