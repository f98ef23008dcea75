"""Who may import whom, read from the source: imports point one way."""

import ast
import functools
import importlib
import sys
from pathlib import Path

import lightning_focal

ROOT = Path(lightning_focal.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}

# What each house may import of the package. Not themselves: a house may always use its own rooms.
MAY_IMPORT = {
    "keys": "",
    "intervals": "",
    "types": "thoughts keys",
    "seeds": "",
    "thoughts": "",
    "files": "",
    "shard_index": "",
    "terminal": "",
    "overview": "terminal files",
    "precision": "functional",
    "arguments": "",
    "trainer": "arguments precision callbacks models report rewards runs terminal",
    "parsing": "terminal overview",
    "functional": "intervals",
    "metrics": "types functional",
    "rubrics": "types keys files thoughts",
    "servers": "types thoughts",
    "foreign": "",
    "models": "types thoughts functional files shard_index precision foreign",
    "judges": "types thoughts functional rubrics servers models",
    "generation": "types thoughts functional servers precision models foreign",
    "data": "types keys rubrics seeds functional judges arguments",
    "environments": "types thoughts seeds judges models generation",
    "rephrasing": "types thoughts files data generation models servers",
    "rewards": "types keys seeds thoughts functional metrics rubrics judges arguments",
    "integrations": "types keys seeds thoughts foreign functional rubrics judges data environments rewards evaluation",
    "callbacks": "types intervals functional metrics files terminal precision models rubrics servers judges rewards",
    "runs": "files shard_index",
    "modules": (
        "types keys thoughts seeds functional metrics environments generation models rewards callbacks precision "
        "trainer arguments"
    ),
    "studies": "types functional rewards",
    "report": "keys thoughts intervals files callbacks terminal",
    "evaluation": "thoughts files functional rubrics judges generation models callbacks modules",
    "cli": "entry arguments files data rewards callbacks modules runs report models evaluation terminal parsing trainer",
    "commands": (
        "types keys thoughts files functional rubrics judges servers models generation data rewards rephrasing "
        "callbacks runs modules studies report evaluation precision cli parsing terminal"
    ),
    "entry": "overview terminal",
    "__main__": "entry",
    "__init__": "callbacks data generation judges metrics modules report rewards runs trainer types",
}
"""A new house goes in here, as low as it can."""

# What a house may not import from outside, at the top of a file or anywhere in it.
FOREIGN = {
    "types": "lightning transformers torchmetrics numpy",
    "functional": "lightning transformers torchmetrics numpy datasets",
    "metrics": "lightning transformers",
    "rubrics": "lightning transformers torchmetrics torch",
    "judges": "lightning transformers torchmetrics datasets",
    "seeds": "torch lightning transformers",
    "files": "torch lightning transformers",
    "shard_index": "lightning transformers",
    "generation": "lightning torchmetrics",
    "models": "lightning torchmetrics",
    "data": "transformers",
    "rewards": "transformers",
    "callbacks": "transformers",
    "runs": "transformers",
    "report": "torch transformers",
    "servers": "torch lightning transformers",
    "environments": "lightning torchmetrics",
    "rephrasing": "lightning transformers",
    "integrations": "lightning",
}
LATE = {
    "peft", "math_verify", "jsonschema", "datasets", "gguf", "pyarrow", "matplotlib", "vllm", "lm_eval", "trl", "verl", "verifiers",
    "transfer_queue", "tensordict", "aiohttp", "openai", "reasoning_gym", "jinja2", "liger_kernel",
}  # fmt: skip
"""Imported where they are used: nobody waits for them who does not need them."""


def house(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@functools.cache
def imports(path, top_only=False):
    """Full names of everything a file imports; ``from a import b`` gives ``a.b``."""
    found = set()
    for node in TREES[path].body if top_only else ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def packages(path, top_only=False):
    return {name.split(".")[0] for name in imports(path, top_only)}


def none_in(found):
    """Nothing was found in any file: ``(path, names)`` of each."""
    bad = {str(path.relative_to(ROOT)): sorted(names) for path, names in found if names}
    assert not bad


def test_every_house_has_its_place_and_the_order_has_no_circles():
    assert {house(path) for path in TREES} <= set(MAY_IMPORT)
    settled, below = set(), {name: set(words.split()) for name, words in MAY_IMPORT.items()}
    for name, others in below.items():
        assert others <= set(MAY_IMPORT) - {name}
    while len(settled) < len(below):
        ready = {name for name, others in below.items() if others <= settled} - settled
        assert ready, f"a circle among {sorted(set(below) - settled)}"
        settled |= ready


def test_imports_point_one_way():
    used = {path: {name.split(".")[1] for name in imports(path) if name.startswith("lightning_focal.")} for path in TREES}
    none_in((path, used[path] - {house(path), *MAY_IMPORT[house(path)].split()}) for path in TREES)


def test_houses_keep_foreign_packages_out():
    none_in((path, packages(path) & set(FOREIGN.get(house(path), "").split())) for path in TREES)
    none_in((path, packages(path) & {"pytorch_lightning", "lightning_fabric"}) for path in TREES)  # there is one Lightning


def test_optional_packages_are_imported_where_they_are_used():
    none_in((path, packages(path, top_only=True) & LATE) for path in TREES)


def test_the_functional_house_needs_torch_alone():
    allowed = {"torch", "lightning_focal", *sys.stdlib_module_names}
    none_in((path, packages(path) - allowed) for path in TREES if house(path) == "functional")


def test_public_names_are_listed_and_resolve():
    for path in [path for path in TREES if path.name == "__init__.py" and imports(path) - {"__future__.annotations"}]:
        module = importlib.import_module(".".join(path.relative_to(ROOT.parent).parent.parts))
        assert len(set(module.__all__)) == len(module.__all__), path
        assert [name for name in module.__all__ if not hasattr(module, name)] == [], path
        rooms = {other.stem for other in path.parent.iterdir()}  # imported so that they register what they hold
        taken = {name.rsplit(".", 1)[1] for name in imports(path, top_only=True) if name.startswith("lightning_focal.")} - rooms
        none_in([(path, taken - set(module.__all__))])  # re-exported without a place in __all__


def test_every_module_lists_what_it_defines():
    for path, tree in TREES.items():
        if path.name in ("__init__.py", "__main__.py"):
            continue
        listed = [node for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"]
        if not listed:  # nothing but what is reached by its name in a registry
            public = [node for _, node in public_definitions(tree.body)]
            assert all(isinstance(node, ast.FunctionDef) and node.decorator_list for node in public), f"{path}: no __all__"
            continue
        defined = {getattr(node, "name", None) for node in tree.body}
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            defined |= {getattr(target, "id", None) for target in targets}
        none_in([(path, set(ast.literal_eval(listed[0].value)) - defined)])


def public_definitions(body, prefix=""):
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if any(getattr(decorator, "id", "") == "overload" for decorator in node.decorator_list):
                continue
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def test_everything_public_is_explained():
    assert all(ast.get_docstring(tree) or path.name == "__main__.py" for path, tree in TREES.items()), "no module docstring"
    none_in(
        (path, [name for name, node in public_definitions(tree.body) if not ast.get_docstring(node)])
        for path, tree in TREES.items()
    )
