"""One run that the pages are held against."""

import pytest

from lightning_focal.cli import main
from tests.docs.pages import ROOT, set_up_program


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A small finished run with everything that is logged switched on."""
    folder = tmp_path_factory.mktemp("runs") / "focal_tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        set_up_program(patch)
        patch.setenv("LIGHTNING_FOCAL_RUN_FOLDER", str(folder))
        overrides = ["--model.reference=FrozenReference", "--model.update.kl_coef=0.1", "--model.update.importance_cap=2"]
        main(["fit", "--config", "configs/focal_tiny.yaml", "--trainer.limit_train_batches=1", *overrides])
    return folder
