"""The vocabulary of seven music genres, and how clearly a text speaks of one.

None of the core or mood words may occur in a persona's prompt: artists there imply the genre.
"""

from __future__ import annotations

from .text import distinct_hits, listed_terms

# Genre names, subgenres, instruments, artists; a last `*` lets a word go on.
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
