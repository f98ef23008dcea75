"""Who may import whom, read from the source: imports point one way."""

import ast
import importlib
from pathlib import Path

import pytest

import lightning_focal

ROOT = Path(lightning_focal.__file__).parent

# What each house may import of the package. Not themselves: a house may always use its own rooms.
MAY_IMPORT = {
    "keys": set(),
    "intervals": set(),
    "types": {"thoughts", "keys"},
    "seeds": set(),
    "thoughts": set(),
    "files": set(),
    "shard_index": set(),
    "terminal": set(),
    "overview": {"terminal", "files"},
    "precision": {"functional"},
    "arguments": set(),
    "trainer": {"arguments", "precision", "callbacks", "models", "report", "rewards", "runs", "terminal"},
    "parsing": {"terminal", "overview"},
    "functional": {"intervals"},
    "metrics": {"types", "functional"},
    "rubrics": {"types", "keys", "files", "thoughts"},
    "servers": {"types", "thoughts"},
    "foreign": set(),
    "models": {"types", "thoughts", "functional", "files", "shard_index", "precision", "foreign"},
    "judges": {"types", "thoughts", "functional", "rubrics", "servers", "models"},
    "generation": {"types", "thoughts", "functional", "servers", "precision", "models", "foreign"},
    "data": {"types", "keys", "rubrics", "seeds", "functional", "judges", "arguments"},
    "environments": {"types", "thoughts", "seeds", "judges", "models", "generation"},
    "rephrasing": {"types", "thoughts", "files", "data", "generation", "models", "servers"},
    "rewards": {"types", "keys", "seeds", "thoughts", "functional", "metrics", "rubrics", "judges", "arguments"},
    "integrations": {
        "types",
        "keys",
        "seeds",
        "thoughts",
        "foreign",
        "functional",
        "rubrics",
        "judges",
        "data",
        "environments",
        "rewards",
        "evaluation",
    },
    "callbacks": {
        "types",
        "intervals",
        "functional",
        "metrics",
        "files",
        "terminal",
        "precision",
        "models",
        "rubrics",
        "servers",
        "judges",
        "rewards",
    },
    "runs": {"files", "shard_index"},
    "modules": {
        "types",
        "keys",
        "thoughts",
        "seeds",
        "functional",
        "metrics",
        "environments",
        "generation",
        "models",
        "rewards",
        "callbacks",
        "precision",
        "trainer",
        "arguments",
    },
    "studies": {"types", "functional", "rewards"},
    "report": {"keys", "thoughts", "intervals", "files", "callbacks", "terminal"},
    "evaluation": {"thoughts", "files", "functional", "rubrics", "judges", "generation", "models", "callbacks", "modules"},
    "cli": {
        "entry",
        "arguments",
        "files",
        "data",
        "rewards",
        "callbacks",
        "modules",
        "runs",
        "report",
        "models",
        "evaluation",
        "terminal",
        "parsing",
        "trainer",
    },
    "commands": {
        "types",
        "keys",
        "thoughts",
        "files",
        "functional",
        "rubrics",
        "judges",
        "servers",
        "models",
        "generation",
        "data",
        "rewards",
        "rephrasing",
        "callbacks",
        "runs",
        "modules",
        "studies",
        "report",
        "evaluation",
        "precision",
        "cli",
        "parsing",
        "terminal",
    },
    "entry": {"overview", "terminal"},
    "__main__": {"entry"},
    "__init__": {
        "callbacks",
        "data",
        "generation",
        "judges",
        "metrics",
        "modules",
        "report",
        "rewards",
        "runs",
        "trainer",
        "types",
    },
}
"""A new house goes in here, as low as it can."""

