import dataclasses

import pytest
import torch

from lightning_focal.rewards import StaticReward
from lightning_focal.types import CriterionScores, Prompts, Shaped, level_key
from tests.helpers import make_prompts, make_rollouts, make_scores


def scores_with(**changes):
    """P=2, G=3, C=2, the second prompt has one criterion only."""
    fields = {
        "scores": torch.full((2, 3, 2), 0.5),
        "mask": torch.tensor([[[True, True]] * 3, [[True, False]] * 3]),
        "weights": torch.tensor([[0.5, 0.5], [1.0, 0.0]]),
        "names": (("a", "b"), ("c",)),
    }
    return CriterionScores(**{**fields, **changes})


def shaped_with(**changes):
    fields = {name: torch.zeros(2, 3) for name in ("rewards", "advantages", "static")}
    fields |= {"weights": torch.zeros(2, 4), "saturation": torch.zeros(2, 4), "valid": torch.ones(2, 3, dtype=torch.bool)}
    return Shaped(**{**fields, **changes})


def test_level_key():
    for tags, key in (
        ((), "polite"), (("level:example",), "polite"), (("level:example", "axis:tone", "axis:other"), "tone"),
        (("my axis:tone",), "polite"), (("axis:",), "polite"),
    ):  # fmt: skip
        assert level_key("polite", tags) == key


# -- Prompts and rollouts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "message"), [
    *(({name: ((),)}, rf"`{name}` must hold one entry per prompt \(2\), got 1") for name in ("rubrics", "answers", "tokens", "extra")),
    ({"messages": ()}, r"`messages` must hold one entry per prompt \(2\), got 0"),
    ({"ids": ("a", "a")}, r"`ids` must be unique within a batch, got \['a', 'a'\]"),
    ({"views": (0, 2)}, r"`views` must be 0 \(the original\) or 1 \(its rephrasing\), got \[0, 2\]"),
    ({"questions": ("q", "q"), "views": (1, 1)}, "`questions` and `views` must not repeat"),
])  # fmt: skip
def test_prompts_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        Prompts(**{"ids": ("a", "b"), "messages": ((), ()), **changes})
    assert len(make_prompts(2, answers=("4", None), tokens=((1, 2), (3,)), extra=({}, {"source": "x"}))) == 2
    assert len(Prompts((), ())) == 0


def rollouts_with(**changes):
    return make_rollouts(make_prompts(2), 3, tokens=4, **changes)


def test_rollouts_count_groups_and_tokens():
    mask = torch.zeros(2, 3, 4, dtype=torch.bool)
    mask[0, 1, :2] = True
    rollouts = rollouts_with(response_mask=mask)
    assert (rollouts.group_size, rollouts.version) == (3, 0)
    assert rollouts.lengths.tolist() == [[0, 2, 0], [0, 0, 0]]


def ones(*shape):
    return torch.ones(shape, dtype=torch.bool)


def ids(*shape):
    return torch.zeros(shape, dtype=torch.int64)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"response_ids": ids(2, 3)}, ValueError, r"`response_ids` must be \[P, G, T\] = \(2, \?, \?\)"),
        ({"response_ids": ids(1, 3, 4)}, ValueError, r"got \(1, 3, 4\)"),
        ({"response_ids": torch.zeros(2, 3, 4)}, TypeError, r"`response_ids` must be torch.int64, got torch.float32"),
        ({"response_ids": [[1]]}, TypeError, r"`response_ids` must be a tensor \[P, G, T\], got list"),
        ({"response_mask": ones(2, 3, 5)}, ValueError, r"`response_mask` must be \[P, G, T\] = \(2, 3, 4\), got \(2, 3, 5\)"),
        ({"response_mask": torch.ones(2, 3, 4)}, TypeError, "`response_mask` must be torch.bool"),
        ({"truncated": ones(2, 4)}, ValueError, r"`truncated` must be \[P, G\] = \(2, 3\), got \(2, 4\)"),
        ({"prompt_ids": ids(3, 4)}, ValueError, r"`prompt_ids` must be \[P, L\] = \(2, \?\), got \(3, 4\)"),
        ({"prompt_mask": ones(2, 5)}, ValueError, r"`prompt_mask` must be \[P, L\] = \(2, 4\), got \(2, 5\)"),
        ({"logp": torch.zeros(2, 3)}, ValueError, r"`logp` must be \[P, G, T\] = \(2, 3, 4\), got \(2, 3\)"),
        ({"logp": torch.zeros(2, 3, 4).double()}, TypeError, "`logp` must be torch.float32, got torch.float64"),
        ({"texts": (("x",) * 3,)}, ValueError, r"`texts` must hold one entry per prompt \(2\), got 1"),
        ({"texts": (("x",) * 3, ("x",) * 2)}, ValueError, r"`texts` must hold one entry per rollout \(3\), got 2"),
    ],
)
def test_rollouts_are_checked(changes, error, message):
    with pytest.raises(error, match=message):
        rollouts_with(**changes)


# -- scores and what is made of them ----------------------------------------------------------------------------------------


def test_ragged_rubrics_are_padded():
    scores = scores_with(tags=((("axis:x",), ()), ((),)))
    assert scores.present.tolist() == [[True, True], [True, False]]
    assert scores.keys == (("x", "b"), ("c",))
    assert scores.valid.all()
    assert scores_with().keys == (("a", "b"), ("c",))
    empty = CriterionScores(torch.zeros(0, 3, 0), ones(0, 3, 0), torch.zeros(0, 0), ())
    assert (empty.present.shape, empty.valid.shape) == ((0, 0), (0, 3))


