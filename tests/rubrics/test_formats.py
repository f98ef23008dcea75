"""The formats: a row of each as its data set writes it, malformed ones, and each format's own score against its definition."""

from __future__ import annotations

import json
import math
import random

import pytest

from lightning_focal.judges import JudgeRequest, Outcome, RuleJudge
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
    "if_multi_constraints": {
        "key": "k",
        "messages": CHAT,
        "ground_truth": "[{'instruction_id': ['punctuation:punctuation_dot', 'keywords:existence'], 'kwargs': [None, {'keywords': ['a']}]}]",
        "constraint": "No dots.\tUse a.",
    },
    "rlvr_ifeval": {
        "messages": CHAT,
        "ground_truth": '{"func_name": "verify_bullet_points", "N": 2, "quantifier": null}',
        "constraint": "Use two bullets.",
    },
    "dr_tulu": {
        "messages": CHAT,
        "ground_truth": json.dumps({
            "query": "Q?",
            "rubrics": [{"title": "Yes", "description": "Right.", "weight": 1.0}, {"title": "No", "description": "Wrong.", "weight": -1.0}],
            "rubrics_types": ["persistent", "persistent"],
        }),
        "dataset": "rl_rag_longform",
    },
    "verifiers": {"prompt": CHAT, "answer": "4", "info": '{"rubric": [{"criterion": "Right.", "weight": 2}], "level": 1}'},
    "prbench": {
        "task": "t",
        "turns": 1,
        "prompt_0": "Q?",
        "rubric": [
            {"title": "Right.", "annotations": {"criteria_category": "Accuracy", "important_weight": 6, "weight_class": "important"}},
            {"title": "Wrong.", "annotations": {"important_weight": 3, "critically_detrimental_weight": -9,
                                                "weight_class": "critically detrimental"}},
        ],
    },
    "paperbench": {
        "question": "Q?",
        "rubric": {
            "id": "r", "requirements": "All.", "weight": 1, "sub_tasks": [
                {"id": "a", "requirements": "One.", "weight": 1, "sub_tasks": [], "task_category": "Code Development"},
                {"id": "b", "requirements": "Two.", "weight": 3, "sub_tasks": [
                    {"id": "c", "requirements": "Two a.", "weight": 2, "sub_tasks": [], "task_category": "Code Execution"},
                    {"id": "d", "requirements": "Two b.", "weight": 6, "sub_tasks": [], "task_category": "Code Execution"},
                ]},
            ],
        },
    },
    "biggen": {
        "id": "p_0", "input": "Q?", "reference_answer": "A.",
        "score_rubric": {"criteria": "Is it right?", **{f"score{i}_description": f"level {i}" for i in range(1, 6)}},
    },
    "prometheus": {
        "orig_instruction": "Q?", "orig_response": "R.", "orig_reference_answer": "A.", "orig_criteria": "Is it right?", "orig_score": "4",
        **{f"orig_score{i}_description": f"level {i}" for i in range(1, 6)},
    },
    "writingbench": {
        "index": 7, "query": "Q?",
        "checklist": [{"name": "Tone", "criteria_description": "Is it warm?", "1-2": "cold", "3-8": "cool", "9-10": "hot"}],
    },
    "infobench": {"id": "u", "instruction": "Q?", "input": "", "decomposed_questions": ["Is it a haiku?", "Is it about snow?"]},
    "openrubrics": {"instruction": "Q?", "rubric": "1. Is a haiku. [Hard Rule]\n2. Is vivid,\n   in both lines. [Principle]"},
    "healthbench_meta": {
        "prompt": CHAT, "completion": "R.", "rubric": "Advises rest.", "binary_labels": [True, False], "category": "cluster:hedging",
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
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]
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
    assert [known for known, reader in FORMATS.items() if reader.matches(ROWS[name])][: 1 + (name == "plain")] == [name]
    assert [known for known in FORMATS if known != "plain" and FORMATS[known].matches(ROWS[name])] == [name] * (name != "plain")
    row = read(tmp_path, ROWS[name])
    assert (row.format, row.messages) == (name, tuple(CHAT))


