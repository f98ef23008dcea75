"""Every shipped configuration parses, all of its keys included."""

from pathlib import Path

import pytest
import yaml

from lightning_focal.cli import main
from lightning_focal.commands.ablate import read_ablation

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
PARTS = {"model", "data", "ablations", "eval", "losses"}  # pieces of a configuration, data, grids of runs, and tasks
WARM_STARTS = sorted(CONFIGS.glob("sft_*.yaml"))
EVOLVING = CONFIGS / "evolving.yaml"  # goes behind another one
WHOLE = sorted(p for p in CONFIGS.rglob("*.yaml") if p.relative_to(CONFIGS).parts[0] not in PARTS and p not in WARM_STARTS)
WHOLE.remove(EVOLVING)
GRIDS = sorted((CONFIGS / "ablations").glob("*.yaml"))


def test_there_are_some():
    names = {path.name for path in WHOLE}
    assert {"focal.yaml", "static.yaml", "focal_tiny.yaml", "qwen3_8b_focal.yaml", "controlled.yaml"} <= names
    methods = ("co_rewarding_1", "co_rewarding_2", "co_rewarding_3", "majority_vote", "self_certainty", "entropy", "ground_truth")
    assert {f"{method}.yaml" for method in methods} | {"focal_co_rewarding_2.yaml"} <= names
    assert len(GRIDS) >= 6
    assert [path.name for path in WARM_STARTS] == ["sft_chain_sum.yaml", "sft_tiny_chain_sum.yaml"]


def printed(capsys, command, *args):
    with pytest.raises(SystemExit) as stop:
        main([command, *map(str, args), "--print_config"])
    said = capsys.readouterr()
    assert stop.value.code in (0, None), said.err
    return yaml.safe_load(said.out)


@pytest.mark.parametrize("path", WHOLE + WARM_STARTS, ids=lambda path: path.stem)
def test_print_config(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = printed(capsys, "sft" if path in WARM_STARTS else "fit", "--config", path)
    assert config["model"]["policy"]
    assert config["data"]["class_path"].startswith("lightning_focal.data.")
    if path in WARM_STARTS:
        assert 0 < config["stop_at"] < 1
    else:
        assert config["reward"]["class_path"].startswith("lightning_focal.rewards.")
    assert path.read_text().startswith("# ")  # a configuration opens by saying what it is for


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_arm_of_a_grid_parses(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    ablation = read_ablation(path)
    seeded = {key: str(value).replace("{seed}", "0") for key, value in ablation.seed_keys.items()}
    for arguments in ablation.arms.values():
        extra = [f"--{key}={value}" for key, value in {**seeded, **arguments}.items()]
        assert printed(capsys, "fit", "--config", ablation.config, *extra)


@pytest.mark.parametrize("name", ["gspo", "cispo", "dapo", "dr_grpo"])
def test_losses_go_behind_another_configuration(name, capsys, monkeypatch):
    """Each is what its paper says, and leaves the rest of the job alone."""
    monkeypatch.chdir(ROOT)
    plain = printed(capsys, "fit", "--config", "configs/focal.yaml")
    config = printed(capsys, "fit", "--config", "configs/focal.yaml", "--config", f"configs/losses/{name}.yaml")
    given = yaml.safe_load((CONFIGS / "losses" / f"{name}.yaml").read_text(encoding="utf-8"))
    update = config["model"]["update"]
    assert {key: update[key] for key in given["model"]["update"]} == given["model"]["update"]
    assert {key for key in update if update[key] != plain["model"]["update"][key]} <= set(given["model"]["update"])
    assert config["reward"]["init_args"]["gamma"] == plain["reward"]["init_args"]["gamma"]
    limit = config["model"]["sampling"]["max_new_tokens"]
    if name == "dapo":
        rule = config["reward"]["init_args"]["reward"]
        assert (rule["class_path"], rule["init_args"]["max_completion_len"]) == ("lightning_focal.rewards.SoftOverlong", limit)
    if name == "dr_grpo":
        assert config["reward"]["init_args"]["advantage"]["init_args"]["scale"] == "none"
        assert update["fixed_length"] == limit


def test_evolving_rubrics_go_behind_another_configuration(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = printed(capsys, "fit", "--config", "configs/focal.yaml", "--config", EVOLVING)
    assert config["reward"]["init_args"]["judge"]["init_args"]["other"]["class_path"] == "lightning_focal.judges.HTTPJudge"
    assert config["reward"]["init_args"]["gamma"] == 3.0  # that of focal.yaml
    (callback,) = config["trainer"]["callbacks"]
    assert callback["class_path"] == "lightning_focal.callbacks.EvolvingRubrics"
    assert callback["init_args"]["share"] == 0.3


def test_adamw_keeps_its_own_weight_decay(capsys, monkeypatch):
    """A parameter default of another optimiser class would hand its weight decay on in silence."""
    monkeypatch.chdir(ROOT)
    chosen = ("--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=1e-3")
    optimizer = printed(capsys, "fit", "--config", "configs/focal_tiny.yaml", *chosen)["model"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.AdamW"
    assert optimizer["init_args"]["weight_decay"] in (0.0, 0.01)
