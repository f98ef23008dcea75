"""What a fresh interpreter sees."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lightning_focal

NAMES = {
    "lightning_focal.functional": (
        "inverse_reward_projection focal_weights weighted_reward group_advantage gdpo_advantage dvao_advantage softmin_advantage "
        "kl_divergence clipped_policy_loss"
    ),
    "lightning_focal.metrics": "CriterionSaturation",
    "lightning_focal.rubrics": "Criterion Rubric read_rubrics",
    "lightning_focal.rewards": "StaticReward FocalReward RewardStrategy",
    "lightning_focal.types": "Prompts Rollouts CriterionScores Shaped",
}
HEAVY = ("torch", "lightning", "transformers", "pyarrow", "rich", "numpy")


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240).stdout.strip()


def test_nothing_is_imported_before_it_is_asked_for():
    """The package alone imports nothing heavy, `functional` neither Lightning nor transformers; names come when they are asked for."""
    code = "import sys, time; began = time.process_time(); import lightning_focal as f; "
    code += f"print(time.process_time() - began < 1, {{*f.__all__}} <= {{*dir(f)}}, [n for n in {HEAVY!r} if n in sys.modules]); "
    code += "import lightning_focal.functional; print([n for n in ('lightning', 'transformers') if n in sys.modules]); "
    code += "from lightning_focal import FocalReward, GRPOModule; import lightning_focal.rewards as r; print(FocalReward is r.FocalReward)"
    assert fresh(code).splitlines() == ["True True []", "[]", "True"]
    for name in lightning_focal.__all__:
        assert getattr(lightning_focal, name).__name__ == name
    with pytest.raises(ImportError, match="cannot import name 'FocalRewards'"):
        from lightning_focal import FocalRewards  # noqa: F401


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(lightning_focal.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    houses = lightning_focal._HOUSES.items()
    assert seen == {name: f"lightning_focal.{house}" for house, names in houses for name in names.split()}
    assert sorted(seen) == sorted(lightning_focal.__all__)


def test_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", lightning_focal.__version__)
    assert metadata.version("lightning-focal") == lightning_focal.__version__


def test_names_that_others_rely_on():
    for house, names in NAMES.items():
        module = importlib.import_module(house)
        for name in names.split():
            assert name in module.__all__
            assert callable(getattr(module, name))


def test_arguments_that_others_rely_on():
    import inspect

    from lightning_focal import functional

    def arguments(name):
        return {p.name: p.default for p in inspect.signature(getattr(functional, name)).parameters.values()}

    required = inspect.Parameter.empty
    expected = {
        "inverse_reward_projection": {"scores": required, "weights": required, "mask": None, "temperature": 1.0},
        "focal_weights": dict.fromkeys(("saturation", "weights"), required)
        | {"mask": None, "gamma": 3.0, "epsilon": 0.05, "bounds": None},
        "weighted_reward": {"scores": required, "weights": required, "mask": None},
        "group_advantage": {"rewards": required, "valid": None, "scale": "group", "epsilon": 1e-6},
        "kl_divergence": {"logp": required, "ref_logp": required, "estimator": "k3"},
        "clipped_policy_loss": dict.fromkeys(("logp", "old_logp", "advantages", "mask"), required)
        | {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None},
    }
    for name, first in expected.items():
        given = arguments(name)
        assert list(given)[: len(first)] == list(first), name
        assert {key: given[key] for key in first} == first, name


def test_types_are_shipped():
    assert (Path(lightning_focal.__file__).parent / "py.typed").exists()


def test_constraints_are_within_the_bounds():
    """The exact set that README names is one that pyproject.toml allows."""
    root = Path(lightning_focal.__file__).parents[1]
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    exact = dict(line.split("==") for line in lines if not line.startswith("#"))
    exact = {canonicalize_name(name): version for name, version in exact.items()}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]]
    for requirement in wanted:
        if requirement.name not in ("lightning-focal", "pip"):
            assert exact[canonicalize_name(requirement.name)] in requirement.specifier, requirement
            assert requirement.specifier != "", f"{requirement} has no bounds"
