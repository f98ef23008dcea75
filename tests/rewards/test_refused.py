"""Arguments that are refused, in words; those of the sources of answers: test_answers.py."""

import pytest

from lightning_focal import rewards as rw
from tests.helpers import TableJudge
from tests.rewards.test_sources import right

NAN, JUDGE = float("nan"), TableJudge({})


@pytest.mark.parametrize(("message", "make"), [
    ("`gamma` must be >= 0, got -1.0", lambda: rw.FocalReward(gamma=-1.0)),
    ("`epsilon` must be > 0, got 0.0", lambda: rw.FocalReward(epsilon=0.0)),
    (r"`bounds` must be \(lowest, highest\) with 0 <= lowest <= highest, got \(0.6, 0.4\)", lambda: rw.FocalReward(bounds=(0.6, 0.4))),
    ("`bounds` must be", lambda: rw.FocalReward(bounds=(-0.1, 0.4))),
    (r"`mix` must be in \[0, 1\], got 1.1", lambda: rw.FocalReward(mix=1.1)),
    ("`scope` must be 'group', 'batch' or 'running', got 'epoch'", lambda: rw.FocalReward(scope="epoch")),
    (r"`decay` must be in \[0, 1\), got 1.0", lambda: rw.FocalReward(decay=1.0)),
    ("`warmup` must be >= 0, got -1", lambda: rw.FocalReward(warmup=-1)),
    ("give `judge` or `source`, not both", lambda: rw.FocalReward(judge=JUDGE, source=rw.RubricScores())),
    ("give `judge` or `source`, not both", lambda: rw.StaticReward(judge=JUDGE, source=rw.RubricScores())),
    ("`weights` must be 'uniform', 'prior' or a mapping of names to weights, got 'even'", lambda: rw.StaticReward(weights="even")),
    (r"numbers >= 0, at least one above 0, got \{'a': -1.0\}", lambda: rw.StaticReward(weights={"a": -1.0, "b": 1.0})),
    (r"finite numbers >= 0, at least one above 0, got \{'a': inf\}", lambda: rw.StaticReward(weights={"a": float("inf")})),
    (r"at least one above 0, got \{'a': 0.0\}", lambda: rw.StaticReward(weights={"a": 0.0})),
    ("`weights` must map names", lambda: rw.StaticReward(weights={})),
    ("`temperature` must be > 0, got 0.0", lambda: rw.StaticReward(temperature=0.0)),
    ("`temperature` must be > 0, got nan", lambda: rw.StaticReward(temperature=NAN)),
    ("FocalWeighting would be lost: `reward: WorstOf`", lambda: rw.FocalReward(reward=rw.WorstOf())),
    ("FocalWeighting would be lost: SoftMinAdvantage weighs all", lambda: rw.FocalReward(advantage=rw.SoftMinAdvantage())),
    ("`reward: Gate` would be lost: DvaoAdvantage", lambda: rw.FocalReward(reward=rw.Gate(["a"]), advantage=rw.DvaoAdvantage())),
    ("`required` must name at least one criterion or tag", lambda: rw.Gate([])),
    ("`epsilon` must be > 0, got 0.0", lambda: rw.DivaWeighting(0.0)),
    ("`gamma` must be >= 0, got -1.0", lambda: rw.SaMrpoAdvantage(-1.0)),
    (r"`agreement` must be in \[0, 1\], got 2.0", lambda: rw.Gd2poAdvantage(2.0)),
    (r"`pass_rates` must be in \(0, 1\), got {'a': 1.0}", lambda: rw.ItemResponse({"a": 1.0})),
    ("`k` must be > 0, got 0", lambda: rw.SoftMinAdvantage(k=0)),
    ("informedness would be lost: DivaWeighting takes no notice", lambda: rw.InformedWeighting(rw.DivaWeighting())),
    (r"`informedness` must be a share in \(0, 1\]", lambda: rw.FocalReward(informedness=0.0)),
    (r"`informedness` must map names to numbers in \[0, 1\]", lambda: rw.FocalReward(informedness={"a": 1.5})),
    ("cannot judge rollouts twice: give", lambda: rw.FocalReward(source=rw.TokenChoiceScores(), informedness=0.1)),
    ("`power` must be >= 0", lambda: rw.InformedWeighting(power=-1.0)),
    (r"`decay` must be in \[0, 1\)", lambda: rw.InformedWeighting(decay=1.0)),
    ("`patience` must be >= 0", lambda: rw.FocalReward(patience=-1)),
    ("`patience` must be >= 1", lambda: rw.PatientWeighting(patience=0)),
    ("`margin` > 0", lambda: rw.PatientWeighting(margin=0.0)),
    (r"`share` must be in \[0, 1\)", lambda: rw.RubricDropout(share=1.0)),
    ("`strength` must be in", lambda: rw.Pow3rWeighting(strength=2.0)),
    (r"`decay` must be in \[0, 1\)", lambda: rw.Pow3rWeighting(decay=1.0)),
    ("'x': `position` must be >= 0", lambda: rw.TokenChoice("x", -1, 0, 1)),
    ("0 <= `first` < `last`, got 0, 5, 5", lambda: rw.TokenChoice("x", 0, 5, 5)),
    ("'x': `points` must be > 0, got 0.0", lambda: rw.TokenChoice("x", 0, 0, 1, points=0.0)),
    (r"`choices` must have unique names and at least one entry, got \[\]", lambda: rw.TokenChoiceScores([])),
    (r"got \['x', 'x'\]", lambda: rw.TokenChoiceScores([rw.TokenChoice("x", 0, 0, 1)] * 2)),
    ("`functions` must hold reward functions", lambda: rw.RewardFunctions([])),
    ("`weights` one for each", lambda: rw.RewardFunctions([right], [1.0, 2.0])),
    ("'no_such.thing' cannot be imported: No module named 'no_such'", lambda: rw.RewardFunctions(["no_such.thing"])),
    ("cannot be imported", lambda: rw.RewardFunctions([f"{__name__}.wrong"])),
    ("where to import them from, got 3", lambda: rw.RewardFunctions([3])),
    ("must have different names", lambda: rw.RewardFunctions([right, right])),
    (r"`bounds` must map names of \['right'\]", lambda: rw.RewardFunctions([right], None, {"rihgt": (0, 2)})),
    ("`bounds` must map", lambda: rw.RewardFunctions([right], None, {"right": (1, 1)})),
    (r"`teacher_rollouts` must be >= 1 or null .* got 0", lambda: rw.TeacherVotes(0)),
    (r"`voters` must be >= 1 or null .* got 0", lambda: rw.OwnVotes(voters=0)),
])  # fmt: skip
def test_arguments(message, make):
    with pytest.raises(ValueError, match=message):
        make()
