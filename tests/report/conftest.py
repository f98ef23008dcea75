"""A small run folder, made once."""

import shutil

import pytest

from tests.report.made_run import make_run


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """Three batches; to be read only."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", batches=3)


@pytest.fixture
def folder(stored, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(stored, tmp_path / "run")
