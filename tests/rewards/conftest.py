"""A judge for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.judge import Behaviour, JudgeServer, judge_server
from tests.support.rewards import threads_left


@pytest.fixture
def serve() -> Iterator[Any]:
    """Starts a judge that behaves as it is told; at the end no thread of a reward is left."""
    running = []

    def start(behaviour: Behaviour) -> JudgeServer:
        running.append(judge_server(behaviour))
        return running[-1].__enter__()

    yield start
    for server in running:
        server.__exit__(None, None, None)
    assert threads_left() == []
