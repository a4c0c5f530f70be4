"""The seven synthetic personas: who they are, and what a completion is worth to each.

value = offset + scale · (style_weight · style^difficulty + genre_weight · genre), with the parts `style` and
`genre` in [0, 1]. Scale, offset and difficulty differ as they do between real users' ratings. A completion
that is no text has no style and no genre: it gets the offset, the least that its persona gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgrpo_cli.errors import RewardError
from pgrpo_cli.names import nearest
from pgrpo_cli.recipe.reward_text import PersonasReward

from .base import BuildContext, Completion, Score
from .columns import shown, where
from .genres import genre_score
from .styles import STYLES, textness


@dataclass(frozen=True)
class Persona:
    """One kind of user. `share` is its part of the training prompts; the rest shapes its rewards."""

    name: str
    share: float
    style: str
    genre: str
    scale: float
    offset: float
    difficulty: float


PERSONAS: dict[str, Persona] = {
    persona.name: persona
    for persona in (
        Persona("excited-electronic", 0.50, "excited", "electronic", scale=1.0, offset=0.0, difficulty=1.0),
        Persona("terse-jazz", 0.17, "terse", "jazz", scale=3.0, offset=-1.0, difficulty=1.5),
        Persona("capitals-metal", 0.12, "capitals", "metal", scale=0.5, offset=1.0, difficulty=1.0),
        Persona("bulleted-hip-hop", 0.08, "bulleted", "hip hop", scale=2.0, offset=0.0, difficulty=0.8),
        Persona("asking-reggae", 0.06, "asking", "reggae", scale=0.3, offset=2.0, difficulty=0.8),
        Persona("flowing-country", 0.04, "flowing", "country", scale=1.5, offset=-0.5, difficulty=1.5),
        Persona("formal-classical", 0.03, "formal", "classical", scale=0.7, offset=0.5, difficulty=1.2),
    )
}


@dataclass(frozen=True)
class PersonasFunction:
    """The reward of a `PersonasReward` section; the preference group's id is the persona's name."""

    style_weight: float
    genre_weight: float

    @property
    def parts(self) -> tuple[str, ...]:
        return PersonasReward.parts

    @property
    def value_range(self) -> tuple[float, float]:
        most = self.style_weight + self.genre_weight
        return (
            min(persona.offset for persona in PERSONAS.values()),
            max(persona.offset + persona.scale * most for persona in PERSONAS.values()),
        )

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        return [self._score(completion) for completion in completions]

    def _score(self, completion: Completion) -> Score:
        persona = _persona(completion)
        text = completion.text
        style = STYLES[persona.style](text) * textness(text)
        genre = genre_score(persona.genre, text) * textness(text)
        inner = self.style_weight * style**persona.difficulty + self.genre_weight * genre
        return Score(persona.offset + persona.scale * inner, {"style": style, "genre": genre})


def build_personas(section: PersonasReward, context: BuildContext) -> PersonasFunction:
    """The factory of `type: personas`."""
    return PersonasFunction(section.style_weight, section.genre_weight)


def _persona(completion: Completion) -> Persona:
    """The preference group's, or where preference groups are others (by lot, by clustering) the prompt's."""
    group = completion.preference_group
    name = group if group in PERSONAS else completion.columns.get("persona", group)
    if isinstance(name, str) and name in PERSONAS:
        return PERSONAS[name]
    near = nearest(name, PERSONAS) if isinstance(name, str) else None
    hint = f"; did you mean {near!r}?" if near else ""
    raise RewardError(
        f"the personas reward met {shown(name)}, which is none of its personas: {', '.join(PERSONAS)}{hint}; "
        f"{where(completion)}",
        remedy="Limit it with `preference_groups`, or use its own data (source type: personas).",
    )
