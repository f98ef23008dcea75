"""The report as a file: what is in it, what it survives, and that nobody's text becomes markup."""

import base64
import json
import math
import random
import re
import string
import zlib
from html.parser import HTMLParser

import pytest
import yaml

from lightning_focal.report import write_report
from lightning_focal.report.page import pack_rollouts, packed
from lightning_focal.report.run import read_run
from tests.report.made_run import NINE, make_run


def unpacked(text):
    return json.loads(zlib.decompress(base64.b64decode(text)))


class Page(HTMLParser):
    """Tags, scripts and text of a page."""

    def __init__(self, written):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.packed, self._open = [], "", {}, None
        self.feed(written.path.read_text(encoding="utf-8"))
        self.sections = [attributes["id"] for tag, attributes in self.tags if tag == "section"]
        self.figures = {figure["name"]: figure["views"] for figure in self.unpacked("figures")["all"]}

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = dict(attributes).get("id") if tag == "script" else None

    def handle_data(self, data):
        if self._open:
            self.packed[self._open] = self.packed.get(self._open, "") + data
        else:
            self.text += data

    def unpacked(self, name):
        return unpacked(self.packed[f"packed-{name}"])


@pytest.fixture(scope="module")
def focal(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "focal", batches=6)


@pytest.fixture(scope="module")
def page(focal, tmp_path_factory):
    return Page(write_report([focal], tmp_path_factory.mktemp("page") / "r.html"))


def note(folder, **start):
    """Write what ``run.json`` says of a start."""
    (folder / "run.json").write_text(json.dumps({"starts": [start]}), encoding="ascii")


def test_one_file_in_the_run_folder(focal, tmp_path):
    written = write_report([focal])
    assert written.path == focal / "report.html"
    assert written.size == written.path.stat().st_size < 1_000_000
    assert list(focal.glob(".report*")) == []
    again = write_report([focal, focal], tmp_path / "r.html")  # named twice, it counts once
    assert again.path.read_bytes() == written.path.read_bytes()


def test_sections_figures_and_tables(focal, page):
    figures = ["criteria", "levels", "shares", "balance", "theory", "health"]
    assert page.sections == ["verdict", *figures, "numbers", "rollouts", "repeat"]
    assert list(page.figures) == figures
    for views in page.figures.values():
        for view in views:
            curves = [curve["y"] for panel in view.get("panels", ()) for curve in panel["curves"]]
            assert all(any(value is not None for value in y) for y in curves) if curves else view["rows"]
    assert {view["choice"][1] for view in page.figures["levels"]} == {"criterion", "criterion name", "tag “level”"}
    assert len(page.unpacked("rollouts")["text"]) == 6 * 2 * 4 + 2 * 4 * 4
    assert f"lightning_focal fit --config {focal}/config.yaml --run_dir {focal}-again" in page.text
    assert "not recorded by this run" in page.text
    assert sum(a.get("class") == "warnings" for _, a in page.tags) == 2  # those of a browser that cannot draw, hidden


def test_nothing_points_outside(page):
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "action", "data"} & set(attributes), tag
        assert attributes.get("href", "#").startswith("#")
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "http" not in policy


EVIL = (
    '</script><script>document.title="gone"</script><img src=x onerror="document.title=1"> " \' & \u2028 {{ 7*7 }} {% raw %} \x00'
)


def test_text_of_others_stays_text(tmp_path):
    criteria = [(EVIL, (f"axis:{EVIL}", f"{EVIL}:1")), ("</style>", ())]
    folder = make_run(tmp_path / "<b>run&", batches=2, criteria=criteria, say=lambda *_: EVIL)
    with open(folder / "config.yaml", "a", encoding="utf-8") as file:
        file.write("note: '</pre><script>1</script>'\n")
    note(folder, command=EVIL, device=EVIL, version="<i>")
    written = write_report([folder])
    page = Page(written)
    assert [tag for tag, _ in page.tags].count("script") == 8
    assert not [tag for tag, _ in page.tags if tag in ("img", "b", "i")]
    assert "{{ 7*7 }}" in page.text  # not 49
    rollouts = page.unpacked("rollouts")
    assert rollouts["text"][0] == rollouts["rubrics"][0][0][0] == EVIL
    raw = written.path.read_text(encoding="utf-8")
    assert raw.count("</script>") == raw.count("<script") == 8


def test_half_of_a_surrogate_pair_and_values_that_are_no_numbers(tmp_path):
    odd = {"train/policy/kl": math.nan, "train/vote/share": math.inf}
    folder = make_run(tmp_path / "run", batches=2, extra=lambda batch: odd)
    held_out = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))
    for part in ("scores", "measures"):
        held_out["evaluations"][1][part] = dict.fromkeys(held_out["evaluations"][1][part])
    (folder / "held_out.json").write_text(json.dumps(held_out), encoding="utf-8")
    with open(folder / "config.yaml", "a", encoding="utf-8") as file:
        file.write('seed_everything: "\\ud800"\n')
    note(folder, command="fit \ud800", device="cpu")
    raw = write_report([folder]).path.read_bytes().decode("utf-8")
    assert "nan" not in re.sub(r"<(script|style).*?</\1>", "", raw, flags=re.DOTALL).lower()