def test_plain(tmp_path):
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
    rubric = [{"description": "Yes."}, {"description": "Yes!"}, {"check": "no_commas"}]
    made = [("yes", "Yes.", None), ("yes.8aff5108", "Yes!", None), ("no_commas", "no_commas", {"kind": "no_commas"})]
    assert of(tmp_path, "plain", "name", "description", "check", rubric=rubric) == made
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    check = {"kind": "answer", "expected": "$answer"}
    rubric = [{"name": "r", "check": check}, {"description": "Right.", "tags": ["verifier:math"]}]
    row = read(tmp_path, {"messages": chat, "rubric": rubric, "answer": 4})
    assert (row.messages, row.answer) == (tuple(chat), "4")
    assert [criterion.check for criterion in row.rubric.criteria] == [{"kind": "answer", "expected": "4"}] * 2
    assert read(tmp_path, {"prompt": chat, "messages": None, "rubric": [SHORT]}).messages == tuple(chat)


def test_healthbench(tmp_path):
    row = read(tmp_path, ROWS["healthbench"])
    assert row.rubric.names == ("advises-to-see-a-doctor", "advises-to-see-a-doctor.2", "names-a-dose-without-asking-for-age")
    tags = ("level:example", "axis:accuracy")
    assert row.rubric.criteria[0] == Criterion(row.rubric.names[0], "Advises to see a doctor.", 5, tags)
    assert (row.id, row.extra) == ("h", {"example_tags": ["theme:hedging"]})
    # a tag without a positive item has no score, nor has one of which nothing was judged
    assert FORMATS["healthbench"].by_tag(row.rubric, [1, 0, 1]) == {"axis:accuracy": 5 / 8, "level:example": 1.0}
    assert FORMATS["healthbench"].by_tag(row.rubric, [None, 1, 1]) == {"axis:accuracy": 1.0}


def test_rar(tmp_path):
    row = read(tmp_path, ROWS["rar"])
    assert (row.id, row.answer, row.rubric.names) == ("x:1", "A.", ("names-it.e7ce22e4", "names-it.8bf6f5d1", "style.f215a268"))
    assert of(tmp_path, "rar", "points", "tags") == [(5, ("category:essential",)), (-1, ("category:pitfall",)), (1, ())]
    texts = ["Essential Criteria: a", "Important Criteria: b", "Optional Criteria: c", "Pitfall Criteria: d"]
    rubric = [{"title": text[-1], "description": text} for text in texts]
    assert of(tmp_path, "rar", "points", rubric=rubric) == [(1.0,), (0.7,), (0.3,), (0.9,)]
    texts = ["Importnat Criteria: a", "OPTIONAL: a", "Uses three parts in this order: a", ""]
    assert list(map(category_of, texts)) == ["important", "optional", None, None]


def test_rlcf_researchrubrics_and_rubrichub(tmp_path):
    made = [(text, weight, 0, 100) for text, weight in HAIKU]
    assert of(tmp_path, "rlcf", "description", "points", "low", "high") == made
    assert of(tmp_path, "rlcf", "description", "points", "low", "high", requirements=HAIKU) == made
    given, made = ROWS["researchrubrics"]["rubrics"], [(4, ("axis:Sources",)), (-2, ("axis:Facts",))]
    for rubrics in (given, json.dumps(given)):
        assert of(tmp_path, "researchrubrics", "points", "tags", rubrics=rubrics) == made
    assert (read(tmp_path, ROWS["researchrubrics"]).id, read(tmp_path, ROWS["rubrichub"]).id) == ("s", "3")


def test_ifeval(tmp_path):
    row = read(tmp_path, ROWS["ifeval"])
    assert (row.id, row.rubric.names) == ("1000", ("punctuation:no_comma", "keywords:existence", "keywords:existence-2"))
    second = row.rubric.criteria[1]
    assert second.check == {"kind": "ifeval", "instruction": "keywords:existence", "arguments": {"keywords": ["a"]}}
    assert second.tags == ("axis:keywords",)
    assert second.description == "Follows the instruction keywords:existence (keywords = ['a'])."
    for criterion in row.rubric.criteria:
        RuleJudge().validate(criterion)


