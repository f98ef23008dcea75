"""The formats: a row of each as its data set writes it, malformed ones, and each format's own score against its definition."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_focal.judges import RuleJudge
from lightning_focal.rubrics import FORMATS, Criterion, Rubric, RubricError, read_rows
from lightning_focal.rubrics.readers.formats import category_of

CHAT = [{"role": "user", "content": "Q?"}]
HAIKU = [["Is it a haiku?", 100], ["Is it (mostly) about snow?", 75]]
ROWS = {
    "plain": {"prompt": "Q?", "rubric": [{"description": "Right."}]},
    "healthbench": {
        "prompt_id": "h",
        "prompt": CHAT,
        "rubrics": [
            {"criterion": "Advises to see a doctor.", "points": 5, "tags": ["level:example", "axis:accuracy"]},
            {"criterion": "Advises to see a doctor.", "points": 3, "tags": ["axis:accuracy"]},
            {"criterion": "Names a dose without asking for age.", "points": -8, "tags": ["axis:tone"]},
        ],
        "example_tags": ["theme:hedging"],
    },
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
    "rlcf": {"prompt": "Q?", "requirements": "\n".join(f"{i}) {text} (importance: {w}/100)" for i, (text, w) in enumerate(HAIKU, 1)) + "\n"},
    "ifeval": {
        "key": 1000,
        "prompt": "Q?",
        "instruction_id_list": ["punctuation:no_comma", "keywords:existence", "keywords:existence"],
        "kwargs": [{"num_words": None}, {"keywords": ["a"], "num_words": None}, {"keywords": ["b"]}],
    },
    "researchrubrics": {
        "prompt": "Q?",
        "sample_id": "s",
        "rubrics": [{"criterion": "Cites.", "axis": "Sources", "weight": 4.0}, {"criterion": "Errs.", "axis": "Facts", "weight": -2.0}],
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
                    "tags": {"verifier": "rule", "function": "word_count_range", "parameters": {"min_count": 5, "max_count": "50"}},
                },
            ],
        },
        "extra_info": {"i": 1},
    },
}  # fmt: skip
SHORT = {"name": "short", "description": "Short."}


def one_type(name):
    """A row whose fields have one type each, for columns."""
    row = json.loads(json.dumps(ROWS[name]))
    if name == "ruscarl":
        row["reward_model"]["rubrics"] = row["reward_model"]["rubrics"][:1]
    return row


def read(tmp_path, row, **kwargs):
    (tmp_path / "x.jsonl").write_text(json.dumps(row), encoding="utf-8")
    return read_rows(tmp_path / "x.jsonl", **kwargs)[0]


def of(tmp_path, name, *fields, **changes):
    criteria = read(tmp_path, {**ROWS[name], **changes}).rubric.criteria
    return [tuple(getattr(criterion, field) for field in fields) for criterion in criteria]


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_is_recognised_by_its_own_format_alone(tmp_path, name):
    assert [known for known, reader in FORMATS.items() if reader.matches(ROWS[name])] == [name]
    row = read(tmp_path, ROWS[name])
    assert (row.format, row.messages) == (name, tuple(CHAT))


def test_plain_every_field(tmp_path):
    entry = {
        "points": -2,
        "tags": ["axis:tone"],
        "check": {"kind": "max_words", "words": 3},
        "required": True,
        "low": 1,
        "high": 5,
    }
    (criterion,) = read(tmp_path, {"prompt": "a", "rubric": [{**SHORT, **entry}]}).rubric.criteria
    assert criterion == Criterion("short", "Short.", -2.0, ("axis:tone",), entry["check"], 1.0, 5.0, True)


def test_plain_missing_names_and_descriptions(tmp_path):
    rubric = [{"description": "Yes."}, {"description": "Yes!"}, {"check": "no_commas"}]
    made = [("yes", "Yes.", None), ("yes-2", "Yes!", None), ("no_commas", "no_commas", {"kind": "no_commas"})]
    assert of(tmp_path, "plain", "name", "description", "check", rubric=rubric) == made


def test_plain_messages_and_answer(tmp_path):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    rubric = [
        {"name": "r", "check": {"kind": "answer", "expected": "$answer"}},
        {"description": "Right.", "tags": ["verifier:math"]},
    ]
    row = read(tmp_path, {"messages": chat, "rubric": rubric, "answer": 4})
    assert (row.messages, row.answer) == (tuple(chat), "4")
    assert [criterion.check for criterion in row.rubric.criteria] == [{"kind": "answer", "expected": "4"}] * 2
    assert read(tmp_path, {"prompt": chat, "messages": None, "rubric": [SHORT]}).messages == tuple(chat)


def test_healthbench(tmp_path):
    row = read(tmp_path, ROWS["healthbench"])
    assert row.rubric.names == ("advises-to-see-a-doctor", "advises-to-see-a-doctor-2", "names-a-dose-without-asking-for-age")
    assert row.rubric.criteria[0] == Criterion(
        row.rubric.names[0], "Advises to see a doctor.", 5, ("level:example", "axis:accuracy")
    )
    assert (row.id, row.extra) == ("h", {"example_tags": ["theme:hedging"]})
    # a tag without a positive item has no score, nor has one of which nothing was judged
    assert FORMATS["healthbench"].by_tag(row.rubric, [1, 0, 1]) == {"axis:accuracy": 5 / 8, "level:example": 1.0}
    assert FORMATS["healthbench"].by_tag(row.rubric, [None, 1, 1]) == {"axis:accuracy": 1.0}


def test_rar(tmp_path):
    row = read(tmp_path, ROWS["rar"])
    assert (row.id, row.answer, row.rubric.names) == ("x:1", "A.", ("names-it", "names-it-2", "style"))
    assert of(tmp_path, "rar", "points", "tags") == [(5, ("category:essential",)), (-1, ("category:pitfall",)), (1, ())]
    texts = ["Essential Criteria: a", "Important Criteria: b", "Optional Criteria: c", "Pitfall Criteria: d"]
    rubric = [{"title": text[-1], "description": text} for text in texts]
    assert of(tmp_path, "rar", "points", rubric=rubric) == [(1.0,), (0.7,), (0.3,), (0.9,)]
    texts = ["Importnat Criteria: a", "OPTIONAL: a", "Uses three parts in this order: a", ""]
    assert list(map(category_of, texts)) == ["important", "optional", None, None]


def test_rlcf(tmp_path):
    made = [(text, weight, 0, 100) for text, weight in HAIKU]
    assert of(tmp_path, "rlcf", "description", "points", "low", "high") == made
    assert of(tmp_path, "rlcf", "description", "points", "low", "high", requirements=HAIKU) == made


def test_ifeval(tmp_path):
    row = read(tmp_path, ROWS["ifeval"])
    assert (row.id, row.rubric.names) == ("1000", ("punctuation:no_comma", "keywords:existence", "keywords:existence-2"))
    second = row.rubric.criteria[1]
    assert second.check == {"kind": "ifeval", "instruction": "keywords:existence", "arguments": {"keywords": ["a"]}}
    assert (second.tags, second.description) == (
        ("axis:keywords",),
        "Follows the instruction keywords:existence (keywords = ['a']).",
    )
    for criterion in row.rubric.criteria:
        RuleJudge().validate(criterion)


def test_researchrubrics_and_rubrichub(tmp_path):
    made = [("axis:Sources",)], [("axis:Facts",)]
    for rubrics in (ROWS["researchrubrics"]["rubrics"], json.dumps(ROWS["researchrubrics"]["rubrics"])):
        assert of(tmp_path, "researchrubrics", "points", "tags", rubrics=rubrics) == [(4, *made[0]), (-2, *made[1])]
    assert (read(tmp_path, ROWS["researchrubrics"]).id, read(tmp_path, ROWS["rubrichub"]).id) == ("s", "3")


def test_ruscarl(tmp_path):
    row = read(tmp_path, ROWS["ruscarl"])
    assert (row.answer, row.extra) == ("42", {"data_source": "math", "extra_info": {"i": 1}})
    assert of(tmp_path, "ruscarl", "tags", "check")[:2] == [
        (("verifier:rule", "function:math_verify", "parameters:42"), {"kind": "answer", "expected": "42"}),
        (("verifier:llm",), None),
    ]
    assert row.rubric.criteria[2].check == {"kind": "words_between", "min": 5, "max": 50}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["verifier:math"], "7"),
        (["verifier:math", "parameters:42"], "42"),
        ({"verifier": "math", "parameters": 3}, "3"),
        (["verifier:llm"], None),
    ],
)
def test_verifier_math_in_verl_rows(tmp_path, tags, expected):
    model = {"ground_truth": "7", "rubrics": [{"criterion": "Is right.", "points": 1, "tags": tags}]}
    check = None if expected is None else {"kind": "answer", "expected": expected}
    assert of(tmp_path, "ruscarl", "check", reward_model=model) == [(check,)]


def entry(**fields):
    return {"rubric": [{**SHORT, **fields}]}


def item(**fields):
    return {"rubrics": [{"criterion": "a", "points": 5, **fields}]}


def rule(**tags):
    return {"reward_model": item(tags={"verifier": "rule", **tags})}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("plain", {"messages": []}, "`prompt` must be given, or `messages`, but not both"),
        ("plain", {"prompt": " "}, "`prompt` must be a non-empty string or list of {role, content}, got ' '"),
        ("plain", {"prompt": ["a"]}, r"`prompt\[0\]` must be a mapping with `role` and `content`, got 'a'"),
        ("plain", {"prompt": [{"role": "user"}]}, r"`prompt\[0\].content` must be a string, got None"),
        ("plain", {"rubric": []}, r"`rubric` must be a non-empty list of criteria, got \[\]"),
        ("plain", {"rubric": SHORT}, "`rubric` must be a non-empty list of criteria, got {"),
        ("plain", {"rubric": ["x"]}, r"`rubric\[0\]` must be a mapping, got 'x'"),
        ("plain", {"id": ["x"]}, "`id` must be a non-empty string or a whole number"),
        ("plain", {"id": ""}, "`id` must be a non-empty string or a whole number"),
        ("plain", {"answer": [1]}, r"`answer` must be a string or a number, got \[1\]"),
        ("plain", {"rubric": [SHORT, SHORT]}, r"`criteria\[1\].name` must be unique within the rubric"),
        ("plain", entry(points=0), "x.jsonl:1: `points` must be other than zero"),
        ("plain", entry(check={"kind": "exact", "text": "$answer"}), r"`rubric\[0\].check.text` must be used in a row with an `answer`"),
        ("plain", entry(tags=["verifier:math"]), r"x.jsonl:1: `rubric\[0\].tags` must be used in a row with an `answer`, got"),
        ("plain", entry(point=3), r"`rubric\[0\].point` must be one of name, .* \(did you mean `points`\?\), got 'point'"),
        ("plain", entry(points="three"), r"x.jsonl:1: `rubric\[0\].points` must be a finite number, got 'three'"),
        ("plain", entry(points=float("nan")), r"`rubric\[0\].points` must be a finite number, got nan"),
        ("plain", entry(points=True), r"`rubric\[0\].points` must be a finite number, got True"),
        ("plain", entry(low=2), r"x.jsonl:1: rubric\[0\]: criterion 'short': `low` must be below `high` \(1.0\), got 2.0"),
        ("plain", entry(name=3), r"`rubric\[0\].name` must be a non-empty string, got 3"),
        ("plain", entry(description=""), r"`rubric\[0\].description` must be a non-empty string, got ''"),
        ("plain", entry(tags="a"), r"`rubric\[0\].tags` must be a list of strings, got 'a'"),
        ("plain", entry(required="yes"), r"`rubric\[0\].required` must be true or false, got 'yes'"),
        ("plain", entry(check=3), r"`rubric\[0\].check` must be the name of a kind, or a mapping with a string `kind`, got 3"),
        ("plain", entry(check={"type": "x"}), r"`rubric\[0\].check` must be the name of a kind"),
        ("healthbench", {"rubrics": [{"points": 1}]}, r"`rubrics\[0\].criterion` must be a non-empty string, got None"),
        ("healthbench", item(points="5"), r"`rubrics\[0\].points` must be a finite number, got '5'"),
        ("healthbench", item(tags=[3]), r"`rubrics\[0\].tags` must be a list of strings, got \[3\]"),
        ("healthbench", {"prompt_id": 3.5}, "`prompt_id` must be a non-empty string or a whole number, got 3.5"),
        ("healthbench", {"example_tags": "x"}, "`example_tags` must be a list of strings, got 'x'"),
        ("healthbench", {"rubrics": "[{"}, r"`rubrics` must be a non-empty list of criteria, or one as JSON, got '\[{'"),
        ("rar", {"rubric": [{"title": "a", "description": "b"}]}, r"`rubric\[0\].weight` must be a finite number, got None"),
        ("rar", {"rubric": [{"title": "", "description": "b"}]}, r"`rubric\[0\].title` must be a non-empty string, got ''"),
        ("rubrichub", item(points=None), r"`rubrics\[0\].points` must be a finite number, got None"),
        ("rlcf", {"requirements": "1) a (importance: 9/100)\n2) b"}, r"`requirements\[1\]` must be lines like .*, got '2\) b'"),
        ("rlcf", {"requirements": "1) a (importance: 900/100)"}, r"`requirements\[0\]` must be weighted from 0 to 100, got 900.0"),
        ("rlcf", {"requirements": [["a", "x"]]}, r"`requirements\[0\]\[1\]` must be a finite number, got 'x'"),
        ("rlcf", {"requirements": [["a"]]}, r"`requirements\[0\]` must be lines like"),
        ("rlcf", {"requirements": ""}, "`requirements` must be lines like .*, got ''"),
        ("rlcf", {"requirements": None}, "x.jsonl:1: `requirements` must be lines like .*, got None"),
        ("ifeval", {"instruction_id_list": None}, "x.jsonl:1: `instruction_id_list` must be a non-empty list of strings, got None"),
        ("ifeval", {"kwargs": [{}]}, r"`kwargs` must be a list of one mapping per instruction \(3\), got \[{}\]"),
        ("ifeval", {"kwargs": [{}, 3, {}]}, r"`kwargs\[1\]` must be a mapping, got 3"),
        ("researchrubrics", {"rubrics": [{"criterion": "a", "axis": 3, "weight": 1}]}, r"`rubrics\[0\].axis` must be a non-empty"),
        ("ruscarl", rule(function="rhyme"), "with `function` math_verify or word_count_range, got 'rhyme'"),
        ("ruscarl", rule(function="math_verify"), r"rubrics\[0\].tags` must be with `parameters`: the answer, got None"),
        ("ruscarl", rule(function="word_count_range", parameters={"min_count": "a"}), "whole numbers `min_count` and `max_count`"),
        ("ruscarl", {"reward_model": {"rubrics": []}}, "x.jsonl:1: reward_model: `rubrics` must be a non-empty list of criteria"),
        ("ruscarl", {"reward_model": 3}, "`reward_model` must be a mapping with `rubrics`, got 3"),
    ],
)  # fmt: skip
def test_malformed(tmp_path, name, changes, message):
    with pytest.raises(RubricError, match=message):
        read(tmp_path, {**ROWS[name], **changes}, rubric_format=name)


def over_positive(points, met):
    """HealthBench, RubricHub, RuscaRL, ResearchRubrics, plain: negative points count above the line alone."""
    possible = sum(p for p in points if p > 0)
    return sum(p * m for p, m in zip(points, met, strict=True)) / possible if possible else None


def rar(points, met):
    return sum(w * c for w, c in zip(points, met, strict=True)) / sum(points) if sum(points) else None


def rlcf(points, met):
    return min(1.0, max(0.0, sum(100 * s * w for s, w in zip(met, points, strict=True)) / sum(points) / 100))


def ifeval(points, met):
    return sum(1 for m in met if m) / len(met)


@settings(max_examples=100, deadline=None)
@given(st.data())
@pytest.mark.parametrize("name", FORMATS)
def test_the_score_is_that_of_the_definition(name, data):
    least, most, steps = {"rlcf": (0, 100, [0, 0.37, 1]), "ifeval": (1, 1, [0, 1])}.get(name, (-10, 10, [0, 0.5, 1]))
    points = data.draw(st.lists(st.integers(least, most), min_size=1, max_size=8).filter(any))
    met = data.draw(st.lists(st.sampled_from(steps), min_size=len(points), max_size=len(points)))
    expected = {"rar": rar, "rlcf": rlcf, "ifeval": ifeval}.get(name, over_positive)(points, met)
    # not judged: it leaves every sum
    rubric = Rubric(tuple(Criterion(f"c{i}", "", p) for i, p in enumerate([*points, 7])))
    score = FORMATS[name].score(rubric, [*met, None])
    assert score == (None if expected is None else pytest.approx(expected, abs=1e-12))
    assert FORMATS[name].score(rubric, [None] * len(rubric)) is None


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_mean_over_the_data_set_is_clipped_and_only_by_some(name):
    clipped = name in ("healthbench", "ruscarl")
    assert FORMATS[name].mean([-1.0, 0.5]) == (0.0 if clipped else -0.25)
    assert math.isclose(FORMATS[name].mean([-0.25, 0.75]), 0.25)
    assert FORMATS[name].mean([]) is None
