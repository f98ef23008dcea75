"""`lightning_focal rephrase`, from the command line to the files: a real server on this machine, a real (tiny) model."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from lightning_focal.commands.rephrase import rephrase_command
from lightning_focal.data import PairDataModule, read_pairs
from lightning_focal.terminal import plain_errors
from tests.commands.writing import lines, server_of
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
    """Run the command; its exit status, what it printed and what it said of errors."""
    monkeypatch.setenv("COLUMNS", "140")

    def call(*extra, source=questions, out=tmp_path / "pairs.jsonl"):
        status = 0
        try:
            with plain_errors():
                rephrase_command([str(source), "--out", str(out), *map(str, extra)])
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err

    return call


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
    def reply(request, number):
        question = question_of(request)
        bad = {
            "What is 0 + 1?": "no markers",
            "What is 1 + 2?": f"<rephrased>{question}</rephrased>",
            "What is 2 + 3?": "<rephrased>What is 2 + 9?</rephrased>",
            "What is 3 + 4?": "<rephrased></rephrased>",
            "What is 4 + 5?": f"<rephrased>{'word ' * 200}4 5</rephrased>",
            "What is 5 + 6?": (200, {}, completion("<rephrased>What is", "length")),
            "What is 6 + 7?": (400, {}, "context length exceeded"),
        }
        return bad.get(question, rephrasing(request))

    with serving(reply) as fake:
        status, said, _ = run(*server_of(fake, "--attempts", 2, "--keep_numbers", "--concurrency", 3))
        assert len(fake.requests) == 6 * 2 + 1 + 5
    assert status == 0
    assert "5 pairs of 12 questions, 7 dropped" in said
    rows = [line.split() for line in said.splitlines()]  # no terminal, no frames
    counts = {row[0]: (int(row[1]), int(row[2])) for row in rows if len(row) > 2 and row[1].isdigit() and row[2].isdigit()}
    twice = ("no_markers", "unchanged", "numbers", "empty", "too_long", "cut_off")
    assert counts == {**dict.fromkeys(twice, (2, 1)), "refused": (1, 1)}
    rejected = lines(tmp_path / "pairs.rejected.jsonl")
    assert [row["id"] for row in rejected] == [f"q{i}" for i in range(7)]
    assert rejected[2]["question"] == "What is 2 + 3?"
    assert rejected[2]["reason"] == "numbers"
    reply = "<rephrased>What is 2 + 9?</rephrased>"
    assert rejected[2]["rejected"][1] == {"reason": "numbers", "detail": "lost 3; new 9", "reply": reply}
    assert "context length exceeded" in rejected[6]["rejected"][0]["detail"]


def test_a_second_call_goes_on(run, tmp_path):
    with serving(rephrasing) as fake:
        assert run(*server_of(fake, "--limit", 5))[0] == 0
        assert len(lines(tmp_path / "pairs.jsonl")) == 5
        _, said, _ = run(*server_of(fake, "--limit", 9, "--concurrency", 1))
        assert "5 of 9 questions are finished" in said
        assert len(fake.requests) == 9
        (tmp_path / "pairs.jsonl").unlink()  # made anew from the journal
        assert run(*server_of(fake))[0] == 0
        assert run(*server_of(fake))[0] == 0
        assert len(fake.requests) == COUNT
        assert len({question_of(request) for request in fake.requests}) == COUNT
    assert len(lines(tmp_path / "pairs.jsonl")) == COUNT


def test_other_settings_or_another_input_are_refused(run, tmp_path, questions):
    with serving(rephrasing) as fake:
        run(*server_of(fake, "--limit", 2))
        before = (tmp_path / "pairs.jsonl").read_bytes()
        status, _, error = run(*server_of(fake, "--temperature", 1.0, "--keep_numbers"))
        assert status == 1
        assert "pairs.journal.jsonl was begun with keep_numbers false, now it is true; temperature 0.7, now it is 1.0" in error
        questions.write_text(questions.read_text().replace("What", "Who"))
        assert "was begun with input sha256" in run(*server_of(fake))[2]
        (tmp_path / "pairs.journal.jsonl").unlink()
        status, _, error = run(*server_of(fake))
        assert status == 1
        assert "exists, and no pairs.journal.jsonl beside it says what it was made from: name another file" in error
        assert len(fake.requests) == 2
    assert (tmp_path / "pairs.jsonl").read_bytes() == before


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


@pytest.mark.parametrize(("first", "models", "message"), [
    ((401, {}, "bad key sk-12345-secret"), ("tiny",), "rejects the key in 'SOME_KEY'"),
    ((404, {}, "no such model"), ("other",), "it offers other"),
    (None, ("tiny",), "no server answers at http://127.0.0.1:"),
], ids=["key", "model", "nobody"])  # fmt: skip
def test_what_ends_it_at_once(run, tmp_path, monkeypatch, first, models, message):
    monkeypatch.setenv("SOME_KEY", "sk-12345-secret")
    with serving([first], models=models) as fake:
        options = server_of(fake, "--key_env", "SOME_KEY", "--concurrency", 1)
        if first:
            status, said, error = run(*options)
            assert len(fake.requests) == 1
    if not first:
        status, said, error = run(*options)
    assert status == 1
    assert message in error
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


def test_a_local_model_whose_replies_are_rubbish(run, tmp_path):
    tiny = "random:tiny-llama?hidden=32&layers=1&std=0.5"
    status, said, _ = run("--policy", tiny, "--max_tokens", 16, "--attempts", 2, "--concurrency", 5)
    assert status == 1
    assert "0 pairs of 12 questions, 12 dropped" in said
    assert "no pair was made: look at the replies that were rejected" in said
    rejected = lines(tmp_path / "pairs.rejected.jsonl")
    assert len(rejected) == COUNT
    assert {one["reason"] for row in rejected for one in row["rejected"]} <= {"no_markers", "cut_off"}
    replies = [[one["reply"] for one in row["rejected"]] for row in rejected]
    assert all(first != second for first, second in replies)  # another attempt is another draw
    status, said, _ = run("--policy", tiny, "--max_tokens", 16, "--attempts", 2, "--concurrency", 5)
    assert status == 1
    assert "12 of 12 questions are finished" in said


def test_a_local_model_repeats_itself_and_has_a_context(run, tmp_path, questions):
    long = {"id": "long", "question": "1 + " * 600 + "1?"}
    questions.write_text(json.dumps(long) + "\n" + questions.read_text())
    tiny, replies = "random:tiny-llama?hidden=32&layers=1", []
    for name, size in (("a", 1), ("b", 12)):
        run("--policy", tiny, "--max_tokens", 8, "--concurrency", size, "--limit", 5, out=tmp_path / f"{name}.jsonl")
        replies.append(lines(tmp_path / f"{name}.rejected.jsonl"))
    assert replies[0] == replies[1]
    assert len(replies[0]) == 5
    assert replies[0][0]["reason"] == "refused"
    assert "the model's context is 2048" in replies[0][0]["rejected"][0]["detail"]


@pytest.fixture
def begun(tmp_path, questions):
    """Start the command in a process of its own, send it a signal in the middle, and return how it ended and what it said."""
    code = "import sys; from lightning_focal.commands.rephrase import rephrase_command; rephrase_command(sys.argv[1:])"
    journal = tmp_path / "pairs.journal.jsonl"

    def slow(request, number):
        time.sleep(0.3 if number < 5 else 3)
        return rephrasing(request)

    def start(number):
        with serving(slow) as fake:
            options = server_of(fake, "--concurrency", "2")
            command = [sys.executable, "-c", code, str(questions), "--out", str(tmp_path / "pairs.jsonl"), *options]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
            try:
                until = time.monotonic() + 120
                while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
                    assert process.poll() is None, process.communicate()
                    assert time.monotonic() < until
                    time.sleep(0.02)
                process.send_signal(number)
                said, error = process.communicate(timeout=60)
            finally:
                process.kill()
        return process.returncode, said, error

    return start


def test_killed_in_the_middle(run, tmp_path, begun):
    """`kill -9` while requests are under way; the next call does what is left, and that alone."""
    out, journal = tmp_path / "pairs.jsonl", tmp_path / "pairs.journal.jsonl"
    assert begun(signal.SIGKILL)[0] == -signal.SIGKILL
    finished = {row["id"] for row in lines(journal)[1:]}
    assert 3 <= len(finished) < COUNT
    assert not out.exists()
    with journal.open("ab") as file:
        file.write(b'{"id": "q11", "rephra')  # as if it had died in the middle of a line
    with serving(rephrasing) as fake:
        status, said, _ = run(*server_of(fake, "--concurrency", "2"))
        asked = {question_of(request) for request in fake.requests}
        assert len(fake.requests) == len(asked) == COUNT - len(finished)
    assert status == 0
    assert "cut off a torn last line" in said
    assert asked == {f"What is {i} + {i + 1}?" for i in range(COUNT) if f"q{i}" not in finished}
    assert [row.id for row in read_pairs(out)] == [f"q{i}" for i in range(COUNT)]


def test_interrupted_by_hand(run, tmp_path, begun):
    status, said, error = begun(signal.SIGINT)
    assert status == 130
    assert "Traceback" not in error
    assert "destroyed" not in error
    finished = len(lines(tmp_path / "pairs.jsonl"))
    assert f"{finished} pairs of {COUNT} questions, 0 dropped" in said
    assert f"{COUNT - finished} questions are not finished: the same command goes on with them" in said
    with serving(rephrasing) as fake:
        assert run(*server_of(fake))[0] == 0
        assert len(fake.requests) == COUNT - finished
    assert len(lines(tmp_path / "pairs.jsonl")) == COUNT
