"""Every shipped configuration parses, all of its keys included."""

from pathlib import Path

import pytest
import yaml
from jsonargparse import capture_parser

from lightning_focal.cli import FocalCLI
from lightning_focal.commands.ablate import read_ablation
from lightning_focal.commands.sft import WarmStartCLI

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
PARTS = {"model", "data", "ablations", "eval", "losses"}  # pieces of a configuration, data, grids of runs, and tasks
WARM_STARTS = sorted(CONFIGS.glob("sft_*.yaml"))
EVOLVING = CONFIGS / "evolving.yaml"  # goes behind another one
WHOLE = sorted(p for p in CONFIGS.rglob("*.yaml") if p.relative_to(CONFIGS).parts[0] not in PARTS and p not in WARM_STARTS)
WHOLE.remove(EVOLVING)
GRIDS = sorted((CONFIGS / "ablations").glob("*.yaml"))
FOCAL = "configs/focal.yaml"


def test_there_are_some():
    names = {path.name for path in WHOLE}
    assert {"focal.yaml", "static.yaml", "focal_tiny.yaml", "qwen3_8b_focal.yaml", "controlled.yaml"} <= names
    methods = ("co_rewarding_1", "co_rewarding_2", "co_rewarding_3", "majority_vote", "self_certainty", "entropy", "ground_truth")
    assert {f"{method}.yaml" for method in methods} | {"focal_co_rewarding_2.yaml"} <= names
    assert len(GRIDS) >= 6
    assert [path.name for path in WARM_STARTS] == ["sft_chain_sum.yaml", "sft_tiny_chain_sum.yaml"]


@pytest.fixture(scope="module")
def parsers():
    return {"fit": capture_parser(FocalCLI, "fit"), "sft": capture_parser(WarmStartCLI)}


@pytest.fixture
def parsed(parsers, monkeypatch):
    """What a command makes of configurations, one behind the other, and of options behind them."""
    monkeypatch.chdir(ROOT)

    def parse(*configs, command="fit", options=()):
        arguments = [f"--config={config}" for config in configs]
        return parsers[command].parse_args([*arguments, *options]).as_dict()

    return parse


@pytest.mark.parametrize("path", WHOLE + WARM_STARTS, ids=lambda path: path.stem)
def test_a_whole_configuration(path, parsed):
    config = parsed(path, command="sft" if path in WARM_STARTS else "fit")
    assert config["model"]["policy"]
    assert config["data"]["class_path"].startswith("lightning_focal.data.")
    if path in WARM_STARTS:
        assert 0 < config["stop_at"] < 1
    else:
        assert config["reward"]["class_path"].startswith("lightning_focal.rewards.")
    assert path.read_text().startswith("# ")  # a configuration opens by saying what it is for


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_arm_of_a_grid_parses(path, parsed):
    ablation = read_ablation(path)
    seeded = {key: str(value).replace("{seed}", "0") for key, value in ablation.seed_keys.items()}
    for arguments in ablation.arms.values():
        assert parsed(ablation.config, options=[f"--{key}={value}" for key, value in {**seeded, **arguments}.items()])


def test_what_goes_behind_another_configuration(parsed):
    """Each loss is what its paper says, and leaves the rest of the job alone; rubrics may evolve."""
    plain = parsed(FOCAL)
    for name in ("gspo", "cispo", "dapo", "dr_grpo"):
        config = parsed(FOCAL, f"configs/losses/{name}.yaml")
        given = yaml.safe_load((CONFIGS / "losses" / f"{name}.yaml").read_text(encoding="utf-8"))["model"]["update"]
        update = config["model"]["update"]
        assert {key: update[key] for key in given} == given
        assert {key for key in update if update[key] != plain["model"]["update"][key]} <= set(given)
        reward, limit = config["reward"]["init_args"], config["model"]["sampling"]["max_new_tokens"]
        assert reward["gamma"] == plain["reward"]["init_args"]["gamma"]
        if name == "dapo":
            assert reward["reward"]["class_path"] == "lightning_focal.rewards.SoftOverlong"
            assert reward["reward"]["init_args"]["max_completion_len"] == limit
        if name == "dr_grpo":
            assert (reward["advantage"]["init_args"]["scale"], update["fixed_length"]) == ("none", limit)
    config = parsed(FOCAL, EVOLVING)
    assert config["reward"]["init_args"]["judge"]["init_args"]["other"]["class_path"] == "lightning_focal.judges.HTTPJudge"
    assert config["reward"]["init_args"]["gamma"] == 3.0  # that of focal.yaml
    (callback,) = config["trainer"]["callbacks"]
    assert callback["class_path"] == "lightning_focal.callbacks.EvolvingRubrics"
    assert callback["init_args"]["share"] == 0.3


def test_adamw_keeps_its_own_weight_decay(parsed):
    """A parameter default of another optimiser class would hand its weight decay on in silence."""
    chosen = ("--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=1e-3")
    optimizer = parsed("configs/focal_tiny.yaml", options=chosen)["model"]["optimizer"]
    assert optimizer["class_path"] == "torch.optim.AdamW"
    assert optimizer["init_args"]["weight_decay"] in (0.0, 0.01)
