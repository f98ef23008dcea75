"""Chat templates of three families, a tokenizer for each, and tools that misbehave."""

import os
import signal
import time
from pathlib import Path

from tokenizers import AddedToken

from lightning_focal.environments import Dialogue, Environment, Episode, TurnRollouts
from lightning_focal.environments.calculator import calculate
from lightning_focal.generation import Sampling, ScriptedGenerator
from lightning_focal.models import load_policy
from lightning_focal.types import Prompts

QWEN = (  # of Qwen2.5 and Qwen3: results are the user's, several of them in one turn
    "{% if tools %}{{ '<|im_start|>system\n# Tools\n' }}{% for tool in tools %}{{ tool['function']['name'] + '\n' }}{% endfor %}"
    "{{ 'Call by <tool_call>JSON</tool_call><|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '\n<tool_call>\n' + c.function | tojson + '\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (  # of Llama 3.1: a call stands alone, as JSON with "parameters", and the result is ipython's
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}"
    '{% elif m.tool_calls %}{{ \'<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "\' + m.tool_calls[0].function.name }}'
    "{{ '\", \"parameters\": ' + m.tool_calls[0].function.arguments | tojson + '}<|eot_id|>' }}"
    "{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% if tools and loop.first %}{{ 'Tools: ' + tools[0].function.name + '\n\n' }}{% endif %}{{ m.content + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (  # of Mistral 7B v0.3: eos ends the assistant's turns alone
    "{% if tools %}{{ '[AVAILABLE_TOOLS][' + tools[0].function.name + '][/AVAILABLE_TOOLS]' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS][' + m.tool_calls[0].function | tojson + '</s>' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
MARKS = {
    "qwen": (QWEN, ["<|im_start|>", "<|im_end|>"]),
    "llama": (LLAMA, ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]),
    "mistral": (MISTRAL, ["[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "</s>"]),
}


def speaking(family="qwen"):
    """A tiny policy and a byte tokenizer that speaks a family's template."""
    policy, tokenizer = load_policy("random:tiny-llama?layers=1&hidden=32")
    template, marks = MARKS[family]
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(mark, special=True) for mark in marks]})
    tokenizer.chat_template, tokenizer.eos_token = template, marks[-1]
    policy.resize_token_embeddings(len(tokenizer))
    policy.generation_config.eos_token_id = tokenizer.eos_token_id
    return policy, tokenizer


def prompts_of(*texts, **columns):
    chats = tuple(({"role": "user", "content": text},) for text in texts)
    ids = tuple("abcdefgh"[: len(texts)])
    return Prompts(ids, chats, tokens=((1,),) * len(texts), **columns)


def play(environment, script, family="qwen", count=1, group=1, tokens=2000, prompts=None):
    """Rollouts of what a script says, turn by turn: ``a`` is prompt a's first turn, ``a/0/1`` the second of its first rollout.

    ``environment`` may be :class:`TurnRollouts` that have one, whose process of tools goes on.
    """
    policy, tokenizer = speaking(family)
    policy.config.max_position_embeddings = 1_000_000
    kept = isinstance(environment, TurnRollouts)
    turns = environment if kept else TurnRollouts(environment, ScriptedGenerator(script))
    turns.generator, turns.environment.reader = ScriptedGenerator(script), None
    given = prompts or prompts_of(*["What is 6*7?"] * count)
    more = {"group_size": group, "seeds": range(len(given)), "sampling": Sampling(max_new_tokens=tokens)}
    try:
        return tokenizer, turns.generate(policy, tokenizer, given, **more)
    finally:
        if not kept:
            turns.close()


def loop(n: int) -> str:
    """Never end.

    Args:
        n: whatever.
    """
    while True:
        n += 1


def flood(size: int = 1_000_000) -> str:
    """Say much.

    Args:
        size: characters.
    """
    return "x" * size


def fail(how: str) -> str:
    """Fail.

    Args:
        how: raise, exit, kill, recursion or memory.
    """
    if how == "exit":
        raise SystemExit(3)
    if how == "kill":
        os._exit(1)
    if how == "recursion":
        return fail(how)
    if how == "memory":
        raise MemoryError("too much")
    if how == "sleep":
        time.sleep(60)
    raise RuntimeError(f"no {how}")


class Wild(Environment):
    """Tools that do what tools must not."""

    tools = (calculate, loop, flood, fail)
    score_names = ("right",)

    def reset(self, task):
        return Episode()


class Fatal(Dialogue):
    """Kills its process between two turns of an episode, once: at a step, unless a file is there."""

    def __init__(self, at, unless, **kwargs):
        super().__init__(**kwargs)
        self.at, self.unless, self.steps = at, Path(unless), 0

    def reset(self, task):
        episode = super().reset(task)
        step = episode.step

        def fatal(messages):
            self.steps += 1
            if self.steps == self.at and not self.unless.exists():
                self.unless.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return step(messages)

        episode.step = fatal
        return episode
