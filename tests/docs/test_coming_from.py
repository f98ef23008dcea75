"""What the page about TRL and verl says of both sides."""

import dataclasses
import fnmatch
import inspect
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import Trainer

from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "coming_from.md"
TEXT = PAGE.read_text(encoding="utf-8")
CONFIGURATION = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")


def column(heading, number):
    part = TEXT[TEXT.index(f"## {heading}") :].split("\n## ")[0]
    return [line.split("|")[number] for line in part.splitlines() if line.startswith("| ") and "---" not in line][1:]


OURS = {
    key
    for heading in ("Keys of TRL", "Keys of verl")
    for key in re.findall(r"`((?:model|data|reward|checkpoint|trainer)\.[a-z_.]+[a-z_])", " ".join(column(heading, 2)))
} | {"run_dir", "ckpt_path", "seed_everything"}


def test_our_keys_exist():
    """By the tables that docs/tables.py makes of the code; of `trainer` by Lightning's own signature."""
    trainer = set(inspect.signature(Trainer).parameters)
    assert len(OURS) > 60
    for key in OURS - {"data.train", "data.val"}:
        if key.startswith("trainer."):
            assert key.removeprefix("trainer.") in trainer, key
            continue
        known = key.split(".init_args")[0]
        assert f"`{known}`" in CONFIGURATION, key
    for loss in (
        "dapo",
        "grpo",
        "dr_grpo",
    ):  # the formulas: tests/functional/test_policy_loss.py, tests/integrations/test_trl_losses.py
        assert f'`loss_type="{loss}"`' in TEXT


@pytest.mark.trl
def test_every_key_of_trl_is_here():
    trl = pytest.importorskip("trl")
    fields = {field.name: field.default for field in dataclasses.fields(trl.GRPOConfig)}
    found = [name for cell in column("Keys of TRL", 1) for name in re.findall(r"`([a-z_0-9]+)", cell)]
    named = [name for name in found if name != "loss_type"]
    assert sorted(set(named)) == sorted(named)
    assert set(named) - set(fields) == {"model", "reward_funcs", "train_dataset", "peft_config"}  # of the trainer
    assert set(fields) - set(named) == {"loss_type"}  # by its values
    assert (fields["loss_type"], fields["beta"], fields["scale_rewards"]) == ("dapo", 0.0, "group")
    assert fields["use_bias_correction_kl"] is True


def leaves(config, above=""):
    """Whole names of keys that hold a value, or nothing."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        elif key != "_target_":
            yield above + key


def keys_of_verl():
    """Names of the table as verl has them, with what stands beside each: `.name` follows the full name before it."""
    for cell, ours in zip(column("Keys of verl", 1), column("Keys of verl", 2), strict=True):
        parent = None
        for name in re.findall(r"`([\w.]+\*?)", cell):
            if name.startswith("."):
                yield parent + name, ours
            else:
                full = re.sub(r"^(actor|rollout|ref)\.", r"actor_rollout_ref.\1.", name)
                parent = full.removesuffix(".*").rpartition(".")[0]
                yield full, ours


@pytest.mark.verl
def test_every_key_of_verl_is_here():
    """By the configurations that verl ships, all their parts put together: each key once, and no name that stands for none."""
    spec = find_spec("verl")
    if spec is None:
        pytest.skip("verl is not installed")
    files = [*(Path(spec.submodule_search_locations[0]) / "trainer" / "config").glob("_generated_ppo_*trainer.yaml")]
    keys = {key for file in files for key in leaves(yaml.safe_load(file.read_text()))}
    named = dict(keys_of_verl())
    assert len(files) == 4
    assert len(named) == len([*keys_of_verl()])
    held = {name: fnmatch.filter(keys, name) for name in named}
    assert not [name for name, found in held.items() if not found]
    assert not [name for name, ours in named.items() if "*" in name and ours.strip()]  # a group is of keys that are not here
    times = Counter(key for found in held.values() for key in found)
    assert {key: times[key] for key in keys if times[key] != 1} == {}


def test_the_two_jobs_have_the_same_numbers():
    (ours,) = [yaml.safe_load(block.text) for block in blocks(PAGE) if block.language == "yaml"]
    (theirs,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    assert f"num_generations={ours['model']['group_size']}" in theirs
    assert f"max_completion_length={ours['model']['sampling']['max_new_tokens']}" in theirs
    assert float(re.search(r"learning_rate=([\de.-]+)", theirs)[1]) == ours["model"]["optimizer"]["init_args"]["lr"]
    (rubric,) = [yaml.safe_load(block.text) for block in blocks(PAGE) if block.language == "json"]
    points = [criterion["points"] for criterion in rubric[0]["rubric"]]
    assert [p / sum(points) for p in points] == [float(w) for w in re.search(r"reward_weights=\[([^\]]*)", theirs)[1].split(",")]
