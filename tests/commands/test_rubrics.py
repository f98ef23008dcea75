"""What `lightning_focal rubrics` says of a file."""

from __future__ import annotations

import json

import pytest

from lightning_focal.commands.rubrics import rubrics_command
from lightning_focal.rubrics import read_rows
from lightning_focal.rubrics.summary import summary_of
from tests.rubrics.test_formats import ROWS

SHORT = {
    "name": "short",
    "description": "At most 3 words.",
    "points": 3,
    "tags": ["axis:brevity"],
    "check": {"kind": "max_words", "words": 3},
}
SHOUTS = {"name": "shouts", "description": "Shouts.", "points": -1, "check": {"kind": "contains", "text": "!"}}
KIND = {"name": "kind", "description": "Is kind, from 1 to 5?", "points": 2, "low": 1, "high": 5, "required": True}


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def run(*args, out):
    """Exit status and what was written."""
    try:
        rubrics_command([*args, f"--json={out}"])
    except SystemExit as ended:
        return ended.code, json.loads(out.read_text())
    return 0, json.loads(out.read_text())


def test_a_good_file(tmp_path, capsys):
    rows = [
        {"id": "a", "prompt": "Q?", "answer": "4", "rubric": [SHORT, SHOUTS, KIND]},
        {"id": "b", "prompt": "R?", "rubric": [SHORT]},
    ]
    status, found = run(write(tmp_path / "x.jsonl", *rows), out=tmp_path / "out.json")
    assert status == 0
    assert (found["format"], found["rows"], found["total_rows"], found["criteria"], found["distinct_criteria"]) == (
        "plain",
        2,
        2,
        4,
        3,
    )
    assert found["criteria_per_row"] == {"min": 1, "mean": 2.0, "max": 3}
    assert found["points_per_row"] == {"min": 3.0, "mean": 4.0, "max": 5.0}
    assert found["points"] == {"sum": 7.0, "positive": 3, "negative": 1, "zero": 0}
    assert found["tags"] == {"axis:brevity": 2}
    assert found["checks"] == {"max_words": 2, "contains": 1}
    assert (found["without_check"], found["graded"], found["required"], found["answers"]) == (1, 1, 1, 1)
    assert found["problems"] == []
    said = capsys.readouterr().out
    assert "1 of 4: kind" in said
    assert "max_words 2, contains 1" in said


def test_every_problem_is_listed(tmp_path, capsys):
    rows = [
        {"id": "a", "prompt": "Q?", "rubric": [SHORT]},
        {"id": "a", "prompt": "Q?", "rubric": [SHORT]},
        {"id": "b", "prompt": "Q?", "rubric": [SHORT, SHORT]},
        {"id": "c", "prompt": "Q?", "rubric": [{**SHORT, "points": "three"}]},
        {"id": "d", "prompt": "Q?", "rubric": [{**SHORT, "check": "max_word"}, {**KIND, "points": 0}]},
        "{",
    ]
    path = write(tmp_path / "x.jsonl", *rows)
    status, found = run(path, out=tmp_path / "out.json")
    assert status == 1
    assert (found["rows"], found["total_rows"]) == (2, 6)
    assert [(problem["kind"], problem["where"]) for problem in found["problems"]] == [
        ("row", f"{path}:2"),
        ("row", f"{path}:3"),
        ("row", f"{path}:4"),
        ("row", f"{path}:6"),
        ("check", f"{path}:5: rubric[0]"),
        ("points", f"{path}:5: rubric[1]"),
    ]
    messages = [problem["message"] for problem in found["problems"]]
    assert messages[0] == f"{path}:2: `id` must be unique in the file (first at {path}:1), got 'a'"
    assert "`criteria[1].name` must be unique within the rubric" in messages[1]
    assert messages[2] == f"{path}:4: `rubric[0].points` must be a finite number, got 'three'"
    assert "`kind` must be a known check, got 'max_word' (did you mean 'max_words'" in messages[4]
    assert "criterion 'kind' has no points" in messages[5]
    assert messages[0] in capsys.readouterr().out


def test_a_rule_that_is_asked_for_and_not_given_is_a_problem(tmp_path):
    criterion = {"criterion": "Is right.", "points": 5, "tags": ["verifier:rule"]}
    row = {"prompt_id": "p", "prompt": [{"role": "user", "content": "Q?"}], "rubrics": [criterion]}
    status, found = run(write(tmp_path / "x.jsonl", row), out=tmp_path / "out.json")
    assert status == 1
    assert "criterion 'is-right' has no `check`: a rule judge needs one" in found["problems"][0]["message"]


def test_nothing_good(tmp_path):
    status, found = run(write(tmp_path / "x.jsonl", {"prompt": "Q?", "rubric": []}), out=tmp_path / "out.json")
    assert (status, found["total_rows"], len(found["problems"])) == (1, 1, 1)
    assert "rows" not in found


