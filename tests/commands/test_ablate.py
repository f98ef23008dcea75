"""A grid of runs."""

import json
from pathlib import Path

import pytest

from lightning_focal.cli import main
from lightning_focal.commands.ablate import MEASURES, over_seeds, read_ablation
from lightning_focal.report.figures import Point


@pytest.mark.slow  # four short runs, a process each
def test_grid_writes_one_table_and_one_figure_and_goes_on(tmp_path, capsys):
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    arms = '{"0": {reward.init_args.gamma: 0.0}, "3": {reward.init_args.gamma: 3.0}}'
    file.write_text(f"name: gamma\nconfig: {Path('configs/controlled.yaml').resolve()}\nseeds: [0, 1]\narms: {arms}\n")
    arguments = ["ablate", "--config", str(file), "--out", str(out), "--workers", "2"]
    arguments += ["--", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    main(arguments)
    results = json.loads((out / "results.json").read_text())
    assert list(results["mean_low_high"]) == ["0", "3"]
    assert list(results["mean_low_high"]["0"]) == list(MEASURES)
    assert len(results["runs"]) == 4
    assert (out / "figure.png").stat().st_size > 10_000
    assert "| gamma |" in (out / "table.md").read_text()
    finished = (out / "0-seed0" / "held_out.json").stat().st_mtime_ns
    capsys.readouterr()
    main(arguments)
    assert (out / "0-seed0" / "held_out.json").stat().st_mtime_ns == finished
    assert "4/4" in capsys.readouterr().out


def test_bad_files_are_refused(tmp_path):
    for text, message in (
        ("config: a.yaml\nseeds: [0]\n", "keys config, arms, seeds"),
        ("config: a.yaml\nseeds: [0]\narms: {a: {b: 1}}\nmore: 1\n", "keys config, arms, seeds"),
        ("config: a.yaml\nseeds: [0]\narms: {}\n", "`arms` must map a label"),
        ("config: a.yaml\nseeds: [x]\narms: {a: {b: 1}}\n", "`seeds` must be a list of integers"),
        ("config: gone.yaml\nseeds: [0]\narms: {a: {b: 1}}\n", r"names .*gone.yaml"),
        (None, "no ablation file"),
    ):
        file = tmp_path / ("none.yaml" if text is None else "bad.yaml")
        if text is not None:
            file.write_text(text)
        with pytest.raises(FileNotFoundError if "file" in message or "gone" in message else ValueError, match=message):
            read_ablation(file)


def test_few_seeds_give_their_range():
    assert over_seeds([0.25, 0.75]) == Point(0.5, 0.25, 0.75)
