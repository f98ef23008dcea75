import json

import pytest

from lightning_focal.cli import main
from lightning_focal.commands.ablate import MEASURES, read_ablation
from lightning_focal.studies.tables import over_seeds


def _write(path, text):
    path.write_text(text)
    return path


@pytest.mark.slow  # four short runs, a process each
def test_grid_writes_one_table_and_one_figure_and_goes_on(tmp_path, capsys):
    from pathlib import Path

    config = Path("configs/controlled.yaml").resolve()
    file = _write(
        tmp_path / "tiny.yaml",
        f'name: gamma\nconfig: {config}\nseeds: [0, 1]\narms:\n  "0": {{reward.init_args.gamma: 0.0}}\n'
        '  "3": {reward.init_args.gamma: 3.0}\n',
    )
    arguments = ["ablate", "--config", str(file), "--out", str(tmp_path / "out"), "--workers", "2"]
    short = ["--", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    main(arguments + short)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["mean_low_high"]) == {"0", "3"}
    assert set(results["mean_low_high"]["0"]) == set(MEASURES)
    assert len(results["runs"]) == 4
    assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000
    assert "| gamma |" in (tmp_path / "out" / "table.md").read_text()
    finished = (tmp_path / "out" / "0-seed0" / "held_out.json").stat().st_mtime_ns
    capsys.readouterr()
    main(arguments + short)
    assert (tmp_path / "out" / "0-seed0" / "held_out.json").stat().st_mtime_ns == finished
    assert "4/4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: a.yaml\nseeds: [0]\n", "keys config, arms, seeds"),
        ("config: a.yaml\nseeds: [0]\narms: {}\n", "`arms` must map a label"),
        ("config: a.yaml\nseeds: [x]\narms: {a: {b: 1}}\n", "`seeds` must be a list of integers"),
    ],
)
def test_bad_files_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_ablation(_write(tmp_path / "bad.yaml", text))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ablation file"):
        read_ablation(tmp_path / "nowhere.yaml")
    with pytest.raises(FileNotFoundError, match=r"names .*gone.yaml"):
        read_ablation(_write(tmp_path / "a.yaml", "config: gone.yaml\nseeds: [0]\narms: {a: {b: 1}}\n"))


def test_few_seeds_give_their_range():
    assert over_seeds([0.25, 0.75]) == (0.5, 0.25, 0.75)
