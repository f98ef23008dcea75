"""A policy that thinks, from the prompt to what is logged, written and exported."""

import pyarrow.parquet as pq
import pytest
import yaml

from lightning_focal.callbacks import RolloutTable
from lightning_focal.callbacks.console import first_line
from lightning_focal.cli import main
from lightning_focal.generation import Sampling, ScriptedGenerator
from lightning_focal.models import Chat, encode_chat, export_policy, load_policy, load_tokenizer
from lightning_focal.models.checkpoints import checkpoint_policy
from tests.conftest import TINY, write_rows
from tests.modules.helpers import column

HI = [{"role": "user", "content": "Hi"}]
SWITCH = "{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% else %}{{ '<think>\\n' }}{% endif %}"
RUBRIC = [
    {"name": "short", "check": {"kind": "max_words", "words": 2}},
    {"name": "calm", "check": "no_exclamation"},
]
SAYS = ["So, hm! Tea?\n</think>\n\nGreen tea.", "So, hm! Tea? Which", "one\n</think>\n", "a</think>Oh no, not tea!"]


@pytest.fixture
def policy(tmp_path):
    """A policy whose chat template opens a thought, unless it is told not to."""
    model, tokenizer = load_policy(TINY)
    tokenizer.chat_template += SWITCH
    return str(export_policy(model, tokenizer, tmp_path / "policy"))


@pytest.fixture
def prompts(tmp_path):
    return str(write_rows(tmp_path / "train.jsonl", [{"id": f"p{i}", "prompt": "Tea?", "rubric": RUBRIC} for i in range(2)]))


OFF = {"enable_thinking": False}


@pytest.mark.parametrize(
    ("chat", "says", "scores", "thought_tokens", "unanswered"),
    [
        (Chat(), SAYS, [[1, 1], [0, 0], [0, 0], [0, 0]], (12 + 18 + 3 + 1) / 4, 2 / 4),
        # an answer as it stands: the third one is two words with a mark
        (Chat("off"), SAYS, [[0, 0], [0, 0], [1, 1], [0, 0]], float("nan"), 0.0),
        # the prompt closes the thought: what is written has none
        (
            Chat(template_kwargs=OFF),
            ["Green tea.", "Tea!", "", "<think>a</think>Tea."],
            [[1, 1], [1, 0], [0, 0], [1, 1]],
            1 / 4,
            1 / 4,
        ),
    ],
)
def test_answers_are_judged_and_thoughts_are_counted(run_tiny, policy, prompts, chat, says, scores, thought_tokens, unanswered):
    table = RolloutTable(stages=["train"])
    more = {"policy": policy, "data_train": prompts, "sampling": Sampling(max_new_tokens=64)}
    run = run_tiny(None, table, generator=ScriptedGenerator(says), chat=chat, **more)
    rows = pq.read_table(run.folder / "rollouts" / "train-000000-r0.parquet").to_pylist()
    assert [[c["score"] for c in row["criteria"]] for row in rows[:4]] == scores
    opened = "<think>\n" if chat == Chat() else ""
    assert [row["response"] for row in rows[:4]] == [opened + text for text in says]
    assert [row["tokens"] for row in rows[:4]] == [len(text) + 1 for text in says]
    assert column(run.folder, "train/response/unanswered") == [unanswered]
    assert column(run.folder, "train/response/thought_tokens") == pytest.approx([thought_tokens], nan_ok=True)
    if chat == Chat():
        assert [row["thought"] for row in rows[:2]] == ["So, hm! Tea?", "So, hm! Tea? Which"]
        assert [row["thought_finished"] for row in rows[:4]] == [True, False, True, True]
        assert rows[1]["criteria"][0]["reason"] == "no answer: the thought did not end"
        assert first_line(run.module).endswith(" · thoughts: opened by the chat template (<think>)")


def test_the_arguments_reach_prompts_checkpoints_and_exports(run_tiny, policy, prompts, tmp_path):
    run = run_tiny(policy=policy, data_train=prompts, chat=Chat(template_kwargs=OFF), trainer_max_epochs=1)
    run.trainer.save_checkpoint(run.folder / "checkpoints" / "last.ckpt")
    closed = "assistant\n<think>\n\n</think>\n\n"
    assert run.module.tokenizer.decode(encode_chat(run.module.tokenizer, HI)).endswith(closed)
    assert run.module.count_prompt_tokens(HI) == len(encode_chat(load_tokenizer(policy), HI, OFF))
    model = {"policy": policy, "chat": {"thinking": False, "template_kwargs": OFF}}
    (run.folder / "config.yaml").write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
    path = run.folder / "checkpoints" / "last.ckpt"
    main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / "out")])
    for tokenizer in (load_tokenizer(tmp_path / "out"), checkpoint_policy(path, model)[1]):
        assert tokenizer.decode(encode_chat(tokenizer, HI)).endswith(closed)
        assert tokenizer.decode(encode_chat(tokenizer, HI, {"enable_thinking": True})).endswith("assistant\n<think>\n")


def test_keys_of_the_command_line(tmp_path, policy, prompts, capsys):
    config = {"model": {"policy": policy, "chat": {"thinking": False, "template_kwargs": OFF}}}
    config["data"] = {"class_path": "RubricDataModule", "init_args": {"train": prompts, "batch_size": 2}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    fit = ["fit", "--reward=StaticReward", f"--config={tmp_path / 'run.yaml'}", f"--run_dir={tmp_path / 'run'}"]
    small = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--model.sampling.max_new_tokens=4"]
    main([*fit, *small])
    said = capsys.readouterr().out
    assert "thoughts: not told from answers, enable_thinking=False" in said
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["chat"]["template_kwargs"] == OFF
    for bad, words in (
        ("--model.chat.thinking=maybe", "maybe"),
        ("--model.chat.think_first=true", "think_first"),
        ("--model.chat.template_kwargs.tokenize=true", "got 'tokenize', which is set already"),
    ):
        with pytest.raises(SystemExit):
            main([*fit, *small, bad])
        assert words in capsys.readouterr().err
