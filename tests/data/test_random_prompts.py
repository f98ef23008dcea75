import pytest

from lightning_focal.data import RandomPrompts
from tests.helpers import FakeTrainer


def test_prompts_are_distinct_and_depend_on_the_seed_alone():
    data = RandomPrompts(train=20, val=6, letters=2, batch_size=8, seed=3)
    words = data.rows["train"] + data.rows["val"]
    assert len(set(words)) == 26
    assert all(len(word) == 2 and word.islower() for word in words)
    assert RandomPrompts(train=20, val=6, letters=2, seed=3).rows == data.rows
    assert RandomPrompts(train=20, val=6, letters=2, seed=4).rows != data.rows


def test_loaders():
    data = RandomPrompts(train=20, val=6, batch_size=8, seed=3)
    assert [len(prompts) for prompts in data.train_dataloader()] == [8, 8]  # full batches
    (val,) = data.val_dataloader()
    assert val.ids == tuple(data.rows["val"])
    assert val.messages[0] == ({"role": "user", "content": val.ids[0]},)
    data.trainer = FakeTrainer(rank=1, world_size=2)
    assert [len(prompts) for prompts in data.train_dataloader()] == [4, 4]


@pytest.mark.parametrize(("arguments", "message"), [
    ({"train": 0}, "`train` must be >= 1, got 0"),
    ({"letters": 0}, "`letters` must be >= 1, got 0"),
    ({"train": 20, "val": 7, "letters": 1}, "`letters` = 1 gives 26 prompts, 27 are needed"),
])  # fmt: skip
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomPrompts(**arguments)