def test_few_problems_are_shown(tmp_path, capsys):
    status, _ = run(write(tmp_path / "x.jsonl", *[{"prompt": "", "rubric": [SHORT]}] * 5), "--show=2", out=tmp_path / "out.json")
    said = capsys.readouterr().out
    assert status == 1
    assert said.count("`prompt` must be") == 2
    assert "and 3 more problems: --json writes all" in said


@pytest.mark.parametrize("name", ROWS)
def test_every_format_is_shown(tmp_path, name):
    status, found = run(write(tmp_path / "x.jsonl", ROWS[name]), out=tmp_path / "out.json")
    assert (status, found["format"]) == (0, name)
    assert found["without_check"] == sum(c.check is None for c in read_rows(tmp_path / "x.jsonl")[0].rubric.criteria)


def test_responses_are_scored_by_hand(tmp_path, capsys):
    path = write(tmp_path / "x.jsonl", {"id": "a", "prompt": "Q?", "rubric": [SHORT, SHOUTS, KIND]})
    responses = write(
        tmp_path / "r.jsonl", {"id": "a", "response": "one two!"}, "", {"id": "a", "response": "one two three four"}
    )
    status, found = run(path, "--responses", responses, out=tmp_path / "out.json")
    assert status == 0
    scores = found["scores"]
    first, second = scores["responses"]
    # judged: short (weight 3/6) and shouts (1/6); met 3 - 1 points of 3
    assert first["score"] == pytest.approx(3 / 4)
    assert first["own_score"] == pytest.approx(2 / 3)
    assert first["verdicts"]["shouts"] == {"outcome": "met", "met": 1.0, "score": 0.0, "reason": "'!' occurs"}
    assert first["verdicts"]["kind"] == {"outcome": "not judged", "met": None, "score": None, "reason": ""}
    assert second["score"] == pytest.approx(1 / 4)
    assert second["own_score"] == 0.0
    assert (scores["score"], scores["own_score"]) == (pytest.approx(1 / 2), pytest.approx(1 / 3))
    assert scores["by_tag"] == {"axis:brevity": 0.5}
    assert scores["errors"] == 0
    assert "2 responses, judged by rule" in capsys.readouterr().out


def test_a_failed_check_counts_nowhere(tmp_path):
    failing = {"name": "slow", "check": {"kind": "regex", "pattern": "(a|aa)+$"}}
    path = write(tmp_path / "x.jsonl", {"id": "a", "prompt": "Q?", "rubric": [failing]})
    responses = write(tmp_path / "r.jsonl", {"id": "a", "response": "a" * 60 + "b"})
    _, found = run(path, "--responses", responses, out=tmp_path / "out.json")
    assert (found["scores"]["errors"], found["scores"]["score"], found["scores"]["own_score"]) == (1, None, None)


def test_responses_that_belong_to_no_row_are_problems(tmp_path):
    path = write(
        tmp_path / "x.jsonl",
        {"id": "a", "prompt": "Q?", "rubric": [SHORT]},
        {"id": "bad", "prompt": "Q?", "rubric": [{**SHORT, "check": "x"}]},
    )
    lines = [
        {"id": "z", "response": "a"},
        {"prompt_id": "a", "response": "one"},
        {"id": "a"},
        "{",
        {"id": "bad", "response": "a"},
        3,
    ]
    responses = write(tmp_path / "r.jsonl", *[line if isinstance(line, (str, dict)) else str(line) for line in lines])
    status, found = run(path, "--responses", responses, out=tmp_path / "out.json")
    assert status == 1
    assert [entry["id"] for entry in found["scores"]["responses"]] == ["a"]
    messages = [problem["message"] for problem in found["problems"] if problem["kind"] == "response"]
    assert messages == [
        f"{responses}:1: `id` must be the id of a good rubric row, got 'z'",
        f"{responses}:3: `response` must be a string, got None",
        f"{responses}:4: the line must be JSON (Expecting property name enclosed in double quotes at column 2), got '{{'",
        f"{responses}:5: `id` must be the id of a good rubric row, got 'bad'",
        f"{responses}:6: `response` must be a string, got 3",
    ]


def test_bad_arguments(tmp_path):
    path = write(tmp_path / "x.jsonl", {"id": "a", "prompt": "Q?", "rubric": [SHORT]})
    with pytest.raises(FileNotFoundError, match="`path` must be an existing rubric file"):
        rubrics_command([str(tmp_path / "none.jsonl")])
    with pytest.raises(FileNotFoundError, match="`responses` must be an existing file"):
        rubrics_command([path, "--responses", str(tmp_path / "none.jsonl")])
    with pytest.raises(ValueError, match="`show` must be >= 0, got -1"):
        rubrics_command([path, "--show=-1"])
    with pytest.raises(ValueError, match="`rubric_format` must be one of"):
        rubrics_command([path, "--format=csv"])


def test_summary_counts_what_repeats(tmp_path):
    write(tmp_path / "x.jsonl", *({"prompt": f"{i}?", "rubric": [SHORT]} for i in range(3)))
    assert summary_of(read_rows(tmp_path / "x.jsonl"))["distinct_criteria"] == 1
