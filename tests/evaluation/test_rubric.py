"""The rubric task: its score is the held-out score of `lightning_focal validate`."""

import json
import math
import sys
from types import SimpleNamespace

import pytest

from lightning_focal.cli import main
from lightning_focal.evaluation import evaluate_tasks, flat_scores, load_tasks, policy_lm, vllm_lm
from lightning_focal.evaluation import model as evaluation
from lightning_focal.evaluation.rubric import mean_of_judged, response_scores
from lightning_focal.judges import JudgeRequest, Outcome, Verdict
from lightning_focal.models import load_policy
from lightning_focal.rubrics import Criterion, Rubric
from tests.conftest import TINY, rubric_rows, write_rows
from tests.test_cli import FOCAL_TINY

MET, MISSED, FAILED = Verdict(Outcome.MET), Verdict(Outcome.NOT_MET), Verdict(Outcome.ERROR)
THREE = Rubric((Criterion("right", "Is right.", 3), Criterion("short", "Is short.", 1), Criterion("rude", "Is rude.", -4)))


def rubric_task(folder, rows, **settings):
    file = write_rows(folder / "held_out.jsonl", rows)
    lines = ["task: mine", "class: !function lightning_focal.evaluation.rubric.RubricTask", "dataset_kwargs:", f"  file: {file}"]
    lines += [f"  {key}: {value}" for key, value in settings.items()]
    lines += ["generation_kwargs: {until: [], max_gen_toks: 6, do_sample: false}"]
    (folder / "mine.yaml").write_text("\n".join(lines) + "\n")
    return str(folder / "mine.yaml")


def test_the_score_is_that_of_validate(tmp_path):
    rows = rubric_rows(7)
    task = rubric_task(tmp_path, rows)
    rows_file, sampling = tmp_path / "held_out.jsonl", "{temperature: 0.0, max_new_tokens: 6}"
    data = [f"--data.train={rows_file}", f"--data.val={rows_file}", f"--run_dir={tmp_path / 'run'}"]
    model = [f"--model.policy={TINY}", "--model.val_group_size=1", f"--model.val_sampling={sampling}"]
    main(["validate", f"--config={FOCAL_TINY}", *model, *data])
    scores = json.loads((tmp_path / "run-validate" / "held_out.json").read_text())["evaluations"][-1]["scores"]
    expected = sum(scores.values()) / len(rows)
    assert 0 < expected < 1
    assert len(set(scores.values())) > 1
    main(["eval", "--ckpt_path", TINY, "--tasks", task, "--out", str(tmp_path / "out.json")])
    measured = json.loads((tmp_path / "out.json").read_text())["lightning_focal"]["scores"]
    assert measured["mine/score"] == pytest.approx(expected, abs=1e-7)
    assert measured["mine/judged"] == 1.0


def test_a_thought_is_no_answer_whoever_answers(monkeypatch, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    class Drawn:
        def __init__(self, **_):
            pass

        def generate_until(self, requests, disable_tqdm=False):
            return ["a</think>b", "a", "c"]

    monkeypatch.setattr(HFLM, "generate_until", Drawn.generate_until)
    monkeypatch.setattr(evaluation, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="0"))
    monkeypatch.setitem(sys.modules, "lm_eval.models.vllm_causallms", SimpleNamespace(VLLM=Drawn))
    asked = [Instance("generate_until", {}, (prompt, {}), 0) for prompt in ("Q?<think>\n", "Q?<think>\n", "Q?")]
    for lm in (policy_lm(*load_policy(TINY)), vllm_lm(tmp_path)):
        assert lm.generate_until(asked) == ["b", "", "c"]
    row = {"prompt": "Q?", "rubric": [{"name": "a", "description": "Is a.", "check": "no_commas", "scope": "thought"}]}
    with pytest.raises(ValueError, match="criterion 'a': `scope` must be answer, got 'thought': the harness keeps no thought"):
        load_tasks([rubric_task(tmp_path, [row])])


@pytest.mark.parametrize(("verdicts", "score", "all_met", "judged"), [
    ((MET, MISSED, MISSED), (3 + 0 + 4) / 8, 0.0, 1.0), ((MET, MET, MISSED), 1.0, 1.0, 1.0), ((MET, MET, MET), 4 / 8, 0.0, 1.0),
    ((MET, FAILED, FAILED), 1.0, 1.0, 1 / 3), ((MISSED, FAILED, MISSED), 4 / 7, 0.0, 2 / 3),
    ((FAILED, FAILED, FAILED), math.nan, None, 0.0),  # a failed judgement is no zero
])  # fmt: skip
def test_scores_by_hand(verdicts, score, all_met, judged):
    measured = response_scores(verdicts, THREE)
    assert measured["score"] == pytest.approx(score, nan_ok=True)
    assert all_met is None or measured["all_met"] == all_met
    assert measured["judged"] == pytest.approx(judged)
    assert mean_of_judged([measured["score"], 0.5]) == pytest.approx((score + 0.5) / 2 if judged else 0.5)
    assert math.isnan(mean_of_judged([math.nan]))


def test_mathematics_is_judged_by_its_rule_or_by_a_judge_of_ones_own(tmp_path):
    equals = {"name": "right", "check": {"kind": "answer", "expected": "1/2"}, "points": 1}
    path = rubric_task(tmp_path, [{"id": "x", "prompt": "Half?", "rubric": [equals]}])
    task = load_tasks(path).loaded["tasks"]["mine"]
    asked = JudgeRequest(tuple(task.rows[0].messages), r"\boxed{0.5}", task.rows[0].rubric.criteria)
    assert task.judge.judge([asked])[0][0].outcome is Outcome.MET
    judge = "{class_path: lightning_focal.judges.RuleJudge}"
    task = load_tasks(rubric_task(tmp_path, rubric_rows(2), judge=judge)).loaded["tasks"]["mine"]
    assert type(task.judge).__name__ == "RuleJudge"


def test_whole_chats_are_put_with_their_system_prompt(tmp_path):
    rubric = rubric_rows(1)[0]["rubric"]
    chat = [{"role": role, "content": text} for role, text in (("user", "1"), ("assistant", "2"), ("user", "3"))]
    rows = [{"id": "a", "prompt": "Hi", "rubric": rubric}, {"id": "b", "prompt": chat, "rubric": rubric}]
    tasks = load_tasks(rubric_task(tmp_path, rows, system_prompt="Be brief."))
    model, tokenizer = load_policy(TINY)
    results = evaluate_tasks(policy_lm(model, tokenizer), tasks, log_samples=True)
    asked = [sample["arguments"][0][0] for sample in results["samples"]["mine"]]
    system = "<|im_start|>system\nBe brief.<|im_end|>\n"
    assert asked[0] == system + "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert asked[1].startswith(system + "<|im_start|>user\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n<|im_start|>user\n3")
    assert 0 <= flat_scores(results)["mine/score"] <= 1
    with pytest.raises(ValueError, match=r"is a chat of . turns: pass `--apply_chat_template`"):
        evaluate_tasks(policy_lm(model, tokenizer), tasks, apply_chat_template=False)


def test_what_cannot_be_judged_is_refused_before_a_model_is_read(tmp_path):
    unchecked = [{"id": "x", "prompt": "Hi", "rubric": [{"name": "kind", "description": "Is kind.", "points": 1}]}]
    with pytest.raises(ValueError, match="kind"):
        load_tasks(rubric_task(tmp_path, unchecked))
    with pytest.raises(ValueError, match="`dataset_kwargs` must hold `file`"):
        load_tasks(rubric_task(tmp_path, rubric_rows(1), surprise=1))
