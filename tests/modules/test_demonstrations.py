"""Demonstrations as padded tensors."""

import pytest

from lightning_focal.models import encode_chat, load_tokenizer, prompt_opening
from lightning_focal.modules.demonstrations import encode_demonstrations
from lightning_focal.types import Prompts


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("random:tiny-llama")


def shown(*pairs):
    return Prompts(
        ids=tuple(f"p{i}" for i in range(len(pairs))),
        messages=tuple(({"role": "user", "content": question},) for question, _ in pairs),
        extra=tuple({} if response is None else {"response": response, "other": 1} for _, response in pairs),
    )


def test_nothing_is_lost_or_added(tokenizer):
    prompts = shown(("1 + 1 =", "2"), ("Add one to one hundred.", "é \\boxed{101}"))
    prompt_ids, prompt_mask, response_ids, response_mask = encode_demonstrations(tokenizer, prompts)
    for i, (question, response) in enumerate([("1 + 1 =", "2"), ("Add one to one hundred.", "é \\boxed{101}")]):
        assert tuple(prompt_ids[i][prompt_mask[i]].tolist()) == encode_chat(tokenizer, [{"role": "user", "content": question}])
        assert tokenizer.decode(response_ids[i][response_mask[i]]) == response + "<|im_end|>"
    assert prompt_mask[:, -1].all()  # left-padded
    assert response_mask[:, 0].all()  # right-padded
    assert response_mask.sum(-1).tolist() == [2, len("é \\boxed{101}".encode()) + 1]


def test_another_column(tokenizer):
    prompts = Prompts(ids=("a",), messages=(({"role": "user", "content": "?"},),), extra=({"solution": "x"},))
    assert encode_demonstrations(tokenizer, prompts, key="solution")[3].sum() == 2


@pytest.mark.parametrize("response", [None, "", 4])
def test_a_prompt_without_one_is_named(tokenizer, response):
    prompts = shown(("?", "fine"), ("?", response))
    with pytest.raises(ValueError, match=r"prompt 'p1' has no demonstration: .* a column `response` with the text to learn, got"):
        encode_demonstrations(tokenizer, prompts)
    with pytest.raises(ValueError, match="prompt 'p0' has no demonstration"):
        encode_demonstrations(tokenizer, Prompts(ids=("p0",), messages=prompts.messages[:1]))


def test_a_long_one_is_refused_and_the_limit_itself_is_not(tokenizer):
    assert encode_demonstrations(tokenizer, shown(("?", "abc")), max_tokens=4)[2].shape == (1, 4)
    with pytest.raises(ValueError, match=r"the demonstration of prompt 'p0' has 4 tokens, 3 are allowed"):
        encode_demonstrations(tokenizer, shown(("?", "abc")), max_tokens=3)


@pytest.mark.parametrize("response", ["<think>\na</think>b", "a</think>b", " <think>a\n</think>\nb"])
def test_a_thought_that_the_template_opens_is_not_opened_twice(response):
    opens = load_tokenizer("random:tiny-llama")
    opens.chat_template += "{{ '<think>\\n' }}"
    prompts = shown(("?", response))
    prompt_ids, _, response_ids, mask = encode_demonstrations(opens, prompts)
    assert prompt_opening(opens, prompt_ids[0].tolist()) == "<think>\n"
    learned = opens.decode(response_ids[0][mask[0]])
    assert learned == response.lstrip().removeprefix("<think>").lstrip() + "<|im_end|>"
    as_it_stands = encode_demonstrations(opens, prompts, thinks=False)
    assert opens.decode(as_it_stands[2][0]) == response + "<|im_end|>"
    with pytest.raises(
        ValueError, match=r"opens a thought \(<think>\), and the demonstration of prompt 'p0' never ends it: write"
    ):
        encode_demonstrations(opens, shown(("?", "b")))
