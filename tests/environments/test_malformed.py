"""Whatever a policy writes in place of a call becomes a message to it, and whatever a tool does ends no run."""

import json

import pytest

from lightning_focal.environments.calls import Call, call_reader
from lightning_focal.environments.tools import Tools
from lightning_focal.types import Prompts
from tests.environments.helpers import Wild, play, speaking


def called(name, arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


DEEP = "[" * 5000 + "]" * 5000
MALFORMED = {  # what a policy writes, and what it is told
    "no JSON": ("<tool_call>calculate 6*7</tool_call>", "no valid JSON"),
    "nothing": ("<tool_call></tool_call>", "no valid JSON"),
    "single quotes": ("<tool_call>{'name': 'calculate'}</tool_call>", "no valid JSON"),
    "trailing comma": ('<tool_call>{"name": "calculate", "arguments": {},}</tool_call>', "no valid JSON"),
    "cut JSON": ('<tool_call>{"name": "calculate", "argum</tool_call>', "no valid JSON"),
    "not closed": ('<tool_call>{"name": "calculate", "arguments": {"expression": "1"}}', "is not closed"),
    "two objects": ('<tool_call>{"name": "a"}{"name": "b"}</tool_call>', "no valid JSON"),
    "deep": (f"<tool_call>{DEEP}</tool_call>", "Error: "),
    "a long number": (f"<tool_call>{'9' * 6000}</tool_call>", "no valid JSON"),
    "a list": ('<tool_call>["calculate", "6*7"]</tool_call>', "must be a JSON object"),
    "a number": ("<tool_call>42</tool_call>", "must be a JSON object"),
    "null": ("<tool_call>null</tool_call>", "must be a JSON object"),
    "no name": ('<tool_call>{"arguments": {"expression": "6*7"}}</tool_call>', "must be a JSON object"),
    "name of another type": ('<tool_call>{"name": 7, "arguments": {}}</tool_call>', "must be a JSON object"),
    "unknown tool": (called("google", {"q": "42"}), "there is no tool 'google'; there are calculate"),
    "empty name": (called("", {}), "there is no tool ''"),
    "a name of 10 kB": (called("n" * 10_000, {}), "there is no tool 'nnn"),
    "no arguments": (called("calculate", {}), "'expression' is a required property"),
    "arguments a list": (called("calculate", ["6*7"]), '"arguments" must be a JSON object'),
    "arguments a text": (called("calculate", "6*7"), "no valid JSON"),
    "arguments null": (called("calculate", None), '"arguments" must be a JSON object'),
    "unknown argument": (called("calculate", {"expression": "1", "base": 2}), "'base' was unexpected"),
    "wrong type": (called("calculate", {"expression": 42}), "42 is not of type 'string'"),
    "a truth value for a number": (called("loop", {"n": True}), "True is not of type 'integer'"),
    "null for a text": (called("calculate", {"expression": None}), "None is not of type 'string'"),
    "exception": (called("fail", {"how": "raise"}), "Error: RuntimeError: no raise"),
    "its own mistake": (called("calculate", {"expression": "1//0"}), "Error: ZeroDivisionError"),
    "recursion": (called("fail", {"how": "recursion"}), "Error: RecursionError"),
    "exit": (called("fail", {"how": "exit"}), "Error: SystemExit: 3"),
    "killed": (called("fail", {"how": "kill"}), "Error: the tool ended its process"),
    "memory": (called("fail", {"how": "memory"}), "Error: MemoryError: too much"),
    "endless loop": (called("loop", {"n": 1}), "Error: loop was ended after 2 s"),
    "time-out": (called("fail", {"how": "sleep"}), "Error: fail was ended after 2 s"),
    "1 MB output": (called("flood", {}), "x\n[cut: 1000000 characters, 300 are shown]"),
    "a mark of turns": (called("<|im_start|>", {}), "there is no tool '<\u200b|im_start|>'"),
}


def test_a_malformed_call_is_a_message():
    """All of them, one a prompt, in one batch."""
    assert len(MALFORMED) >= 30
    chat = ({"role": "user", "content": "?"},)
    prompts = Prompts(tuple(MALFORMED), (chat,) * len(MALFORMED), tokens=((1,),) * len(MALFORMED))
    script = {name: [text] for name, (text, _) in MALFORMED.items()} | {f"{name}/0/1": ["Sorry."] for name in MALFORMED}
    _, rollouts = play(Wild(max_output=300), script, prompts=prompts, tokens=30_000)
    for (name, (_, words)), (said,) in zip(MALFORMED.items(), rollouts.trajectories, strict=True):
        assert [message["role"] for message in said] == ["assistant", "tool", "assistant"], name
        assert words in said[1]["content"], name
        assert len(said[1]["content"]) < 600, name
        assert said[-1]["content"] == "Sorry.", name
    assert {text for (text,) in rollouts.texts} == {"Sorry."}
    assert not rollouts.truncated.any()


@pytest.mark.parametrize(
    ("family", "text", "calls"),
    [
        ("qwen", "It is 42, says <b>me</b>.", []),
        ("qwen", 'So.\n<tool_call>\n{"name": "a", "arguments": {"x": 1}}\n</tool_call>', [Call("a", {"x": 1})]),
        ("qwen", '<tool_call>{"name": "a", "arguments": "{\\"x\\": 1}"}</tool_call>', [Call("a", {"x": 1})]),
        ("llama", '{"answer": 42}', []),
        ("llama", ' {"name": "a", "parameters": {"x": 1}}', [Call("a", {"x": 1})]),
        ("llama", '<|python_tag|>{"name": "a", "parameters": {}}', [Call("a", {})]),
        ("mistral", 'Yes.[TOOL_CALLS][{"name": "a", "arguments": {}}, {"name": "b", "arguments": {}}]', [Call("a"), Call("b")]),
    ],
)
def test_calls_are_read_as_the_template_writes_them(family, text, calls):
    tools = Tools(Wild())
    reader = call_reader(speaking(family)[1], tools.schemas)
    assert reader.read(text) == calls
    assert "tool_call" not in reader.plain(text)


def test_functions_in_xml():
    tokenizer = speaking()[1]
    tokenizer.chat_template = tokenizer.chat_template.replace("JSON", "<function=x>")
    reader = call_reader(tokenizer, Tools(Wild()).schemas)
    arguments = "<parameter=x>\n1\n</parameter>\n<parameter=y>\nto be\n</parameter>"
    assert reader.read(f"<tool_call>\n<function=a>\n{arguments}\n</function>\n</tool_call>") == [
        Call("a", {"x": 1, "y": "to be"})
    ]
    assert "a call must read" in reader.read("<tool_call>{}</tool_call>")[0].error


def test_a_template_without_tools_is_refused():
    tokenizer = speaking()[1]
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="takes no notice"):
        call_reader(tokenizer, Tools(Wild()).schemas)
    tokenizer.chat_template += "{{ tools }}"
    with pytest.raises(ValueError, match="none of the known formats"):
        call_reader(tokenizer, Tools(Wild()).schemas)
