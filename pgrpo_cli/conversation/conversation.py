"""A conversation with the model of a run, as somebody, and what the person makes of its answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pgrpo_cli.data.conditioning.presets import (
    Preset,
    group_preset,
    plain_preset,
    preference_groups_of,
    profile_preset,
    user_preset,
)
from pgrpo_cli.data.records import Message
from pgrpo_cli.errors import DataError, PathError
from pgrpo_cli.feedback.file import FEEDBACK, TASTE, append, read_feedback
from pgrpo_cli.feedback.records import Placed, Rating, checked_name, recordable
from pgrpo_cli.paths import shown
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.seeding import recorded_seed
from pgrpo_cli.state.files import atomic_write
from pgrpo_cli.stats.result_types import Which

from .speaker import Reply, Speaker


@dataclass(frozen=True)
class Persona:
    """Whom the model answers: a preference group, a user, a profile, or nobody in particular."""

    preset: Preset
    user: str | None = None

    @property
    def label(self) -> str:
        """How a prompt line names it."""
        return self.user or self.preset.preference_group or "nobody"


@dataclass
class Conversation:
    """Questions and answers so far, and what comes before them. `which` is the model that answers.

    `seed` fixes what is drawn: the same conversation with the same seed gets the same answers.
    """

    speaker: Speaker
    run_dir: Path
    persona: Persona
    which: Which = "tuned"
    seed: int = 0
    max_tokens: int | None = None
    temperature: float | None = None
    turns: list[tuple[str, Reply]] = field(default_factory=list)
    _retries: Counter[int] = field(default_factory=Counter)
    _unanswered: bool = False
    """Whether a question was asked since the last turn, and has no answer that was kept."""

    @property
    def preference_groups(self) -> list[str]:
        """Those that the run was prepared with."""
        return preference_groups_of(self.run_dir)

    def messages(self, question: str) -> list[Message]:
        """What the model sees when it is asked: what tells who asks, the turns so far, the question."""
        said = [
            message
            for asked, reply in self.turns
            for message in (_message("user", asked), _message("assistant", reply.text))
        ]
        return [*self.persona.preset.messages, *said, _message("user", question)]

    def ask(self, question: str, which: Which | None = None) -> Reply:
        """The answer to a question, which `keep` makes part of the conversation; until then there is no last
        answer. Raises DataError.
        """
        self._unanswered = True
        if not question.strip():
            raise DataError("there is nothing to answer: the question is blank", remedy="Write something.")
        seed = recorded_seed(self.seed, "chat", len(self.turns), self._retries[len(self.turns)])
        return self.speaker.ask(
            self.messages(question),
            which=which or self.which,
            seed=seed,
            max_tokens=self.max_tokens,
            temperature=self._temperature,
        )

    @property
    def _temperature(self) -> float:
        if self.temperature is None:
            return self.speaker.recipe.eval.conversation_temperature
        return self.temperature

    def keep(self, question: str, reply: Reply) -> None:
        """The conversation continues from this answer."""
        self.turns.append((question, reply))
        self._unanswered = False

    @contextmanager
    def retrying(self) -> Iterator[str]:
        """Within the block the last question has no answer, and `ask` draws another one.

        Yields the question. The old answer stays unless `keep` gets a new one. Raises DataError without one.
        """
        last = self._last()
        self.turns.pop()
        place = len(self.turns)
        self._retries[place] += 1
        try:
            yield last[0]
        finally:
            if len(self.turns) == place:
                self.turns.append(last)
            self._unanswered = False

    def restart(self) -> None:
        """Forget all turns."""
        self.turns.clear()
        self._retries.clear()
        self._unanswered = False

    def answer_as(
        self, *, group: str | None = None, user: str | None = None, profile: str | None = None
    ) -> None:
        """From now on the model is told that somebody else asks; the conversation begins anew."""
        self.persona = persona_of(self.run_dir, self.speaker.recipe, group=group, user=user, profile=profile)
        self.restart()

    def rate(self, rating: Literal[1, -1] | None, edited: str | None = None) -> Path:
        """Keep what the person makes of the last answer: +1, −1, or the answer that they wanted.

        It is on the disk when this returns. Returns the file. Raises DataError without an answer and for one
        that cannot be recorded, PgrpoError where the disk refuses.
        """
        question, reply = self._last()
        preset = self.persona.preset
        with recordable():
            record = Rating(
                user=self.persona.user,
                preference_group=preset.preference_group,
                messages=(*preset.recorded, *self._before_last(question)[len(preset.messages) :]),
                answer=reply.text,
                rating=rating,
                edited=edited,
                model=reply.which,
                run=self.speaker.name,
                step=self.speaker.step if reply.which == "tuned" else 0,
                seed=reply.seed,
            )
        path = self.run_dir / FEEDBACK
        append(path, record)
        return path

    def last_completion(self) -> Completion:
        """The last answer as rewards see it. Raises DataError where there is none."""
        question, reply = self._last()
        return Completion(
            "conversation",
            self.persona.preset.preference_group or self.persona.user or "",
            reply.prompt,
            reply.text,
            {},
            self._before_last(question),
            self.persona.user,
        )

    def save(self, path: Path) -> None:
        """Write the conversation as JSON. Raises PathError where the disk refuses."""
        turns = [
            {"question": question, "answer": reply.text, "model": reply.which, "seed": reply.seed}
            for question, reply in self.turns
        ]
        persona = self.persona
        content = {
            "run": str(self.run_dir),
            "step": self.speaker.step,
            "preference_group": persona.preset.preference_group,
            "user": persona.user,
            "before": list(persona.preset.messages),
            "turns": turns,
        }
        try:
            atomic_write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise PathError(
                f"{shown(path)} could not be written: {error.strerror}", remedy="Name another file."
            ) from error

    def _last(self) -> tuple[str, Reply]:
        if not self.turns:
            raise DataError("there is no answer yet", remedy="Ask something first.")
        if self._unanswered:
            raise DataError(
                "the last question has no answer, and the answer before it is another question's",
                remedy="Ask again, or begin a new conversation.",
            )
        return self.turns[-1]

    def _before_last(self, question: str) -> list[Message]:
        said = self.turns
        self.turns = said[:-1]
        try:
            return self.messages(question)
        finally:
            self.turns = said


def persona_of(
    run_dir: Path,
    recipe: Recipe,
    *,
    group: str | None = None,
    user: str | None = None,
    profile: str | None = None,
) -> Persona:
    """Whom the model is told about: at most one of the three, else nobody in particular.

    Raises DataError where the run knows no such group or user, or the user has no name that can be recorded.
    """
    if user is not None:
        user = checked_name(user, "the user's name")
    if profile is not None:
        return Persona(profile_preset(recipe, profile))
    if group is not None:
        return Persona(group_preset(run_dir, recipe, group), user)
    if user is not None:
        return Persona(_preset_of_user(run_dir, recipe, user), user)
    return Persona(plain_preset(recipe.model))


def _preset_of_user(run_dir: Path, recipe: Recipe, user: str) -> Preset:
    """That of a user of the data, else of the preference group in which their picks have placed them."""
    try:
        return user_preset(run_dir, recipe, user)
    except DataError:
        placed = [found for found in _placed(run_dir / TASTE) if found.user == user]
        if not placed:
            raise
    group = placed[-1].group
    if group is None:
        return replace(
            plain_preset(recipe.model), origin="the system prompt: picks have placed them in no group yet"
        )
    preset = group_preset(run_dir, recipe, group)
    return replace(preset, origin=f"{preset.origin}, as picks have placed them in {group!r}")


def _placed(path: Path) -> tuple[Placed, ...]:
    return read_feedback(path).placed if path.exists() else ()


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}
