"""A name comes of the whole text; names that are too many are logged together."""

import random

import pytest

from lightning_focal.rubrics import FORMATS, few_of, pool_untagged, read_rows
from lightning_focal.types import level_key, log_key
from tests.conftest import write_rows

OPENINGS = ("The response provide a detailed explanation of the", "Explains how the", "Gives the", "States that the")
THINGS = [
    "clay structures", "RCNN framework", "dose", "cell", "price", "river", "soil", "wheat", "tax", "method", "energy", "model", "patient",
]  # fmt: skip
ENDS = (".", "!", "", " in mg.", " in ml.", "\n")


def made_texts(count, seed=0):
    """Criteria of research questions: few openings, many of them the same up to case, punctuation, spaces or the last word."""
    dice, texts = random.Random(seed), dict[str, None]()
    while len(texts) < count:
        text = f"{dice.choice(OPENINGS)} {dice.choice(THINGS)} of the {dice.choice(THINGS)}{dice.choice(ENDS)}"
        texts[dice.choice((str, str.lower, str.upper, lambda text: text.replace(" ", "  ")))(text)] = None
    return list(texts)


def row_of(texts, layout):
    """A row of a format whose criteria have no names of their own."""
    chat = [{"role": "user", "content": "Q"}]
    entries = [{"criterion": text, "points": 1, "tags": []} for text in texts]
    return {
        "ruscarl": {"data_source": "rar", "prompt": chat, "reward_model": {"ground_truth": "", "rubrics": entries}},
        "healthbench": {"prompt_id": texts[0], "prompt": chat, "rubrics": entries},
        "rubrichub": {"question": "Q", "rubrics": entries},
        "rar": {"question": "Q", "rubric": [{"title": "Same", "description": text, "weight": 1} for text in texts]},
        "rlcf": {"prompt": "Q", "requirements": [[text, 50] for text in texts]},
        "plain": {"prompt": "Q", "rubric": [{"description": text} for text in texts]},
    }[layout]


def read(tmp_path, texts, layout="ruscarl", size=8):
    rows = [row_of(texts[i : i + size], layout) for i in range(0, len(texts), size)]
    return read_rows(write_rows(tmp_path / "rows.jsonl", rows), rubric_format=layout)


def criteria_of(rows):
    return [criterion for row in rows for criterion in row.rubric.criteria]


def test_no_two_of_4000_texts_share_a_key(tmp_path):
    """The names of some are written down in test_formats: they are the same in every process."""
    for layout, count in {"ruscarl": 4000, "healthbench": 500, "rubrichub": 500, "rar": 1000, "rlcf": 500, "plain": 500}.items():
        assert layout in FORMATS
        texts = made_texts(count)
        found = criteria_of(read(tmp_path, texts, layout))
        assert [criterion.description for criterion in found] == texts
        assert len({level_key(criterion.name, criterion.tags) for criterion in found}) == count, layout
        assert max(len(criterion.name) for criterion in found) <= 69
        again = criteria_of(read(tmp_path, texts[::-1], layout))
        assert {c.description: c.name for c in again} == {c.description: c.name for c in found}, layout


def keys(rows, key=log_key):
    return list(dict.fromkeys(key(criterion.name, criterion.tags) for criterion in criteria_of(rows)))


def test_names_that_hardly_recur_are_pooled_under_their_source(tmp_path, caplog):
    rows = read(tmp_path, made_texts(960))
    pooled = pool_untagged(rows)
    assert keys(pooled) == ["rar-untagged"]
    assert keys(pooled, level_key) == [criterion.name for criterion in criteria_of(rows)]
    assert "960 of 960 names" in caplog.text
    assert "`tags: [axis:accuracy]`" in caplog.text
    assert [row.raw for row in pooled] == [row.raw for row in rows]
    caplog.clear()
    assert pool_untagged(pooled) == pooled
    assert not caplog.text
    assert keys(pool_untagged(pooled[:2])) == keys(rows[:2])  # few are followed one by one again


def test_what_recurs_or_has_an_axis_is_followed_by_itself(tmp_path):
    def rubric(i):
        own = [{"description": f"Text {i}.{j}!"} for j in range(4)]
        return [*own, {"name": "polite", "description": "Is polite."}, {"description": f"Dose {i}!", "tags": ["axis:dose"]}]

    rows = read_rows(write_rows(tmp_path / "rows.jsonl", [{"prompt": str(i), "rubric": rubric(i)} for i in range(40)]))
    assert sorted(keys(pool_untagged(rows))) == ["dose", "plain-untagged", "polite"]


@pytest.mark.parametrize(("names", "rows", "followed"), [
    (["a", "b", "a"], 2, 2), ([str(i) for i in range(32)], 32, 32), ([str(i) for i in range(33)], 33, 0),
    ([str(i) for i in range(33)] * 2, 2, 32), ([*"aab", *map(str, range(40))], 20, 1), ([*"aab", *map(str, range(40))], 21, 0),
    ([], 0, 0),
])  # fmt: skip
def test_few(names, rows, followed):
    assert len(few_of(names, rows)) == followed
