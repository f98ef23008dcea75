import pytest

from lightning_focal.generation import Sampling, ScriptedGenerator

from .helpers import make_prompts, responses


@pytest.fixture
def setting(tiny):
    model, tokenizer = tiny
    return model, tokenizer, make_prompts(tokenizer, ("a", "b"))


def test_texts_ids_and_masks(setting):
    model, tokenizer, prompts = setting
    generator = ScriptedGenerator(["no", "ja!"])
    generator.sync(model, 7)
    rollouts = generator.generate(model, tokenizer, prompts, group_size=3, seeds=[0, 0], sampling=Sampling())
    assert rollouts.texts == (("no", "ja!", "no"),) * 2
    end = tokenizer.eos_token_id
    no, ja = [*tokenizer("no")["input_ids"], end], [*tokenizer("ja!")["input_ids"], end]
    assert responses(rollouts) == [[no, ja, no]] * 2
    assert not rollouts.truncated.any()
    assert rollouts.logp is None
    assert rollouts.version == 7


def test_one_list_a_prompt_and_an_empty_response(setting):
    model, tokenizer, prompts = setting
    script = ScriptedGenerator({"p0": [""], "p1": ["x", "longer"]})
    rollouts = script.generate(model, tokenizer, prompts, group_size=2, seeds=[0, 0], sampling=Sampling(max_new_tokens=4))
    assert rollouts.texts == (("", ""), ("x", "long"))
    assert rollouts.lengths.tolist() == [[1, 1], [2, 4]]
    assert rollouts.truncated.tolist() == [[False, False], [False, True]]


def test_missing_scripts_are_named(setting):
    model, tokenizer, prompts = setting
    with pytest.raises(ValueError, match="'p1'"):
        ScriptedGenerator({"p0": ["x"]}).generate(model, tokenizer, prompts, group_size=1, seeds=[0, 0], sampling=Sampling())
    with pytest.raises(ValueError, match="at least one response"):
        ScriptedGenerator([])
    with pytest.raises(ValueError, match="the string 'yes'"):
        ScriptedGenerator("yes")
