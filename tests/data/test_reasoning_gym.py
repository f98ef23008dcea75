"""Generated questions as a data module."""

import pickle

import pytest

from lightning_focal.data import ReasoningGymData
from lightning_focal.data.reasoning_gym import REPHRASED

pytest.importorskip("reasoning_gym")
TWO = {"min_terms": 2, "max_terms": 2}


def ready(stage="fit", **arguments):
    arguments = {"task": "chain_sum", "task_args": TWO, "train": 12, "val": 6, "test": 5, **arguments}
    data = ReasoningGymData(**arguments)
    data.setup(stage)
    return data


def texts(prompts):
    return [messages[-1]["content"] for messages in prompts.messages]


def test_a_training_batch_of_pairs():
    batch = next(iter(ready(batch_size=3, shuffle=False, second_wording="told").train_dataloader()))
    names = [f"chain_sum/train/{i}" for i in range(3)]
    assert batch.ids == (*names, *(f"{name}/rephrased" for name in names))
    assert batch.questions == (*names, *names)
    assert batch.views == (0, 0, 0, 1, 1, 1)
    assert batch.partners == (3, 4, 5, 0, 1, 2)
    assert batch.answers[:3] == batch.answers[3:]
    assert [grader(answer) for grader, answer in zip(batch.graders, batch.answers, strict=True)] == [1.0] * 6
    for first, second in zip(texts(batch)[:3], texts(batch)[3:], strict=True):
        assert first.startswith("State the final answer to the following arithmetic problem: ")
        left, sign, right = first.removesuffix(" =").rsplit(": ", 1)[1].split()
        assert second == (f"Add {right} to {left}." if sign == "+" else f"Take {right} from {left}.")
    assert {messages[0]["role"] for messages in batch.messages} == {"system"}
    assert "\\boxed{}" in batch.messages[0][0]["content"]
    assert pickle.loads(pickle.dumps(batch)).ids == batch.ids


def test_held_out_views():
    names = {f"chain_sum/val/{i}" for i in range(6)}
    for view, count, views in ((0, 6, {0}), (1, 6, {1}), ("both", 12, {0, 1})):
        (batch,) = ready(val_view=view).val_dataloader()
        assert (len(batch), set(batch.views), set(batch.questions)) == (count, views, names)
        assert set(batch.ids) == {f"{n}/rephrased" if v else n for n in names for v in views}


def test_stages_and_splits():
    data = ready()
    assert {split: len(rows) for split, rows in data.rows.items()} == {"train": 12, "val": 6}
    assert {split: len(prompts) for split, prompts in data.splits().items()} == {"train": 24, "val": 6}
    assert (data.level_keys(), data.criterion_names()) == ([], [])
    assert len(ready("test").rows["test"]) == 5
    assert [row.id for row in ready("predict").rows["predict"]] == [row.id for row in ready("validate").rows["val"]]
    assert ready(val=0).val_dataloader() == []


def test_held_out_questions_do_not_depend_on_sizes():
    small, large = ready(train=12, val=4), ready(train=500, val=6)
    assert [row.chats for row in small.rows["val"]] == [row.chats for row in large.rows["val"][:4]]
    assert [row.chats for row in small.rows["train"]] == [row.chats for row in large.rows["train"][:12]]
    later = ready(train=8, skip_train=4)  # what a warm start has seen is skipped
    assert [row.id for row in later.rows["train"]] == [row.id for row in small.rows["train"][4:]]
    assert later.rows["train"] == small.rows["train"][4:]


def test_the_seed_of_the_run(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert ready().rows == ready(seed=5).rows != ready(seed=6).rows


def test_a_task_without_second_words_gets_a_second_template():
    data = ready(task="leg_counting", task_args={})
    first, second = (chat[-1]["content"] for chat in data.rows["train"][0].chats)
    assert second == REPHRASED.replace("{question}", first)


def test_views_must_differ():
    with pytest.raises(ValueError, match=r"`data.second_wording` and `data.second_template` must change a question, got 'State"):
        ready(second_wording="task", second_template="{question}")
    assert ready(second_wording="task", second_template="{question}", pairs=False)


def test_demonstrations_with_steps():
    data = ready(response=r"{steps} \boxed{{answer}}", task_args={"min_terms": 3, "max_terms": 3})
    for row in data.rows["train"]:
        first, second, boxed = row.response.replace(". ", ".| ").split("| ")
        assert second.endswith(f"= {row.answer}.")
        assert boxed == f"\\boxed{{{row.answer}}}"
        assert first.split(" = ")[1].removesuffix(".") == second.split()[0]
    with pytest.raises(ValueError, match=r"`data.response` has \{steps\} in it, which are known of chains of sums alone"):
        ready(task="gcd", task_args={}, response="{steps} {answer}")


def test_partial_marks_and_a_task_without_an_answer():
    for partial, score in ((True, 0.5), (False, 0.0)):
        row = next(row for row in ready(train=200, partial_marks=partial).rows["train"] if len(row.answer) == 2)
        assert row.grader("12" + row.answer) == score
    data = ready(task="graph_color", task_args={}, train=1, val=1)
    row = data.rows["train"][0]
    assert (row.answer, row.response, row.grader("x")) == (None, None, 0.0)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"train": -1}, r"`data.train` must be >= 0, got -1"),
    ({"skip_train": -1}, r"`data.skip_train` must be >= 0, got -1"),
    ({"train": 0, "val": 0, "test": 0}, r"`data` needs at least one of"),
    ({"train": 0}, r"`data.train` must be >= 1 for `lightning_focal fit`, got 0"),
    ({"stage": "validate", "val": 0}, r"`data.val` must be >= 1 for `lightning_focal validate`, got 0"),
    ({"stage": "test", "test": 0}, r"`data.test` must be >= 1 for `lightning_focal test`, got 0"),
    ({"stage": "predict", "val": 0}, r"`data.val` must be >= 1 for `lightning_focal predict`, got 0"),
    ({"batch_size": 0}, r"`data.batch_size` must be >= 1, got 0"),
    ({"val_view": 2}, r"`data.val_view` must be 0, 1 or 'both', got 2"),
    ({"template": "Solve!"}, r"`data.template` must have \{question\} in it, got 'Solve!'"),
    ({"second_template": ""}, r"`data.second_template` must have \{question\} in it, got ''"),
    ({"response": "Yes."}, r"`data.response` must have \{answer\} in it, got 'Yes.'"),
    ({"wording": "sung"}, r"`data.wording` must be 'task', 'spelt', 'plain', 'told' or 'bare', got 'sung'"),
    ({"task_args": {"terms": 3}}, r"`data.task_args`: chain_sum knows no 'terms'"),
])  # fmt: skip
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        ready(**arguments)
