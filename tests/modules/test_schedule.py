import math
import warnings

import pytest
import torch

from lightning_focal.modules import Update, WarmupCosine
from tests.modules.helpers import column


def sgd(lr=1.0):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(schedule, count):
    out = []
    for _ in range(count):
        out.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return out


def expected(total, warmup, final, lr=1.0):
    """Warm-up and cosine, batch by batch."""
    warm = math.ceil(warmup * total)
    out = []
    for k in range(total):
        if k < warm:
            out.append(lr * (k + 1) / (warm + 1))
        else:
            out.append(lr * (final + (1 - final) * (1 + math.cos(math.pi * (k - warm) / (total - warm))) / 2))
    return out


@pytest.mark.parametrize(("total", "warmup", "final"), [(10, 0.2, 0.0), (22, 0.1, 0.3), (5, 0.0, 0.5), (1, 0.5, 0.0)])
def test_rates_by_hand(total, warmup, final):
    assert rates(WarmupCosine(sgd(0.5), warmup, final, total), total) == pytest.approx(expected(total, warmup, final, 0.5))


def test_stays_at_the_end_behind_its_length():
    assert rates(WarmupCosine(sgd(), 0.0, 0.25, 2), 4)[2:] == pytest.approx([0.25, 0.25])


def test_length_from_the_trainer_sets_the_first_rate_and_a_given_one_stays():
    schedule = WarmupCosine(sgd(), 0.5)
    assert schedule.get_last_lr() == [1.0]
    for one, length in ((schedule, 4), (WarmupCosine(sgd(), 0.5, total=8), 8)):
        one.begin(4)
        assert rates(one, length) == pytest.approx(expected(length, 0.5, 0.0))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"warmup": 1.0}, r"`warmup` must be in \[0, 1\), got 1.0"),
        ({"final": 1.5}, "`final`"),
        ({"total": 0}, "`total` must be >= 1"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        WarmupCosine(sgd(), **arguments)


def half_cosine(optimizer):
    return WarmupCosine(optimizer, warmup=0.25, final=0.1)


def test_stepped_once_a_rollout_batch_and_logged_as_used(run_tiny):
    """Limited batches make it shorter."""
    used, update = [], Update(epochs=2, mini_batches=2)

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            used.append(self.param_groups[0]["lr"])
            return super().step(closure)

    settings = {"trainer_limit_train_batches": 3, "trainer_max_epochs": 2}
    run = run_tiny(optimizer=lambda p: Watched(p, lr=0.01), lr_scheduler=half_cosine, update=update, **settings)
    by_hand = expected(6, 0.25, 0.1, 0.01)
    assert used == pytest.approx([rate for rate in by_hand for _ in range(update.steps)])
    assert column(run.folder, "train/policy/lr") == pytest.approx(by_hand, rel=1e-6)


def test_max_steps_count_optimiser_steps_not_batches(run_tiny):
    """Four optimiser steps a batch: `max_steps: 8` is two batches, and the schedule is as long."""
    run = run_tiny(lr_scheduler=half_cosine, update=Update(epochs=2, mini_batches=2), trainer_max_epochs=5, trainer_max_steps=8)
    assert run.module.planned_batches == 2
    assert column(run.folder, "train/policy/lr") == pytest.approx(expected(2, 0.25, 0.1, 0.01), rel=1e-6)


def test_run_without_end_needs_a_length(run_tiny):
    endless = {"trainer_max_epochs": -1, "lr_scheduler": half_cosine}
    with pytest.raises(ValueError, match=r"`model\.lr_scheduler\.total` must be given.*max_epochs: -1"):
        run_tiny(**endless)
    run = run_tiny(**endless, trainer_max_steps=3)
    assert column(run.folder, "train/policy/lr") == pytest.approx(expected(3, 0.25, 0.1, 0.01), rel=1e-6)


def test_schedulers_of_torch_work_too_but_for_one_that_waits_for_a_metric(run_tiny):
    run = run_tiny(lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1))
    assert column(run.folder, "train/policy/lr") == pytest.approx([0.01, 0.01, 0.001, 0.001])
    with pytest.raises(ValueError, match=r"`model\.lr_scheduler`.*ReduceLROnPlateau.*WarmupCosine"):
        run_tiny(lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)


def test_state_holds_progress_alone():
    schedule = WarmupCosine(sgd(), 0.25, 0.1)
    schedule.begin(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schedule.step()
    longer = WarmupCosine(sgd(), 0.25, 0.1)
    longer.begin(8)
    longer.load_state_dict(schedule.state_dict())
    longer.begin(8)
    assert longer.get_last_lr() == pytest.approx([expected(8, 0.25, 0.1)[1]])
