import json
import re
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from lightning_focal.models import PolicySourceError, load_policy, load_tokenizer, load_trainable, resolve_source
from lightning_focal.models.load import CACHE_ENV, default_cache_dir
from tests.conftest import rubric_rows


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny):
    folder = tmp_path_factory.mktemp("policy")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "policy")


def test_folder_as_text_and_path(folder, tiny):
    for source in (folder, str(folder)):
        model, tokenizer = load_policy(source)
        assert model.lm_head.weight.equal(tiny[0].lm_head.weight)
        assert not model.training
        assert len(tokenizer) == 259


def test_dtype_and_attention(folder):
    model, _ = load_policy(folder, dtype="bfloat16", attn_implementation="eager")
    assert model.dtype == torch.bfloat16
    assert model.config._attn_implementation == "eager"
    model, _ = load_policy("random:tiny-llama?layers=1", dtype="bfloat16", attn_implementation="eager")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="`dtype`"):
        load_policy(folder, dtype="float8")


@pytest.mark.parametrize(
    ("part", "change", "match"),
    [
        ("config.json", None, "no config.json"),
        ("tokenizer.json", None, "no tokenizer"),
        ("model.safetensors", None, "no weights"),
        ("chat_template.jinja", None, "no chat template"),
        ("model.safetensors", lambda data: data[: len(data) // 2], "cannot be read: .*deserializing header"),
        ("model.safetensors", lambda data: b"", "cannot be read: .*header too small"),
        ("config.json", lambda data: b"{", "cannot be read"),
        ("config.json", lambda data: data.replace(b'mediate_size": ', b'mediate_size": 1'), "cannot be read: .*mismatched"),
        ("config.json", lambda data: re.sub(rb'hidden_layers": \d', b'hidden_layers": 9', data), r"no weights for .*layers\.\d"),
    ],
)
def test_parts_that_are_missing_or_damaged_are_named_with_their_place(folder, part, change, match):
    data = (folder / part).read_bytes()
    (folder / part).unlink() if change is None else (folder / part).write_bytes(change(data))
    with pytest.raises(PolicySourceError, match=match) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)


def test_tokenizers_that_lack_a_token_or_have_one_too_many(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(folder).pad_token == "<|im_end|>"
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(PolicySourceError, match="no `eos_token`"):
        load_tokenizer(folder)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.eos_token = "<extra>"
    tokenizer.save_pretrained(folder)
    with pytest.raises(PolicySourceError, match=r"ends a response with token 259, its model embeds 259"):
        load_policy(folder)


def test_a_tokenizer_may_know_tokens_that_no_prompt_holds(folder, run_tiny, rubric_file):
    bigger = AutoTokenizer.from_pretrained(folder)
    bigger.add_tokens(["<image_soft_token>"], special_tokens=True)
    bigger.save_pretrained(folder)
    assert len(load_policy(folder)[1]) == 260
    run_tiny(policy=str(folder), trainer_limit_train_batches=1)
    rows = rubric_rows(4)
    rows[-1]["prompt"] = "<image_soft_token> what is this?"
    with pytest.raises(
        ValueError, match=r"a prompt holds the token '<image_soft_token>' \(id 259\), of which .* embeds 259 tokens"
    ):
        run_tiny(policy=str(folder), folder="again", data_train=rubric_file(rows=rows))


def test_code_of_a_source_is_run_where_it_is_trusted(folder):
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(config))
    for load in (load_policy, load_trainable):
        with pytest.raises(
            PolicySourceError, match=r"brings code of its own along; it is run with `model.trust_remote_code: true`"
        ):
            load(folder)
        assert type(load(folder, trust_remote_code=True)[0]).__name__ == "OwnModel"


def test_a_model_of_pictures_is_refused_in_a_line(folder):
    (folder / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(PolicySourceError, match=r"is no causal language model \(qwen2_vl\)") as caught:
        load_policy(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "match"),
    [(path, "does not exist") for path in ("/no/such/folder", "./missing", "~/missing-policy", "a/b/c")]
    + [(__file__, "is a file, expected a folder"), (" ", "got an empty string")],
)
def test_sources_that_are_no_policy(source, match):
    with pytest.raises(PolicySourceError, match=match):
        resolve_source(source)


def test_hub_id_and_random_pass_through():
    assert resolve_source("organisation/name") == "organisation/name"
    assert resolve_source("random:tiny-llama?seed=2") == "random:tiny-llama?seed=2"


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_ENV, str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv(CACHE_ENV)
    assert default_cache_dir().parts[-2:] == (".cache", "lightning_focal")
