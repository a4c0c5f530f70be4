"""A finished run of the TRL engine, for the tests that read it and for those that damage a copy of it."""

from __future__ import annotations

import pytest

from tests.support.training import trained, write_tiny


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run of six steps that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = write_tiny(folder)
    trained(recipe, folder / "run", "--set", "engine.type=trl")
    return folder / "run"
