"""Loss masks token by token, against trajectories written by hand."""

import re

import pytest
import torch

from lightning_focal.environments import Calculator, TurnRollouts
from lightning_focal.generation import ScriptedGenerator
from lightning_focal.modules.loss import grpo_loss, step_normaliser
from lightning_focal.modules.update import Sequences, Update
from tests.environments.helpers import play
from tests.helpers import make_prompts, make_rollouts

CALL = '<tool_call>{"name": "calculate", "arguments": {"expression": "6*7"}}</tool_call>'
HEAD = "<|start_header_id|>"
WRITTEN = {  # the prompt; then what the policy draws (True) and what the environment says (False)
    "qwen": (
        "<|im_start|>system\n# Tools\ncalculate\nCall by <tool_call>JSON</tool_call><|im_end|>\n"
        "<|im_start|>user\nWhat is 6*7?<|im_end|>\n<|im_start|>assistant\n",
        [
            (True, f"{CALL}<|im_end|>"),
            (False, "\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>assistant\n"),
            (True, f"Again.{CALL}{CALL}<|im_end|>"),
            (
                False,
                "\n<|im_start|>user\n<tool_response>\n42\n</tool_response>\n<tool_response>\n42\n</tool_response><|im_end|>\n",
            ),
            (False, "<|im_start|>assistant\n"),
            (True, "It is 42.<|im_end|>"),
        ],
    ),
    "llama": (
        f"{HEAD}user<|end_header_id|>\n\nTools: calculate\n\nWhat is 6*7?<|eot_id|>{HEAD}assistant<|end_header_id|>\n\n",
        [
            (True, '{"name": "calculate", "parameters": {"expression": "6*7"}}<|eot_id|>'),
            (False, f"{HEAD}ipython<|end_header_id|>\n\n42<|eot_id|>{HEAD}assistant<|end_header_id|>\n\n"),
            (True, '{"name": "calculate", "parameters": {"expression": "1+"}}<|eot_id|>'),
            (False, f"{HEAD}ipython<|end_header_id|>\n\nError: SyntaxError: invalid syntax (<unknown>, line 1)<|eot_id|>"),
            (False, f"{HEAD}assistant<|end_header_id|>\n\n"),
            (True, "It is 42.<|eot_id|>"),
        ],
    ),
    "mistral": (
        "[AVAILABLE_TOOLS][calculate][/AVAILABLE_TOOLS][INST] What is 6*7?[/INST]",
        [
            (True, '[TOOL_CALLS][{"name": "calculate", "arguments": {"expression": "6*7"}}]</s>'),
            (False, "[TOOL_RESULTS]42[/TOOL_RESULTS]"),
            (True, '[TOOL_CALLS][{"name": "calculate", "arguments": {"expression": "6-7"}}]</s>'),
            (False, "[TOOL_RESULTS]-1[/TOOL_RESULTS]"),
            (True, " It is 42.</s>"),
        ],
    ),
}


@pytest.fixture(scope="module")
def turns():
    """One process of tools for all."""
    made = TurnRollouts(Calculator(), ScriptedGenerator(["x"]))
    yield made
    made.close()


@pytest.mark.parametrize("family", WRITTEN)
def test_every_token_of_a_trajectory(family, turns):
    prompt, parts = WRITTEN[family]
    said = [re.sub(r"(<\|im_end\|>|<\|eot_id\|>|</s>)$", "", text) for drawn, text in parts if drawn]
    script = {key: [turn] for key, turn in zip(("a", "a/0/1", "a/0/2"), said, strict=True)}
    tokenizer, rollouts = play(turns, script, family)
    encoded = [(drawn, tokenizer(text, add_special_tokens=False)["input_ids"]) for drawn, text in parts]
    assert rollouts.prompt_ids[0].tolist() == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert rollouts.response_ids[0, 0].tolist() == [i for _, ids in encoded for i in ids]
    wanted = [drawn for drawn, ids in encoded for _ in ids]
    assert rollouts.sampled_mask[0, 0].tolist() == wanted
    assert rollouts.response_mask.all()
    rows = Sequences.of(rollouts)
    assert rows.loss_mask[0].tolist() == wanted
    assert [*rows.sizes.lengths] == [len(wanted) + rollouts.prompt_ids.shape[1]]  # attention sees all of it
    assert float(step_normaliser(rows, Update())) == sum(wanted) == int(rollouts.lengths)
    assert rollouts.texts == ((said[-1].strip() if family != "mistral" else said[-1],),)
    assert [m["role"] for m in rollouts.trajectories[0][0]][:3] == ["assistant", "tool", "assistant"]
    assert not rollouts.truncated.any()


def test_an_environments_tokens_change_no_loss():
    """The loss over a trajectory is that of the same log-probabilities without the environment's tokens."""

    torch.manual_seed(0)
    mask = torch.tensor([[[True, False, True, True, False]] * 2])
    rollouts = make_rollouts(make_prompts(1), 2, 5, sampled_mask=mask)
    short = make_rollouts(make_prompts(1), 2, 3)
    logp, old = torch.randn(2, 5), torch.randn(2, 5)
    found = []
    for rows, keep in ((Sequences.of(rollouts), slice(None)), (Sequences.of(short), [0, 2, 3])):
        values = {"advantages": torch.tensor([1.0, -0.5]), "old_logp": old[:, keep], "ref_logp": old[:, keep] + 0.1}
        rows = type(rows)(**{**vars(rows), **values})
        for aggregation in ("token_mean", "sequence_mean"):
            update = Update(loss_aggregation=aggregation, kl_coef=0.1, importance_sampling_level="sequence")
            loss, watched = grpo_loss(rows, logp[:, keep], update, step_normaliser(rows, update))
            found.append([float(loss), *(float(value) for value in watched.values())])
    assert found[0] == pytest.approx(found[2])
    assert found[1] == pytest.approx(found[3])
