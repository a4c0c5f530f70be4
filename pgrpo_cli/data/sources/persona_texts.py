"""The words that the personas' prompts are made of.

No text here may hold a word of the reward's genre vocabulary or name a style: the taste must be inferred.
"""

from __future__ import annotations

# Listening histories: artists of each genre.
PLAYS: dict[str, tuple[str, ...]] = {
    "electronic": (
        "Kraftwerk", "Aphex Twin", "Jean-Michel Jarre",
        "The Chemical Brothers", "Underworld", "Boards of Canada",
        "Orbital", "The Prodigy", "Carl Cox", "Paul van Dyk",
        "Four Tet", "Justice",
    ),
    "jazz": (
        "Miles Davis", "John Coltrane", "Chet Baker",
        "Thelonious Monk", "Dave Brubeck", "Bill Evans",
        "Sonny Rollins", "Herbie Hancock", "Art Blakey",
        "Stan Getz", "Sarah Vaughan", "Wayne Shorter",
    ),
    "metal": (
        "Iron Maiden", "Manowar", "Megadeth",
        "Judas Priest", "Kreator", "Anthrax",
        "Sepultura", "Dio", "Slipknot", "Gojira",
        "Opeth", "Mastodon",
    ),
    "hip hop": (
        "Nas", "Kendrick Lamar", "Missy Elliott", "Jay-Z",
        "OutKast", "Lauryn Hill", "MF DOOM", "Public Enemy",
        "Mos Def", "A Tribe Called Quest", "Ice Cube",
        "J. Cole",
    ),
    "reggae": (
        "Peter Tosh", "Jimmy Cliff", "Burning Spear",
        "Toots Hibbert", "Dennis Brown", "Gregory Isaacs",
        "Inner Circle", "Third World", "Chronixx",
        "Lee Perry", "Horace Andy", "Augustus Pablo",
    ),
    "country": (
        "Willie Nelson", "Patsy Cline", "Merle Haggard",
        "Loretta Lynn", "Waylon Jennings", "George Strait",
        "Tammy Wynette", "Chris Stapleton", "Reba McEntire",
        "Townes Van Zandt", "Kacey Musgraves", "Alan Jackson",
    ),
    "classical": (
        "Glenn Gould", "Maria Callas", "Claude Debussy",
        "Erik Satie", "Frederic Chopin", "J. S. Bach",
        "Gustav Mahler", "Maurice Ravel", "Yo-Yo Ma",
        "Edvard Grieg", "Edward Elgar", "Arvo Part",
    ),
}

# Earlier replies, each in its style, about anything but the request at hand.
QUOTES: dict[str, tuple[str, ...]] = {
    "excited": (
        "Oh wow, YES! You will adore this one!!", "So good! Turn it up, up, up!!", "Best pick ever! Enjoy!!!",
        "Wow, what a night this will be!", "I am obsessed with this! Go, go!!", "Hooray! This is pure joy!!",
        "Amazing choice! You rule!", "Yes!! This will blow your mind!",
    ),
    "terse": (
        "Try Lisbon.", "Soup. Then sleep.", "Green tea.", "The old one. Trust me.", "Take the train.", "Any Hitchcock film.",
        "Blue shirt.", "Number four.",
    ),
    "capitals": (
        "TAKE THE NIGHT TRAIN.", "WATCH ALIEN. NOW.", "GO FOR THE RED ONE.", "EAT MORE CHILI.", "RUN UP THE HILL.",
        "BUY THE BIG ONE.", "READ DUNE AGAIN.", "NO SUGAR. MORE SALT.",
    ),
    "bulleted": (
        "- Soup\n- Bread\n- Tea", "- Lisbon\n- Porto\n- Faro", "- Alien\n- Heat\n- Up", "- Run\n- Rest\n- Eat",
        "- Dune\n- Emma\n- Ulysses", "- Red\n- Green\n- Gold", "- Chess\n- Go\n- Risk", "- Bus\n- Tram\n- Bike",
    ),
    "asking": (
        "How about Lisbon in May?", "What would you say to a soup?", "Have you seen Alien yet?", "Do you fancy the red one?",
        "Why not take the train?", "Would you like it spicy?", "Shall we try chess?", "Could it be time for Dune?",
    ),
    "flowing": (
        "You could take the slow train, and watch the hills go by, until evening comes.",
        "There is a soup that my aunt made, with leeks and cream, and it stays with you for hours.",
        "It is a film that begins softly, and then, as the rain falls, it opens like a door.",
        "Walk along the water, past the mill, while the light is low, and then turn home.",
        "Lisbon is best in May, when the lanes smell of the sea, and the days are long.",
        "Read it by the window, a chapter a day, so that it ripens in you, and grows.",
    ),
    "formal": (
        "I would respectfully recommend Lisbon.", "Kindly consider the vegetable soup.",
        "It is my pleasure to suggest the earlier train.", "One may find the second volume most rewarding.",
        "Please allow me to propose the red wine.", "I should certainly advise a brief visit.",
        "We would be delighted to arrange a table.", "May I respectfully suggest the museum.",
    ),
}

TRAIN_SITUATIONS: tuple[str, ...] = (
    "I am cooking dinner.", "I am driving home.", "It is raining outside.", "I am cleaning the kitchen.",
    "I am about to study.", "Friends come over tonight.", "I am on a long train ride.", "I just woke up.",
    "I am painting the wall.", "I cannot sleep.", "I am walking the dog.", "I had a bad day.",
    "I got a new job.", "I am going for a run.", "I am working late.", "I am having breakfast.",
    "I am packing for a trip.", "I am at the beach.", "I am fixing my bike.", "It is Friday evening.",
    "I am waiting for a friend.", "I am baking bread.", "I am ironing shirts.", "I am home alone.",
    "I am lifting weights.", "I am writing a letter.", "It is snowing.", "I am sitting in the garden.",
    "I am stuck in traffic.", "I am doing the dishes.", "It is my birthday.", "I am moving house.",
)
EVAL_SITUATIONS: tuple[str, ...] = (
    "I am lying in the bath.", "We are having a picnic.", "I am planting tomatoes.", "I am flying to Rome.",
    "It is Sunday morning.", "I am sewing a coat.", "I passed my exam.", "I am fishing by the lake.",
)
REQUESTS: tuple[str, ...] = (
    "Which music and which artists do you recommend to me?", "Which artists should I listen to?",
    "What kind of music should I put on?", "What would you play for me?", "Recommend an artist and an album.",
    "Recommend some music to me.",
)
