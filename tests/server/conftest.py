"""One finished tiny run whose prompts tell the profile of their preference group, and its model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from pgrpo_cli.conversation.speaker import Speaker
from tests.support.serving import served, speaker_of
from tests.support.training import TINY, trained, write_tiny

PROFILES = {"often": "they write often", "seldom": "they write seldom", "é": "they write é"}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    told = {"type": "profiles", "profiles": PROFILES}
    data: dict[str, Any] = {**TINY["data"], "conditioning": told, "eval_fraction": 0.5}
    model = {**TINY["model"], "system_prompt": "Be brief."}
    trained(write_tiny(folder, data=data, model=model), folder / "run", "--set", "train.learning_rate=0.3")
    return folder / "run"


@pytest.fixture(scope="session")
def speaker(run: Path) -> Speaker:
    return speaker_of(run)


@pytest.fixture(scope="session")
def url(speaker: Speaker, run: Path) -> Iterator[str]:
    """A server that all tests share which do not stop or fill one."""
    with served(speaker, run) as address:
        yield address


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    """The official client, which is told nothing but the address. It does not try again."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
