"""The public formats: a row of each as its data set writes it, and malformed ones."""

from __future__ import annotations

import json

import pyarrow
import pyarrow.parquet
import pytest

from lightning_focal.judges import RuleJudge
from lightning_focal.rubrics import FORMATS, RubricError, read_rows
from lightning_focal.rubrics.readers.rar import category_of

CHAT = [{"role": "user", "content": "Q?"}]
ROWS = {
    "plain": {"prompt": "Q?", "rubric": [{"description": "Right."}]},
    "healthbench": {"prompt_id": "h", "prompt": CHAT, "rubrics": [{"criterion": "Right.", "points": 5, "tags": []}]},
    "rar": {
        "question": "Q?",
        "reference_answer": "A.",
        "rubric": [
            {"title": "Names It", "description": "Essential Criteria: Names it.", "weight": 5},
            {"title": "Names It", "description": "Pitfal Criteria: Does not mention it.", "weight": -1},
            {"title": "Style", "description": "Is brief: one line.", "weight": 1},
        ],
    },
    "rubrichub": {"question": "Q?", "id": 3, "rubrics": [{"criterion": "Right.", "points": 5}]},
    "rlcf": {
        "prompt": "Q?",
        "requirements": "1) Is it a haiku? (importance: 100/100)\n2) Is it (mostly) about snow? (importance: 75/100)\n",
    },
    "ifeval": {
        "key": 1000,
        "prompt": "Q?",
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence", "keywords:existence"],
        "kwargs": [{"num_words": None}, {"keywords": ["a"], "num_words": None}, {"keywords": ["b"]}],
    },
    "researchrubrics": {
        "prompt": "Q?",
        "sample_id": "s",
        "rubrics": [
            {"criterion": "Cites.", "axis": "Sources", "weight": 4.0},
            {"criterion": "Errs.", "axis": "Facts", "weight": -2.0},
        ],
    },
    "ruscarl": {
        "prompt": CHAT,
        "data_source": "math",
        "reward_model": {
            "style": "rubric",
            "ground_truth": "42",
            "rubrics": [
                {"criterion": "Is right.", "points": 10, "tags": ["verifier:rule", "function:math_verify", "parameters:42"]},
                {"criterion": "Is clear.", "points": 2, "tags": {"verifier": "llm"}},
                {
                    "criterion": "Is short.",
                    "points": 1,
                    "tags": {
                        "verifier": "rule",
                        "function": "word_count_range",
                        "parameters": {"min_count": 5, "max_count": "50"},
                    },
                },
            ],
        },
        "extra_info": {"i": 1},
    },
}


def read(tmp_path, row):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    return read_rows(path)[0]


def test_every_format_is_tested():
    assert ROWS.keys() == FORMATS.keys()


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_recognised_by_its_own_format_alone(tmp_path, name):
    assert [known for known, reader in FORMATS.items() if reader.matches(ROWS[name])] == [name]
    row = read(tmp_path, ROWS[name])
    assert row.format == name
    assert row.messages == tuple(CHAT)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_survives_parquet(tmp_path, name):
    row = json.loads(json.dumps(ROWS[name]))
    if name == "ruscarl":  # a column of parquet has one type
        row["reward_model"]["rubrics"] = row["reward_model"]["rubrics"][:1]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "x.parquet")
    assert read_rows(tmp_path / "x.parquet")[0].rubric == read(tmp_path, row).rubric


def test_rar(tmp_path):
    row = read(tmp_path, ROWS["rar"])
    assert (row.id, row.answer) == ("x:1", "A.")
    assert row.rubric.names == ("names-it", "names-it-2", "style")
    assert [c.points for c in row.rubric.criteria] == [5, -1, 1]
    assert [c.tags for c in row.rubric.criteria] == [("category:essential",), ("category:pitfall",), ()]
    # 5 * 1 - 1 * 1 + 1 * 0 over 5 - 1 + 1
    assert FORMATS["rar"].score(row.rubric, [1, 1, 0]) == 4 / 5
    assert FORMATS["rar"].score(row.rubric, [1, None, 0]) == 5 / 6
    assert FORMATS["rar"].score(row.rubric, [None] * 3) is None


def test_rar_without_weights_takes_those_of_the_categories(tmp_path):
    texts = ["Essential Criteria: a", "Important Criteria: b", "Optional Criteria: c", "Pitfall Criteria: d"]
    rubric = [{"title": text[-1], "description": text} for text in texts]
    row = read(tmp_path, {**ROWS["rar"], "rubric": rubric})
    assert [c.points for c in row.rubric.criteria] == [1.0, 0.7, 0.3, 0.9]


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Importnat Criteria: a", "important"),
        ("OPTIONAL: a", "optional"),
        ("Uses three parts in this order: a", None),
        ("", None),
    ],
)
def test_rar_categories(text, category):
    assert category_of(text) == category


def test_rlcf(tmp_path):
    row = read(tmp_path, ROWS["rlcf"])
    assert [(c.description, c.points, c.low, c.high) for c in row.rubric.criteria] == [
        ("Is it a haiku?", 100, 0, 100),
        ("Is it (mostly) about snow?", 75, 0, 100),
    ]
    listed = read(tmp_path, {"prompt": "Q?", "requirements": [["Is it a haiku?", 100], ["Is it (mostly) about snow?", 75]]})
    assert listed.rubric == row.rubric
    assert FORMATS["rlcf"].score(row.rubric, [0.5, 1.0]) == (50 + 75) / 175