def test_ruscarl(tmp_path):
    row = read(tmp_path, ROWS["ruscarl"])
    assert (row.answer, row.extra) == ("42", {"data_source": "math", "extra_info": {"i": 1}})
    assert of(tmp_path, "ruscarl", "tags", "check")[:2] == [
        (("verifier:rule", "function:math_verify", "parameters:42"), {"kind": "answer", "expected": "42"}),
        (("verifier:llm",), None),
    ]
    for count in (4, 5, 50, 51):  # white space parts words
        (verdicts,) = RuleJudge().judge([JudgeRequest((), "well-known, " * count, row.rubric.criteria[2:])])
        assert verdicts[0].outcome is (Outcome.MET if 5 <= count <= 50 else Outcome.NOT_MET)


LEVELS = "Is it right?\n" + "\n".join(f"Score {i}: level {i}" for i in range(1, 6))


@pytest.mark.parametrize(
    ("name", "id", "criteria"),
    [
        ("if_multi_constraints", "k", [("No dots.", 1, 0, 1, ("axis:punctuation",)), ("Use a.", 1, 0, 1, ("axis:keywords",))]),
        ("rlvr_ifeval", "x:1", [("Use two bullets.", 1, 0, 1, ())]),
        ("dr_tulu", "x:1", [("Right.", 1, 0, 1, ()), ("Wrong.", -1, 0, 1, ())]),
        ("verifiers", "x:1", [("Right.", 2, 0, 1, ())]),
        ("prbench", "t", [("Right.", 6, 0, 1, ("axis:Accuracy",)), ("Wrong.", -9, 0, 1, ())]),
        ("paperbench", "x:1", [  # 1/4; 3/4 of 2/8 and of 6/8
            ("One.", 0.25, 0, 1, ("category:Code Development",)),
            ("Two a.", 0.1875, 0, 1, ("category:Code Execution",)),
            ("Two b.", 0.5625, 0, 1, ("category:Code Execution",)),
        ]),
        ("biggen", "p_0", [(LEVELS, 1, 1, 5, ())]),
        ("prometheus", "x:1", [(LEVELS, 1, 1, 5, ())]),
        ("writingbench", "7", [("Is it warm?\nScore 1 to 2: cold\nScore 3 to 8: cool\nScore 9 to 10: hot", 1, 1, 10, ())]),
        ("infobench", "u", [("Is it a haiku?", 1, 0, 1, ()), ("Is it about snow?", 1, 0, 1, ())]),
        ("openrubrics", "x:1", [("Is a haiku.", 1, 0, 1, ("type:hard rule",)), ("Is vivid,\nin both lines.", 1, 0, 1, ("type:principle",))]),
        ("healthbench_meta", "x:1", [("Advises rest.", 1, 0, 1, ("axis:cluster:hedging",))]),
    ],
)  # fmt: skip
def test_public_data_sets(tmp_path, name, id, criteria):
    row = read(tmp_path, ROWS[name])
    assert row.id == id
    assert [(c.description, c.points, c.low, c.high, c.tags) for c in row.rubric.criteria] == criteria


def test_what_names_alone_do_not_say(tmp_path):
    assert read(tmp_path, {**ROWS["biggen"], "system_prompt": "Plan."}).messages[0] == {"role": "system", "content": "Plan."}
    assert read(tmp_path, {**ROWS["infobench"], "input": "Snow."}).messages == ({"role": "user", "content": "Q?\n\nSnow."},)
    asked = {"turns": 2, "response_0": "A.", "prompt_1": "Why?", "reference_texts_1": ["Law 1."], "response_1": "No."}
    assert len(read(tmp_path, {**ROWS["prbench"], "turns": None, "prompt_1": "", "response_0": ""}).messages) == 1
    model = {**ROWS["ruscarl"]["reward_model"], "ground_truth": ["42"]}
    assert read(tmp_path, {**ROWS["ruscarl"], "reward_model": model}).answer == "42"
    assert read(tmp_path, {**ROWS["prometheus"], "orig_score": None}).extra["responses"] == []
    asked["reference_texts_1"] = json.dumps(asked["reference_texts_1"])
    turns = [(turn["role"], turn["content"]) for turn in read(tmp_path, {**ROWS["prbench"], **asked}).messages]
    assert turns == [("user", "Q?"), ("assistant", "A."), ("user", "Why?\n\nReference material:\n\nLaw 1.")]
    assert [criterion.required for criterion in read(tmp_path, ROWS["openrubrics"]).rubric.criteria] == [True, False]
    row = read(tmp_path, ROWS["verifiers"])
    assert (row.answer, row.extra) == ("4", {"info": ROWS["verifiers"]["info"]})
    text = {"binary_labels": "[True, False]"}
    for name, changes, verdicts in (
        ("healthbench_meta", {}, [True, False]),
        ("healthbench_meta", text, [True, False]),
        ("prometheus", {}, [4.0]),
    ):
        gold = [{"response": "R.", "verdicts": [verdict]} for verdict in verdicts]
        assert read(tmp_path, {**ROWS[name], **changes}).extra["responses"] == gold


