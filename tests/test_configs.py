"""Every shipped configuration parses, all of its keys included."""

from pathlib import Path

import pytest
import yaml

from lightning_focal.cli import main
from lightning_focal.commands.ablate import read_ablation

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
PARTS = {"model", "data", "ablations", "eval"}  # pieces of a configuration, data, grids of runs, and tasks
WARM_STARTS = sorted(CONFIGS.glob("sft_*.yaml"))
WHOLE = sorted(p for p in CONFIGS.rglob("*.yaml") if p.relative_to(CONFIGS).parts[0] not in PARTS and p not in WARM_STARTS)
GRIDS = sorted((CONFIGS / "ablations").glob("*.yaml"))


def test_there_are_some():
    names = {path.name for path in WHOLE}
    assert {"focal.yaml", "static.yaml", "focal_tiny.yaml", "qwen3_8b_focal.yaml", "controlled.yaml"} <= names
    assert len(GRIDS) >= 6
    assert len(WARM_STARTS) >= 2
    methods = ("co_rewarding_1", "co_rewarding_2", "majority_vote", "self_certainty", "entropy", "ground_truth")
    assert {f"{method}.yaml" for method in methods} | {"focal_co_rewarding_2.yaml"} <= names


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_print_config(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(path), "--print_config"])
    assert stop.value.code in (0, None)
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["reward"]["class_path"].startswith("lightning_focal.rewards.")
    assert printed["model"]["policy"]


@pytest.mark.parametrize("path", WARM_STARTS, ids=lambda path: path.stem)
def test_print_config_of_a_warm_start(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main(["sft", "--config", str(path), "--print_config"])
    assert stop.value.code in (0, None)
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["policy"]
    assert printed["data"]["class_path"].startswith("lightning_focal.data.")


@pytest.mark.parametrize("path", WHOLE + WARM_STARTS, ids=lambda path: path.stem)
def test_every_key_has_its_comment_or_speaks_for_itself(path):
    """A configuration is read by people: it opens by saying what it is for."""
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_arm_of_a_grid_parses(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    ablation = read_ablation(path)
    for label, arguments in ablation.arms.items():
        seeded = {key: str(value).replace("{seed}", "0") for key, value in ablation.seed_keys.items()}
        extra = [f"--{key}={value}" for key, value in {**seeded, **arguments}.items()]
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--config", str(ablation.config), *extra, "--print_config"])
        assert stop.value.code in (0, None), (label, capsys.readouterr().err)
        capsys.readouterr()


def test_adamw_keeps_its_own_weight_decay(capsys, monkeypatch):
    """A parameter default of another optimiser class would hand its weight decay on in silence."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        main(
            [
                "fit",
                "--config",
                "configs/focal_tiny.yaml",
                "--model.optimizer=torch.optim.AdamW",
                "--model.optimizer.lr=1e-3",
                "--print_config",
            ]
        )
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["optimizer"]
    assert printed["class_path"] == "torch.optim.AdamW"
    assert printed["init_args"]["weight_decay"] in (0.0, 0.01)
