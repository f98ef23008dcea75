"""The plain format, field by field."""

from __future__ import annotations

import json

import pytest

from lightning_focal.rubrics import RubricError, read_rows

SHORT = {"name": "short", "description": "Short."}


def read(tmp_path, row):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    return read_rows(path)[0]


def read_criterion(tmp_path, **entry):
    return read(tmp_path, {"prompt": "a", "rubric": [entry]}).rubric.criteria[0]


def test_every_field(tmp_path):
    criterion = read_criterion(
        tmp_path,
        name="tone",
        description="Kind?",
        points=-2,
        tags=["axis:tone"],
        check={"kind": "max_words", "words": 3},
        required=True,
        low=1,
        high=5,
    )
    assert (criterion.name, criterion.description, criterion.points, criterion.tags) == ("tone", "Kind?", -2.0, ("axis:tone",))
    assert (criterion.check, criterion.required) == ({"kind": "max_words", "words": 3}, True)
    assert (criterion.low, criterion.high) == (1.0, 5.0)


def test_missing_name_and_description(tmp_path):
    assert read_criterion(tmp_path, description="Names the dose of it.").name == "names-the-dose-of-it"
    criterion = read_criterion(tmp_path, check="no_commas")
    assert (criterion.name, criterion.description, criterion.check) == ("no_commas", "no_commas", {"kind": "no_commas"})
    row = read(tmp_path, {"prompt": "a", "rubric": [{"description": "Yes."}, {"description": "Yes!"}]})
    assert row.rubric.names == ("yes", "yes-2")


def test_messages_and_answer(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    row = read(
        tmp_path, {"messages": chat, "rubric": [{"name": "r", "check": {"kind": "answer", "expected": "$answer"}}], "answer": 4}
    )
    assert row.messages == tuple(chat)
    assert row.answer == "4"
    assert row.rubric.criteria[0].check == {"kind": "answer", "expected": "4"}
    assert read(tmp_path, {"prompt": chat, "rubric": [SHORT]}).messages == tuple(chat)
    assert read(tmp_path, {"prompt": "a", "messages": None, "rubric": [SHORT]}).messages == ({"role": "user", "content": "a"},)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "messages": [], "rubric": [SHORT]}, "`prompt` must be given, or `messages`, but not both"),
        ({"prompt": " ", "rubric": [SHORT]}, "`prompt` must be a non-empty string or list of {role, content}, got ' '"),
        ({"prompt": [], "rubric": [SHORT]}, "`prompt` must be a non-empty string or list"),
        ({"prompt": ["a"], "rubric": [SHORT]}, "`prompt\\[0\\]` must be a mapping with `role` and `content`, got 'a'"),
        ({"messages": [{"role": "user"}], "rubric": [SHORT]}, "`messages\\[0\\].content` must be a string, got None"),
        ({"prompt": "a", "rubric": []}, "`rubric` must be a non-empty list of criteria, got \\[\\]"),
        ({"prompt": "a", "rubric": SHORT}, "`rubric` must be a non-empty list of criteria, got {"),
        ({"prompt": "a", "rubric": ["x"]}, "`rubric\\[0\\]` must be a mapping, got 'x'"),
        ({"prompt": "a", "rubric": [SHORT], "id": ["x"]}, "`id` must be a non-empty string or a whole number"),
        ({"prompt": "a", "rubric": [SHORT], "id": ""}, "`id` must be a non-empty string or a whole number"),
        ({"prompt": "a", "rubric": [SHORT], "answer": [1]}, "`answer` must be a string or a number, got \\[1\\]"),
        ({"prompt": "a", "rubric": [SHORT, SHORT]}, "`criteria\\[1\\].name` must be unique within the rubric"),
        ({"prompt": "a", "rubric": [{**SHORT, "points": 0}]}, "x.jsonl:1: `points` must be other than zero"),
        (
            {"prompt": "a", "rubric": [{"name": "x", "check": {"kind": "exact", "text": "$answer"}}]},
            "`rubric\\[0\\].check.text` must be used in a row with an `answer`",
        ),
    ],
)
def test_malformed_rows(tmp_path, row, message):
    with pytest.raises(RubricError, match=message):
        read(tmp_path, row)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"point": 3}, "`rubric\\[0\\].point` must be one of name, .* \\(did you mean `points`\\?\\), got 'point'"),
        ({"points": "three"}, "x.jsonl:1: `rubric\\[0\\].points` must be a finite number, got 'three'"),
        ({"points": float("nan")}, "`rubric\\[0\\].points` must be a finite number, got nan"),
        ({"points": True}, "`rubric\\[0\\].points` must be a finite number, got True"),
        ({"low": "a"}, "`rubric\\[0\\].low` must be a finite number, got 'a'"),
        ({"low": 2}, "x.jsonl:1: rubric\\[0\\]: criterion 'short': `low` must be below `high` \\(1.0\\), got 2.0"),
        ({"name": 3}, "`rubric\\[0\\].name` must be a non-empty string, got 3"),
        ({"description": ""}, "`rubric\\[0\\].description` must be a non-empty string, got ''"),
        ({"tags": "a"}, "`rubric\\[0\\].tags` must be a list of strings, got 'a'"),
        ({"required": "yes"}, "`rubric\\[0\\].required` must be true or false, got 'yes'"),
        ({"check": 3}, "`rubric\\[0\\].check` must be the name of a kind, or a mapping with a string `kind`, got 3"),
        ({"check": {"type": "x"}}, "`rubric\\[0\\].check` must be the name of a kind"),
    ],
)
def test_malformed_criteria(tmp_path, entry, message):
    with pytest.raises(RubricError, match=message):
        read_criterion(tmp_path, **{**SHORT, **entry})
