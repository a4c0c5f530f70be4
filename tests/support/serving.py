"""A server on a port of this machine, for tests: the real application behind a real uvicorn, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pgrpo_cli.conversation.speaker import Speaker, load_speaker
from pgrpo_cli.eval.targets import eval_target
from pgrpo_cli.server.app import build_app
from pgrpo_cli.server.listening import listen, listening_socket, url_of
from pgrpo_cli.state.run import run_at


def speaker_of(run: Path) -> Speaker:
    """The model of a run, on the CPU."""
    directory = run_at(run)
    return load_speaker(eval_target(directory, directory.recipe(), directory.recipe_dir), torch.device("cpu"))


@contextmanager
def served(
    speaker: Speaker, run: Path, *, host: str = "127.0.0.1", token: str | None = None, **options: Any
) -> Iterator[str]:
    """The address of a server of that run. What fails in it unforeseen fails the test, unless it listens."""
    failures: list[Exception] = []
    options = {"on_failure": failures.append, **options}
    app = build_app(speaker, run, host=host, token=token, **options)
    listening = listening_socket(host, 0, token)
    stop = threading.Event()
    thread = threading.Thread(target=listen, args=(app, listening, stop.is_set))
    thread.start()
    try:
        yield url_of(listening)
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive(), "the server does not end"
    assert failures == []
