"""Tasks are looked at before anything expensive starts."""

import json

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


def test_what_is_no_task(tmp_path):
    for given in ("", " , ", []):
        with pytest.raises(ValueError, match="must name at least one task"):
            task_names(given)
    with pytest.raises(ValueError, match=r"the file 'nowhere\.yaml' does not exist"):
        load_tasks("nowhere.yaml")
    unread = "cannot be read as a task"
    for text, message in (("a: 1\n", "it has neither `task` nor `group`, it has a"), ("- 1\n", unread), ("a: [\n", unread)):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_tasks(str(tmp_path / "x.yaml"))


def test_names_that_are_not_known_and_those_near_them(tmp_path, monkeypatch):
    """With two tasks in place of the harness's own, whose index takes ten seconds."""
    from lm_eval import tasks

    class Few(tasks.TaskManager):
        def __init__(self, include_path, include_defaults=True):
            super().__init__(include_path=[*include_path, *([str(own)] if include_defaults else [])], include_defaults=False)

    (own := tmp_path / "own").mkdir()
    for name in ("gsm8k", "mmlu_pro"):
        choice_task(own, name)
    monkeypatch.setattr(tasks, "TaskManager", Few)
    with pytest.raises(ValueError, match=r"has no task 'gsm8kk'; near it: gsm8k"):
        load_tasks("gsm8kk")
    path = write_task(tmp_path / "g.yaml", {"group": "mine", "task": ["gsm8k", "mmlu_prow"]})
    with pytest.raises(ValueError, match=r"has no task 'mmlu_prow' \(of .*g\.yaml\); near it: mmlu_pro"):
        load_tasks(path)


@pytest.mark.slow  # the index of all tasks
def test_the_papers_set_names_tasks_that_exist_and_says_what_does_not(monkeypatch):
    from lm_eval import tasks

    made, make = [], tasks.TaskManager
    monkeypatch.setattr(tasks, "TaskManager", lambda **options: made.append(make(**options)) or made[-1])
    with pytest.raises(ValueError, match=r"has no task 'gsm8kk'; near it: gsm8k"):
        load_tasks("gsm8kk")
    content = yaml.safe_load((CONFIGS / "eval" / "co_rewarding.yaml").read_text())
    known = set(made[-1].all_tasks)
    assert set(content["task"]) <= known
    assert content["metadata"]["missing"].keys() == {"AMC", "LiveCodeBench", "AlpacaEval"}
    assert not [name for name in known if name.lower().startswith(("amc", "livecodebench", "alpaca"))]


def test_what_cannot_be_loaded_or_would_run_code_of_the_policy(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    content = read_task(path := choice_task(tmp_path))
    hub = {key: value for key, value in content.items() if key != "dataset_kwargs"} | {"dataset_path": "nobody/nothing"}
    with pytest.raises(ValueError, match=r"the data of '.*hub\.yaml' is on a hub and not on this machine"):
        load_tasks(write_task(tmp_path / "hub.yaml", hub))
    write_task(tmp_path / "choices.yaml", content | {"unsafe_code": True})
    with pytest.raises(ValueError, match="choices would run code that the model writes"):
        load_tasks(path)
    assert load_tasks(path, allow_code=True).names == ["choices"]
    with open(choice_task(tmp_path), "a") as file:
        file.write("process_results: !function surely_not_installed.score\n")
    with pytest.raises(ValueError, match=r"cannot be loaded: ImportError: Cannot import module 'surely_not_installed'"):
        load_tasks(path)
    path = choice_task(tmp_path)
    (tmp_path / "choices.jsonl").unlink()
    with pytest.raises(ValueError, match=r"'.*choices\.yaml' cannot be loaded: FileNotFoundError"):
        load_tasks(path)


def test_shipped_tasks_load_offline_and_their_answers_are_right(monkeypatch):
    monkeypatch.chdir(ROOT)
    tasks = load_tasks([f"configs/eval/{name}.yaml" for name in ("sums", "opposites", "rubric")]).loaded["tasks"]
    assert {name: len(task.eval_docs) for name, task in tasks.items()} == {"sums": 24, "opposites": 24, "rubric": 64}
    for line in (CONFIGS / "eval" / "sums.jsonl").read_text().splitlines():
        row = json.loads(line)
        first, second = (int(word.rstrip("?")) for word in row["question"].split() if word.rstrip("?").isdigit())
        assert int(row["answer"]) == first + second
    for line in (CONFIGS / "eval" / "opposites.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert len(set(row["choices"])) == 3
        assert row["word"] not in row["choices"]
        assert 0 <= row["answer"] < 3