RIGHT = {"description": "Right.", "points": 2}


@pytest.mark.parametrize(("row", "criteria"), [
    ({"rubric": ["Right.", "Brief."]}, [("Right.", 1), ("Brief.", 1)]),
    ({"rubric": "Is it right?"}, [("Is it right?", 1)]),
    ({"rubric": "Look at this:\n- Right.\n- Brief."}, [("Right.", 1), ("Brief.", 1)]),
    ({"rubric": "1) Right.\n   - in full\n2) Brief."}, [("Right.\n- in full", 1), ("Brief.", 1)]),
    ({"rubric": json.dumps([RIGHT])}, [("Right.", 2)]),
    ({"rubric": str([RIGHT])}, [("Right.", 2)]),
    ({"rubric": [json.dumps(RIGHT)]}, [("Right.", 2)]),
    ({"rubric": [["Right.", 2], ["Brief.", "1.5"]]}, [("Right.", 2), ("Brief.", 1.5)]),
    ({"rubric": {"criteria": [RIGHT]}}, [("Right.", 2)]),
    ({"rubric": {"Right.": 2, "Brief.": 1}}, [("Right.", 2), ("Brief.", 1)]),
    ({"rubric": {"a": "Right.", "b": "Brief."}}, [("Right.", 1), ("Brief.", 1)]),
    ({"rubric": {"a": RIGHT}}, [("Right.", 2)]),
    ({"rubrics": {"positive_rubrics": [RIGHT], "negative_rubrics": ["Rude."]}}, [("Right.", 2), ("Rude.", -1)]),
    ({"rubrics": [{"criterion": "Right.", "points": 2}]}, [("Right.", 2)]),
    ({"criteria": [{"requirement": "Right.", "weight": "2", "notes": "n"}]}, [("Right.", 2)]),
    ({"positive_rubrics": ["Right."], "negative_rubrics": [{"criterion": "Rude.", "weight": 2}]}, [("Right.", 1), ("Rude.", -2)]),
    ({"rubric": [{"title": "Right.", "category": "style"}]}, [("Right.", 1)]),
    ({"rubric": [{"criteria": "R.", "score1_description": "a", "score3_description": "b"}]}, [("R.\nScore 1: a\nScore 3: b", 1)]),
    ({"rubric": {"Right.": "2", "Brief.": 1}}, [("Right.", 2), ("Brief.", 1)]),
    ({"rubric": {"1": "Right.", "2": "Brief."}}, [("Right.", 1), ("Brief.", 1)]),
    ({"rubric": [{"criterion": "Rude.", "points": "\u22122"}, "Right."]}, [("Rude.", -2), ("Right.", 1)]),
    ({"rubric": json.dumps(json.dumps([RIGHT]))}, [("Right.", 2)]),
    ({"rubric": "[Hard Rule] Right.\n[Principle] Brief."}, [("Right.", 1), ("Brief.", 1)]),
    ({"rubric": "Hard Rules:\n1. Right:\n   in full\n\nPrinciples:\n1. Brief."}, [("Right:\nin full", 1), ("Brief.", 1)]),
    ({"rubric": "### Hard Rules\r\n1. Right.\r\n### Principles\r\n2. Brief."}, [("Right.", 1), ("Brief.", 1)]),
    ({"rubric": "**1. Right.** [Hard Rule]\n**2. Brief.**"}, [("Right.", 1), ("Brief.", 1)]),
    ({"rubric": "[0, 1] is the interval."}, [("[0, 1] is the interval.", 1)]),
    ({"rubric": ["{1, 2}"]}, [("{1, 2}", 1)]),
    ({"checklist": [{"name": "tone", "criteria_description": "Warm."}]}, [("Warm.", 1)]),
    ({"reward_model": json.dumps({"rubrics": [{"criterion": "Right.", "points": 2}]})}, [("Right.", 2)]),
    ({"reward_model": {"style": "rubric"}, "extra_info": {"rubrics": [{"criterion": "Right.", "points": 2}]}}, [("Right.", 2)]),
    ({"reward_model": {"rubrics": ["Right."]}, "extra_info": "{}"}, [("Right.", 1)]),
    ({"reward_model": {"ground_truth": json.dumps([{"criterion": "Right.", "points": 2}])}}, [("Right.", 2)]),
])  # fmt: skip
def test_shapes_of_criteria(tmp_path, row, criteria):
    found = read(tmp_path, {"prompt": CHAT, **row})
    assert ([(c.description, c.points) for c in found.rubric.criteria], found.answer) == (criteria, None)


