"""Tasks are looked at before anything expensive starts."""

import pytest
import yaml

from lightning_focal.evaluation import load_tasks, task_names
from tests.evaluation.helpers import QUESTIONS, choice_task, generate_task, read_task, write_task
from tests.test_configs import CONFIGS, ROOT


def test_files_of_tasks_are_read_with_their_data(tmp_path):
    tasks = load_tasks([generate_task(tmp_path, ["a"] * 10), choice_task(tmp_path)])
    assert tasks.names == ["words", "choices"]
    assert tasks.documents() == 10
    assert tasks.documents(4) == 4
    assert tasks.documents(0.25) == 3  # rounded up, as the harness does
    assert [doc["question"] for doc in tasks.loaded["tasks"]["words"].eval_docs] == QUESTIONS


@pytest.mark.parametrize("given", ["", " , ", []])
def test_no_task(given):
    with pytest.raises(ValueError, match="must name at least one task"):
        task_names(given)


def test_a_file_that_is_not_there():
    with pytest.raises(ValueError, match=r"the file 'nowhere\.yaml' does not exist"):
        load_tasks("nowhere.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n", "it has neither `task` nor `group`, it has a"),
        ("- 1\n", "cannot be read as a task"),
        ("a: [\n", "cannot be read as a task"),
    ],
)
def test_a_file_that_is_no_task(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_tasks(str(tmp_path / "x.yaml"))


def test_a_name_that_is_not_known_and_those_near_it():
    with pytest.raises(ValueError, match=r"has no task 'gsm8kk'; near it: gsm8k"):
        load_tasks("gsm8kk")


def test_a_group_with_a_member_that_is_not_known(tmp_path):
    path = write_task(tmp_path / "g.yaml", {"group": "mine", "task": ["gsm8k", "mmlu_prow"]})
    with pytest.raises(ValueError, match=r"has no task 'mmlu_prow' \(of .*g\.yaml\); near it: mmlu_pro"):
        load_tasks(path)


def task_on_a_hub(folder, **more):
    path = choice_task(folder, "hub")
    content = read_task(path) | {"dataset_path": "nobody/nothing", **more}
    return write_task(folder / "hub.yaml", {key: value for key, value in content.items() if key != "dataset_kwargs"})


def test_data_on_a_hub_that_cannot_be_fetched(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"the data of '.*hub\.yaml' is on a hub and not on this machine"):
        load_tasks(task_on_a_hub(tmp_path))


def test_data_that_is_not_there(tmp_path):
    path = choice_task(tmp_path)
    (tmp_path / "choices.jsonl").unlink()
    with pytest.raises(ValueError, match=r"'.*choices\.yaml' cannot be loaded: FileNotFoundError"):
        load_tasks(path)


def test_code_of_the_policy_is_run_only_where_that_is_allowed(tmp_path):
    path = choice_task(tmp_path)
    write_task(tmp_path / "choices.yaml", read_task(path) | {"unsafe_code": True})
    with pytest.raises(ValueError, match="choices would run code that the model writes"):
        load_tasks(path)
    assert load_tasks(path, allow_code=True).names == ["choices"]


def test_a_task_that_needs_a_package(tmp_path):
    path = choice_task(tmp_path)
    with open(path, "a") as file:
        file.write("process_results: !function surely_not_installed.score\n")
    with pytest.raises(ValueError, match=r"cannot be loaded: ImportError: Cannot import module 'surely_not_installed'"):
        load_tasks(path)


@pytest.mark.parametrize("name", ["sums", "opposites", "rubric"])
def test_shipped_tasks_load_offline(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    tasks = load_tasks(f"configs/eval/{name}.yaml")
    assert tasks.names == [name]
    assert tasks.documents() == {"sums": 24, "opposites": 24, "rubric": 64}[name]


def test_the_answers_of_shipped_tasks_are_right():
    import json

    for line in (CONFIGS / "eval" / "sums.jsonl").read_text().splitlines():
        row = json.loads(line)
        first, second = (int(word.rstrip("?")) for word in row["question"].split() if word.rstrip("?").isdigit())
        assert int(row["answer"]) == first + second
    for line in (CONFIGS / "eval" / "opposites.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert len(set(row["choices"])) == 3
        assert row["word"] not in row["choices"]
        assert 0 <= row["answer"] < 3


def test_the_papers_set_names_tasks_that_exist_and_says_what_does_not():
    from lm_eval.tasks import TaskManager

    content = yaml.safe_load((CONFIGS / "eval" / "co_rewarding.yaml").read_text())
    known = set(TaskManager().all_tasks)
    assert set(content["task"]) <= known
    assert content["metadata"]["missing"].keys() == {"AMC", "LiveCodeBench", "AlpacaEval"}
    assert not [name for name in known if name.lower().startswith(("amc", "livecodebench", "alpaca"))]
