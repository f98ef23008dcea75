"""README shows a stored run, and says of it what the page of results says."""

import importlib
import importlib.util
import json
import re

import pytest

from tests.docs.pages import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
RUN = "FocalReward, float32, seed 0"
NUMBER = r"[+-]?\d\.\d{3}"


@pytest.fixture(scope="module")
def readme_run():
    spec = importlib.util.spec_from_file_location("readme_run", ROOT / "docs" / "readme_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown():
    """Before, after, difference with its interval, and the worst criterion before and after, as README prints them."""
    block = re.search(r"<!-- console:begin .*?<!-- console:end -->", README, re.DOTALL)[0]
    table = re.findall(r"\d\.\d{3}", re.search(r"^worst criterion .*$", block, re.MULTILINE)[0])
    verdict = re.search(rf"({NUMBER}) -> ({NUMBER}), paired difference ({NUMBER}) \[({NUMBER}), ({NUMBER})\]", block)
    return [*verdict.groups(), *table[:2]]


def test_readme_agrees_with_the_page_of_results():
    line = next(line for line in RESULTS.splitlines() if line.startswith(f"| {RUN} |"))
    assert re.findall(NUMBER, line)[:7] == shown()


def test_readme_agrees_with_the_stored_figures():
    runs = json.loads((ROOT / "benchmarks/results/main_job_24.json").read_text(encoding="utf-8"))["runs"]
    (run,) = [run for run in runs if run["run"] == "f32_g3_6e5_s0"]
    figures = [run["before"][0], run["after"][0], *run["difference"], *run["before_after"]["val/balance/worst"]]
    assert [float(number) for number in shown()] == pytest.approx(figures, abs=5e-4)


def test_readme_is_made_from_the_stored_run(readme_run):
    stored = json.loads(readme_run.STORED.read_text(encoding="utf-8"))
    assert readme_run.filled(README, stored) == README, "README is behind: run `python docs/readme_run.py`"
    assert [pair["why"] for pair in stored["responses"]["shown"]] == ["rose most", "median change", "fell most"]
    assert stored["responses"]["run"]["ended"] is True


def test_the_cases_for_and_against_are_those_that_were_measured():
    """The figures beside "When to use it" are those of the stored toy study and of the page of results."""
    toy = json.loads((ROOT / "benchmarks/results/toy_balance.json").read_text(encoding="utf-8"))["results"]
    (case,) = [arms for name, arms in toy.items() if name.startswith("C ")]
    part = README[README.index("## When to use it") : README.index("## Two commands")]
    rows = {
        "static weights": "static",
        "Focal Reward, gamma 1": "Focal g1",
        "standardised Focal, gamma 1, levels of the batch": "standardised g1 batch",
    }
    for label, arm in rows.items():
        line = next(line for line in part.splitlines() if line.startswith(f"| {label} |"))
        told = [float(number) for number in re.findall(r"\d\.\d{3}", line)]
        assert told == pytest.approx([case[arm]["mean"][0], case[arm]["worst"][0]], abs=5e-4)
    for arm, mean in (("static, uniform", "0.660"), ("focal, gamma 1, tau 1", "0.646"), ("focal, gamma 3, tau 1", "0.504")):
        line = next(line for line in RESULTS.splitlines() if line.startswith(f"| {arm} |"))
        assert line.split("|")[3].split()[0] == mean
        assert mean in part
    main = [line.split("|") for line in RESULTS.splitlines() if re.match(r"\| FocalReward, (float32|bfloat16), seed \d \|", line)]
    worst = [[float(number) for number in re.findall(NUMBER, cells[5])] for cells in main]
    assert len(main) == 6
    assert sum(after > before for before, after in worst) == 3
    assert all(re.search(r"\[\+", cells[4]) for cells in main)


def test_names_on_the_page_of_a_step_exist():
    """Every link into the code leads to something that is there, and every step of ``training_step`` is told."""
    page = (ROOT / "docs" / "concepts" / "step.md").read_text(encoding="utf-8")
    links = re.findall(r"\{py:(?:meth|class|func)\}`(?:[^`<]*<)?~?([\w.\s]+?)>?`", page)
    assert len(links) > 8
    for link in links:
        names = "".join(link.split()).split(".")
        for cut in range(len(names), 0, -1):
            try:
                found = importlib.import_module(".".join(names[:cut]))
                break
            except ImportError:
                continue
        for name in names[cut:]:
            found = getattr(found, name)
        assert callable(found), link
