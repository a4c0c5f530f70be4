"""The questions of a taste test: where they come from, and in which order they are asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pgrpo_cli.data.manifest import read_manifest
from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.records import Message, PreparedPrompt
from pgrpo_cli.data.strict_json import parse_json
from pgrpo_cli.errors import DataError, PgrpoError
from pgrpo_cli.feedback.file import read_feedback
from pgrpo_cli.feedback.records import recorded_name
from pgrpo_cli.paths import path_of
from pgrpo_cli.recipe.conditioning import Conditioning
from pgrpo_cli.recipe.rewards import TasteReward
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.seeding import derive_seed


@dataclass(frozen=True)
class Question:
    """What is asked: a user's message, and the columns of its row for the rewards.

    `turns`: the conversation that it continues, empty for a first question; None where it is not known, and
    may be whatever stands before the questions of the preference group.
    """

    prompt_id: str
    text: str
    columns: Mapping[str, object] = field(default_factory=dict)
    turns: tuple[Message, ...] | None = None


def questions_of(path: Path) -> list[Question]:
    """The questions of a file: one per line, as text, or as JSON with a `prompt`. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", remedy="Name a file of text.") from error
    found, name = [], recorded_name(path.name)[:180]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text, columns = line.strip(), {}
        if text.startswith("{"):
            try:
                row = parse_json(text)
                text = row.pop("prompt")
                columns = row
                if not isinstance(text, str) or not text.strip():
                    raise TypeError("prompt is no text")
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataError(
                    f"{path}:{number}: no question: {error!r}",
                    remedy='Write a line of text, or JSON such as {"prompt": "What shall I cook?"}.',
                ) from error
        found.append(Question(f"{name}:{number}", text, columns))
    if not found:
        raise DataError(f"{path} has no questions", remedy="Write one on each line.")
    return found


def questions_of_data(run_dir: Path, conditioning: Conditioning) -> list[Question]:
    """What held-out users ask in the prepared data of a run, each once; where there are none, the others."""
    found: dict[tuple[str, ...], Question] = {}
    for half in ("eval", "train"):
        prompts = load_prepared(run_dir, half)
        theirs = _turns_tell_who_asks(prompts, conditioning)
        for prompt in prompts:
            text, turns = prompt.messages[-1]["content"], None if theirs else _turns(prompt)
            same = tuple(part for message in turns or () for part in (message["role"], message["content"]))
            found.setdefault((*same, text), Question(prompt.prompt_id, text, prompt.columns, turns))
        if found:
            break
    return list(found.values())


def _turns(prompt: PreparedPrompt) -> tuple[Message, ...]:
    return tuple(message for message in prompt.messages[:-1] if message["role"] != "system")


def _turns_tell_who_asks(prompts: Sequence[PreparedPrompt], conditioning: Conditioning) -> bool:
    """Whether the turns before a question belong to its user, and not to the question.

    So do examples. Turns of the data do where several preference groups have no prompt without them, as in
    `quickstart`: a conversation has a first question.
    """
    if conditioning.type == "examples":
        return True
    return len({prompt.preference_group for prompt in prompts}) > 1 and all(map(_turns, prompts))


def trained_questions(run_dir: Path, recipe: Recipe, recipe_dir: Path) -> dict[str, int]:
    """The questions that tell nothing new of a run's model: 2 for its training prompts, 1 for those of the
    picks from which its reward was learnt.
    """
    found: dict[str, int] = {}
    for section in recipe.rewards:
        if isinstance(section, TasteReward):
            try:
                picks = read_feedback(path_of(section.path, "path", recipe_dir)).picks
            except PgrpoError:
                # The file may be elsewhere by now, as that of a run that was copied.
                continue
            found |= {pick.messages[-1]["content"].strip(): 1 for pick in picks}
    if read_manifest(run_dir) is not None:
        found |= {prompt.messages[-1]["content"].strip(): 2 for prompt in load_prepared(run_dir, "train")}
    return found


def shuffled(
    questions: Sequence[Question],
    seed: int,
    user: str,
    *,
    skip: set[str],
    trained: Mapping[str, int] | None = None,
) -> Iterator[Question]:
    """The questions in an order of the user's own: those of `trained` last, and of each kind those not asked
    before first.
    """
    order, trained = list(questions), trained or {}
    random.Random(derive_seed(seed, "taste questions", user)).shuffle(order)
    order.sort(key=lambda question: (trained.get(question.text.strip(), 0), question.prompt_id in skip))
    yield from order


NextQuestion = Callable[[], str | None]
"""Asks a person for a question; None where they have none."""


def typed(ask: NextQuestion) -> Iterator[Question]:
    """Questions as a person types them."""
    while (text := ask()) is not None:
        if text.strip():
            yield Question("typed", text.strip())
