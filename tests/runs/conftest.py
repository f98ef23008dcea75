"""One run that is let alone, beside which every run is held that was killed or signalled."""

import pytest
import yaml

from lightning_focal.runs import RunCheckpoint
from tests.runs.killed import Snapshots, state
from tests.runs.test_saving import BETWEEN, MOMENTS, configuration, fit


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """``(config, folder, folder of the copies)``: copies of its folder were made on the way, by a callback that has no state."""
    top = tmp_path_factory.mktemp("saving")
    config = configuration(top)
    watched = yaml.safe_load(config.read_text())
    snapshots = {"class_path": "tests.runs.killed.Snapshots", "init_args": {"folder": str(top / "killed"), "moments": MOMENTS}}
    watched["trainer"]["callbacks"].append(snapshots)
    (top / "watched.yaml").write_text(yaml.safe_dump(watched))
    between = Snapshots(str(top / "killed"), BETWEEN)

    def behind(self, trainer):
        between.between(trainer)
        before(self, trainer)

    with pytest.MonkeyPatch.context() as patch:
        before = RunCheckpoint._save
        patch.setattr(RunCheckpoint, "_save", behind)
        folder = fit(top / "watched.yaml", top / "watched")
    assert state(folder)["/callbacks/Counting/batch_start"] == "8"
    return config, folder, top / "killed"
