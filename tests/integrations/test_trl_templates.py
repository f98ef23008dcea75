"""Turns in the chat templates of Qwen, Llama and Nemotron, as TRL's wheel brings them: what we write is what the template writes."""

import re
from importlib import resources

import pytest
from tokenizers import AddedToken

from lightning_focal.environments import Calculator, TurnRollouts
from lightning_focal.generation import Sampling, ScriptedGenerator
from lightning_focal.models import load_policy
from lightning_focal.thoughts import split_thought
from tests.environments.helpers import prompts_of

pytest.importorskip("trl")
pytestmark = pytest.mark.trl
MARK = re.compile(r"<\|[^|<>\s]{1,40}\|>")
NAMES = {
    "<tool_call>{json}": ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_vl"],
    "<tool_call><function=": ["qwen3_5_think", "qwen3_5_nothink", "qwen3_6", "qwen3_8", "nemotron_3_nano", "nemotron_3_ultra"],
    '{"name", "parameters"}': ["llama3_1", "llama3_2"],
}
ASKED = [{"role": "user", "content": "What is 6*7?"}]
CALL = {"id": "call00000", "type": "function", "function": {"name": "calculate", "arguments": {"expression": "6*7"}}}
TOLD = [
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "42", "name": "calculate", "tool_call_id": "call00000"},
]
ANSWER = {"role": "assistant", "content": "It is 42."}


def speaking(name):
    policy, tokenizer = load_policy("random:tiny-llama?layers=1&hidden=32")
    policy.config.max_position_embeddings = 1_000_000
    template = (resources.files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    marks = sorted(set(MARK.findall(template)))
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(mark, special=True) for mark in marks]})
    tokenizer.chat_template = template
    tokenizer.eos_token = "<|eot_id|>" if "<|eot_id|>" in marks else "<|im_end|>"
    policy.resize_token_embeddings(len(tokenizer))
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    return policy, tokenizer


@pytest.mark.parametrize(("calls", "name"), [(calls, name) for calls, names in NAMES.items() for name in names])
def test_turns_are_written_as_the_template_writes_them(calls, name):
    policy, tokenizer = speaking(name)
    turns = TurnRollouts(Calculator(), ScriptedGenerator(["x"]))
    shown = {"tools": turns.tools.schemas, "tokenize": False}
    bare, prompt = (tokenizer.apply_chat_template(ASKED, add_generation_prompt=more, **shown) for more in (False, True))
    whole = tokenizer.apply_chat_template([*ASKED, *TOLD, ANSWER], **shown)
    opening = prompt[len(bare) :]
    turn, mark, behind = opening.partition("<think>")  # some open a thought with a turn
    thinks = bool(mark) and "</think>" not in behind
    start = len(bare) + len(turn)
    call = whole[start : whole.index(tokenizer.eos_token, start)]
    written = call.removeprefix(mark + behind) if thinks else call
    turns.generator = ScriptedGenerator({"a": [written], "a/0/1": ["</think>It is 42." if thinks else "It is 42."]})
    turns.start(tokenizer, policy.generation_config)
    try:
        given = {"group_size": 1, "seeds": [0], "sampling": Sampling(max_new_tokens=2000)}
        made = turns.generate(policy, tokenizer, prompts_of("What is 6*7?"), **given)
    finally:
        turns.close()
    assert turns.describe().endswith(f"calls read as {calls}")
    assert tokenizer.decode(made.prompt_ids[0]) == prompt
    said = [(m["role"], split_thought(m["content"]).answer) for m in made.trajectories[0][0][1:]]
    assert said == [("tool", "42"), ("assistant", "It is 42.")]
    assert made.answers == (("It is 42.",),)
    environment = tokenizer.decode(made.response_ids[0, 0][made.response_mask[0, 0] & ~made.sampled_mask[0, 0]])
    assert environment.endswith(opening)
    assert whole[start + len(call) + len(tokenizer.eos_token) :].startswith(environment.removesuffix(opening))
    assert made.own_scores[0][0] == {"right": None, "called": 1.0}
