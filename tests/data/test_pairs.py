"""Pairs of questions: the layouts they come in, what is refused, and the batches made of them."""

import dataclasses
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightning_focal.data import PairDataModule, read_pairs, read_questions
from lightning_focal.data.pair_files import same_label
from lightning_focal.data.pairs import BOXED_ANSWER
from lightning_focal.rubrics import RubricError


def user(text, system=None):
    return ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}]


def released(count=6, **columns):
    """Rows of ``train_pairs.parquet``."""
    return [{
        "idx": 10 + i, "level": "Level 1", "type": "Algebra",
        "original_question": f"What is {i} + 1?", "rephrased_question": f"Ann has {i} plums and gets 1. How many has she?",
        "solution": f"First \\boxed{{0}}. No: $\\boxed{{{i + 1}}}$.",
        "original_message": user(f"What is {i} + 1?", "Think, then box."),
        "rephrased_message": user(f"Ann has {i} plums and gets 1. How many has she?", "Think, then box."),
        **columns,
    } for i in range(count)]  # fmt: skip


def trainer_rows(words, count=6, answers=None):
    """Rows of one of two aligned files."""
    truths = answers or [str(i + 1) for i in range(count)]
    return [{
        "prompt": user(words.format(i)), "data_source": "MATH", "ability": "math",
        "reward_model": {"ground_truth": truths[i], "style": "rule"}, "extra_info": {"index": i, "split": "train"},
    } for i in range(count)]  # fmt: skip


def plain(count=6, **columns):
    return [{"question": f"{i} + 1?", "rephrased": f"One more than {i}?", "answer": i + 1, **columns} for i in range(count)]


