"""Rollouts and figures, packed and unpacked."""

import base64
import json
import math
import zlib

from lightning_focal.report.pack import deflated, pack_rollouts, packed_json
from lightning_focal.report.run import read_run
from tests.report.made_run import make_run


def unpacked(text):
    return zlib.decompress(base64.b64decode(text)).decode()


def test_there_and_back():
    assert unpacked(deflated("tea ☕ </script>\u2028")) == "tea ☕ </script>\u2028"
    assert set(deflated("<>&'\"" * 99)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")


def test_json_has_no_nan_and_keeps_half_surrogates():
    content = json.loads(unpacked(packed_json({"a": [math.nan, math.inf, 0.5], "b": "\ud800", "c": (1,)})))
    assert content == {"a": [None, None, 0.5], "b": "\ud800", "c": [1]}


def test_every_rollout_comes_back(tmp_path):
    rows = read_run(make_run(tmp_path, batches=4), rollouts=1000).train.rows
    packed = json.loads(unpacked(packed_json(pack_rollouts([("focal", rows)]))))
    letters = {"m": 1.0, "n": 0.0, "f": None, "-": None}
    for i, row in enumerate(rows):
        run, stage, batch, prompt, rubric, weights, saturation, prior = packed["groups"][packed["group"][i]]
        assert (packed["runs"][run], stage, batch, packed["text"][i]) == ("focal", "train", row["batch"], row["response"])
        assert packed["prompts"][prompt] == [[m["role"], m["content"]] for m in row["messages"]]
        assert [name for name, _, _ in packed["rubrics"][rubric]] == [c["name"] for c in row["criteria"]]
        assert [letters[letter] for letter in packed["outcome"][i]] == [c["score"] for c in row["criteria"]]
        assert [packed["reasons"][at] for at in packed["reason"][i]] == [c["reason"] for c in row["criteria"]]
        for found, name in ((weights, "weight"), (saturation, "saturation"), (prior, "prior_weight")):
            assert all(abs(a - c[name]) < 1e-4 for a, c in zip(found, row["criteria"], strict=True))
        assert packed["change"][i] == row["rank_change"]
    failed = sum(c["outcome"] == "error" for row in rows for c in row["criteria"])
    assert sum(given.count("f") for given in packed["outcome"]) == failed
    assert len(packed["rubrics"]) == 1  # kept once


def test_grades_and_faults():
    def criterion(score, outcome):
        return {
            "name": "c",
            "tags": None,
            "score": score,
            "outcome": outcome,
            "reason": None,
            "weight": 1.0,
            "saturation": None,
            "prior_weight": 1.0,
        }

    row = {
        "stage": "train",
        "batch": 0,
        "rollout": 0,
        "response": None,
        "messages": None,
        "reward": math.nan,
        "static_reward": None,
    }
    row |= {
        "rank_change": None,
        "criteria": [criterion(0.25, "graded"), criterion(0.0, "met"), criterion(1.0, "not_met"), criterion(math.nan, "")],
    }
    packed = pack_rollouts([("run", [row])])
    assert packed["outcome"] == ["pnm-"]
    assert packed["score"] == [{0: 0.25}]
    assert packed["fault"] == [[1]]
    assert (packed["reward"], packed["text"]) == ([None], [""])


def test_nothing():
    assert pack_rollouts([])["group"] == []
