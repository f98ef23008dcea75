"""Which prompts come next: the band, spare rows, what several processes and a resumed run make of them."""

import itertools

import pytest

from lightning_focal.data import Curriculum, PairDataModule, PromptLoader
from tests.conftest import write_rows


def loader(size=12, batch_size=4, **kwargs):
    """A loader whose batches are the row numbers; rows are called by them."""
    return PromptLoader(lambda rows: rows, size, batch_size, shuffle=True, **kwargs)


def epoch(made, number=0):
    made.set_epoch(number)
    return list(made)


def test_nothing_known_nothing_changed():
    """Bit for bit the order without, in any epoch, and with every level in the band."""
    made = loader(curriculum=Curriculum())
    for number in range(3):
        assert epoch(made, number) == epoch(loader(), number)
        made.observe({str(row): 0.5 for row in range(12)})
    assert made.skipped == 0


def test_rows_outside_the_band_give_their_places_to_others():
    made, plain = loader(curriculum=Curriculum(band=(0.2, 0.8), revisit=0.0)), epoch(loader(), 1)
    made.observe({str(row): 1.0 for row in range(3)} | {str(row): 0.0 for row in range(3, 5)})
    for batch, usual in zip(epoch(made, 1), plain, strict=True):
        assert len(set(batch)) == 4
        assert min(batch) >= 5
        assert [row for row in usual if row >= 5] == [row for row, old in zip(batch, usual, strict=True) if row == old]
    assert len(plain) == 3  # an epoch is as long as it was
    made = loader(curriculum=Curriculum(band=(0.2, 0.8), revisit=0.0))
    made.observe({str(row): 1.0 for row in range(11)})  # with too few rows in the band the others stay
    for batch, usual in zip(epoch(made, 1), plain, strict=True):
        assert len(set(batch)) == 4
        assert 11 in batch
        assert len(set(batch) & set(usual)) >= 3


def test_a_share_of_them_is_met_again():
    """Of 500 rows outside the band a quarter is taken, others in each epoch."""
    made = loader(1000, 400, curriculum=Curriculum(band=(0.5, 0.5), revisit=0.25))
    made.observe({str(row): 1.0 for row in range(500)})
    taken, usual = ([{*itertools.chain(*epoch(one, number)[:2])} for number in (0, 1)] for one in (made, loader(1000, 400)))
    for rows, plain in zip(taken, usual, strict=True):
        outside = rows & set(range(500))
        assert outside <= plain
        assert 0.18 < len(outside) / len(plain & set(range(500))) < 0.32
    both = usual[0] & usual[1] & set(range(500))
    assert taken[0] & both != taken[1] & both


def test_spare_rows_are_others_each_once_a_batch_and_come_round():
    made = loader()
    met = []
    for batch in made:
        spare = made.spare(5)
        assert len({*batch, *spare}) == 9
        assert len(made.spare(100)) == 3  # the rest of twelve
        assert made.spare(1) == []
        met += spare
    assert len(set(met)) > 8
    assert epoch(made, 1) == epoch(loader(), 1)  # an epoch does not notice


def test_ranks_draw_the_same_spare_rows_and_share_a_changed_batch():
    def run(rank, world_size):
        made = loader(curriculum=Curriculum(band=(0.2, 0.8), revisit=0.5), rank=rank, world_size=world_size)
        seen = []
        for number in range(2):
            made.set_epoch(number)
            for batch in made:
                seen.append((batch, made.spare(2)))
                made.observe({str(row): row / 11 for row in range(12)})
        return seen

    for whole, *parts in zip(run(0, 1), *(run(rank, 2) for rank in range(2)), strict=True):
        assert [part[0] for part in parts] == [whole[0][0::2], whole[0][1::2]]
        assert all(part[1] == whole[1] for part in parts)


@pytest.mark.parametrize("at", range(1, 7))
def test_a_resumed_loader_goes_on_as_if_nothing_had_been(at):
    """Three batches an epoch, from every place in two of them."""

    def go(made, start, end):
        while start < end:
            made.set_epoch(start // 3)
            for batch in itertools.islice(made, end - start):
                yield batch, made.spare(start % 3)
                made.observe({str(row): (row * (start + 1) % 12) / 11 for row in batch})
                start += 1

    whole, first, again = (loader(curriculum=Curriculum(band=(0.2, 0.8))) for _ in range(3))
    expected = list(go(whole, 0, 9))
    assert list(go(first, 0, at)) == expected[:at]
    again.load_state_dict(first.state_dict())
    assert list(go(again, at, 9)) == expected[at:]
    assert again.state_dict() == whole.state_dict()


def test_levels_are_a_moving_average_by_question(tmp_path):
    rows = [{"id": f"q{i}", "question": f"{i}?", "rephrased": f"What is {i}?", "answer": str(i)} for i in range(4)]
    data = PairDataModule(train=str(write_rows(tmp_path / "a.jsonl", rows)), batch_size=2, curriculum=Curriculum(decay=0.75))
    data.setup("fit")
    made = data.train_dataloader()
    assert list(made.questions) == ["q0", "q1", "q2", "q3"]
    for level in (1.0, 0.0, 0.0):
        made.observe({"q1": level})
    assert made.levels == {"q1": 0.5625}
    assert next(iter(made)).views == (0, 0, 1, 1)


def test_arguments_out_of_range():
    for arguments, words in (
        ({"band": (0.9, 0.1)}, r"`curriculum\.band` must be two levels"),
        ({"band": (0.0, 1.5)}, r"`curriculum\.band` must be two levels"),
        ({"decay": 1.0}, r"`curriculum\.decay` must be in \[0, 1\), got 1\.0"),
        ({"revisit": 2.0}, r"`curriculum\.revisit` must be in \[0, 1\], got 2\.0"),
    ):
        with pytest.raises(ValueError, match=words):
            Curriculum(**arguments)
