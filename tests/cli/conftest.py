"""Runs that can be damaged: made once, copied for every test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.evaluated import evaluated_run
from tests.support.training import trained, write_tiny


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    trained(write_tiny(folder), folder / "whole")
    shutil.copytree(folder / "whole", folder / "run")
    shutil.rmtree(folder / "run" / "adapter")
    return folder


@pytest.fixture
def folder(_finished: Path, tmp_path: Path) -> Path:
    """The recipe tiny.yaml, a run `whole` that ended, and `run`: the same, killed before its adapter was in
    place.
    """
    return Path(shutil.copytree(_finished, tmp_path / "copy"))


@pytest.fixture
def begun(folder: Path) -> Path:
    """That folder, with `run` at step 2 of 6."""
    for step in (4, 6):
        shutil.rmtree(folder / "run" / "checkpoints" / f"step-00000{step}")
    return folder


@pytest.fixture(scope="session")
def _evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluated_run(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture
def run(_evaluated: Path, tmp_path: Path) -> Path:
    """A run of two steps with its evaluation."""
    return Path(shutil.copytree(_evaluated, tmp_path / "run"))
