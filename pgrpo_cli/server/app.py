"""The application that answers on a port."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.routing import Router
from starlette.types import ASGIApp

from pgrpo_cli.conversation.speaker import Speaker

from .answering import MOST_WAITING, AnswerQueue
from .completions import Completions, ModelList
from .guard import Admission, Guard
from .page import PATH, Page
from .tastes import TasteTests
from .voices import Voices


def build_app(
    speaker: Speaker,
    run_dir: Path,
    *,
    host: str,
    token: str | None,
    on_failure: Callable[[Exception], object],
    most_waiting: int = MOST_WAITING,
) -> ASGIApp:
    """The application of a run. `on_failure` hears of requests that fail in a way that nobody foresaw."""
    voices, queue = Voices(run_dir, speaker.recipe, speaker.name), AnswerQueue(most_waiting)
    routes = [
        *ModelList(voices).routes,
        Completions(speaker, voices, queue).route,
        *Page(speaker, run_dir, voices).routes,
        *TasteTests(speaker, run_dir, voices, queue).routes,
    ]
    admission = Admission(host, token, open_paths=frozenset({PATH}))
    return Guard(Router(routes, redirect_slashes=False), admission, on_failure)
