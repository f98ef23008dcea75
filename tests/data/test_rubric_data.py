"""Rubric files as a data module."""

import logging

import pytest

from lightning_focal.data import RubricDataModule, prompts_of
from lightning_focal.types import log_key
from tests.conftest import write_rows
from tests.helpers import FakeTrainer

RUBRIC = [
    {"name": "short", "tags": ["axis:brevity"], "check": {"kind": "max_words", "words": 5}},
    {"name": "no commas", "points": -1, "check": "no_commas"},
]


def write(path, count=6, rubric=RUBRIC, **columns):
    rows = [{"id": f"{path.stem}-{i}", "prompt": "word " * (i + 1), "rubric": rubric, **columns} for i in range(count)]
    return str(write_rows(path, rows))


@pytest.fixture
def files(tmp_path):
    other = [{"name": "polite", "check": "no_question"}]
    return {"train": write(tmp_path / "train.jsonl"), "val": write(tmp_path / "val.jsonl", 3, rubric=other)}


def words(messages):
    return sum(len(message["content"].split()) for message in messages)


def ready(stage="fit", **arguments):
    data = RubricDataModule(**arguments)
    data.setup(stage)
    return data


def test_splits_by_stage(files):
    data = RubricDataModule(**files)
    data.setup("fit")
    assert {split: len(rows) for split, rows in data.rows.items()} == {"train": 6, "val": 3}
    for stage in ("test", "predict"):  # the held-out file stands in
        data = ready(stage, **files)
        assert [row.id for row in data.rows[stage]] == ["val-0", "val-1", "val-2"]
    data = ready("test", test=files["train"], **files)
    assert len(data.rows["test"]) == 6
    assert set(ready("validate", **files).rows) == {"val"}
    assert set(ready("fit", train=files["train"]).rows) == {"train"}  # held-out prompts are not needed
    for stage, split, given in (("fit", "train", "val"), ("validate", "val", "train"), ("test", "test", "train")):
        with pytest.raises(ValueError, match=rf"`data.{split}` must name a file for `lightning_focal {stage}`, got none"):
            ready(stage, **{given: files["train"]})


def test_prompts_carry_everything(tmp_path):
    path = write(tmp_path / "a.jsonl", 2, answer="4", source="web")
    data = ready(train=path)
    prompts = data.splits()["train"]
    assert prompts.ids == ("a-0", "a-1")
    assert prompts.messages[1] == ({"role": "user", "content": "word word "},)
    assert prompts.answers == ("4", "4")
    assert prompts.extra[0] == {"source": "web"}
    assert [c.name for c in prompts.rubrics[0].criteria] == ["short", "no commas"]
    assert prompts_of(data.rows["train"][:1]).ids == ("a-0",)
    assert len(prompts_of([])) == 0


def test_level_keys_are_sorted_over_all_splits(files):
    assert ready("fit", **files).level_keys() == ["brevity", "no commas", "polite"]
    assert ready("validate", **files).level_keys() == ["polite"]
    assert RubricDataModule(**files).level_keys() == []


def test_system_prompt(tmp_path):
    path = tmp_path / "chats.jsonl"
    own = [{"role": "system", "content": "Be grim."}, {"role": "user", "content": "Hi."}]
    rows = [{"prompt": "Hello.", "rubric": RUBRIC}, {"messages": own, "rubric": RUBRIC}]
    write_rows(path, rows)
    first, second = ready(train=str(path), system_prompt="Be kind.").rows["train"]
    assert first.messages == ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello."})
    assert first.id == "chats:1"
    assert second.messages == tuple(own)


def test_skip_leaves_out_a_row_whose_gold_cannot_be_read_and_says_which(tmp_path, caplog):
    path, check = tmp_path / "gold.jsonl", {"kind": "answer", "expected": "$answer"}
    right = {"prompt": "2 + 10?", "rubric": [{"name": "right", "check": check}]}
    rows = [{"id": answer, "answer": answer, **right} for answer in ("12", "?!")]
    write_rows(path, [*rows, {"prompt": ""}])
    with caplog.at_level(logging.WARNING):
        data = ready(train=str(path), on_bad_row="skip")
    assert [row.id for row in data.rows["train"]] == ["12"]
    assert f"{path}: skipped 2 of 3 rows; the first: {path}:2: rubric[0]: `check` must be one that can be made" in caplog.text
    assert "(all: 2, 3)" in caplog.text


