import logging

import pytest

from lightning_focal.models import Chat, encode_chat, load_tokenizer, prompt_opening, template_switch, validate_messages
from tests.helpers import make_prompts, make_rollouts

HI = [{"role": "user", "content": "Hi"}]
QWEN = "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
"""How the chat template of Qwen3 ends."""
OPENS = "{{ '<think>\\n' }}"
GRANITE = "{% if thinking %}{{ '<think>' }}{% endif %}{# tools #}"


def thinking(ending, **chat):
    """The prompt of a template that ends like this, what is said of it, and the tokenizer."""
    tokenizer = load_tokenizer("random:tiny-llama")
    tokenizer.chat_template += ending
    chat = Chat(**chat)
    tokenizer = chat.apply(tokenizer)
    prompt = encode_chat(tokenizer, HI)
    return tokenizer.decode(prompt).partition("assistant\n")[2], chat.describe(tokenizer), tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("random:tiny-llama")


def test_generation_prompt_is_added_once(tokenizer):
    ids = encode_chat(tokenizer, [{"role": "system", "content": "Be brief."}, *HI])
    text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == text
    assert isinstance(ids, tuple)
    assert all(type(i) is int for i in ids)


@pytest.mark.parametrize(
    ("messages", "error", "match"),
    [
        ([], ValueError, "at least one turn"),
        ("Hi", TypeError, "got str"),
        ({"role": "user", "content": "Hi"}, TypeError, "got dict"),
        (["Hi"], TypeError, r"messages\[0\]"),
        ([{"role": "user"}], ValueError, r'messages\[0\]\["content"\]'),
        ([{"content": "Hi"}], ValueError, r'messages\[0\]\["role"\]'),
        ([{"role": "", "content": "Hi"}], ValueError, "not be empty"),
        ([{"role": "user", "content": "Hi"}, {"role": "user", "content": 3}], ValueError, r"messages\[1\].*got 3"),
        ([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}], ValueError, "assistant's"),
    ],
)
def test_malformed_chats_are_named(messages, error, match):
    with pytest.raises(error, match=match):
        validate_messages(messages)


@pytest.mark.parametrize(
    ("template", "match"),
    [(None, "chat template"), ("{{ raise_exception('roles must alternate') }}", r"roles \['user'\].*must alternate")],
)
def test_templates_that_lack_or_refuse(template, match):
    strict = load_tokenizer("random:tiny-llama")
    strict.chat_template = template
    with pytest.raises(ValueError, match=match):
        encode_chat(strict, HI)


@pytest.mark.parametrize(
    ("ending", "chat", "prompt", "told"),
    [
        ("", {}, "", ""),
        ("", {"thinking": "off"}, "", "not told from answers"),
        (QWEN, {}, "", "told by their marks, the chat template knows enable_thinking"),
        (QWEN, {"thinking": "on"}, "", "told by their marks, the chat template knows enable_thinking, enable_thinking=True"),
        (
            QWEN,
            {"template_kwargs": {"enable_thinking": False}},
            "<think>\n\n</think>\n\n",
            "told by their marks, the chat template knows enable_thinking, enable_thinking=False",
        ),
        (OPENS, {}, "<think>\n", "opened by the chat template (<think>)"),
        (OPENS, {"thinking": False}, "<think>\n", "not told from answers"),
        (GRANITE, {}, "", "told by their marks, the chat template knows thinking"),
        (GRANITE, {"thinking": True}, "<think>", "opened by the chat template (<think>), thinking=True"),
        (
            "{{ date }}{{ tools[0]['name'] }}",
            {"template_kwargs": {"date": "24 'Dec'", "tools": [{"name": "é\n%}"}]}},
            "24 'Dec'é\n%}",
            "told by their marks, date=\"24 'Dec'\", tools=[{'name': 'é\\n%}'}]",
        ),
    ],
)
def test_what_the_template_says_of_thoughts(ending, chat, prompt, told):
    found, said, tokenizer = thinking(ending, **chat)
    assert (found, said) == (prompt, f"thoughts: {told}" if told else "")
    opens = prompt.strip() == "<think>"
    assert prompt_opening(tokenizer, encode_chat(tokenizer, HI)) == (prompt if opens else "")


def test_stored_arguments_are_defaults():
    _, _, tokenizer = thinking(QWEN, template_kwargs={"enable_thinking": False})
    plain = load_tokenizer("random:tiny-llama")
    plain.chat_template += QWEN
    for value in (False, True, None):
        given = {} if value is None else {"enable_thinking": value}
        expected = encode_chat(plain, HI, {"enable_thinking": value is True})
        assert encode_chat(tokenizer, HI, given) == expected
    assert template_switch("{{ 'thinking' }}{# enable_thinking #} thinking") is None


def test_a_template_keeps_its_first_line():
    tokenizer = load_tokenizer("random:tiny-llama")
    tokenizer.chat_template = "\n  {% if x %}{{ x }}{% endif %}!"
    whole = tokenizer.decode(encode_chat(tokenizer, HI, {"x": 1}))
    assert tokenizer.decode(encode_chat(Chat(template_kwargs={"x": 1}).apply(tokenizer), HI)) == whole == "\n1!"


def test_arguments_without_a_use_are_warned_of_once(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            thinking(QWEN, template_kwargs={"enable_thinkin": False})
            thinking("", thinking="on")
    assert caplog.messages == [
        "`model.chat.template_kwargs.enable_thinkin`: the chat template takes no notice of it (it knows enable_thinking, tools)",
        "`model.chat.thinking: on`: the chat template has no switch for thoughts; they are told by their marks alone",
    ]


@pytest.mark.parametrize(
    ("chat", "match"),
    [
        ({"thinking": "maybe"}, "`model.chat.thinking` must be .* got 'maybe'"),
        ({"template_kwargs": {"tokenize": False}}, "got 'tokenize', which is set already"),
        ({"template_kwargs": {"a b": 1}}, "got 'a b', which is no name"),
        ({"template_kwargs": {"date": logging}}, "`model.chat.template_kwargs.date` must be a plain value"),
        ({"thinking": "on", "template_kwargs": {"enable_thinking": False}}, "drop one of the two"),
    ],
)
def test_bad_settings_are_named(chat, match):
    with pytest.raises(ValueError, match=match):
        Chat(**chat)


def test_off_takes_texts_as_they_stand():
    texts = (("<think>\na</think>b", "<think>\nc"),)
    rollouts = make_rollouts(make_prompts(1), texts=texts, openings=("<think>\n",))
    assert Chat().mark(rollouts) is rollouts
    assert rollouts.answers == (("b", ""),)
    off = Chat(thinking="off").mark(rollouts)
    assert off.answers == off.texts == (("a</think>b", "c"),)
    assert [part.thought for part in off.responses[0]] == [None, None]
