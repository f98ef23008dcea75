import pytest

from lightning_focal.models import encode_chat, load_tokenizer, validate_messages


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("random:tiny-llama")


def test_generation_prompt_is_added_once(tokenizer):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.decode(encode_chat(tokenizer, chat))
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_ids_are_plain_ints(tokenizer):
    ids = encode_chat(tokenizer, [{"role": "user", "content": "Hi"}])
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


def test_tokenizer_without_template():
    bare = load_tokenizer("random:tiny-llama")
    bare.chat_template = None
    with pytest.raises(ValueError, match="chat template"):
        encode_chat(bare, [{"role": "user", "content": "Hi"}])


def test_refusal_of_the_template_is_passed_on():
    strict = load_tokenizer("random:tiny-llama")
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match=r"roles \['user'\].*must alternate"):
        encode_chat(strict, [{"role": "user", "content": "Hi"}])
