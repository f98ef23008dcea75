"""Metrics of lm-evaluation-harness as criteria: the numbers that the harness itself gives a model that writes the same responses."""

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("lm_eval")

from lightning_focal.integrations.lm_eval import HarnessData, HarnessScores
from lightning_focal.rewards import FocalReward
from tests.integrations.helpers import answered

DOCS = [{"question": f"{a} and {a}?", "answer": f"{a} + {a} = {2 * a}\n#### {2 * a}"} for a in (2, 3, 4)]
ANSWERS = ["It is\n#### 4", "about 6", "#### 9\nQuestion: next 8"]


def gsm8k(folder, **more):
    """The harness's own task, its file as it is, on data of ours."""
    import lm_eval

    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    files = {split: str(folder / "docs.jsonl") for split in ("train", "test")}
    content = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"),
        "task": "my_gsm8k",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
        "num_fewshot": 0,
        **more,
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "mine.yaml")


def by_the_harness(path):
    """``[document]`` scores by metric and filter of a scripted model, from the samples that the harness logs."""
    from lm_eval.api.model import TemplateLM

    from lightning_focal.evaluation import evaluate_tasks, load_tasks

    class Scripted(TemplateLM):
        eot_token_id = 0

        def generate_until(self, requests, disable_tqdm=False):
            found = []
            for request in requests:
                context, settings = request.args
                text = next(a for doc, a in zip(DOCS, ANSWERS, strict=True) if doc["question"] in context)
                for stop in settings["until"]:
                    text = text.split(stop)[0]
                found.append(text)
            return found

        def loglikelihood(self, requests, disable_tqdm=False):
            raise AssertionError

        loglikelihood_rolling = _loglikelihood_tokens = tok_encode = loglikelihood

    tasks = load_tasks(path)
    results = evaluate_tasks(Scripted(), tasks, apply_chat_template=False, bootstrap_iters=0, log_samples=True)
    rows = [{} for _ in DOCS]
    contexts = [None] * len(DOCS)
    for sample in results["samples"]["my_gsm8k"]:
        rows[sample["doc_id"]][f"exact_match/{sample['filter']}"] = float(sample["exact_match"])
        contexts[sample["doc_id"]] = sample["arguments"][0][0]
    return rows, contexts


def test_scores_and_prompts_are_those_of_the_harness(tmp_path):
    path = gsm8k(tmp_path)
    wanted, contexts = by_the_harness(path)
    data = HarnessData(path, val="test", batch_size=2)
    rollouts = answered(data, "val", [[answer, "<think>#### 4</think>none"] for answer in ANSWERS])
    assert [chat[0]["content"] for chat in rollouts.prompts.messages] == contexts
    source = HarnessScores()
    source.validate(rollouts.prompts)
    assert source.level_keys() == ["exact_match/flexible-extract", "exact_match/strict-match"] == sorted(wanted[0])
    scores = source(rollouts)
    for p, row in enumerate(wanted):
        assert dict(zip(scores.names[p], scores.scores[p, 0].tolist(), strict=True)) == row
    assert [row["exact_match/strict-match"] for row in wanted] == [1.0, 0.0, 0.0]
    assert [row["exact_match/flexible-extract"] for row in wanted] == [1.0, 1.0, 0.0]
    assert not scores.scores[:, 1].any()  # a thought is not an answer
    assert FocalReward(gamma=1.0).shape(scores).valid.all()


def test_a_chosen_metric_and_one_of_which_less_is_better(tmp_path):
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": False}
    metrics = [metric | {"regexes_to_ignore": ["(?s).*#### "]}]
    data = HarnessData(gsm8k(tmp_path, metric_list=metrics), val="test")
    scores = HarnessScores(["exact_match/strict-match"])(answered(data, "val", [["#### 4", "#### 5"]]))
    assert scores.names == (("exact_match/strict-match",),)
    assert scores.scores.tolist() == [[[0.0], [1.0]]]


def test_a_scorer_that_fails_is_masked(tmp_path):
    data = HarnessData(gsm8k(tmp_path), val="test")
    rollouts = answered(data, "val", [["#### 4", "#### 5"]])
    source = HarnessScores()
    source.validate(rollouts.prompts)
    rollouts.prompts.extra[0]["doc"].pop("answer")
    scores = source(rollouts)
    assert scores.failed.all()
    assert not scores.mask.any()
    assert "answer" in scores.reasons[0][0][0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"train": "training", "val": "validation"}, "`data.val`: my_gsm8k has no validation split"),
        ({"val": "dev"}, "`data.val` must be .*, got 'dev'"),
        ({"train": "test", "val": "test"}, "must be different splits"),
        ({}, "at least one of `train`"),
    ],
)
def test_wrong_splits_are_refused(tmp_path, arguments, said):
    with pytest.raises(ValueError, match=said):
        HarnessData(gsm8k(tmp_path), **arguments).setup("fit")


def test_likelihoods_and_other_data_are_refused(tmp_path):
    path = gsm8k(tmp_path, output_type="multiple_choice", doc_to_choice="['a', 'b']", doc_to_target="0", filter_list=None)
    with pytest.raises(ValueError, match=r"compares likelihoods \(multiple_choice\)|cannot be loaded"):
        HarnessData(path, val="test").setup("validate")
    data = HarnessData(gsm8k(tmp_path), val="test")
    rollouts = answered(data, "val", [["a"]])
    with pytest.raises(ValueError, match=r"my_gsm8k scores a response by \['exact_match/flexible-extract', .*\], got \['acc'\]"):
        HarnessScores(["acc"]).validate(rollouts.prompts)
    object.__setattr__(rollouts.prompts, "extra", ())
    with pytest.raises(ValueError, match="write `data: HarnessData`"):
        HarnessScores().validate(rollouts.prompts)