def test_ifeval(tmp_path):
    row = read(tmp_path, ROWS["ifeval"])
    assert row.id == "1000"
    assert row.rubric.names == ("punctuation:no_comma", "keywords:existence", "keywords:existence-2")
    assert row.rubric.criteria[1].tags == ("axis:keywords",)
    assert row.rubric.criteria[1].check == {
        "kind": "ifeval",
        "instruction": "keywords:existence",
        "arguments": {"keywords": ["a"]},
    }
    assert row.rubric.criteria[1].description == "Follows the instruction keywords:existence (keywords = ['a'])."
    for criterion in row.rubric.criteria:
        RuleJudge().validate(criterion)
    assert FORMATS["ifeval"].score(row.rubric, [1, 0, None]) == 0.5
    assert FORMATS["ifeval"].score(row.rubric, [None] * 3) is None


def test_researchrubrics(tmp_path):
    row = read(tmp_path, ROWS["researchrubrics"])
    assert row.id == "s"
    assert [c.tags for c in row.rubric.criteria] == [("axis:Sources",), ("axis:Facts",)]
    assert FORMATS["researchrubrics"].score(row.rubric, [0.5, 1.0]) == (2 - 2) / 4
    text = {**ROWS["researchrubrics"], "rubrics": json.dumps(ROWS["researchrubrics"]["rubrics"])}
    assert read(tmp_path, text).rubric == row.rubric


def test_ruscarl(tmp_path):
    row = read(tmp_path, ROWS["ruscarl"])
    assert row.answer == "42"
    assert [c.check for c in row.rubric.criteria] == [
        {"kind": "answer", "expected": "42"},
        None,
        {"kind": "words_between", "min": 5, "max": 50},
    ]
    assert row.rubric.criteria[0].tags == ("verifier:rule", "function:math_verify", "parameters:42")
    assert row.rubric.criteria[1].tags == ("verifier:llm",)
    assert row.extra == {"data_source": "math", "extra_info": {"i": 1}}
    RuleJudge().validate(row.rubric.criteria[2])


def test_rubrichub(tmp_path):
    row = read(tmp_path, ROWS["rubrichub"])
    assert (row.id, row.rubric.criteria[0].points) == ("3", 5)


def rule(**tags):
    item = {"criterion": "a", "points": 1, "tags": {"verifier": "rule", **tags}}
    return {"reward_model": {"rubrics": [item]}}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("rar", {"rubric": [{"title": "a", "description": "b"}]}, r"`rubric\[0\].weight` must be a finite number, got None"),
        ("rar", {"rubric": [{"title": "", "description": "b"}]}, r"`rubric\[0\].title` must be a non-empty string, got ''"),
        ("rar", {"question": ""}, "`question` must be a non-empty string or list"),
        (
            "rubrichub",
            {"rubrics": [{"criterion": "a", "points": None}]},
            r"`rubrics\[0\].points` must be a finite number, got None",
        ),
        ("rlcf", {"requirements": "1) a (importance: 9/100)\n2) b"}, r"`requirements\[1\]` must be lines like .*, got '2\) b'"),
        (
            "rlcf",
            {"requirements": "1) a (importance: 900/100)"},
            r"`requirements\[0\]` must be weighted from 0 to 100, got 900.0",
        ),
        ("rlcf", {"requirements": [["a", "x"]]}, r"`requirements\[0\]\[1\]` must be a finite number, got 'x'"),
        ("rlcf", {"requirements": [["a"]]}, r"`requirements\[0\]` must be lines like"),
        ("rlcf", {"requirements": ""}, "`requirements` must be lines like .*, got ''"),
        ("ifeval", {"instruction_id_list": []}, r"`instruction_id_list` must be a non-empty list of strings, got \[\]"),
        ("ifeval", {"kwargs": [{}]}, r"`kwargs` must be a list of one mapping per instruction \(3\), got \[{}\]"),
        ("ifeval", {"kwargs": [{}, 3, {}]}, r"`kwargs\[1\]` must be a mapping, got 3"),
        (
            "researchrubrics",
            {"rubrics": [{"criterion": "a", "axis": 3, "weight": 1}]},
            r"`rubrics\[0\].axis` must be a non-empty",
        ),
        ("ruscarl", rule(function="rhyme"), "with `function` math_verify or word_count_range, got 'rhyme'"),
        ("ruscarl", rule(function="math_verify"), r"rubrics\[0\].tags` must be with `parameters`: the answer, got None"),
        (
            "ruscarl",
            rule(function="word_count_range", parameters={"min_count": "a"}),
            "whole numbers `min_count` and `max_count`",
        ),
        ("ruscarl", {"reward_model": {"rubrics": []}}, "x.jsonl:1: reward_model: `rubrics` must be a non-empty list of criteria"),
    ],
)
def test_malformed(tmp_path, name, changes, message):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({**ROWS[name], **changes}), encoding="utf-8")
    with pytest.raises(RubricError, match=message):
        read_rows(path, rubric_format=name)


def test_a_reward_model_that_is_no_mapping(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({**ROWS["ruscarl"], "reward_model": 3}), encoding="utf-8")
    with pytest.raises(RubricError, match="`reward_model` must be a mapping with `rubrics`, got 3"):
        read_rows(path, rubric_format="ruscarl")


def test_criteria_as_broken_json(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({**ROWS["healthbench"], "rubrics": "[{"}), encoding="utf-8")
    with pytest.raises(RubricError, match=r"`rubrics` must be a non-empty list of criteria, or one as JSON, got '\[{'"):
        read_rows(path)
