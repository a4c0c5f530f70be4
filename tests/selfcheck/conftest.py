"""One policy of the tiny shape for all checks: building it takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgrpo_cli.selfcheck.subject import Subject


@pytest.fixture(scope="package")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject("cpu", "tiny", tmp_path_factory.mktemp("selfcheck"))


@pytest.fixture
def new_subject(tmp_path: Path) -> Subject:
    """One without a policy yet."""
    return Subject("cpu", "tiny", tmp_path)
