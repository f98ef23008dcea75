"""The pages agree with each other and with the code."""

import csv
import importlib
import importlib.util
import re
from fnmatch import fnmatch

import pytest
import yaml

import lightning_focal
from lightning_focal import functional, rewards
from lightning_focal.cli import COMMANDS, main
from tests.docs.pages import PAGES, ROOT, arguments, commands, prose, set_up_program, title

DOCS = ROOT / "docs"
CLI = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
CONFIGURATION = (DOCS / "reference" / "configuration.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def slug(heading):
    """The anchor of a heading, as GitHub and MyST make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def anchors(page):
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)}


def test_links_and_paths_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if target.startswith(("http://", "https://")):
                continue
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{title(page)} links to {target}, which is not there"
            assert not anchor or anchor in anchors(linked), f"{title(page)} links to {target}, which has no such heading"
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"(?<![\w/.-])((?:configs|lightning_focal|benchmarks|docs)/[\w./-]+)", text):
            assert (ROOT / path.rstrip("./")).exists(), f"{title(page)} names {path}"


NOTHING_TO_SEE = {
    "environments": "conversations, which the rollout table holds",
    "dynamic_sampling": "counts, which the page has in tables",
    "living_rubrics": "writes files, which the page shows",
    "pairs": "writes files, which the page shows",
    "reasoning_gym": "data, of which the page prints one",
    "trl": "TRL's trainer prints and draws",
    "verifiers": "verifiers' and prime-rl's trainers print and draw",
    "verl": "verl's trainer prints and draws",
    "vllm": "a run looks as it does without vLLM",
}
"""How-tos without a picture, and why."""


def test_how_tos_have_small_pictures():
    for page in sorted((DOCS / "howto").glob("*.md")):
        pictures = re.findall(r"!\[([^\]]+)\]\(\.\./_static/(\S+)\)", page.read_text(encoding="utf-8"))
        assert bool(pictures) != (page.stem in NOTHING_TO_SEE), page.name
        for _, name in pictures:
            assert 1_000 < (DOCS / "_static" / name).stat().st_size < 60_000, name


def test_every_page_is_in_a_table_of_contents():
    """Some entries are patterns, so that a new page is listed by itself."""
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    listed = {line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")}
    found = [page.relative_to(DOCS) for kind in ("md", "ipynb") for page in DOCS.rglob(f"*.{kind}")]
    pages = {str(page.with_suffix("")) for page in found if "_build" not in page.parts} - {"index"}
    patterns = {entry for entry in listed if re.search(r"[*?\[]", entry)}
    assert listed - patterns <= pages
    unlisted = {page for page in pages - listed if not any(fnmatch(page, entry) for entry in patterns)}
    assert unlisted == set()
    captions = [re.search(r"^:caption: (.+)$", tree, re.MULTILINE)[1] for tree in trees]
    assert captions == ["Start", "How to", "Methods", "Reference", "FAQ and troubleshooting"]


def test_readme_has_the_two_commands_as_they_are_run_and_every_part_of_the_package():
    typed = [" ".join(command) for command in commands(ROOT / "README.md")]
    for command in (
        "pip install -e .",
        "lightning_focal fit --config configs/focal.yaml",
        "pip install -e .[test]",
        "pytest -n 2",
    ):
        assert command in typed
    assert "pip install -e . && lightning_focal fit --config configs/focal.yaml " in README
    assert "pip install -e '.[test]' && pytest " in README
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "pip install --quiet -e '.[test]'" in ci
    assert "\n    pytest -n 2 " in ci
    for part in (ROOT / "lightning_focal").iterdir():
        if not part.name.startswith("__") and ((part / "__init__.py").exists() or part.suffix == ".py"):
            assert f"`lightning_focal/{part.name}{'/' if part.is_dir() else ''}`" in README


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("docs_tables", DOCS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_is_that_of_the_code(tables):
    behind = "is behind the code: run `python docs/tables.py`"
    assert tables.page() == CONFIGURATION, f"docs/reference/configuration.md {behind}"
    for page in DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text) == text, f"{title(page)} {behind}"


def test_a_table_of_some_arguments(tables):
    block = "<!-- arguments: lightning_focal.rewards.SoftMinAdvantage, at a.b, only k -->\n{}<!-- end -->"
    assert re.findall(r"^\| `([\w.]+)`", tables.filled(block.format("")), re.MULTILINE) == ["a.b.k"]
    assert tables.filled(tables.filled(block.format("old\n"))) == tables.filled(block.format(""))
    with pytest.raises(ValueError, match="has no argument 'q'"):
        tables.filled(block.replace("only k", "only k q").format(""))
    rows = {name: rest for name, *rest in tables.arguments("lightning_focal.modules.Update")}  # types and defaults as in a file
    assert rows["kl_estimator"][:2] == ["`k1 \\| k2 \\| k3`", "`k3`"]
    assert rows["dual_clip"][:2] == ["`float \\| null`", "`null`"]
    assert tables.arguments("lightning_focal.modules.GRPOModule")[0][2] == "required"


def test_every_method_has_a_page():
    """With its formula, its source, a way to run it, and what it is for; linked from the page that compares them."""
    parts = [getattr(rewards, name) for name in rewards.__all__ if isinstance(getattr(rewards, name), type)]
    bases = (rewards.RewardStrategy, rewards.Weighting, rewards.RewardRule, rewards.Advantage)
    general = {rewards.RewardStrategy, rewards.StaticWeighting, rewards.FocalWeighting, rewards.WeightedSum, *bases}
    methods = {part.__name__ for part in parts if issubclass(part, bases) and part not in general}
    assert len(methods) == 29
    concepts = DOCS / "concepts"
    overview = "".join((concepts / f"{name}.md").read_text(encoding="utf-8") for name in ("advantages", "co-rewarding"))
    told = set()
    for page in concepts.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if "**When to use" in text:
            found = {name for name in methods if re.search(rf"\b{name}\b", text.split("**When to use")[0])}
            assert found, f"{title(page)} names no class"
            told |= found
            assert "$$" in text or "| $" in text, f"{title(page)} has no formula"
            assert re.search(r"\*\*Source|\[paper|arXiv:", text), f"{title(page)} has no source"
            assert any(arguments(command) for command in commands(page)), f"{title(page)} has no command"
            assert page.name == "static.md" or f"({page.name})" in overview, f"{title(page)} is not linked"
    assert told | {"FocalReward"} == methods


def test_the_configuration_page_has_every_key(tables, capsys, monkeypatch):
    """What the parser takes, and what stands on the page, are one."""
    set_up_program(monkeypatch)
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = capsys.readouterr().out
    keys = set(re.findall(r"^  --([a-z_.0-9]+)(?: |$|,)", text, re.MULTILINE)) - {"config", "print_config"}
    keys = {key for key in keys if not key.startswith("trainer") and not key.endswith(".help")}
    keys -= {"model", "data", "reward", "weights_only"} | {key for key in keys if f"{key}.help" in text and "." not in key}
    assert len(keys) > 35
    missing = {key for key in keys if f"| `{key}` |" not in CONFIGURATION}
    assert missing <= {"model.sampling", "model.update", "checkpoint"}, missing
    for name in ("FocalReward", "HTTPJudge", "RubricDataModule", "EMATeacher", "DvaoAdvantage", "HFGenerator", "Gate"):
        assert re.search(rf"^### .*\b{name}\b", CONFIGURATION, re.MULTILINE), name


def test_the_api_page_has_every_public_module(tables):
    """The pages of its classes and functions are made from its ``__all__``."""
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^   (lightning_focal\.\S+)$", page, re.MULTILINE)
    for package in ("lightning_focal.types", *tables.packages()):
        if getattr(importlib.import_module(package), "__all__", ()):
            assert package in shown, f"docs/reference/api.md lacks {package}"
    for package in shown:
        importlib.import_module(package)


def test_every_command_and_part_is_described():
    described = set(re.findall(r"^\| `([\w-]+)` \| .+ \| .+ \|$", CLI[: CLI.index("## Run folder")], re.MULTILINE))
    assert described == {"fit", "validate", "test", "predict", *COMMANDS}
    listed = set(re.findall(r"`(\w+)`", CLI[CLI.index("Parts: ") : CLI.index("## What is printed")]))
    bases = (rewards.Weighting, rewards.RewardRule, rewards.Advantage)
    parts = [getattr(rewards, name) for name in rewards.__all__ if name != "NINE_CHOICES"]
    assert listed == {part.__name__ for part in parts if isinstance(part, type) and issubclass(part, bases) and part not in bases}


def test_stages_functions_and_measures_of_the_pages_exist():
    page = (DOCS / "concepts" / "advantages.md").read_text(encoding="utf-8")
    cells = [cell for line in page.splitlines() if line.startswith("| ") for cell in line.split("|")[2:5]]
    names = {name for cell in cells for name in re.findall(r"`([A-Za-z_]+)`", cell)}
    assert {"DvaoAdvantage", "dvao_advantage", "WorstOf", "RlooAdvantage"} <= names
    assert names <= {*rewards.__all__, *functional.__all__}
    page = (DOCS / "concepts" / "balance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(balance/\w+)` \|.*?\| (?:`(\w+)`)? ?\|[^|]*\|$", page, re.MULTILINE)
    assert {key for key, _ in rows} == set(re.findall(r"^\| `(balance/\w+)` \|", CLI, re.MULTILINE))
    assert {name for _, name in rows if name} <= set(functional.__all__)


def test_the_citation_file_agrees_with_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "version", "license"}
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert all(author.keys() <= {"name", "family-names", "given-names"} for author in citation["authors"])
    assert citation["version"] == lightning_focal.__version__
    assert citation["license"] == "Apache-2.0"
    pages = README + (DOCS / "citing.md").read_text(encoding="utf-8")
    for reference in citation["references"]:
        assert pages.count(reference["title"]) == 2
        assert reference["identifiers"][0]["value"].removeprefix("arXiv:") in pages
    bibtex = re.search(r"```bibtex\n(.*?)```", README, re.DOTALL)[1]
    assert (bibtex.count("@"), lightning_focal.__version__ in bibtex) == (3, True)


def test_log_keys_are_those_of_a_run(run_folder):
    table = CLI[CLI.index("<!-- log keys: begin -->") : CLI.index("<!-- log keys: end -->")]
    documented = {
        f"{stage}/{name}"
        for name, stages in re.findall(r"^\| `([^`]+)` \| (\w+) \|", table, re.MULTILINE)
        for stage in (("train", "val") if stages == "all" else (stages,))
        if name != "stage/..."
    }
    with open(run_folder / "metrics.csv", encoding="utf-8") as file:
        columns = set(next(csv.reader(file))) - {"step", "epoch"}
    logged = {re.sub(r"/(criterion|saturation|weight)/[^/]+", r"/\1/<key>", column) for column in columns}
    assert documented == logged


def test_run_folder_holds_what_is_written_about_it(run_folder):
    section = CLI[CLI.index("## Run folder") : CLI.index("## Keys")]
    patterns = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert len(patterns) >= 6
    for pattern in patterns:
        assert list(run_folder.glob(pattern)), f"no {pattern} in the run folder"
    described = {path for pattern in patterns for path in run_folder.glob(pattern)}
    there = {path for path in run_folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    assert there == described
