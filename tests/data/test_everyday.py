"""The everyday rubrics: what the data set promises, and that the build script makes exactly these files."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from lightning_focal.judges.base import JudgeRequest
from lightning_focal.judges.rules import RuleJudge
from lightning_focal.judges.scoring import verdicts_to_scores
from lightning_focal.rubrics import RubricRow, read_rows

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "data" / "everyday"
SPLITS = ("train", "heldout")
AXES = {"brevity", "format", "content", "tone", "engagement", "caution", "clarity", "honesty"}
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}


@pytest.fixture(scope="module")
def rows() -> dict[str, list[RubricRow]]:
    return {split: read_rows(FOLDER / f"{split}.jsonl") for split in SPLITS}


def prompt_of(row: RubricRow) -> str:
    return row.messages[-1]["content"]


def words_of(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z0-9]+", text.lower()))


def checks_of(row: RubricRow) -> dict[str, dict]:
    return {criterion.check["kind"]: criterion.check for criterion in row.rubric.criteria if criterion.points > 0}


def axes_of(criterion) -> list[str]:
    return [tag.removeprefix("axis:") for tag in criterion.tags if tag.startswith("axis:")]


def test_each_axis_occurs_in_a_quarter_of_the_rubrics_and_heldout_criteria_recur_in_training(rows):
    for split in SPLITS:
        seen = Counter(axis for row in rows[split] for axis in {axis for c in row.rubric.criteria for axis in axes_of(c)})
        assert set(seen) == AXES
        assert min(seen.values()) >= len(rows[split]) / 4
    names = {split: {name for row in rows[split] for name in row.rubric.names} for split in SPLITS}
    assert names["heldout"] <= names["train"]


def test_no_heldout_prompt_resembles_a_training_prompt(rows):
    words = {split: [(row.id, set(words_of(prompt_of(row)))) for row in rows[split]] for split in SPLITS}
    for held, asked in words["heldout"]:
        for train, seen in words["train"]:
            assert len(asked & seen) / len(asked | seen) < 0.65, (held, train)


ASKED = {
    r"one (?:short )?paragraph": "max_paragraphs",
    r"exclamation mark": "no_exclamation",
    r"(end|ends|ending|end by|finish|close|closing) .{0,12}(question|asking)|question .{0,12}(end|close)": "ends_with_question",
    r"(numbered (list|steps|tips|points|items))": "numbered_list",
}


def test_what_the_prompt_asks_is_what_the_rubric_checks(rows):
    for row in itertools.chain(*rows.values()):
        prompt, checks = prompt_of(row).split('"')[0].lower(), checks_of(row)
        if limit := re.search(r"(?:at most|under|to) (\d+) words", prompt_of(row).lower()):
            assert checks["max_words"]["words"] == int(limit[1]), row.id
        if count := re.search(r"(one|two|three|four) (?:short )?bullet points", prompt):
            assert checks["bullets"]["min"] == NUMBERS[count[1]], row.id
        for words, kind in ASKED.items():
            assert kind in checks or not re.search(words, prompt), row.id
        assert checks.get("max_paragraphs", {}).get("paragraphs", 1) == 1 or not re.search("one (?:short )?paragraph", prompt)


CONFLICTS = {
    "short, yet a list that closes with a question": {"max_words", "bullets", "ends_with_question"},
    "short, yet several things to mention": {"max_words", "keywords", "no_bullets"},
    "a counted number of sentences, yet a warning": {"sentences_between", "keywords", "any_keyword"},
    "running text, yet a question at the end": {"max_paragraphs", "ends_with_question"},
    "no first person, yet speaking of a personal matter": {"no_first_person", "max_words", "keywords"},
    "numbered steps in few words": {"numbered_list", "max_words", "keywords"},
}


def test_conflicts_are_there(rows):
    for split, (conflict, kinds) in itertools.product(SPLITS, CONFLICTS.items()):
        assert sum(kinds <= set(checks_of(row)) for row in rows[split]) >= 2, (split, conflict)


GOOD = {
    "Give me three bullet points on storing bread so that it stays fresh.": (
        "- Use a dry bread box or bag.\n- Freeze slices to prevent mould.\n- Avoid the fridge: it makes bread stale.\n\n"
        "Which loaf is it?"
    ),
    "My throat is sore and there is a meeting tomorrow. Any advice? At most 45 words, closing with a question to me.": (
        "Warm tea with honey can help. Rest your voice tonight and drink water often. "
        "See a doctor if it gets worse. Do you have a fever?"
    ),
    "The grass grows fast in May. How often does it need mowing? Tell me in at most 30 words.": (
        "About once a week in spring is usually enough. Avoid wet grass and cutting too short. How tall is your grass now?"
    ),
    "Should I rent or buy a flat? Be honest that it depends; two sentences.": (
        "It depends on how long you stay, and buying carries a risk. "
        "Renting may suit you if plans change, so how long will it be?"
    ),
}


def test_a_good_short_answer_can_meet_the_whole_rubric(rows):
    for prompt, answer in GOOD.items():
        row = next(row for row in rows["heldout"] if prompt_of(row) == prompt)
        verdicts = RuleJudge().judge([JudgeRequest(row.messages, answer, row.rubric.criteria)])
        scores = verdicts_to_scores([verdicts], [row.rubric]).scores[0, 0].tolist()
        assert [name for name, score in zip(row.rubric.names, scores, strict=True) if score < 1] == []
        assert len(answer.split()) <= 45


def test_the_script_builds_these_very_files(tmp_path):
    script = ROOT / "benchmarks" / "build_everyday.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path)], check=True, capture_output=True, timeout=60)
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (FOLDER / f"{split}.jsonl").read_bytes()


@pytest.mark.parametrize(("block", "message"), [
    ("How?\nasked: short 40\nunsaid: calm; no_i", "bad.txt:2: expected 4 to 9 criteria, got 3"),
    ("How?\nasked: short 40\nunsaid: calm; no_i; calm", "bad.txt:2: expected names that occur once"),
    ("How?\nasked: shorter 40\nunsaid: calm; no_i; you", "bad.txt:2: expected a criterion of everyday/criteria.py, got 'shorter 40'"),
    ("How?\nunsaid: calm\nasked: short 40", "bad.txt:2: expected a line that starts with 'asked:'"),
])  # fmt: skip
def test_a_malformed_block_is_refused_with_its_place(tmp_path, monkeypatch, block, message):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from build_everyday import read_requests

    (tmp_path / "bad.txt").write_text(f"# home\n{block}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        list(read_requests(tmp_path / "bad.txt"))
