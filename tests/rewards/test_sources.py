"""Rubric scores: who is asked what, and where the answers go."""

import pytest

from lightning_focal.judges import JudgeRequest, Outcome, RuleJudge, Verdict
from lightning_focal.rewards import RubricScores
from lightning_focal.rubrics import Criterion, Rubric
from tests.helpers import FAILED, MET, NOT_APPLICABLE, NOT_MET, TableJudge, make_prompts, make_rollouts

CHECK = {"kind": "no_commas"}
LONG = Rubric((Criterion("a", "", 3, check=CHECK, tags=("axis:x",)), Criterion("b", "", -1, check=CHECK)))
SHORT = Rubric((Criterion("c", "", check=CHECK),))
TEXTS = (("r0", "r1", "r2"), ("s0", "s1", "s2"))
TABLE = {
    ("r0", "a"): MET,
    ("r0", "b"): MET,
    ("r1", "a"): NOT_MET,
    ("r1", "b"): NOT_MET,
    ("r2", "a"): NOT_APPLICABLE,
    ("r2", "b"): FAILED,
    ("s0", "c"): NOT_MET,
    ("s1", "c"): MET,
    ("s2", "c"): Verdict(Outcome.GRADED, 0.25, "a quarter"),
}


def test_requests_go_prompt_by_prompt_and_verdicts_come_back_in_place():
    judge = TableJudge(TABLE)
    prompts = make_prompts(2, [LONG, SHORT])
    scores = RubricScores(judge)(make_rollouts(prompts, 3, texts=TEXTS))
    assert judge.requests == [
        JudgeRequest(prompts.messages[p], text, rubric.criteria) for p, rubric in enumerate((LONG, SHORT)) for text in TEXTS[p]
    ]
    assert scores.scores.tolist() == [[[1, 0], [0, 1], [0, 0]], [[0, 0], [1, 0], [0.25, 0]]]
    assert scores.mask.tolist() == [[[True, True], [True, True], [False, False]], [[True, False]] * 3]
    assert scores.failed.nonzero().tolist() == [[0, 2, 1]]
    assert scores.weights.tolist() == [[0.75, 0.25], [1.0, 0.0]]
    assert scores.names == (("a", "b"), ("c",))
    assert scores.keys == (("x", "b"), ("c",))
    assert scores.outcomes[0][2] == ("not_applicable", "error")
    assert scores.reasons[1] == (("not seen",), ("seen",), ("a quarter",))


def test_every_criterion_is_validated():
    judge = TableJudge({})
    RubricScores(judge).validate(make_prompts(2, [LONG, SHORT]))
    assert judge.validated == ["a", "b", "c"]


def test_a_criterion_the_judge_cannot_judge_stops_early():
    rubric = Rubric((Criterion("d", "Is kind.", where="train.jsonl:17: rubric[2]"),))
    with pytest.raises(ValueError, match=r"^train.jsonl:17: rubric\[2\]: no check"):
        RubricScores(TableJudge({})).validate(make_prompts(1, [rubric]))
    with pytest.raises(ValueError, match=r"^train.jsonl:17: rubric\[2\]"):
        RubricScores().validate(make_prompts(1, [rubric]))


def test_rules_by_default():
    source = RubricScores()
    assert isinstance(source.judge, RuleJudge)
    scores = source(make_rollouts(make_prompts(1, [SHORT]), 2, texts=(("no", "yes, no"),)))
    assert scores.scores.tolist() == [[[1.0], [0.0]]]
    assert source.level_keys() == []


def test_prompts_without_rubrics():
    for call in (RubricScores().validate, lambda prompts: RubricScores()(make_rollouts(prompts))):
        with pytest.raises(ValueError, match="RubricScores needs prompts with rubrics, got 2 prompts without"):
            call(make_prompts(2))
        with pytest.raises(ValueError, match=r"RubricScores needs a rubric for every prompt, prompts \['p1'\] have none"):
            call(make_prompts(2, [SHORT, None]))