CUT = {
    "without held-out prompts": {"evaluations": ()},
    "cut off in the middle, one rollout a prompt, empty responses": {"evaluations": (0,), "group": 1, "say": lambda *_: ""},
    "without rollouts": {"rollouts": False},
    "a single criterion, one batch": {"criteria": NINE[:1], "batches": 1},
    "64 criteria": {"criteria": [(f"criterion {i}", (f"axis:{i}",)) for i in range(64)]},
    "no batch": {"batches": 0, "evaluations": (0,)},
}


@pytest.mark.parametrize("kind", CUT)
def test_runs_that_are_not_whole(tmp_path, kind):
    written = write_report([make_run(tmp_path / "run", **{"batches": 2, **CUT[kind]})])
    page = Page(written)
    assert len(written.verdict) >= 2
    assert all(view.get("panels") or view.get("rows") for views in page.figures.values() for view in views)
    assert ("rollouts" in page.sections) == (kind != "without rollouts")


def test_what_is_wrong_is_a_warning(folder, tmp_path):
    path = folder / "rollouts" / "train-000002-r0.parquet"
    path.write_bytes(path.read_bytes()[:100])
    (folder / "run.json").write_text("{", encoding="utf-8")
    written = write_report([folder])
    page = Page(written)
    assert any("train-000002-r0.parquet cannot be read" in note for note in written.notes)
    assert "train-000002-r0.parquet cannot be read" in page.text
    assert sum(a.get("class") == "warnings" for _, a in page.tags) == 3
    assert "2 warnings\n" in page.text
    parting = make_run(
        tmp_path / "parts", held_out=12, batches=3, say=lambda *_: "x", second=lambda batch, score: 0.5 - batch / 10
    )
    said = "the judges part: from batch 0 to 3 the held-out score changed by +"
    assert said in Page(write_report([parting])).text
    assert said in write_report([parting, folder], tmp_path / "r.html").notes[0]


def test_several_runs_side_by_side(tmp_path):
    folders = [make_run(tmp_path / f"focal{seed}", seed=seed) for seed in range(3)]
    folders += [make_run(tmp_path / f"static{seed}", seed=seed, strategy="StaticReward") for seed in range(3)]
    page = Page(write_report(folders))
    assert page.sections[:3] == ["verdict", "methods", "criteria"]
    titles = [f"{m}Reward, seed {s}" for m in ("Focal", "Static") for s in range(3)]
    assert page.unpacked("figures")["shows"] == ["methods (means)", "every run", *titles]
    means = [view for view in page.figures["levels"] if view["choice"][0] == "methods (means)"]
    assert [view["choice"][2] for view in means] == ["score", "saturation", "saturation minus score", "weight"]
    assert all({c["name"] for c in panel["curves"]} == {"FocalReward", "StaticReward"} for v in means for panel in v["panels"])
    assert page.unpacked("rollouts")["runs"] == titles


