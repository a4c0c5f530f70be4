"""The synthetic personas' prompts: a profile from which the taste can be told, a situation, a request.

The profile is a chat: what the user played, a reply that they disliked, and replies that they liked.

The reward that belongs to them is in `rewards/personas.py`.
"""

from __future__ import annotations

import random

from pgrpo_cli.data.records import PromptRecord, SourceData
from pgrpo_cli.recipe.sources import PersonasSource
from pgrpo_cli.rewards.personas import PERSONAS, Persona
from pgrpo_cli.seeding import derive_seed

from .context import ReadContext
from .persona_texts import EVAL_SITUATIONS, PLAYS, QUOTES, REQUESTS, TRAIN_SITUATIONS

SYSTEM_PROMPT = "You recommend music. Answer the way the user likes."
# Reactions to earlier replies, which are in the style that the user likes.
REACTIONS = ("I like that. One more tip?", "That is how I like it. Another one?", "Good answer. What else?")
THANKS = ("Just right.", "I liked that, too.", "Thanks, that was a good reply.")


def read_personas(section: PersonasSource, context: ReadContext) -> SourceData:
    """All prompts of the synthetic task; the same seed gives the same prompts in the same order."""
    rng = random.Random(derive_seed(context.seed, "personas"))
    train = [
        _record(persona, "train", number, TRAIN_SITUATIONS, rng)
        for persona, count in zip(PERSONAS.values(), _counts(section.prompts), strict=True)
        for number in range(count)
    ]
    held_out = [
        _record(persona, "eval", number, EVAL_SITUATIONS, rng)
        for persona in PERSONAS.values()
        for number in range(section.eval_prompts_per_group)
    ]
    rng.shuffle(train)
    return SourceData(tuple(train), tuple(held_out))


def _counts(prompts: int) -> list[int]:
    """Prompts of each persona: its share by largest remainder, and at least one."""
    exact = [persona.share * prompts for persona in PERSONAS.values()]
    counts = [max(1, int(count)) for count in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: (int(exact[index]) - exact[index], index))
    for index in by_remainder[: max(0, prompts - sum(counts))]:
        counts[index] += 1
    counts[counts.index(max(counts))] -= sum(counts) - prompts
    return counts


def _record(
    persona: Persona, split: str, number: int, situations: tuple[str, ...], rng: random.Random
) -> PromptRecord:
    # Cycling through the situations shows each of them to every persona as evenly as its prompts allow.
    situation = situations[number % len(situations)]
    plays = _listing(rng.sample(PLAYS[persona.genre], rng.choice((2, 3))))
    other = rng.choice([style for style in QUOTES if style != persona.style])
    first, second = rng.sample(QUOTES[persona.style], 2)
    messages = (
        _message("system", SYSTEM_PROMPT),
        _message(
            "user", f'Lately I played {plays}. I disliked the reply "{rng.choice(QUOTES[other])}" Any tip?'
        ),
        _message("assistant", first),
        _message("user", rng.choice(REACTIONS)),
        _message("assistant", second),
        _message("user", f"{rng.choice(THANKS)} {situation} {rng.choice(REQUESTS)}"),
    )
    columns = {"situation": situation, "persona": persona.name}
    return PromptRecord(f"{split}-{persona.name}-{number:04d}", messages, persona.name, columns)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _listing(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
