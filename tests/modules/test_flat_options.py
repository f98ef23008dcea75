"""Options of ``FSDPStrategy`` and of ``model.sharding``: what they save is memory, what comes out is the run of one process."""

import pytest
import torch

from tests.modules import flat_options
from tests.modules.flat_options import EXACT, NARROW
from tests.modules.helpers import column
from tests.processes import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # two fresh processes train a dozen short runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("options")
    (folder / "one").mkdir()
    torch.save(flat_options.parallel.result(flat_options.fit(folder / "one")), folder / "one" / "result-0.pt")
    run_ranks(flat_options.worker, str(folder), timeout=500)
    return folder


def results(runs, name):
    return [torch.load(path) for path in sorted((runs / name).glob("result-*.pt"))]


def furthest(one, other):
    assert one["weights"].keys() == other["weights"].keys()
    return max(float((other["weights"][name] - value).abs().max()) for name, value in one["weights"].items())


@pytest.mark.parametrize("name", EXACT)
def test_the_run_is_that_of_one_process(runs, name):
    (one,), both = results(runs, "one"), results(runs, name)
    start = {"weights": dict(flat_options.parallel.start("co_rewarding_2"))}
    assert furthest(start, one) > 3e-4  # it moved
    for two in both:
        assert furthest(one, two) < 1e-5
        for mine, theirs in zip(one["teacher"], two["teacher"], strict=True):
            torch.testing.assert_close(theirs, mine, atol=1e-5, rtol=0)
    for key in ("train/loss/total", "train/reward/mean", "train/policy/kl", "train/policy/grad_norm"):
        assert column(runs / name, key) == pytest.approx(column(runs / "one", key), abs=1e-5, rel=1e-4), key


@pytest.mark.parametrize("name", NARROW)
def test_narrow_arithmetic_on_full_weights(runs, name):
    """Weights, optimiser and teacher stay float32 and are sampled from; forward, backward or sums are narrower."""
    (one,), both = results(runs, "one"), results(runs, name)
    first, second = both
    assert furthest(first, second) == 0
    assert first["kinds"] == ["torch.float32"]
    assert {value.dtype for value in first["teacher"]} == {torch.float32}
    assert 0 < furthest(one, first) < 2 * flat_options.STEPS * 3e-4  # the furthest that two runs of AdamW get
    assert column(runs / name, "train/reward/mean")[0] == column(runs / "one", "train/reward/mean")[0]
    assert column(runs / name, "train/policy/grad_norm")[0] == pytest.approx(
        column(runs / "one", "train/policy/grad_norm")[0], rel=0.05
    )
