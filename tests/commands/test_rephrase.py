"""`lightning_focal rephrase`, from the command line to the files: a real server on this machine, a real (tiny) model."""

import gc
import json
import os
import signal
import time

import pytest

from lightning_focal.commands.rephrase import rephrase_command
from lightning_focal.data import PairDataModule
from tests.commands.writing import caller, lines, server_of
from tests.servers.fake import completion, serving

COUNT = 12


def question_of(request):
    return request["messages"][0]["content"].rpartition("<question>\n")[2].removesuffix("\n</question>")


def new_words(question):
    return f"Ann asks: {question}"


def rephrasing(request, number=0):
    return f"Here it is.\n<rephrased>{new_words(question_of(request))}</rephrased>"


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"id": f"q{i}", "question": f"What is {i} + {i + 1}?", "answer": 2 * i + 1, "level": i % 3} for i in range(COUNT)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(tmp_path, questions, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    return caller(rephrase_command, [], capsys, questions, tmp_path / "pairs.jsonl")


def test_questions_in_pairs_out(run, tmp_path, questions):
    with serving(rephrasing) as fake:
        status, said, _ = run(*server_of(fake, "--keep_numbers"))
    assert status == 0
    assert f"{COUNT} pairs of {COUNT} questions, 0 dropped" in said
    written = lines(tmp_path / "pairs.jsonl")
    assert [row["id"] for row in written] == [f"q{i}" for i in range(COUNT)]
    texts = {"question": "What is 3 + 4?", "rephrased": "Ann asks: What is 3 + 4?"}
    assert written[3] == {"id": "q3", **texts, "answer": "7", "level": 0}
    assert lines(tmp_path / "pairs.rejected.jsonl") == []
    assert fake.requests[0] | {"messages": None} == {"model": "tiny", "messages": None, "temperature": 0.7, "max_tokens": 1024}
    data = PairDataModule(train=str(tmp_path / "pairs.jsonl"), val=str(questions), batch_size=COUNT, shuffle=False)
    data.setup("fit")
    assert len(next(iter(data.train_dataloader()))) == 2 * COUNT


def test_the_file_is_in_input_order_whatever_comes_first_and_fails(run, tmp_path):
    script = {1: (500, {}, "boom"), 2: (429, {"Retry-After": "0"}, "slow down"), 3: (200, {}, "{broken"), 5: (200, {}, "{}")}

    def reply(request, number):
        time.sleep(0.2 if number % 4 == 0 else 0)
        return script.get(number) or rephrasing(request)

    with serving(reply) as fake:
        status, said, _ = run(*server_of(fake, "--concurrency", 4))
        assert 1 < fake.most_at_once <= 4
        assert len(fake.requests) == COUNT + len(script)
    assert status == 0
    assert f"{COUNT} pairs of {COUNT} questions, 0 dropped" in said
    finished = [row["id"] for row in lines(tmp_path / "pairs.journal.jsonl")[1:]]
    assert sorted(finished) != finished
    assert [row["id"] for row in lines(tmp_path / "pairs.jsonl")] == [f"q{i}" for i in range(COUNT)]


def test_rejects_are_counted_and_listed(run, tmp_path):
    """Three of the reasons; all of them: tests/rephrasing/test_checks.py."""
    bad = {
        "What is 0 + 1?": "<rephrased>What is 0 + 9?</rephrased>",
        "What is 1 + 2?": (200, {}, completion("<rephrased>What is", "length")),
        "What is 2 + 3?": (400, {}, "context length exceeded"),
    }
    with serving(lambda request, number: bad.get(question_of(request), rephrasing(request))) as fake:
        status, said, _ = run(*server_of(fake, "--attempts", 2, "--keep_numbers", "--concurrency", 3))
        assert len(fake.requests) == 2 * 2 + 1 + 9
    assert status == 0
    assert "9 pairs of 12 questions, 3 dropped" in said
    rows = [line.split() for line in said.splitlines()]  # no terminal, no frames
    counts = {row[0]: (int(row[1]), int(row[2])) for row in rows if len(row) > 2 and row[1].isdigit() and row[2].isdigit()}
    assert counts == {"numbers": (2, 1), "cut_off": (2, 1), "refused": (1, 1)}
    first, _, third = lines(tmp_path / "pairs.rejected.jsonl")
    assert (first["id"], first["question"], first["reason"]) == ("q0", "What is 0 + 1?", "numbers")
    reply = bad["What is 0 + 1?"]
    assert first["rejected"][1] == {"reason": "numbers", "detail": "lost 1; new 9", "reply": reply}
    assert "context length exceeded" in third["rejected"][0]["detail"]


def test_a_second_call_goes_on_with_the_same_input_and_settings(run, tmp_path, questions):
    out, journal = tmp_path / "pairs.jsonl", tmp_path / "pairs.journal.jsonl"
    with serving(rephrasing) as fake:
        assert run(*server_of(fake, "--limit", 5))[0] == 0
        assert len(lines(out)) == 5
        with journal.open("ab") as file:
            file.write(b'{"id": "q11", "rephra')  # as if it had been killed in the middle of a line
        _, said, _ = run(*server_of(fake, "--limit", 9, "--concurrency", 1))
        assert "5 of 9 questions are finished" in said
        assert "cut off a torn last line" in said
        assert len(fake.requests) == 9
        status, _, error = run(*server_of(fake, "--temperature", 1.0, "--keep_numbers"))
        assert status == 1
        assert "pairs.journal.jsonl was begun with keep_numbers false, now it is true; temperature 0.7, now it is 1.0" in error
        out.unlink()  # made anew from the journal
        assert run(*server_of(fake))[0] == run(*server_of(fake))[0] == 0
        assert len({question_of(request) for request in fake.requests}) == len(fake.requests) == COUNT
        before = out.read_bytes()
        assert [row["id"] for row in lines(out)] == [f"q{i}" for i in range(COUNT)]
        questions.write_text(questions.read_text().replace("What", "Who"))
        assert "was begun with input sha256" in run(*server_of(fake))[2]
        journal.unlink()
        status, _, error = run(*server_of(fake))
        assert status == 1
        assert "exists, and no pairs.journal.jsonl beside it says what it was made from: name another file" in error
        assert len(fake.requests) == COUNT
    assert out.read_bytes() == before


def test_a_server_that_dies_leaves_what_is_finished(run, tmp_path):
    def reply(request, number):
        return rephrasing(request) if number < 5 else (503, {"Retry-After": "600"}, "overloaded")

    with serving(reply) as fake:
        status, said, error = run(*server_of(fake, "--concurrency", 1))
        assert status == 1
        assert "5 pairs of 12 questions, 0 dropped, 3 without a reply" in said
        assert "asks to wait 600 s: overloaded" in error
    assert len(lines(tmp_path / "pairs.jsonl")) == 5
    with serving(rephrasing) as fake:  # at another address
        status, said, _ = run(*server_of(fake))
        assert len(fake.requests) == COUNT - 5
    assert status == 0
    assert len(lines(tmp_path / "pairs.jsonl")) == COUNT


def test_a_rejected_key_ends_it_at_once_and_is_told_nowhere(run, tmp_path, monkeypatch):
    """What else is told of servers: test_judge.py."""
    monkeypatch.setenv("SOME_KEY", "sk-12345-secret")
    with serving([(401, {}, "bad key sk-12345-secret")]) as fake:
        status, said, error = run(*server_of(fake, "--key_env", "SOME_KEY", "--concurrency", 1))
        assert len(fake.requests) == 1
    assert status == 1
    assert "rejects the key in 'SOME_KEY'" in error
    assert not (tmp_path / "pairs.jsonl").exists()
    assert "sk-12345" not in said + error + "".join(path.read_text() for path in tmp_path.iterdir())


def test_an_instruction_and_further_parameters(run, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("Translate {question} <rephrased></rephrased>")
    with serving(lambda request, number: "<rephrased>otherwise</rephrased>") as fake:
        status, _, _ = run(*server_of(fake, "--instruction", mine, "--body", "{top_p: 0.9}", "--seed", 3, "--max_tokens", "null"))
        first = next(r for r in fake.requests if "0 + 1" in r["messages"][0]["content"])
    assert status == 0
    assert first["messages"][0]["content"] == "Translate What is 0 + 1? <rephrased></rephrased>"
    assert first["top_p"] == 0.9
    assert isinstance(first["seed"], int)
    assert "max_tokens" not in first


@pytest.mark.parametrize(("extra", "message"), [
    ((), "write either `--server URL --model NAME` or `--policy SOURCE`"),
    (("--server", "http://h"), "`--server` needs `--model`"),
    (("--policy", "p", "--model", "m"), "`--model` is for a server, got 'm' together with `--policy`"),
    (("--policy", "p", "--max_tokens", "null"), "`--max_tokens` must be a number for a local model"),
    (("--policy", "p", "--attempts", "0"), "`--attempts` must be >= 1, got 0"),
    (("--policy", "p", "--temperature", "-1"), "`--temperature` must be finite and >= 0, got -1.0"),
    (("--policy", "p", "--longest", "0"), "`longest` must be > 0, got 0.0"),
    (("--policy", "p", "--instruction", "nowhere.txt"), "`instruction` must name an existing file, got 'nowhere.txt'"),
    (("--policy", "p", "--on_bad_row", "ignore"), "`on_bad_row` must be 'error' or 'skip', got 'ignore'"),
    (("--policy", "no-such-folder/x/y"), "does not exist"),
    (("--server", "http://h", "--model", "m", "--body", "{model: x}"), "`--body` must hold further parameters, got 'model'"),
    (("--server", "h", "--model", "m"), "`url` must be the address of an API"),
])  # fmt: skip
def test_arguments(run, tmp_path, extra, message):
    status, _, error = run(*extra)
    assert status == 1
    assert message in error
    assert not (tmp_path / "pairs.jsonl").exists()


def test_input_and_output_are_checked(run, tmp_path, questions):
    policy = ("--policy", "random:tiny-llama")
    assert "`input` must be an existing file, got 'nowhere.jsonl'" in run(*policy, source="nowhere.jsonl")[2]
    assert "`--out` must end in .jsonl" in run(*policy, out=tmp_path / "pairs.parquet")[2]
    assert "`--out` must not be the input" in run(*policy, out=questions)[2]
    questions.write_text('{"text": "?"}\n')
    assert "questions.jsonl:1: the row must be in a known layout" in run(*policy)[2]


def test_a_local_model_repeats_itself_has_a_context_and_may_write_rubbish(run, tmp_path, questions):
    questions.write_text(json.dumps({"id": "long", "question": "1 + " * 600 + "1?"}) + "\n" + questions.read_text())
    tiny = ("--policy", "random:tiny-llama?hidden=32&layers=1&std=0.5", "--max_tokens", 16, "--attempts", 2, "--limit", 5)
    for name, size in (("a", 1), ("b", 12)):
        status, said, _ = run(*tiny, "--concurrency", size, out=tmp_path / f"{name}.jsonl")
        assert status == 1
        assert "0 pairs of 5 questions, 5 dropped" in said
        assert "no pair was made: look at the replies that were rejected" in said
    rejected = lines(tmp_path / "a.rejected.jsonl")
    assert rejected == lines(tmp_path / "b.rejected.jsonl")
    assert rejected[0]["reason"] == "refused"
    assert "the model's context is 2048" in rejected[0]["rejected"][0]["detail"]
    assert len(rejected) == 5
    assert {one["reason"] for row in rejected[1:] for one in row["rejected"]} <= {"no_markers", "cut_off"}
    replies = [[one["reply"] for one in row["rejected"]] for row in rejected[1:]]
    assert all(first != second for first, second in replies)  # another attempt is another draw
    status, said, _ = run(*tiny, out=tmp_path / "a.jsonl")
    assert (status, "5 of 5 questions are finished" in said) == (1, True)


def test_interrupted_by_hand(run, tmp_path, caplog):
    def reply(request, number):
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0 if number < 5 else 0.5)
        return rephrasing(request)

    with serving(reply) as fake:
        status, said, error = run(*server_of(fake, "--concurrency", "2"))
    gc.collect()  # what was left undone would speak up now
    assert status == 130
    assert "destroyed" not in error + caplog.text
    finished = len(lines(tmp_path / "pairs.jsonl"))
    assert 3 <= finished < COUNT
    assert f"{finished} pairs of {COUNT} questions, 0 dropped" in said
    assert f"{COUNT - finished} questions are not finished: the same command goes on with them" in said
    with serving(rephrasing) as fake:
        assert run(*server_of(fake))[0] == 0
        assert len(fake.requests) == COUNT - finished
    assert len(lines(tmp_path / "pairs.jsonl")) == COUNT
