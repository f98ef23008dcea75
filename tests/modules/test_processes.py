"""Several processes do what one does; uneven batches, a process without prompts.

Replicated (DDP), and split by both of PyTorch's ways (FSDP2, FSDP).
"""

import json

import pytest
import torch

from tests.modules import parallel
from tests.modules.helpers import column, metrics
from tests.processes import run_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # two fresh processes import everything and train fifteen runs
STRATEGIES = ("ddp", "fsdp2", "fsdp")
RUNS = [(name, case) for name in STRATEGIES for case in parallel.CASES]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with ``<strategy>-<case>/`` of every run; ``one-<case>/`` is that of this process alone."""
    folder = tmp_path_factory.mktemp("runs")
    for case in parallel.CASES:
        (folder / f"one-{case}").mkdir()
        module = parallel.fit(case, folder / f"one-{case}")
        torch.save(parallel.result(module), folder / f"one-{case}" / "result-0.pt")
    run_ranks(parallel.worker, str(folder), STRATEGIES, tuple(parallel.CASES), timeout=800)
    return folder


def results(runs, strategy, case):
    return [torch.load(path) for path in sorted((runs / f"{strategy}-{case}").glob("result-*.pt"))]


@pytest.mark.parametrize(("strategy", "case"), RUNS)
def test_weights_and_teacher_equal_those_of_one_process(runs, strategy, case):
    (one,), all_of_them = results(runs, "one", case), results(runs, strategy, case)
    start = dict(parallel.start(case))
    assert max(float((one["weights"][name] - value).abs().max()) for name, value in start.items()) > 100 * TOLERANCE  # it moved
    for two in all_of_them:
        assert two["weights"].keys() == one["weights"].keys()
        for name, value in one["weights"].items():
            torch.testing.assert_close(two["weights"][name], value, atol=TOLERANCE, rtol=0, msg=name)
        for mine, theirs in zip(one["teacher"], two["teacher"], strict=True):
            torch.testing.assert_close(theirs, mine, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("strategy", "case"), RUNS)
def test_everything_that_is_logged_equals_that_of_one_process(runs, strategy, case):
    """Losses, rewards, saturations, weights, held-out scores: step by step."""
    one, two = metrics(runs / f"one-{case}"), metrics(runs / f"{strategy}-{case}")
    assert len(one) == len(two) >= parallel.STEPS
    for mine, theirs in zip(one, two, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert (value == "") == (theirs[name] == ""), name
            if value != "":
                relative = 1e-4 if "length_" in name or name == "train/policy/grad_norm" else TOLERANCE
                # a correlation divides by a spread that may be small: 1e-6 of a certainty became 1.4e-4 of it on one processor
                absolute = 1e-3 if "length_" in name else TOLERANCE
                assert float(theirs[name]) == pytest.approx(float(value), abs=absolute, rel=relative, nan_ok=True), name


def test_batches_were_refilled_replayed_into_and_passed_over(runs):
    """What the case of dynamic sampling is about came to pass."""
    for name in ("rejected", "replayed", "skipped"):
        assert sum(column(runs / "one-dynamic", f"train/sampling/{name}")) > 0


@pytest.mark.parametrize(("strategy", "case"), RUNS)
def test_all_processes_log_the_same(runs, strategy, case):
    first, *others = (one["logged"] for one in results(runs, strategy, case))
    assert others
    for other in others:
        assert first.keys() == other.keys()
        assert first == pytest.approx(other, abs=0, rel=0, nan_ok=True)


@pytest.mark.parametrize(("strategy", "case"), RUNS)
def test_nothing_is_said_that_nobody_can_act_upon(runs, strategy, case):
    """Above all no advice to log with ``sync_dist``, and nothing of gradients that lack."""
    for rank in range(2):
        said = json.loads((runs / f"{strategy}-{case}" / f"warnings-{rank}.json").read_text())
        assert not [words for words in said if "sync_dist" in words or "unused" in words or "grad" in words.split()], said
