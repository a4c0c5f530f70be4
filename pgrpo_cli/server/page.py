"""The page for people, and what it asks for besides answers: whom the model is told about, and ratings.

Everything is in the one file. The policy names its script and its style by their hashes, so that nothing else
runs, whatever a model says; the page asks this server and nobody else.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.feedback.file import FEEDBACK, append
from pgrpo_cli.feedback.records import Rating

from .errors import ApiError
from .requests import Conversation, Seed
from .voices import Voices

PATH = "/"


class RatingRequest(BaseModel):
    """What somebody makes of an answer: `messages` is the client's conversation before it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    messages: Annotated[Conversation, Field(strict=False)]
    answer: str
    seed: Seed | None = None
    rating: Literal[1, -1] | None = None
    edited: str | None = None
    user: str | None = None


class Page:
    """The page's own endpoints, but for those of the taste test."""

    def __init__(self, speaker: Speaker, run_dir: Path, voices: Voices) -> None:
        self._speaker, self._path, self._voices = speaker, run_dir / FEEDBACK, voices
        self._source, self._policy = _page()

    @property
    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route(PATH, self.page),
            Route("/page/preset", self.preset),
            Route("/page/ratings", self.rate, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        """The page. There is nothing of the run in it."""
        return HTMLResponse(self._source, headers={"Content-Security-Policy": self._policy})

    async def preset(self, request: Request) -> Response:
        """What a model is told before a conversation."""
        voice = self._voices.find(request.query_params.get("model", ""))
        preset = await asyncio.to_thread(self._voices.preset, voice)
        return JSONResponse({"origin": preset.origin, "messages": list(preset.messages)})

    async def rate(self, request: Request) -> Response:
        """Keep a rating; it is on the disk when the response comes."""
        asked = RatingRequest.model_validate_json(await request.body())
        record = await asyncio.to_thread(self._keep, asked)
        return JSONResponse({"id": record.id}, 201)

    def _keep(self, asked: RatingRequest) -> Rating:
        if not asked.answer:
            raise ApiError(400, "there is no answer to rate", param="answer")
        voice = self._voices.find(asked.model)
        said = [message.as_message() for message in asked.messages]
        messages = self._voices.messages(voice, said, recorded=True)
        record = Rating(
            user=asked.user,
            preference_group=voice.preference_group,
            messages=tuple(messages),
            answer=asked.answer,
            rating=asked.rating,
            edited=asked.edited,
            model=voice.which,
            run=self._speaker.name,
            step=self._speaker.step if voice.which == "tuned" else 0,
            seed=asked.seed,
        )
        append(self._path, record)
        return record


def _page() -> tuple[str, str]:
    """The page, and its content security policy."""
    folder = resources.files(__package__).joinpath("static")
    page, style, script = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
    )
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.replace("/*style*/", style).replace("/*script*/", script), policy


def _hash(text: str) -> str:
    """How a content security policy names an inline script or style (W3C CSP level 2)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
