"""The blind taste test on the page: a session for each person who picks.

Whose answers are shown stays here until the session ends. A session that is forgotten, since others began or
the server ended, loses nothing: every pick is on the disk.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pgrpo_cli.conversation.questions import questions_of_data, shuffled, trained_questions
from pgrpo_cli.conversation.speaker import Speaker
from pgrpo_cli.conversation.tasting import Contestant, Shown, Tasting, candidates_of, earlier_picks
from pgrpo_cli.data.conditioning.presets import preference_groups_of
from pgrpo_cli.eval.matrix import MOST_GROUPS
from pgrpo_cli.feedback.file import TASTE
from pgrpo_cli.feedback.records import checked_name
from pgrpo_cli.state.run import RunDirectory

from .answering import AnswerQueue, in_thread
from .errors import ApiError
from .voices import Voice, Voices

MOST_SESSIONS = 32


class BeginRequest(BaseModel):
    """Who picks, between what, and whom the model is told about."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    user: str
    between: Literal["base,tuned", "samples"] = "base,tuned"
    preference_group: str | None = None


class PickRequest(BaseModel):
    """What was picked of the pair of that number; `s` skips it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    number: int
    mark: Literal["1", "2", "=", "s"]


@dataclass
class _Session:
    """A person's test. `shown` is the pair before them, and `recorded` the number of the one that they picked
    from last; `later` are shown again after picks that were taken back. Steps wait for each other.
    """

    tasting: Tasting
    shown: Shown | None = None
    recorded: int | None = None
    later: list[Shown] = field(default_factory=list)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    # What is written and what the session knows of it are one piece of work, also where nobody waits for it.

    def pick(self, shown: Shown, mark: str) -> None:
        """Record a pick from the pair that is shown."""
        self.tasting.pick(shown, mark)
        self.shown, self.recorded = None, shown.number

    def undo(self) -> bool:
        """Whether there was a pick to take back; its pair is shown again, and the one that waited later."""
        before = self.tasting.undo()
        if before is not None:
            if self.shown is not None:
                self.later.append(self.shown)
            self.shown = before
        return before is not None


class TasteTests:
    """The endpoints of the taste test."""

    def __init__(self, speaker: Speaker, run_dir: Path, voices: Voices, queue: AnswerQueue) -> None:
        self._speaker, self._run_dir, self._voices, self._queue = speaker, run_dir, voices, queue
        self._sessions: dict[str, _Session] = {}

    @property
    def routes(self) -> list[Route]:
        """Where they are."""
        one = "/page/tastings/{session}"
        return [
            Route("/page/tastings", self.begin, methods=["POST"]),
            Route(f"{one}/picks", self.pick, methods=["POST"]),
            Route(f"{one}/undo", self.undo, methods=["POST"]),
            Route(f"{one}/end", self.end, methods=["POST"]),
        ]

    async def begin(self, request: Request) -> Response:
        """A new session, and its first pair."""
        asked = BeginRequest.model_validate_json(await request.body())
        with self._queue.place():
            session = _Session(await asyncio.to_thread(self._tasting, asked))
            await self._next_pair(session)
        key = secrets.token_hex(12)
        self._sessions[key] = session
        while len(self._sessions) > MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return JSONResponse(_state(key, session), 201)

    async def pick(self, request: Request) -> Response:
        """Keep a pick; it is on the disk when the next pair comes.

        Where that pair failed, the same pick may be sent again: it is not recorded twice.
        """
        asked = PickRequest.model_validate_json(await request.body())
        key, session = self._find(request)
        async with session.busy:
            shown = session.shown
            if asked.number != (session.recorded if shown is None else shown.number):
                raise ApiError(409, f"pair {asked.number} is not the one that is shown")
            with self._queue.place():
                if shown is not None:
                    await in_thread(lambda: session.pick(shown, asked.mark))
                await self._next_pair(session)
        return JSONResponse(_state(key, session))

    async def undo(self, request: Request) -> Response:
        """Take the last pick back, and show its pair again."""
        key, session = self._find(request)
        async with session.busy:
            if not await in_thread(session.undo):
                raise ApiError(409, "there is no pick to take back")
        return JSONResponse(_state(key, session))

    async def end(self, request: Request) -> Response:
        """What the picks say, with the names that were hidden."""
        key, session = self._find(request)
        async with session.busy:
            session.shown = None
            self._sessions.pop(key, None)
        return JSONResponse(_state(key, session, ended=True))

    def _find(self, request: Request) -> tuple[str, _Session]:
        key = request.path_params["session"]
        if key not in self._sessions:
            raise ApiError(404, "this taste test is over; begin another one, the picks are kept")
        # The one that was used last is forgotten last.
        self._sessions[key] = self._sessions.pop(key)
        return key, self._sessions[key]

    async def _next_pair(self, session: _Session) -> None:
        """Its answers are computed when their turn comes."""
        if session.later:
            session.shown = session.later.pop()
            return
        stop = Event()
        session.shown = await self._queue.run(lambda: session.tasting.next_pair(stop), stop.set)

    def _tasting(self, asked: BeginRequest) -> Tasting:
        """Raises DataError for a name that is none, and where there is nothing to ask."""
        recipe, run_dir, path = self._speaker.recipe, self._run_dir, self._run_dir / TASTE
        user = checked_name(asked.user, "your name")
        picks, _ = earlier_picks(path, user)
        preset = self._voices.preset(Voice("", "tuned", asked.preference_group))
        versus, candidates = None, list[Contestant]()
        if asked.between == "samples":
            groups = preference_groups_of(run_dir)[:MOST_GROUPS] if asked.preference_group is None else []
            candidates = candidates_of(run_dir, recipe, self._speaker, groups, preset)
        else:
            versus = (
                Contestant("base", self._speaker, "base", preset),
                Contestant("tuned", self._speaker, "tuned", preset),
            )
        questions, seed = questions_of_data(run_dir, recipe.data.conditioning), len(picks)
        trained = trained_questions(run_dir, recipe, RunDirectory(run_dir).recipe_dir) if versus else {}
        skip = {pick.prompt_id for pick in picks if pick.prompt_id}
        return Tasting(
            shuffled(questions, seed, user, skip=skip, trained=trained),
            path,
            user,
            self._speaker.name,
            candidates,
            versus,
            preset.preference_group,
            preset.recorded,
            None,
            seed,
            trained,
        )


def _state(key: str, session: _Session, *, ended: bool = False) -> dict[str, Any]:
    """What the page shows now. Nothing in it tells whose answers they are before there are no more."""
    tasting, shown, pair, verdict = session.tasting, session.shown, None, None
    if shown is not None:
        pair = {
            "number": shown.number,
            "turns": list(shown.question.turns or ()),
            "question": shown.question.text,
            "answers": list(shown.answers),
        }
    else:
        verdict = [] if ended else [tasting.no_choice or "There are no questions left."]
        verdict += tasting.result().sentences() or ["The picks are kept."]
    return {
        "id": key, "picked": tasting.picked, "skipped": tasting.skipped, "pair": pair, "verdict": verdict,
    }  # fmt: skip