# What a house may not import from outside, at the top of a file or anywhere in it.
FOREIGN = {
    "types": {"lightning", "transformers", "torchmetrics", "numpy"},
    "functional": {"lightning", "transformers", "torchmetrics", "numpy", "datasets"},
    "metrics": {"lightning", "transformers"},
    "rubrics": {"lightning", "transformers", "torchmetrics", "torch"},
    "judges": {"lightning", "transformers", "torchmetrics", "datasets"},
    "seeds": {"torch", "lightning", "transformers"},
    "files": {"torch", "lightning", "transformers"},
    "shard_index": {"lightning", "transformers"},
    "generation": {"lightning", "torchmetrics"},
    "models": {"lightning", "torchmetrics"},
    "data": {"transformers"},
    "rewards": {"transformers"},
    "callbacks": {"transformers"},
    "runs": {"transformers"},
    "report": {"torch", "transformers"},
    "servers": {"torch", "lightning", "transformers"},
    "environments": {"lightning", "torchmetrics"},
    "rephrasing": {"lightning", "transformers"},
    "integrations": {"lightning"},
}
LATE = {"peft", "math_verify", "jsonschema", "datasets", "gguf", "pyarrow", "matplotlib", "vllm", "lm_eval"}
LATE |= {
    "trl",
    "verl",
    "verifiers",
    "transfer_queue",
    "tensordict",
    "aiohttp",
    "openai",
    "reasoning_gym",
    "jinja2",
    "liger_kernel",
}
"""Imported where they are used: nobody waits for them who does not need them."""


def files():
    return sorted(ROOT.rglob("*.py"))


def house(path):
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(path, top_only=False):
    """Full names of everything a file imports; ``from a import b`` gives ``a.b``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def name_of(path):
    return str(path.relative_to(ROOT))


def test_every_house_has_its_place():
    assert {house(path) for path in files()} <= set(MAY_IMPORT)
    for name, below in MAY_IMPORT.items():
        assert below <= set(MAY_IMPORT) - {name}


def test_the_order_has_no_circles():
    settled = set()
    while len(settled) < len(MAY_IMPORT):
        ready = {name for name, below in MAY_IMPORT.items() if below <= settled} - settled
        assert ready, f"a circle among {sorted(set(MAY_IMPORT) - settled)}"
        settled |= ready


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_imports_point_one_way(path):
    mine = house(path)
    used = {name.split(".")[1] for name in imports(path) if name.startswith("lightning_focal.")}
    assert used <= {mine, *MAY_IMPORT[mine]}


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_houses_keep_foreign_packages_out(path):
    packages = {name.split(".")[0] for name in imports(path)}
    assert not packages & FOREIGN.get(house(path), set())


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_optional_packages_are_imported_where_they_are_used(path):
    packages = {name.split(".")[0] for name in imports(path, top_only=True)}
    assert not packages & LATE


def test_the_functional_house_needs_torch_alone():
    allowed = {"torch", "lightning_focal", "__future__"}
    outside = {name.split(".")[0] for path in (ROOT / "functional").glob("*.py") for name in imports(path)} - allowed
    import sys

    assert outside <= set(sys.stdlib_module_names)


def test_one_lightning():
    for path in files():
        assert not {name for name in imports(path) if name.split(".")[0] in ("pytorch_lightning", "lightning_fabric")}, path


def houses_with_names():
    return sorted(path for path in ROOT.rglob("__init__.py") if imports(path) - {"__future__.annotations"})


@pytest.mark.parametrize("path", houses_with_names(), ids=name_of)
def test_public_names_are_listed_and_resolve(path):
    parts = path.relative_to(ROOT.parent).parent.parts
    module = importlib.import_module(".".join(parts))
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), name
    rooms = {other.stem for other in path.parent.iterdir()}  # imported so that they register what they hold
    taken = {name.rsplit(".", 1)[1] for name in imports(path, top_only=True) if name.startswith("lightning_focal.")} - rooms
    assert taken <= set(module.__all__), f"re-exported without a place in __all__: {sorted(taken - set(module.__all__))}"


def modules():
    return [path for path in files() if path.name not in ("__init__.py", "__main__.py")]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_module_lists_what_it_defines(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = [node for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"]
    if not listed:  # nothing but what is reached by its name in a registry
        assert all(isinstance(n, ast.FunctionDef) and n.decorator_list for _, n in public_definitions(tree.body)), "no __all__"
        return
    names = ast.literal_eval(listed[0].value)
    defined = {getattr(n, "name", None) for n in tree.body} | {
        getattr(target, "id", None)
        for n in tree.body
        for target in (n.targets if isinstance(n, ast.Assign) else [n.target] if isinstance(n, ast.AnnAssign) else [])
    }
    assert set(names) <= defined


def public_definitions(body, prefix=""):
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if any(getattr(decorator, "id", "") == "overload" for decorator in node.decorator_list):
                continue
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_everything_public_is_explained(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or path.name == "__main__.py", "no module docstring"
    bare = [name for name, node in public_definitions(tree.body) if not ast.get_docstring(node)]
    assert not bare
