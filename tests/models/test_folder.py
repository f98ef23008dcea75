import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from lightning_focal.models import Lora, apply_lora, load_policy
from lightning_focal.models import export as module
from lightning_focal.models.export import hub_weights, whole_folder, write_description, write_weights


def stored(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def small_moe():
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        intermediate_size=32,
        vocab_size=64,
    )
    return Qwen3MoeForCausalLM(config)


@pytest.mark.parametrize("make", [lambda: load_policy("random:tiny-llama?layers=2")[0], small_moe], ids=["llama", "moe"])
def test_names_and_values_are_those_of_a_published_checkpoint(make, tmp_path):
    policy = make()
    policy.save_pretrained(tmp_path)
    expected = stored(tmp_path)
    got = dict(hub_weights(policy))
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], expected[name]) for name in got)


def test_a_folder_is_read_back(tmp_path, tiny):
    policy, tokenizer = tiny
    write_description(policy, tokenizer, tmp_path)
    write_weights(policy, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.architectures == ["LlamaForCausalLM"]
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), again.parameters(), strict=True))
    assert policy.config.architectures != ["changed"]


def test_many_files_hold_everything_once(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(module, "_FILE_BYTES", 20_000)
    write_description(*tiny, tmp_path)
    write_weights(tiny[0], tmp_path, dtype=torch.bfloat16)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    expected = {name: value.bfloat16() for name, value in hub_weights(tiny[0])}
    got = stored(tmp_path)
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], expected[name]) for name in got)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert all(torch.equal(a.bfloat16(), b) for a, b in zip(tiny[0].parameters(), again.parameters(), strict=True))


def test_adapters_are_merged(tmp_path):
    policy = apply_lora(load_policy("random:tiny-llama?layers=1")[0], Lora(r=2))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    write_weights(policy, tmp_path)
    layer = policy.get_base_model().model.layers[0].self_attn.q_proj
    merged = layer.base_layer.weight + layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(stored(tmp_path)["model.layers.0.self_attn.q_proj.weight"], merged, atol=1e-6, rtol=0)


def test_a_rank_that_only_helps_writes_nothing(tmp_path, tiny):
    write_weights(tiny[0], tmp_path, write=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_whole_or_not_there(tmp_path):
    target = tmp_path / "deep" / "weights"

    def break_off():
        with whole_folder(target) as beside:
            (beside / "half").write_text("x")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        break_off()
    assert not list(target.parent.iterdir())
    for text in ("first", "second"):
        with whole_folder(target) as beside:
            (beside / "file").write_text(text)
    assert (target / "file").read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["weights"]
