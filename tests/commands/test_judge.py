"""The dry run of a judge's server."""

import json

import pytest

from lightning_focal.commands.judge import judge_command
from lightning_focal.servers import ChatUnusable
from tests.judges.faulty_server import asked, completion, http, serving


def by_the_book(prompt):
    said = zip(asked(prompt)[1], ("met", "not_met", "graded"), (None, None, 5), strict=True)
    verdicts = [{"id": id_, "verdict": verdict, "value": value, "reason": "plain"} for (id_, _), verdict, value in said]
    return json.dumps({"verdicts": verdicts})


def test_a_good_server_and_one_that_is_wrong(capsys):
    with serving(reply=by_the_book) as server:
        judge_command(["--check", "--url", server.url, "--model", "judge"])
        assert len(server.requests) == 1
    said = capsys.readouterr().out
    told = ("none is given", "not_met", "1 requests, 0 of them repeated", "200 tokens", "good")
    assert all(words in said for words in (f"server   {server.url} answers (judge)", *told))
    with serving() as server:  # "not met" to all that is not about fruit
        judge_command(["--check", "--url", server.url, "--model", "other"])
    said = capsys.readouterr().out
    assert "other, which is not in the server's list" in said
    assert "not those expected" in said


@pytest.mark.parametrize(("finish_reason", "more", "words"), [
    ("stop", (), "takes no notice of `response_format`"),
    ("length", (), "cut off by the limit of tokens: raise `body.max_tokens`"),
    ("stop", ("--structured=false",), ""),
])  # fmt: skip
def test_a_server_without_verdicts_and_what_may_help(finish_reason, more, words, capsys):
    async def prose(exchange):
        await exchange.send(http(200, completion("The response names Paris.", finish_reason)))

    with serving(prose, when=lambda exchange: True) as server, pytest.raises(SystemExit) as stop:
        judge_command(["--check", f"--url={server.url}", "--model=judge", "--first_wait_s=0.01", *more])
    said = capsys.readouterr().out
    assert stop.value.code == 1
    assert "failed: not every criterion was judged" in said
    assert len(server.requests) == 2  # not the six tries of a run
    assert words in said
    assert ("\nreplies" in said) == bool(words)


def test_of_a_configuration(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-1")
    with serving(reply=by_the_book) as server:
        arguments = {"url": server.url, "model": "small", "key_env": "MY_KEY"}
        judge = {"class_path": "lightning_focal.judges.HTTPJudge", "init_args": arguments}
        routed = {"judge": {"class_path": "RoutedJudge", "init_args": {"other": judge}}}
        (tmp_path / "reward.yaml").write_text(json.dumps({"class_path": "FocalReward", "init_args": routed}), encoding="utf-8")
        (tmp_path / "run.yaml").write_text("seed_everything: 0\nreward: reward.yaml\n", encoding="utf-8")
        judge_command(["--check", "--config", str(tmp_path / "run.yaml")])
        assert server.requests[0]["model"] == "small"
        assert server.headers[-1]["authorization"] == "bearer sk-1"
        assert "$MY_KEY is accepted" in capsys.readouterr().out
        judge_command(["--check", "--config", str(tmp_path / "run.yaml"), "--model", "large", "--temperature", "0.5"])
        assert (server.requests[-1]["model"], server.requests[-1]["temperature"]) == ("large", 0.5)
        arguments["cache"] = str(tmp_path / "none.sqlite")
        (tmp_path / "list.json").write_text(json.dumps([judge, judge]), encoding="utf-8")
        judge_command(["--check", "--config", str(tmp_path / "list.json")])
        assert len(server.requests) == 4
    assert not (tmp_path / "none.sqlite").exists()


def test_what_is_said_at_once():
    with pytest.raises(ChatUnusable, match=r"no server answers at http://127\.0\.0\.1:9/v1 .*is it running"):
        judge_command(["--check", "--url", "http://127.0.0.1:9", "--model", "judge"])
    for fault, words in (("key rejected", "wants a key"), ("model unknown", "knows no model 'judge'.*it offers judge")):
        with serving(fault, when=lambda exchange: True) as server, pytest.raises(ChatUnusable, match=words):
            judge_command(["--check", "--url", server.url, "--model", "judge"])


@pytest.mark.parametrize(("arguments", "error", "words"), [
    (["--url", "http://x", "--model", "m"], ValueError, "`judge` must be told what to do"),
    (["--check"], ValueError, "`--url` must be given"),
    (["--check", "--url", "http://x"], ValueError, "`--model` must be given"),
    (["--check", "--config", "none.yaml"], FileNotFoundError, "`--config` must be an existing file"),
    (["--check", "--config", "rules.yaml"], ValueError, "must name a configuration with an HTTPJudge"),
])  # fmt: skip
def test_arguments_that_do_not_go(arguments, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules.yaml").write_text("reward: FocalReward", encoding="utf-8")
    with pytest.raises(error, match=words):
        judge_command(arguments)