def save(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ready(stage="fit", **arguments):
    data = PairDataModule(**arguments)
    data.setup(stage)
    return data


@pytest.fixture
def pairs_file(tmp_path):
    return save(tmp_path / "train_pairs.parquet", released())


# -- layouts ----------------------------------------------------------------------------------------------------------------


def test_three_layouts(tmp_path):
    rows = read_pairs(save(tmp_path / "train_pairs.parquet", released()))
    assert [row.id for row in rows] == ["10", "11", "12", "13", "14", "15"]
    assert rows[1].messages == tuple(user("What is 1 + 1?", "Think, then box."))
    assert rows[1].rephrased == tuple(user("Ann has 1 plums and gets 1. How many has she?", "Think, then box."))
    assert (rows[1].answer, rows[1].question) == ("2", "What is 1 + 1?")  # the last box
    assert {"level", "type", "solution"} == set(rows[1].extra)
    train = save(tmp_path / "original.json", trainer_rows("What is {} + 1?"))
    rows = read_pairs(train, save(tmp_path / "rewrite.parquet", trainer_rows("One more than {}?")))
    assert [row.id for row in rows] == ["0", "1", "2", "3", "4", "5"]
    assert (rows[2].messages, rows[2].rephrased) == (tuple(user("What is 2 + 1?")), tuple(user("One more than 2?")))
    assert rows[2].answer == "3"
    assert rows[2].extra == {"data_source": "MATH", "ability": "math", "extra_info": {"index": 2, "split": "train"}}
    rows = read_pairs(save(tmp_path / "mine.jsonl", plain(2, topic="sums")))
    assert [row.id for row in rows] == ["mine:1", "mine:2"]
    assert (rows[0].rephrased, rows[0].answer, rows[0].extra) == (tuple(user("One more than 0?")), "1", {"topic": "sums"})


def test_plain_rows_may_hold_chats_and_aligned_files_may_be_plain(tmp_path):
    chat = user("1 + 1?", "Be brief.")
    train = save(tmp_path / "a.jsonl", [{"id": 1, "question": chat, "answer": 2}])
    other = save(tmp_path / "b.json", [{"id": "1", "prompt": "Twice one?"}])
    (row,) = read_pairs(train, other)
    assert (row.id, row.messages, row.rephrased, row.answer) == ("1", tuple(chat), tuple(user("Twice one?")), "2")


@pytest.mark.parametrize(("given", "read"), [(3.0, "3"), (0.5, "0.5"), (2**60, str(2**60)), ("x + 1", "x + 1"), (None, None)])
def test_answers_become_strings(tmp_path, given, read):
    assert read_questions(save(tmp_path / "a.parquet", [{"question": "?", "answer": given}]))[0].answer == read


# -- what is refused --------------------------------------------------------------------------------------------------------


def change(rows, place, **fields):
    return [{**row, **fields} if i == place else row for i, row in enumerate(rows)]


def without(rows, field, place=1):
    return [{k: v for k, v in row.items() if k != field or i != place} for i, row in enumerate(rows)]


@pytest.mark.parametrize(("rows", "message"), [
    (without(released(), "solution"), r"train.jsonl:2: `solution` must be a non-empty string, got None"),
    (change(released(), 1, solution="It is 2."), r"train.jsonl:2: `solution` must be a text with the answer in \\boxed"),
    (change(released(), 1, solution="\\boxed{ }"), r"train.jsonl:2: `solution` must be a text with the answer in \\boxed"),
    (without(without(released(), "rephrased_question"), "rephrased_message"),
     r"train.jsonl:2: `rephrased_question` must be given: a pair has both sides \(`lightning_focal rephrase` writes"),
    (change(plain(), 1, question=" "), r"train.jsonl:2: `question` must be a non-empty string"),
    (change(plain(), 1, question=user("  ")), r"train.jsonl:2: `question\[0\].content` must be a non-empty string"),
    (change(plain(), 1, rephrased=""), r"train.jsonl:2: `rephrased` must be a non-empty string"),
    (without(plain(), "rephrased"), r"train.jsonl:2: `rephrased` must be given: a pair has both sides"),
    (without(plain(), "question"), r"train.jsonl:2: `question` must be given once, as one of question, prompt, messages"),
    (change(plain(), 1, answer=["2"]), r"train.jsonl:2: `answer` must be a non-empty string or a number; leave it out"),
    (change(plain(), 1, answer=True), r"train.jsonl:2: `answer` must be a non-empty string or a number"),
    (change(plain(), 1, answer=""), r"train.jsonl:2: `answer` must be a non-empty string or a number"),
    (change(plain(), 1, answer=float("nan")), r"train.jsonl:2: `answer` must be a non-empty string or a number"),
    (plain(2, id="same"), r"train.jsonl:2: `id` must be unique in the file \(first at .*train.jsonl:1\), got 'same'"),
    ([{**row, "id": name} for row, name in zip(plain(2), ("a", "a/rephrased"), strict=True)],
     r"train.jsonl:2: `id` must be unique in the file"),
    ([*plain(1), "text"], r"train.jsonl:2: the row must be a mapping, got 'text'"),
    ([{"text": "?"}], r"train.jsonl:1: the row must be in a known layout \(released pairs: idx, .*got 'fields text'"),
    (change(plain(), 1, question=[*user("?"), {"role": "assistant", "content": "!"}]),
     r"train.jsonl:2: `question\[1\].role` must be 'user'"),
])  # fmt: skip
def test_bad_rows(tmp_path, rows, message):
    file = save(tmp_path / "train.jsonl", rows)
    with pytest.raises(RubricError, match=message):
        read_pairs(file)


@pytest.mark.parametrize(("second", "message"), [
    (trainer_rows("{}", 5), r"b.parquet: `file` must be as many rows as .*a.parquet has \(6\): the two are aligned by row, got 5"),
    (trainer_rows("{}")[::-1], r"b.parquet: row 1: `id` must be '0' as at .*a.parquet: row 1: .* aligned by row, got '5'"),
    (trainer_rows("{}", answers=["1", "2", "9", "4", "5", "6"]),
     r"b.parquet: row 3: `answer` must be '3' as at .*a.parquet: row 3: both sides have one label, got '9'"),
    (released(), r"b.parquet: row 1: `id` must be '0'"),
    (released(6, idx=None), r"b.parquet: row 1: the row must be one side of a pair, as there is a second file"),
])  # fmt: skip
def test_two_files_that_do_not_belong_together(tmp_path, second, message):
    first = save(tmp_path / "a.parquet", trainer_rows("{}"))
    with pytest.raises(RubricError, match=message):
        read_pairs(first, save(tmp_path / "b.parquet", second))


def test_chats_and_mappings_that_a_table_keeps_as_json(tmp_path):
    rows = trainer_rows("a{}", 2)

    def text(value):
        return json.dumps(value) if isinstance(value, (list, dict)) else value

    texts = [{name: text(value) for name, value in row.items()} for row in rows]
    assert read_questions(save(tmp_path / "a.jsonl", texts)) == [
        dataclasses.replace(row, extra={**row.extra, "extra_info": json.dumps(row.extra["extra_info"])})
        for row in read_questions(save(tmp_path / "a.jsonl", rows))
    ]


def test_skipped_rows_are_left_out_of_both_sides(tmp_path, caplog):
    first = save(tmp_path / "a.jsonl", change(trainer_rows("a{}"), 1, prompt=[]))
    second = save(tmp_path / "b.jsonl", change(trainer_rows("b{}", answers=["1", "2", "3", "9", "5", "6"]), 4, prompt="text"))
    with caplog.at_level(logging.WARNING):
        rows = read_pairs(first, second, on_bad_row="skip")
    assert [(row.id, row.rephrased[0]["content"]) for row in rows] == [("0", "b0"), ("2", "b2"), ("4", "text"), ("5", "b5")]
    assert "a.jsonl: skipped 2 of 6 rows; the first: " in caplog.text
    assert f"(all: 2, {second}:4)" in caplog.text
    with pytest.raises(RubricError, match="the two are aligned by row"):
        read_pairs(first, save(tmp_path / "c.jsonl", trainer_rows("c{}", 5)), on_bad_row="skip")
    with pytest.raises(RubricError, match="the two files are aligned by row"):
        read_pairs(first, save(tmp_path / "d.jsonl", trainer_rows("d{}")[::-1]), on_bad_row="skip")
    with pytest.raises(RubricError, match=r"rows of which at least one is good \(the first bad one: .*:1: `answer`"):
        read_pairs(save(tmp_path / "e.jsonl", plain(3, answer=[])), on_bad_row="skip")
    with pytest.raises(ValueError, match="`on_bad_row` must be 'error' or 'skip', got 'stop'"):
        read_questions(first, on_bad_row="stop")


def test_files_that_are_none(tmp_path):
    """They are read by what reads rubric files: what else is refused see tests/rubrics/test_readers.py."""
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere.parquet"):
        read_pairs(tmp_path / "nowhere.parquet")
    (tmp_path / "torn.jsonl").write_text(json.dumps(plain(1)[0]) + '\n{"question": "1')
    with pytest.raises(RubricError, match=r"torn.jsonl:2: the row must be JSON"):
        read_pairs(tmp_path / "torn.jsonl")


def test_missing_files_are_named_by_their_key(tmp_path, pairs_file):
    for key in ("val", "train_rephrased"):
        with pytest.raises(FileNotFoundError, match=rf"`data.{key}` must name an existing file, got 'nowhere.jsonl'"):
            ready(**{"train": pairs_file, key: "nowhere.jsonl"})
    with pytest.raises(ValueError, match=r"`data.train` must name a file for `lightning_focal fit`, got none"):
        ready(val=pairs_file)


# -- batches ----------------------------------------------------------------------------------------------------------------


def test_a_training_batch_holds_both_views(pairs_file):
    data = ready(train=pairs_file, batch_size=2, shuffle=False)
    first = next(iter(data.train_dataloader()))
    assert first.ids == ("10", "11", "10/rephrased", "11/rephrased")
    assert first.questions == ("10", "11", "10", "11")
    assert first.views == (0, 0, 1, 1)
    assert first.partners == (2, 3, 0, 1)
    assert first.answers == ("1", "2", "1", "2")
    assert first.messages[3][-1]["content"] == "Ann has 1 plums and gets 1. How many has she?"
    assert first.extra[2]["level"] == "Level 1"
    assert len(data.splits()["train"]) == 12
    assert data.level_keys() == data.criterion_names() == []


def test_held_out_questions_are_originals(tmp_path, pairs_file):
    one_sided = save(tmp_path / "q.parquet", trainer_rows("{}?", 2))
    for stage, split in (("fit", "val"), ("validate", "val"), ("test", "test"), ("predict", "predict")):
        data = ready(stage, train=pairs_file, val=pairs_file, eval_batch_size=4)
        first, second = getattr(data, f"{split}_dataloader")()
        assert (first.ids, first.views, len(second)) == (("10", "11", "12", "13"), (), 2)
        assert ready(stage, train=pairs_file, val=one_sided).splits()[split].answers == ("1", "2")


def test_the_system_message(tmp_path, pairs_file):
    own = ready(train=pairs_file).splits()["train"]
    assert all(chat[0]["content"] == "Think, then box." for chat in own.messages)
    bare = save(tmp_path / "bare.jsonl", plain(1))
    asked = ready(train=bare).splits()["train"]
    assert [chat[0] for chat in asked.messages] == [{"role": "system", "content": BOXED_ANSWER}] * 2
    assert "\\boxed{}" in BOXED_ANSWER
    assert "step by step" in BOXED_ANSWER
    asked = ready(train=bare, system_prompt=None).splits()["train"].messages
    assert asked == (tuple(user("0 + 1?")), tuple(user("One more than 0?")))


def words(messages):
    return sum(len(message["content"].split()) for message in messages)


def test_a_pair_goes_if_either_side_is_long(tmp_path, caplog):
    rows = [
        {"id": "short", "question": "1 + 1?", "rephrased": "Twice one?"},
        {"id": "long original", "question": "1 " * 9, "rephrased": "Twice one?"},
        {"id": "long rephrasing", "question": "1 + 1?", "rephrased": "1 " * 9},
        {"id": "just", "question": "1 " * 5, "rephrased": "1 " * 5},
    ]
    file = save(tmp_path / "p.jsonl", rows)
    data = ready(train=file, val=file, max_prompt_tokens=5, system_prompt=None)
    with caplog.at_level(logging.WARNING):
        data.drop_long_prompts(words)
    assert data.dropped == {"train": 2, "val": 1}  # held out, the original alone is asked
    assert [row.id for row in data.rows["train"]] == ["short", "just"]
    assert caplog.messages == [f"{file}: dropped {count} of 4 questions longer than 5 tokens" for count in (2, 1)]
    with pytest.raises(ValueError, match=r"p.jsonl: prompt 'long original' has 9 tokens, `data.max_prompt_tokens` allows 5"):
        ready(train=file, max_prompt_tokens=5, system_prompt=None, on_long_prompt="error").drop_long_prompts(words)
    long = ready(train=file, max_prompt_tokens=5)  # the system message counts
    with pytest.raises(ValueError, match=r"every prompt is longer than `data.max_prompt_tokens` = 5"):
        long.drop_long_prompts(words)


def test_labels_and_sides(tmp_path, pairs_file):
    first = save(tmp_path / "a.jsonl", trainer_rows("{}", 4, ["0.5", " 3", "1/3", "x"]))
    second = save(tmp_path / "b.jsonl", trainer_rows("{}", 4, ["1/2", "3.0", "2/6", None]))
    assert [row.answer for row in read_pairs(first, second)] == ["0.5", " 3", "1/3", "x"]
    for one, other in (("1/0", "2/0"), ("1e9999999", "1e9999998"), ("9" * 5000, "9" * 5001), ("\\frac{1}{2}", "0.5")):
        assert not same_label(one, other)  # no number is made of these
    solutions = ["So \\fbox{7}.", "So $\\boxed 7$.", "$\\boxed{\\frac{1}{2}}$", "\\boxed{ 7 }"]
    rows = [row for number, solution in enumerate(solutions) for row in released(1, solution=solution, idx=number)]
    assert [row.answer for row in read_pairs(save(tmp_path / "s.parquet", rows))] == ["7", "7", "\\frac{1}{2}", "7"]
    bare = [{k: row[k] for k in ("idx", "original_question", "rephrased_question", "solution")} for row in released(2)]
    row = read_pairs(save(tmp_path / "bare.parquet", bare))[0]
    assert (row.messages, set(row.extra)) == (tuple(user("What is 0 + 1?")), {"solution"})
    one_sided = save(tmp_path / "q.jsonl", [{"prompt": "1 + 1?"}, {"prompt": "2 + 2?", "answer": "4"}])
    assert [(row.id, row.answer, row.rephrased) for row in read_questions(one_sided)] == [("q:1", None, None), ("q:2", "4", None)]
    assert len(read_questions(save(tmp_path / "broken.jsonl", plain(2, rephrased=7)))) == 2  # what is not used is not looked at
    data = ready(train=pairs_file, pairs=False, limit_train=4, batch_size=4)
    (batch,) = data.train_dataloader()
    assert (len(batch), batch.views, batch.questions, data.val_dataloader()) == (4, (), (), [])
    with pytest.raises(ValueError, match=r"`data.train_rephrased` needs `data.train`, the originals, got 'b' alone"):
        PairDataModule(train_rephrased="b", val="c")