def test_loaders(files):
    data = ready("fit", batch_size=4, eval_batch_size=2, seed=1, **files)
    train, val = data.train_dataloader(), data.val_dataloader()
    assert (len(train), len(val)) == (1, 2)  # training batches are full
    assert [prompts.ids for prompts in val] == [("val-0", "val-1"), ("val-2",)]
    (batch,) = train
    assert len(batch) == 4
    assert batch.ids == tuple(f"train-{i}" for i in train.order()[:4])
    assert batch.ids != ready("fit", batch_size=4, seed=2, **files).train_dataloader().take(list(range(4))).ids
    plain = ready("fit", batch_size=4, shuffle=False, **files).train_dataloader()
    assert next(iter(plain)).ids == tuple(f"train-{i}" for i in range(4))
    assert ready("fit", train=files["train"]).val_dataloader() == []
    assert len(ready("test", eval_batch_size=3, **files).test_dataloader()) == 1
    assert [len(p) for p in ready("predict", eval_batch_size=2, **files).predict_dataloader()] == [2, 1]


@pytest.mark.parametrize(("name", "split", "told"), [("batch_size", "train", [1]), ("eval_batch_size", "val", [])])
def test_a_batch_that_ranks_cannot_share_evenly(files, name, split, told, caplog):
    """Every prompt is on one rank; waiting in training steps is told once, with its key."""

    def ids(trainer=None):
        data = ready("fit", **{name: 3}, **files)
        data.trainer = trainer
        return [batch.ids for batch in getattr(data, f"{split}_dataloader")()]

    parts = [ids(FakeTrainer(rank=rank, world_size=2)) for rank in range(2)]
    assert [sorted(first + second) for first, second in zip(*parts, strict=True)] == [sorted(whole) for whole in ids()]
    assert [message.count("`data.batch_size` is 3") for message in caplog.messages] == told


# -- prompts that are too long ----------------------------------------------------------------------------------------------


def test_long_prompts_are_dropped_and_counted(files, caplog):
    data = ready("fit", max_prompt_tokens=4, **files)
    with caplog.at_level(logging.WARNING):
        data.drop_long_prompts(words)
    assert data.dropped == {"train": 2, "val": 0}
    assert [row.id for row in data.rows["train"]] == ["train-0", "train-1", "train-2", "train-3"]
    assert caplog.messages == [f"{files['train']}: dropped 2 of 6 prompts longer than 4 tokens"]
    data.drop_long_prompts(lambda messages: 1_000)  # measured once
    assert data.dropped == {"train": 2, "val": 0}
    data = ready("fit", max_prompt_tokens=6, on_long_prompt="error", **files)
    data.drop_long_prompts(words)  # the limit itself is allowed
    with pytest.raises(ValueError, match=r"train.jsonl: prompt 'train-4' has 5 tokens, `data.max_prompt_tokens` allows 4"):
        ready("fit", max_prompt_tokens=4, on_long_prompt="error", **files).drop_long_prompts(words)
    with pytest.raises(ValueError, match=r"train.jsonl: every prompt is longer than `data.max_prompt_tokens` = 6"):
        ready("fit", max_prompt_tokens=6, **files).drop_long_prompts(lambda messages: 7)
    limited = ready("fit", limit_train=4, limit_val=2, **files)
    assert {split: len(rows) for split, rows in limited.rows.items()} == {"train": 4, "val": 2}


# -- bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "message"), [
    ({}, "`data` needs at least one of `train`, `val`, `test`, `predict`"),
    ({"train": "x", "on_long_prompt": "cut"}, "`data.on_long_prompt` must be 'drop' or 'error', got 'cut'"),
    *(({"train": "x", key: value}, f"`data.{key}` must be >= 1, got {value}") for key, value in (
        ("batch_size", 0), ("eval_batch_size", -1), ("max_prompt_tokens", 0), ("limit_train", 0), ("limit_val", -3),
    )),
])  # fmt: skip
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        RubricDataModule(**arguments)


def test_criteria_of_one_prompt_each_are_logged_together(tmp_path, caplog):
    """Also under another stage later; every name keeps a level of its own."""
    rows = [{"prompt": f"q{i}", "rubric": [{"description": f"Text {i}.{j}?"} for j in range(8)]} for i in range(120)]
    parts = {"train": rows[:100], "val": rows[100:]}
    files = {name: str(write_rows(tmp_path / f"{name}.jsonl", part)) for name, part in parts.items()}
    data = ready("fit", **files)
    assert "`tags: [axis:accuracy]`" in caplog.text
    data.setup("test")
    assert caplog.text.count("hardly recur") == 1
    found = [c for prompts in data.splits().values() for rubric in prompts.rubrics for c in rubric.criteria]
    assert {log_key(c.name, c.tags) for c in found} == {"plain-untagged"}
    assert len(data.level_keys()) == 960
    assert data.criterion_names() == ["others"]