def test_the_title_names_model_data_and_date(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["data"] = {"class_path": "x.Data", "init_args": {"train": "/home/me/data/everyday/train.jsonl"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    note(folder, date="2026-11-29T16:20:09+00:00", ended=True)
    assert "FocalReward · random:tiny-llama · data/everyday/train.jsonl · 2026-11-29 · run" in Page(write_report([folder])).text


def test_runs_of_different_criteria(tmp_path):
    one = make_run(tmp_path / "a", batches=2, criteria=NINE[:3])
    other = make_run(tmp_path / "b", batches=2, criteria=[("else", ()), ("more", ("axis:more",))], strategy="StaticReward")
    page = Page(write_report([one, other, make_run(tmp_path / "c", batches=2, evaluations=(), gamma=3.0)]))
    head = page.text[page.text.index("Criteria in numbers") :]
    assert re.search(r"brevity.*else.*more", head, re.DOTALL)


def test_fewer_rollouts(focal, tmp_path):
    written = write_report([focal], tmp_path / "r.html", rollouts=16)
    page = Page(written)
    assert len(page.unpacked("rollouts")["text"]) == 16 + 32
    assert "48 of 80 recorded rollouts are in this file" in written.notes[0]
    assert "48 of 80 recorded rollouts" in page.text
    assert sum(a.get("class") == "warnings" for _, a in page.tags) == 2  # nothing is wrong with that
    assert "packed-rollouts" not in Page(write_report([focal], tmp_path / "r.html", rollouts=0)).packed


def test_the_file_stays_below_its_limit(tmp_path):
    dice, letters = random.Random(0), string.ascii_letters + string.digits
    folder = make_run(tmp_path / "run", batches=8, say=lambda *_: "".join(dice.choices(letters, k=15_000)))
    assert write_report([folder], limit=1e9).size > 1_400_000
    less = write_report([folder], limit=1.3e6)
    assert less.size < 1_300_000
    assert "recorded rollouts are in this file" in less.notes[-1]
    assert {0, 7} <= {group[2] for group in Page(less).unpacked("rollouts")["groups"] if group[1] == "train"}


def test_resumed_and_unfinished_runs_say_so(folder):
    starts = [
        {"command": "lightning_focal fit --a=1", "commit": "abc", "ended": False},
        {"command": "fit again", "commit": "def"},
    ]
    (folder / "run.json").write_text(json.dumps({"starts": starts}))
    text, resumed = Page(write_report([folder])).text, ("the run did not come to its end", "2: the run was resumed")
    assert all(words in text for words in ("lightning_focal fit --a=1\nfit again", "abc, def", *resumed))


def test_errors_leave_what_was_there(tmp_path, folder):
    with pytest.raises(ValueError, match="`rollouts` must be >= 0, got -1"):
        write_report([folder], rollouts=-1)
    with pytest.raises(ValueError, match="`runs` must name at least one run folder"):
        write_report([])
    before = write_report([folder]).path.read_bytes()
    with pytest.raises(ValueError, match="must be a run folder"):
        write_report([folder, tmp_path / "nothing"])
    assert (folder / "report.html").read_bytes() == before


# -- what is packed --------------------------------------------------------------------------------------------------------------


def test_there_and_back():
    odd = "tea ☕ </script>\u2028 \ud800"
    text = packed({"a": [math.nan, math.inf, 0.5, 1 / 3], "b": odd, "c": (1,)})
    assert unpacked(text) == {"a": [None, None, 0.5, 0.33333], "b": odd, "c": [1]}
    assert re.fullmatch("[A-Za-z0-9+/=]+", text)


def test_every_rollout_comes_back(focal):
    rows = read_run(focal, rollouts=1000).train.rows
    found = unpacked(packed(pack_rollouts([("focal", rows)])))
    letters = {"m": 1.0, "n": 0.0, "f": None, "-": None}
    for i, row in enumerate(rows):
        run, stage, batch, prompt, rubric, *levels = found["groups"][found["group"][i]]
        assert (found["runs"][run], stage, batch, found["text"][i]) == ("focal", "train", row["batch"], row["response"])
        assert found["prompts"][prompt] == [[m["role"], m["content"]] for m in row["messages"]]
        assert [name for name, _, _ in found["rubrics"][rubric]] == [c["name"] for c in row["criteria"]]
        assert [letters[letter] for letter in found["outcome"][i]] == [c["score"] for c in row["criteria"]]
        assert [found["reasons"][at] for at in found["reason"][i]] == [c["reason"] for c in row["criteria"]]
        for values, name in zip(levels, ("weight", "saturation", "prior_weight"), strict=True):
            assert values == pytest.approx([c[name] for c in row["criteria"]], abs=1e-4)
        assert found["change"][i] == row["rank_change"]
    failed = sum(c["outcome"] == "error" for row in rows for c in row["criteria"])
    assert sum(given.count("f") for given in found["outcome"]) == failed
    assert len(found["rubrics"]) == 1  # kept once


def test_thoughts_and_turns_are_told_apart_as_they_were_recorded():
    row = {"stage": "train", "batch": 0, "rollout": 0, "messages": None, "reward": 0.0, "static_reward": 0.0, "rank_change": 0}
    row["criteria"] = []
    cases = [("<think>a</think>b", "a"), ("<think>a", "a"), ("<think>a</think>b", None), ("b", None), ("<think>a</think>b", ...)]
    rows = [{**row, "response": text, **({} if t is ... else {"thought": t})} for text, t in cases]
    found = unpacked(packed(pack_rollouts([("run", rows)])))
    assert found["thought"] == ["a", "a \u2026", None, None, "a"]
    assert found["text"] == ["b", "", "<think>a</think>b", "b", "b"]
    rows = [
        {**row, "response": "b", **told}
        for told in ({"trajectory": None}, {"trajectory": '[{"role": "tool", "content": "4"}]'}, {})
    ]
    assert unpacked(packed(pack_rollouts([("run", rows)])))["said"] == [None, [["tool", "4"]], None]


def test_grades_and_faults():
    kept = {"name": "c", "tags": None, "reason": None, "weight": 1.0, "saturation": None, "prior_weight": 1.0}
    seen = ((0.25, "graded"), (0.0, "met"), (1.0, "not_met"), (math.nan, ""))
    row = {"stage": "train", "batch": 0, "rollout": 0, "response": None, "messages": None, "reward": math.nan}
    row |= {"static_reward": None, "rank_change": None, "criteria": [{**kept, "score": s, "outcome": o} for s, o in seen]}
    found = unpacked(packed(pack_rollouts([("run", [row])])))
    assert (found["outcome"], found["score"], found["fault"]) == (["pnm-"], [{"0": 0.25}], [[1]])
    assert (found["reward"], found["text"]) == ([None], [""])
