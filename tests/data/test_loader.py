"""The order of prompts, over epochs, processes and resumed runs."""

import itertools

import pytest

from lightning_focal.data import PromptLoader


def loader(size=10, batch_size=4, **kwargs):
    """A loader whose batches are the row numbers."""
    kwargs.setdefault("shuffle", True)
    return PromptLoader(lambda rows: rows, size, batch_size, **kwargs)


def at(epoch, **kwargs):
    made = loader(**kwargs)
    made.set_epoch(epoch)
    return made


def test_the_order_is_a_function_of_seed_and_epoch():
    first = list(loader(seed=1))
    assert sorted(itertools.chain(*first)) == list(range(10))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert list(loader(seed=1)) == first
    assert list(loader(seed=2)) != first
    again = loader(seed=1)
    epochs = []
    for epoch in range(3):
        again.set_epoch(epoch)
        epochs.append(list(again))
    assert epochs[0] == first
    assert epochs[1] != epochs[0] != epochs[2]
    assert list(at(2, seed=1)) == epochs[2]  # whatever ran before
    orders = {tuple(*at(epoch, size=100, batch_size=100, seed=seed)) for seed in range(-2, 4) for epoch in range(4)}
    assert len(orders) == 24  # seeds and epochs do not collide


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_batches_of_one_process(world_size):
    ranks = [list(loader(16, 4, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for whole, *parts in zip(loader(16, 4), *ranks, strict=True):
        assert [part[0] for part in parts] == whole[:world_size]  # rank r gets rows r, r + W, ...
        assert sorted(itertools.chain(*parts)) == sorted(whole)
        assert {len(part) for part in parts} == {4 // world_size}


def test_every_row_is_given_out_once():
    for size, world_size in itertools.product(range(1, 14), (2, 3, 4)):
        ranks = [list(loader(size, 2 * world_size, rank=rank, world_size=world_size)) for rank in range(world_size)]
        assert len({len(batches) for batches in ranks}) == 1
        assert sorted(row for batches in ranks for batch in batches for row in batch) == list(range(size))


@pytest.mark.parametrize("done", [0, 1, 2, 3])
def test_resumes_in_the_middle_of_an_epoch(done):
    expected, first = list(at(1, seed=5)), at(1, seed=5)
    batches = iter(first)
    for _ in range(done):
        next(batches)
    resumed = loader(seed=5)
    resumed.load_state_dict(first.state_dict())
    resumed.set_epoch(1)  # Lightning says which epoch it is; it is the one under way
    assert list(resumed) == (expected[done:] or expected)
    assert list(resumed) == expected  # the next time from the start
    resumed.set_epoch(2)
    first.set_epoch(2)
    assert list(resumed) == list(first)


def test_an_iteration_that_was_broken_off_starts_anew():
    """A validation of a few batches must meet the same prompts every time."""
    it = loader(shuffle=False)
    for _ in range(2):
        assert list(itertools.islice(it, 2)) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_resuming_on_another_number_of_ranks():
    one = loader(16, 4, seed=3)
    batches = iter(one)
    next(batches)
    ranks = [loader(16, 4, seed=3, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(one.state_dict())
    for whole, a, b in zip(batches, *ranks, strict=True):
        assert sorted(a + b) == sorted(whole)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"batch_size": 0, "name": "data.batch_size"}, "`data.batch_size` must be >= 1, got 0"),
    ({"size": 0}, "a loader needs at least one prompt, got 0"),
    ({"size": 3, "drop_last": True}, "`batch_size` is 4, but there are only 3 prompts: no batch would be full"),
])  # fmt: skip
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        loader(**arguments)


def test_batches_in_file_order():
    it = loader(10, 4, drop_last=True, shuffle=False)
    it.set_epoch(3)
    assert list(it) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert (len(it), len(loader(10, 4)), len(loader(8, 4))) == (2, 3, 2)
    ranks = [list(loader(6, 4, shuffle=False, rank=rank, world_size=2)) for rank in range(2)]
    assert ranks == [[[0, 2], [4]], [[1, 3], [5]]]  # an uneven last batch leaves the last ranks short
    ranks = [list(loader(2, 8, shuffle=False, rank=rank, world_size=8)) for rank in range(8)]
    assert ranks == [[[0]], [[1]], *[[[]]] * 6]  # every rank sees as many batches
    it.load_state_dict({"epoch": 3, "position": 1})
    assert list(it) == [[4, 5, 6, 7]]
