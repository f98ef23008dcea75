"""The report as a file: what is in it, what it survives, and that nobody's text becomes markup."""

import base64
import json
import re
import shutil
import zlib
from html.parser import HTMLParser

import pytest

from lightning_focal.report import write_report
from tests.report.made_run import NINE, make_run


class Page(HTMLParser):
    """Tags, scripts and text of a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.packed, self._open = [], "", {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = dict(attributes).get("id") if tag == "script" else None

    def handle_data(self, data):
        if self._open:
            self.packed[self._open] = self.packed.get(self._open, "") + data
        else:
            self.text += data

    def unpacked(self, name):
        return json.loads(zlib.decompress(base64.b64decode(self.packed[f"packed-{name}"])))


def page_of(written):
    return Page(written.path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def focal(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "focal", batches=6)


def test_one_file_in_the_run_folder(focal):
    written = write_report([focal])
    assert written.path == focal / "report.html"
    assert written.size == written.path.stat().st_size < 1_000_000
    assert list(focal.glob(".report*")) == []


def test_sections_figures_and_tables(focal, tmp_path):
    page = page_of(write_report([focal], tmp_path / "r.html"))
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections == ["verdict", "criteria", "levels", "shares", "balance", "health", "numbers", "rollouts", "repeat"]
    figures = page.unpacked("figures")
    assert set(figures) == {"criteria", "levels", "shares", "balance", "health"}
    for figure in figures.values():
        for view in figure["views"]:
            assert view["data"]
            assert all(any(value is not None for value in trace["y"]) for trace in view["data"])
    assert {tuple(view["choice"])[1] for view in figures["levels"]["views"]} == {"criterion", "criterion name", "tag “level”"}
    assert len(page.unpacked("rollouts")["text"]) == 6 * 2 * 4 + 2 * 4 * 4
    assert f"lightning_focal fit --config {focal}/config.yaml --run_dir {focal}-again" in page.text
    assert "not recorded by this run" in page.text


def test_nothing_points_outside(focal, tmp_path):
    page = page_of(write_report([focal], tmp_path / "r.html"))
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "action", "data"} & set(attributes), tag
        assert attributes.get("href", "#").startswith("#")
        assert tag not in ("link", "iframe", "object", "embed", "img", "base")
    (policy,) = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert "http" not in policy


def test_the_same_run_gives_the_same_bytes(focal, tmp_path):
    one, other = (write_report([focal], tmp_path / name).path.read_bytes() for name in ("a.html", "b.html"))
    assert one == other


EVIL = (
    '</script><script>document.title="gone"</script><img src=x onerror="document.title=1"> " \' & \u2028 {{ 7*7 }} {% raw %} \x00'
)


def test_text_of_others_stays_text(tmp_path):
    folder = make_run(
        tmp_path / "<b>run&", criteria=[(EVIL, (f"axis:{EVIL}", f"{EVIL}:1")), ("</style>", ())], say=lambda *_: EVIL
    )
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(text + "note: '</pre><script>1</script>'\n", encoding="utf-8")
    (folder / "run.json").write_text(
        json.dumps({"starts": [{"command": EVIL, "device": EVIL, "version": "<i>"}]}), encoding="utf-8"
    )
    written = write_report([folder])
    page = page_of(written)
    plain = page_of(write_report([make_run(tmp_path / "plain", criteria=[("a", ("axis:a", "b:1")), ("c", ())])]))
    assert [tag for tag, _ in page.tags].count("script") == [tag for tag, _ in plain.tags].count("script") == 8
    assert not [tag for tag, _ in page.tags if tag in ("img", "b", "i")]
    assert "{{ 7*7 }}" in page.text  # not 49
    packed = page.unpacked("rollouts")
    assert packed["text"][0] == EVIL
    assert packed["rubrics"][0][0][0] == EVIL
    raw = written.path.read_text(encoding="utf-8")
    assert raw.count("</script>") == 8
    assert raw.count("<script") == 8


def test_half_of_a_surrogate_pair(tmp_path):
    folder = make_run(tmp_path / "run", batches=2)
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(text + 'seed_everything: "\\ud800"\n', encoding="utf-8")
    record = {"starts": [{"command": "fit \ud800", "device": "cpu"}]}
    (folder / "run.json").write_text(json.dumps(record), encoding="ascii")
    assert write_report([folder]).path.read_bytes().decode("utf-8")


CUT = {
    "without held-out prompts": {"evaluations": ()},
    "cut off in the middle": {"evaluations": (0,)},
    "without rollouts": {"rollouts": False},
    "a single criterion": {"criteria": NINE[:1]},
    "64 criteria": {"criteria": [(f"criterion {i}", (f"axis:{i}",)) for i in range(64)]},
    "one batch": {"batches": 1},
    "no batch": {"batches": 0, "evaluations": (0,)},
    "one rollout a prompt": {"group": 1},
    "empty responses": {"say": lambda *_: ""},
}


@pytest.mark.parametrize("kind", CUT)
def test_runs_that_are_not_whole(tmp_path, kind):
    written = write_report([make_run(tmp_path / "run", **CUT[kind])])
    page = page_of(written)
    assert len(written.verdict) == 2
    if "packed-figures" in page.packed:
        for figure in page.unpacked("figures").values():
            assert all(view["data"] for view in figure["views"])
    assert ("rollouts" in [a.get("id") for t, a in page.tags if t == "section"]) == (kind != "without rollouts")


def test_values_that_are_no_numbers(tmp_path):
    folder = make_run(
        tmp_path / "run", batches=4, extra=lambda batch: {"train/policy/kl": float("nan"), "train/vote/share": float("inf")}
    )
    held_out = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))
    held_out["evaluations"][1]["scores"] = dict.fromkeys(held_out["evaluations"][1]["scores"])
    held_out["evaluations"][1]["measures"] = dict.fromkeys(held_out["evaluations"][1]["measures"])
    (folder / "held_out.json").write_text(json.dumps(held_out), encoding="utf-8")
    raw = write_report([folder]).path.read_text(encoding="utf-8")
    assert "nan" not in re.sub(r"<(script|style).*?</\1>", "", raw, flags=re.DOTALL).lower().replace("finance", "")


def test_an_unfinished_last_file_is_told(tmp_path):
    folder = make_run(tmp_path / "run", batches=4)
    path = folder / "rollouts" / "train-000003-r0.parquet"
    path.write_bytes(path.read_bytes()[:100])
    written = write_report([folder])
    assert any("train-000003-r0.parquet cannot be read" in note for note in written.notes)
    assert "train-000003-r0.parquet cannot be read" in page_of(written).text


def test_several_runs_side_by_side(tmp_path):
    folders = [make_run(tmp_path / f"focal{seed}", seed=seed) for seed in range(3)]
    folders += [make_run(tmp_path / f"static{seed}", seed=seed, strategy="StaticReward") for seed in range(3)]
    page = page_of(write_report(folders))
    assert "2 methods, 6 runs" in page.text
    sections = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert sections[:3] == ["verdict", "methods", "scores"]
    figures = page.unpacked("figures")
    assert [view["choice"][0] for view in figures["levels"]["views"]][:2] == [
        "FocalReward, mean of 3 seeds",
        "StaticReward, mean of 3 seeds",
    ]
    assert len(figures["balance"]["views"][0]["legend"]) == 2
    assert page.unpacked("rollouts")["runs"] == [f"{m}Reward, seed {s}" for m in ("Focal", "Static") for s in range(3)]


def test_runs_of_different_criteria(tmp_path):
    one = make_run(tmp_path / "a", criteria=NINE[:3])
    other = make_run(tmp_path / "b", criteria=[("else", ()), ("more", ("axis:more",))], strategy="StaticReward")
    without = make_run(tmp_path / "c", evaluations=(), gamma=3.0)
    page = page_of(write_report([one, other, without]))
    head = page.text[page.text.index("Criteria in numbers") :]
    assert re.search(r"brevity.*else.*more", head, re.DOTALL)


def test_a_run_named_twice_counts_once(focal, tmp_path):
    assert "methods" not in page_of(write_report([focal, focal], tmp_path / "r.html")).text.split("Rollouts")[0].lower()


def test_fewer_rollouts(focal, tmp_path):
    written = write_report([focal], tmp_path / "r.html", rollouts=16)
    assert len(page_of(written).unpacked("rollouts")["text"]) == 16 + 32
    assert "48 of 80 recorded rollouts are in this file" in written.notes[0]
    none = page_of(write_report([focal], tmp_path / "r.html", rollouts=0))
    assert "packed-rollouts" not in none.packed


def test_the_file_stays_below_its_limit(tmp_path):
    import random

    dice = random.Random(0)
    noise = lambda *_: "".join(dice.choices("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=3000))  # noqa: E731
    folder = make_run(tmp_path / "run", batches=40, say=noise)
    whole = write_report([folder], limit=1e9)
    less = write_report([folder], limit=1.3e6)
    assert whole.size > 1_400_000
    assert less.size < 1_300_000
    assert "recorded rollouts are in this file" in less.notes[-1]
    shown = page_of(less).unpacked("rollouts")
    batches = {group[2] for group in shown["groups"] if group[1] == "train"}
    assert {0, 39} <= batches


def test_resumed_and_unfinished_runs_say_so(tmp_path):
    folder = make_run(tmp_path / "run", batches=2)
    starts = [
        {"command": "lightning_focal fit --a=1", "commit": "abc", "ended": False},
        {"command": "fit again", "commit": "def"},
    ]
    (folder / "run.json").write_text(json.dumps({"starts": starts}))
    text = page_of(write_report([folder])).text
    for words in (
        "lightning_focal fit --a=1\nfit again",
        "abc, def",
        "the run did not come to its end",
        "2: the run was resumed",
    ):
        assert words in text


def test_errors(tmp_path, focal):
    with pytest.raises(ValueError, match="`rollouts` must be >= 0, got -1"):
        write_report([focal], rollouts=-1)
    with pytest.raises(ValueError, match="`runs` must name at least one run folder"):
        write_report([])
    with pytest.raises(ValueError, match="must be a run folder"):
        write_report([focal, tmp_path / "nothing"], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_report_that_fails_leaves_the_old_one(focal, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(focal, folder)
    before = write_report([folder]).path.read_bytes()
    for path in folder.iterdir():
        if path.name != "report.html":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match="must be a run folder"):
        write_report([folder])
    assert (folder / "report.html").read_bytes() == before
