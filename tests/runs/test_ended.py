"""Two processes end together, at the same step, whichever of them is asked to; and they go on from one checkpoint or not at all."""

import json

import pytest

from tests.processes import run_ranks
from tests.runs import ended
from tests.runs.test_signals import batches

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # two fresh processes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ended")
    run_ranks(ended.worker, str(folder), timeout=250)
    return folder


def notes(runs, name):
    return [json.loads((runs / f"{name}-{rank}.json").read_text()) for rank in range(2)]


def test_sigterm_to_the_second_process_alone_ends_both_behind_the_batch(runs):
    first, second = notes(runs, "training")
    assert (first["status"], second["status"]) == (143, 0)  # the first one speaks for both
    assert "ended by SIGTERM behind batch 2" in first["said"]
    assert "ended by SIGTERM" not in second["said"]
    assert abs(first["done"] - second["done"]) < 5
    assert batches(runs / "training") == 2


def test_sigterm_before_training_breaks_the_first_evaluation_off(runs):
    first, second = notes(runs, "first_evaluation")
    assert (first["status"], second["status"]) == (143, 0)
    assert "ended by SIGTERM behind batch 0; nothing was saved yet: the same command starts again" in first["said"]
    assert not (runs / "first_evaluation" / "held_out.json").exists()
    assert not list((runs / "first_evaluation").glob("checkpoints/*.ckpt"))


def test_processes_that_found_different_checkpoints_do_not_start(runs):
    for note in notes(runs, "apart"):
        assert note["status"] not in (0, None)
        assert "would go on from different checkpoints" in note["said"]
        assert "step=4.ckpt" in note["said"]