TURN = {"role": "user", "content": "Q?"}
CALL = [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]


@pytest.mark.parametrize(("prompt", "messages"), [
    (json.dumps([TURN]), [TURN]),
    (str([TURN]), [TURN]),
    (json.dumps({"messages": [TURN]}), [TURN]),
    (TURN, [TURN]),
    ([{"from": "system", "value": "S"}, {"from": "human", "value": "Q?"}], [{"role": "system", "content": "S"}, TURN]),
    ([{"role": "user", "content": [{"type": "text", "text": "Q"}, "?"]}], [TURN]),
    ([{"role": "assistant", "content": None, "tool_calls": CALL}, {"role": "tool", "content": "4", "tool_call_id": "c"}],
     [{"role": "assistant", "content": "", "tool_calls": CALL}, {"role": "tool", "content": "4", "tool_call_id": "c"}]),
    (json.dumps(json.dumps([TURN])), [TURN]),
    ([{"role": "Human", "content": "Q?"}], [TURN]),
    ("[1, 2, 3]", [{"role": "user", "content": "[1, 2, 3]"}]),
    ('{"a": 1} is JSON?', [{"role": "user", "content": '{"a": 1} is JSON?'}]),
])  # fmt: skip
def test_shapes_of_chats(tmp_path, prompt, messages):
    assert read(tmp_path, {"prompt": prompt, "rubric": ["a"]}).messages == tuple(messages)
    if prompt != str([TURN]):
        assert read(tmp_path, {"conversations": prompt, "rubric": ["a"]}).messages == tuple(messages)


SYSTEM, ANSWER = {"role": "system", "content": "S"}, {"role": "assistant", "content": "A."}


