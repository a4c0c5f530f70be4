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

from .base import BuildContext, Completion, Score, shown, where
from .styles import STYLES, textness
from .text import distinct_hits, listed_terms


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
    """The preference group's, or if preference groups are not personas (random, clusters), the prompt's."""
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


# The vocabulary of the genres. None of the core or mood words may occur in a persona's prompt: artists there
# imply the genre. Genre names, subgenres, instruments, artists; a final `*` matches any ending of the word.
CORE_TERMS: dict[str, str] = {
    "electronic": """
        electro*, techno, house music, trance, synth*, edm, dj, djs, ambient, drum machine*, remix*,
        disco, dance*, dancing, bass*, club*, Daft Punk, David Guetta, Avicii,
        Deadmau5, Tiësto, Moby, Skrillex
    """,
    "jazz": """
        jazz*, sax*, trumpet*, bebop, swing*, big band, improvis*, fusion, double bass, ragtime,
        blues, soul, dixieland, Louis Armstrong, Ella Fitzgerald, Duke Ellington, Billie Holiday,
        Nina Simone, Charles Mingus
    """,
    "metal": """
        metal*, heavy, riff*, distort*, thrash*, headbang*, shred*, mosh*, electric guitar*, drum*,
        rock*, Slayer, Pantera, AC/DC, Led Zeppelin, Deep Purple, Motörhead,
        Nirvana
    """,
    "hip hop": """
        hip hop, rap, rapper*, rapping, rhyme*, rhyming, mc, mcs, beatbox*, trap, turntabl*,
        freestyl*, flow*, beat, beats, lyric*, r&b, Eminem, Kanye West, Drake, Tupac, 2Pac,
        Snoop Dogg, Beyonce, Lil Wayne
    """,
    "reggae": """
        reggae*, ska, dub, dancehall, rocksteady, jamaica*, rasta*, roots, offbeat, island*,
        riddim*, caribbean, Marley, The Wailers, Shaggy, Sean Paul, UB40
    """,
    "country": """
        country*, banjo*, fiddle*, bluegrass, nashville, honky tonk, cowboy*,
        americana, folk*, acoustic*, guitar*, western, Johnny Cash, Dolly Parton, Hank Williams,
        Garth Brooks, Kenny Rogers, Taylor Swift
    """,
    "classical": """
        classic*, symphon*, orchestra*, concerto*, sonata*, violin*, cello*, piano*, opera, operas,
        operatic, baroque, string quartet*, compos*, Mozart, Beethoven, Vivaldi, Tchaikovsky,
        Brahms, Schubert, Haydn
    """,
}
# Words for the mood and the places of a genre.
MOOD_TERMS: dict[str, str] = {
    "electronic": """
        party*, energ*, pulse*, pulsing, digital*, neon, floor, future*, futuristic, space*,
        machine*, sound*, vibe*, groove*, hypnotic, loop*, pop
    """,
    "jazz": """
        smooth*, mellow, cool, groove*, soulful, rhythm*, elegan*, sophisticat*, relax*, bar,
        lounge, horn*, standards
    """,
    "metal": """
        dark*, loud*, power*, fierce*, intens*, aggress*, brutal*, steel, fire*, death, black,
        hell*, storm*, raw, fast, guitar*, band*, energ*
    """,
    "hip hop": """
        street*, urban, hustle*, verse*, word*, story, stories, bars, crew, city, style*, vibe*,
        dope, fresh, rhythm*, groove*, spit*
    """,
    "reggae": """
        sun, sunny, sunshine, warm*, chill*, relax*, laid-back, easy, peace*, love*, unity,
        tropical, summer*, rhythm*, groove*, vibe*, ocean, freedom, positive*
    """,
    "country": """
        truck*, horse*, farm*, whiskey, boots, texas, heart*, southern, dust*, river*, ranch*,
        barn*, honest*, simple, story, stories, singer*, ballad*
    """,
    "classical": """
        harmon*, beaut*, elegan*, grace*, serene*, calm*, master*, maestro, movement*, melod*,
        timeless, strings, ensemble*, instrument*, majest*, peace*
    """,
}
# Words of music at large: a first step from answers that are about something else.
MUSIC_TERMS = """
    music*, song*, album*, artist*, band*, playlist*, listen*, singer*, sing, sings, singing,
    tune*, genre*, track*
"""


CORE_PATTERNS = {genre: listed_terms(terms) for genre, terms in CORE_TERMS.items()}
MOOD_PATTERNS = {genre: listed_terms(terms) for genre, terms in MOOD_TERMS.items()}
MUSIC_PATTERNS = listed_terms(MUSIC_TERMS)


def genre_score(genre: str, text: str) -> float:
    """How clearly a text speaks of a genre, in [0, 1].

    0.6 for each of its core terms, 0.25 for each word of its mood, 0.1 for each word of music at large up
    to two; at most 1. Different terms count, not repetitions.
    """
    core = distinct_hits(CORE_PATTERNS[genre], text)
    mood = distinct_hits(MOOD_PATTERNS[genre], text)
    music = min(2, distinct_hits(MUSIC_PATTERNS, text))
    return min(1.0, 0.6 * core + 0.25 * mood + 0.1 * music)
