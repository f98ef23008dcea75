"""Model cards: what they say is what happened, and nothing in them is markup that a run brought along."""

import html
import json
import math
import re

import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from markdown_it import MarkdownIt

from lightning_focal.callbacks import HeldOut
from lightning_focal.cli import main
from lightning_focal.commands.model_card import code, escaped, model_card, run_records
from lightning_focal.models.checkpoints import trained_batches
from tests.conftest import TINY

CONFIG = {
    "seed_everything": 7,
    "reward": {"class_path": "lightning_focal.rewards.FocalReward", "init_args": {"gamma": 1.0}},
    "model": {
        "policy": "somebody/some-model", "group_size": 8,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-5}},
    },
    "data": {"class_path": "lightning_focal.data.RubricDataModule", "init_args": {"train": "train.jsonl", "val": "heldout.jsonl"}},
}  # fmt: skip
HELD_OUT = {
    "level": 0.95,
    "evaluations": [
        {"batch": 0, "scores": {"a": 0.2, "b": 0.4, "c": None}, "measures": {"val/balance/worst": 0.1, "val/criterion/tone/score": 0.5}},
        {"batch": 4, "scores": {"a": 0.5, "b": 0.7, "c": 0.9}, "measures": {"val/balance/worst": 0.3, "val/criterion/tone/score": 0.4}},
    ],
}  # fmt: skip
LM_EVAL = {"settings": {"limit": 50}, "evaluations": [{"batch": 0, "scores": {"gsm8k/acc": 0.25, "gsm8k/acc_stderr": 0.1}}]}


def front_matter(card):
    opening, header, rest = card.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(header), rest


def cell(card, row, column):
    line = next(line for line in card.splitlines() if line.startswith(f"| {row} |"))
    return line.strip("| ").split(" | ")[column]


def test_what_it_says():
    card = model_card(CONFIG, name="policy", records={"held_out": HELD_OUT, "lm_eval": LM_EVAL}, batch=4)
    header, body = front_matter(card)
    assert header == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "somebody/some-model",
        "tags": ["lightning-focal", "reinforcement-learning", "focal-reward"],
    }
    assert "https://arxiv.org/abs/2605.26579" in body
    assert cell(body, "seed", 1) == "<code>7</code>"
    assert cell(body, "batches", 1) == "<code>4</code>"
    assert cell(body, "data: val", 1) == "<code>heldout.jsonl</code>"
    assert "gamma=1.0" in cell(body, "method", 1)
    assert cell(body, "held-out score", 1).startswith("0.300 [")  # of a and b: c was not judged
    assert cell(body, "held-out score", 2).startswith("0.700 [")
    assert cell(body, "held-out score", 3).startswith("+0.300 [+0.300, +0.300")  # paired: both rose by the same
    assert [cell(body, "worst criterion", i) for i in (1, 2, 3)] == ["0.100", "0.300", "+0.200"]
    assert cell(body, "<code>tone</code>", 3) == "-0.100"
    assert cell(body, "<code>gsm8k/acc</code>", 1) == "0.2500"
    assert "at most 50 questions a task" in body
    assert "acc&#95;stderr" not in body


def test_scores_behind_the_checkpoint_are_left_out(tmp_path):
    (tmp_path / "held_out.json").write_text(json.dumps(HELD_OUT))
    records = run_records(tmp_path, 2)
    assert [entry["batch"] for entry in records["held_out"]["evaluations"]] == [0]
    assert records["lm_eval"] is None
    card = model_card(CONFIG, name="policy", records=records, batch=2)
    assert cell(card, "held-out score", 1).startswith("0.300 [")
    assert "change" not in card


def test_no_scores_and_no_method():
    card = model_card({"model": {"policy": TINY}}, name="policy")
    header, body = front_matter(card)
    assert header["tags"] == ["lightning-focal", "sft"]
    assert "base_model" not in header
    assert "Scores" not in body
    assert "nan" not in body.lower().replace("finance", "")


def test_a_strategy_among_the_callbacks_is_found():
    callback = {"class_path": "lightning_focal.rewards.CoRewardingII", "init_args": {}}
    config = {**CONFIG, "reward": None, "trainer": {"callbacks": [callback]}}
    header, body = front_matter(model_card(config, name="policy", adapter=True, part="policy"))
    assert header["library_name"] == "peft"
    assert header["tags"][-1] == "co-rewarding-ii"
    assert "2508.00410" in body
    assert "AutoPeftModelForCausalLM" in body


EVIL = "x`</code><script>alert(1)</script>|**bold**\n\n# heading\n---\nbase_model: evil [a](http://b)"


def test_everything_from_a_run_is_escaped():
    config = {
        "seed_everything": EVIL,
        "reward": {"class_path": f"lightning_focal.rewards.{EVIL}", "init_args": {"judge": EVIL}},
        "model": {"policy": EVIL, "group_size": EVIL, "lora": {"r": EVIL}},
        "data": {"class_path": EVIL, "init_args": {"train": EVIL, "val": EVIL}},
    }
    measured = {"scores": {EVIL: 0.5}, "measures": {f"val/criterion/{EVIL}/score": 0.5}}
    held_out = {"level": 0.9, "evaluations": [{"batch": batch, **measured} for batch in (0, 1)]}
    lm_eval = {"settings": {"limit": EVIL}, "evaluations": [{"batch": 0, "scores": {EVIL: 0.5}}]}
    card = model_card(config, name=EVIL, records={"held_out": held_out, "lm_eval": lm_eval})
    header, body = front_matter(card)
    assert "evil" not in header
    assert header["library_name"] == "transformers"
    assert "base_model" not in header
    assert "<script>" not in card
    assert "**bold**" not in body
    assert "[a](" not in body
    assert not [line for line in body.splitlines() if line.startswith("# heading")]
    tables = [line for line in body.splitlines() if line.startswith("|")]
    widths = {line.count("|") - line.count("\\|") for line in tables}
    assert widths <= {3, 5}, "a cell broke out of its table"


def test_escaped_texts_come_back_from_markdown_as_they_were():
    for text in ("a|b", "`", "<b>", "*a*", "_a_", "[a](b)", "\\", "a\nb", "&lt;"):
        for marked in (escaped(text), code(text)):
            page = MarkdownIt("commonmark").render(marked)
            assert not re.search(r"<(em|strong|a|b|script)\b", page)
            assert html.unescape(re.sub(r"</?(p|code)>", "", page)).strip() == " ".join(text.split())


def test_an_exported_run_has_its_card(run_tiny, tmp_path, rubric_file):
    watch = HeldOut()
    saving = ModelCheckpoint(tmp_path / "run" / "checkpoints", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    more = {"trainer_enable_checkpointing": True, "trainer_limit_train_batches": 2, "data_val": rubric_file(3, name="val.jsonl")}
    run = run_tiny(None, watch, saving, **more)
    (run.folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "model": {"policy": TINY}}))
    cards = []
    for batches in (1, 2):
        path = run.folder / "checkpoints" / f"step={batches}.ckpt"
        assert trained_batches(path) == batches
        main(["export", "--ckpt_path", str(path), "--out", str(tmp_path / str(batches))])
        cards.append((tmp_path / str(batches) / "README.md").read_text())
    early, card = cards
    mean = watch.interval(-1)[0]
    assert math.isfinite(mean)
    assert cell(card, "held-out score", 2).startswith(f"{mean:.3f} [")
    assert cell(card, "batches", 1) == "<code>2</code>"
    assert "after 2 batches" not in early