def test_valid_judged_and_what_stands_at_masked_scores():
    mask = torch.tensor([[[True, False], [False, True], [False, False]], [[True, False]] * 3])
    scores = scores_with(mask=mask, scores=torch.where(mask, 0.5, torch.nan))
    assert scores.valid.tolist() == [[True, True, False], [True] * 3]
    # weight on "a" alone: the second rollout was judged on nothing that weighs
    assert scores.judged(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist() == [[True, False, False], [True] * 3]


WORDS = ((("met", "met"),) * 3, (("met",),) * 3)
RANGE = r"`scores` must be finite and in \[0, 1\] wherever `mask` is True"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"scores": torch.zeros(8, 4)}, ValueError, r"`scores` must be \[P, G, C\] = \(\?, \?, \?\), got \(8, 4\)"),
        ({"scores": ids(2, 3, 2)}, TypeError, "`scores` and `weights` must be floating point, got torch.int64"),
        ({"weights": ids(2, 2)}, TypeError, "must be floating point, got torch.float32 and torch.int64"),
        ({"mask": ones(2, 3, 3)}, ValueError, r"`mask` must be \[P, G, C\] = \(2, 3, 2\), got \(2, 3, 3\)"),
        ({"mask": torch.ones(2, 3, 2)}, TypeError, "`mask` must be torch.bool, got torch.float32"),
        ({"mask": ones(2, 3, 2)}, ValueError, "`mask` must be False at padding, got True behind the last of `names`"),
        ({"weights": torch.ones(2, 3)}, ValueError, r"`weights` must be \[P, C\] = \(2, 2\), got \(2, 3\)"),
        *[({"weights": torch.tensor([[0.5, x], [1, 0]])}, ValueError, "finite and >= 0") for x in (-0.5, torch.inf, torch.nan)],
        *[({"scores": torch.full((2, 3, 2), x)}, ValueError, RANGE) for x in (1.5, -0.5, torch.nan)],
        ({"names": (("a", "b"),)}, ValueError, r"`names` must hold one entry per prompt \(2\), got 1"),
        ({"names": (("a", "b"), ("a", "b", "c"))}, ValueError, r"`names\[1\]` must hold at most C = 2 entries, got 3"),
        ({"tags": (((), ()),)}, ValueError, r"`tags` must hold one entry per prompt \(2\), got 1"),
        ({"tags": (((), ()), ((), ()))}, ValueError, r"`tags\[1\]` must hold one entry per criterion \(1\), got 2"),
        ({"failed": ones(2, 3, 1)}, ValueError, r"`failed` must be \[P, G, C\] = \(2, 3, 2\), got \(2, 3, 1\)"),
        ({"failed": torch.zeros(2, 3, 2)}, TypeError, "`failed` must be torch.bool"),
        ({"failed": ones(2, 3, 2)}, ValueError, "`mask` must be False wherever `failed` is True"),
        ({"outcomes": WORDS[:1]}, ValueError, r"`outcomes` must hold one entry per prompt \(2\), got 1"),
        ({"outcomes": (WORDS[0][:2], WORDS[1])}, ValueError, r"`outcomes\[0\]` must hold one entry per rollout \(3\), got 2"),
        ({"reasons": (WORDS[0], WORDS[0])}, ValueError, r"`reasons\[1\]\[0\]` must hold one entry per criterion \(1\), got 2"),
    ],
)
def test_scores_are_checked(changes, error, message):
    scores = scores_with(outcomes=WORDS, reasons=WORDS)
    assert scores.reasons[1][2] == ("met",)
    assert "reasons" not in repr(scores)  # words are kept but not printed
    with pytest.raises(error, match=message):
        scores_with(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rewards": torch.zeros(6)}, ValueError, r"`rewards` must be \[P, G\] = \(\?, \?\), got \(6,\)"),
        ({"advantages": torch.zeros(2, 4)}, ValueError, r"`advantages` must be \[P, G\] = \(2, 3\), got \(2, 4\)"),
        ({"static": torch.zeros(3, 3)}, ValueError, r"`static` must be \[P, G\] = \(2, 3\), got \(3, 3\)"),
        ({"valid": torch.zeros(2, 3)}, TypeError, "`valid` must be torch.bool, got torch.float32"),
        ({"weights": torch.zeros(3, 4)}, ValueError, r"`weights` must be \[P, C\] = \(2, \?\), got \(3, 4\)"),
        ({"saturation": torch.zeros(2, 3)}, ValueError, r"`saturation` must be \[P, C\] = \(2, 4\), got \(2, 3\)"),
    ],
)
def test_shaped_is_checked(changes, error, message):
    with pytest.raises(error, match=message):
        shaped_with(**changes)


# -- all --------------------------------------------------------------------------------------------------------------------


def test_frozen():
    for data in (make_prompts(), make_rollouts(make_prompts()), scores_with(), shaped_with()):
        for field in dataclasses.fields(data):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(data, field.name, None)


def test_to_moves_every_tensor_and_shares_the_rest():
    scores = make_scores([[[1.0, 0.0]]], failed=torch.zeros(1, 1, 2, dtype=torch.bool))
    rollouts = make_rollouts(make_prompts(1), logp=torch.zeros(1, 2, 3))
    for data in (scores, rollouts, StaticReward().shape(scores)):
        moved = data.to("meta")
        assert type(moved) is type(data)
        for field in dataclasses.fields(data):
            before, after = getattr(data, field.name), getattr(moved, field.name)
            if isinstance(before, torch.Tensor):
                assert (before.device.type, after.device.type) == ("cpu", "meta")
                assert (after.shape, after.dtype) == (before.shape, before.dtype)
            else:
                assert after is before