@pytest.mark.parametrize(("row", "messages"), [
    ({"conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "A."}]}, [TURN]),
    ({"messages": [TURN, ANSWER, TURN, ANSWER]}, [TURN, ANSWER, TURN]),
    ({"instruction": "Q?", "input": "Snow.", "output": "A."}, [{"role": "user", "content": "Q?\n\nSnow."}]),
    ({"instruction": "Q?", "input": "", "system": "S"}, [SYSTEM, TURN]),
    ({"prompt": [SYSTEM, TURN], "system_prompt": "other"}, [SYSTEM, TURN]),
    ({"conversations": [{"from": "human", "value": "Q?"}], "system": "S"}, [SYSTEM, TURN]),
])  # fmt: skip
def test_what_stands_beside_a_chat(tmp_path, row, messages):
    assert read(tmp_path, {**row, "rubric": ["a"]}).messages == tuple(messages)


@pytest.mark.parametrize("rubric", [
    "[Is it right?]\nScore 1: no\n**Score 5**: yes",
    [{"criteria": "R?", "score5_description": "yes", "score1_description": "no"}],
])  # fmt: skip
def test_grades_in_words(tmp_path, rubric):
    (criterion,) = read(tmp_path, {"instruction": "Q?", "rubric": rubric}).rubric.criteria
    assert (criterion.low, criterion.high) == (1, 5)
    assert criterion.description.index("no") < criterion.description.index("yes")


F, G = "func_name", "instruction_id"


@pytest.mark.parametrize(("truth", "met", "missed"), [
    ({F: "verify_keywords", "keyword_list": ["tea", "Milk"]}, "MILKY teas", "tea"),
    ({F: "verify_keyword_frequency", "word": "tea", "N": 2}, "Tea, tea; teas", "tea"),
    ({F: "validate_forbidden_words", "forbidden_words": ["tea"]}, "te a", "STEAM"),
    ({F: "verify_letter_frequency", "letter": "e", "N": 2}, "tee E", "tea E"),
    ({F: "verify_paragraph_count", "N": 2}, "a\n* * *\nb\n", "a * * * "),
    ({F: "validate_word_constraint", "N": 20, "quantifier": "around"}, "a-b " * 22, "a " * 23),
    ({F: "verify_sentence_constraint", "N": 2, "quantifier": "at most"}, "Dr. No. Yes e.g. tea.\n", "A. B. C."),
    ({F: "validate_paragraphs", "N": 2, "first_word": "Tea", "i": 2}, "a\n\nTea b\n\n", "Tea\n\nb"),
    ({F: "verify_postscript", "postscript_marker": "P.S."}, "a\nP.S. b", "a\nP.S. "),
    ({F: "validate_placeholders", "N": 2}, "[a] and []", "[a"),
    ({F: "verify_bullet_points", "N": "2"}, " * a\n-b", "* a\n1. b"),
    ({F: "validate_title"}, "<<t>> a", "<t>"),
    ({F: "validate_choice", "options": ["Yes.", "No."]}, "I say No.", "no"),
    ({F: "validate_highlighted_sections", "N": 2}, "*a* **", "*a*"),
    ({F: "validate_sections", "N": 2, "section_splitter": "SECTION"}, "SECTION 1 a SECTION 2 b", "SECTION 1 a"),
    ({F: "validate_json_format"}, ' {"a": [1, {"b": null}], "c": "\\u00e9"}\n', "{'a': 1}"),
    ({F: "validate_json_format"}, "[]", "[1,]"),
    ({F: "validate_repeat_prompt", "original_prompt": "Q? (a)"}, "\nQ? (a) b", "Q? a"),
    ({F: "validate_two_responses"}, "a ****** b", "a ******\na"),
    ({F: "validate_uppercase"}, "A 1!", "A b"),
    ({F: "validate_lowercase"}, "1 ß!", "a É"),
    ({F: "validate_frequency_capital_words", "N": 1, "quantifier": "at least"}, "a NATO", "Nato"),
    ({F: "validate_end", "end_phrase": "Done."}, "Well. Done.\n", "Done. No"),
    ({F: "validate_quotation"}, ' "a" ', '"a'),
    ({F: "validate_no_commas"}, "a، b", "a, b"),
    ({G: ["copy:copying_multiple"], "kwargs": [{"prompt_to_repeat": "A?", "N": 2.0}]}, "a? ****** A?", "A?"),
    ({G: ["new:copy_span_idx"], "kwargs": [{"prompt_to_repeat": "a tea b", "n_start": 2, "n_end": 5}]}, "TEA", "a tea"),
    ({G: ["keywords:word_once"], "kwargs": [{"keyword": "tea"}]}, "Tea", "tea, steam"),
    ({G: ["keywords:exclude_word_harder"], "kwargs": [{"keyword": "tea"}]}, "tea, tea ", "a tea b"),
    ({G: ["count:count_increment_word"], "kwargs": [{"keyword1": "a", "keyword2": "b"}]}, "b a b", "a b"),
    ({G: ["letters:letter_counting"], "kwargs": [{"N": 3, "relation": "less than"}]}, "a1b", "abc"),
    ({G: ["paragraphs:paragraphs"], "kwargs": [{}]}, "a\n***\nb***", "a"),
    ({G: ["paragraphs:paragraphs2"], "kwargs": [{}]}, "a\n\nb\n", "a\nb"),
    ({G: ["first_word:first_word_answer"], "kwargs": [{"first_word": "Tea"}]}, " tea is", "teas"),
    ({G: ["last_word:last_word_answer"], "kwargs": [{"last_word": "tea"}]}, 'is "Tea".', "steam"),
    ({G: ["detectable_format:square_brackets"], "kwargs": [{}]}, "[a] [b]", "[a] b"),
    ({G: ["detectable_format:bigram_wrapping"], "kwargs": [{}]}, "<<a b>> c", "<<a b"),
    ({G: ["punctuation:punctuation_exclamation"], "kwargs": [None]}, "a.", "a!"),
])  # fmt: skip
def test_instructions_count_as_in_the_published_code(tmp_path, truth, met, missed):
    row = read(tmp_path, {"messages": CHAT, "ground_truth": json.dumps(truth) if F in truth else str([truth])})
    requests = [JudgeRequest((), text, row.rubric.criteria) for text in (met, missed)]
    assert [verdicts[0].outcome for verdicts in RuleJudge().judge(requests)] == [Outcome.MET, Outcome.NOT_MET]


@pytest.mark.parametrize(("tags", "expected"), [
    (["verifier:math"], "7"),
    (["verifier:math", "parameters:42"], "42"),
    ({"verifier": "math", "parameters": 3}, "3"),
    (["verifier:llm"], None),
])  # fmt: skip
def test_verifier_math_in_verl_rows(tmp_path, tags, expected):
    model = {"ground_truth": "7", "rubrics": [{"criterion": "Is right.", "points": 1, "tags": tags}]}
    check = None if expected is None else {"kind": "answer", "expected": expected}
    assert of(tmp_path, "ruscarl", "check", reward_model=model) == [(check,)]


def entry(**fields):
    return {"rubric": [{**SHORT, **fields}]}


def item(**fields):
    return {"rubrics": [{"criterion": "a", "points": 5, **fields}]}


def truth(**fields):
    return {"ground_truth": fields}


def rule(**tags):
    return {"reward_model": item(tags={"verifier": "rule", **tags})}


@pytest.mark.parametrize(("name", "changes", "message"), [
    ("plain", {"messages": []}, "`prompt` must be given, or `messages`, but not both"),
    ("plain", {"prompt": " "}, "`prompt` must be a non-empty string or list of {role, content}, got ' '"),
    ("plain", {"prompt": ["a"]}, r"`prompt\[0\]` must be a mapping with `role` and `content`, got 'a'"),
    ("plain", {"prompt": [{"role": "user"}]}, r"`prompt\[0\].content` must be a string, got None"),
    ("plain", {"rubric": []}, r"`rubric` must be a non-empty list of criteria, got \[\]"),
    ("plain", {"rubric": SHORT}, "`rubric` must be a non-empty list of criteria, got {"),
    ("plain", {"rubric": "array([{'criterion': 'a'}], dtype=object)"}, "`rubric` must be a non-empty list of criteria, or one as JSON"),
    ("plain", {"rubric": ROWS["biggen"]["score_rubric"] | {"criteria": None}}, "`rubric.criteria` must be given beside the descr"),
    ("plain", {"prompt": '[{"role": "user", "content": "cut off'}, "`prompt` must be a chat that can be read"),
    ("plain", {"prompt": [SYSTEM]}, "`prompt` must be a chat in which a user says something"),
    ("plain", {"prompt": [{"role": "user", "content": []}]}, "`prompt` must be a chat in which a user says something"),
    ("plain", {"prompt": [TURN, ANSWER]}, "`prompt` must be a chat that ends with a turn that awaits a response"),
    ("plain", {"rubric": [3]}, r"`rubric\[0\]` must be a mapping, got 3"),
    ("plain", {"rubric": [" "]}, r"`rubric\[0\]` must be a mapping, got ' '"),
    ("plain", {"rubric": [{"criterion": "a", "importances": 3}]}, r"`rubric\[0\].importances` must be one of name, .*, got"),
    ("plain", {"prompt": IMAGE}, r"`prompt\[0\].content\[0\]` must be a part of text: .*, got 'image_url'"),
    ("plain", {"prompt": f"[{CHAT[0]}\n {CHAT[0]}]"}, "`prompt` must be a chat that can be read: this text looks like one"),
    ("plain", {"prompt": 3}, "`prompt` must be a non-empty string or list of {role, content}, got 3"),
    ("plain", {"prompt": float("nan")}, "`prompt` must be a non-empty string or list of {role, content}, got nan"),
    ("plain", {"answer": float("nan")}, "`answer` must be a string or a number, got nan"),
    ("plain", {"id": ["x"]}, "`id` must be a non-empty string or a whole number"),
    ("plain", {"id": ""}, "`id` must be a non-empty string or a whole number"),
    ("plain", {"answer": [1, 2]}, r"`answer` must be a string or a number, got \[1, 2\]"),
    ("plain", {"rubric": [SHORT, SHORT]}, r"`criteria\[1\].name` must be unique within the rubric"),
    ("plain", entry(points=0), "x.jsonl:1: `points` must be other than zero"),
    ("plain", entry(check={"kind": "exact", "text": "$answer"}), r"`rubric\[0\].check.text` must be used in a row with an `answer`"),
    ("plain", entry(tags=["verifier:math"]), r"x.jsonl:1: `rubric\[0\].tags` must be used in a row with an `answer`, got"),
    ("plain", entry(point=3), r"`rubric\[0\].point` must be one of name, .* \(did you mean `points`\?\), got 'point'"),
    ("plain", entry(points="three"), r"x.jsonl:1: `rubric\[0\].points` must be a finite number, got 'three'"),
    ("plain", entry(points="5 points"), r"`rubric\[0\].points` must be a finite number, got '5 points'"),
    ("plain", entry(points="1_000"), r"`rubric\[0\].points` must be a finite number, got '1_000'"),
    ("plain", entry(points=10**400), r"`rubric\[0\].points` must be a finite number, got 1000"),
    ("plain", {"rubric": [["a", 1e308], ["b", 1e308]]}, "`points` must be of a finite sum"),
    ("infobench", {"input": float("nan")}, "`input` must be a non-empty string, got nan"),
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
    ("healthbench", item(points="nan"), r"`rubrics\[0\].points` must be a finite number, got 'nan'"),
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
    ("ruscarl", {"reward_model": {"rubrics": []}}, r"x.jsonl:1: `reward_model.rubrics` must be a non-empty list of criteria, got \[\]"),
    ("ruscarl", {"reward_model": 3}, "`reward_model.rubrics` must be a non-empty list of criteria, got None"),
    ("if_multi_constraints", truth(instruction_id=["count:count_unique"]), r"\.instruction_id\[0\]` must be one that can be checked"),
    ("rlvr_ifeval", truth(func_name="validate_rhyme"), "`ground_truth.func_name` must be one of verify_keywords, .*, got 'vali"),
    ("rlvr_ifeval", truth(func_name="validate_title", N=1), "`ground_truth` must be with the arguments that validate_title takes"),
    ("rlvr_ifeval", truth(func_name="validate_choice", options="a, b"), "a non-empty list of texts, got 'a, b'"),
    ("prbench", {"rubric": [{"title": "a", "annotations": {"weight_class": "important"}}]}, "important_weight` must be a finite"),
    ("prbench", {"turns": 0}, "`turns` must be at least 1, got 0"),
    ("prbench", {"turns": 2}, "`response_0` must be a non-empty string, got None"),
    ("paperbench", {"rubric": {"sub_tasks": [{"requirements": "a", "weight": 0}]}}, "`rubric.sub_tasks` must be of weights that"),
])  # fmt: skip
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


SHARES = ("ifeval", "if_multi_constraints", "rlvr_ifeval", "biggen", "prometheus", "writingbench", "infobench", "openrubrics")
RANGES = {"rlcf": (0, 100, [0, 0.37, 1]), **dict.fromkeys(SHARES, (1, 1, [0, 1]))}
DEFINED = {"rar": rar, "paperbench": rar, "rlcf": rlcf, **dict.fromkeys(SHARES, ifeval)}


@pytest.mark.parametrize("name", FORMATS)
def test_the_score_is_that_of_the_definition(name):
    dice, (least, most, steps) = random.Random(name), RANGES.get(name, (-10, 10, [0, 0.5, 1]))
    for _ in range(100):
        points = [dice.randint(least, most) for _ in range(dice.randint(1, 8))]
        if not any(points):
            continue
        met = [dice.choice(steps) for _ in points]
        expected = DEFINED.get(name, over_positive)(points, met)
        # not judged: it leaves every sum
        rubric = Rubric(tuple(Criterion(f"c{i}", "", p) for i, p in enumerate([*points, 7])))
        score = FORMATS[name].score(rubric, [*met, None])
        assert score == (None if expected is None else pytest.approx(expected, abs=1e-12)), (points, met)
        assert FORMATS[name].score(rubric, [None] * len(rubric)) is None
    # only the mean over the data set is clipped, and only by some
    clipped = name in ("healthbench", "healthbench_meta", "ruscarl")
    assert FORMATS[name].mean([-1.0, 0.5]) == (0.0 if clipped else -0.25)
    assert math.isclose(FORMATS[name].mean([-0.25, 0.75]), 0.25)
    assert FORMATS[name].mean([]) is None
