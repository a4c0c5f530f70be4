"""Makes recipes/thumbs/answers.jsonl: nine users of three tastes, 40 rated answers each.

    python -m benchmarks.thumbs

The facts are common knowledge in our own words. Every question is asked once, so that holding users out takes
no text from the others. An answer says the same facts in one of three ways: in one short sentence, warmly, or
step by step. A user likes one of them, and more than a third of the answers that they got were of another.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).parents[1] / "recipes" / "thumbs" / "answers.jsonl"
ROWS, LIKED = 40, 25
TASTES = {
    "brief": ("ana", "dov", "gus"),
    "warm": ("ben", "eva", "hal"),
    "stepwise": ("chi", "fay", "ivo"),
}
OPENERS = ("What a lovely question!", "Oh, I am so glad you ask!", "Good idea, my friend!")
CLOSERS = ("Enjoy every minute of it!", "You will do it well!", "Tell me how it goes!")


@dataclass(frozen=True)
class Fact:
    """What there is to say to a question: a sentence, one that explains it, and three steps."""

    question: str
    sentence: str
    reason: str
    steps: tuple[str, str, str]

    def answer(self, taste: str, rng: random.Random) -> str:
        """All of it, or the sentence alone, in the way of a taste."""
        if taste == "brief":
            return self.sentence
        if taste == "warm":
            return f"{rng.choice(OPENERS)} {self.sentence} {self.reason} {rng.choice(CLOSERS)}"
        return "\n".join(f"{number}. {step}" for number, step in enumerate(self.steps, start=1))


# name; how to cook it; minutes; days in the refrigerator; what goes with it
FOODS = """carrots;roast;25;14;cumin|potatoes;boil;20;10;butter|broccoli;steam;6;4;lemon
beetroot;bake;50;14;goat cheese|green beans;boil;8;5;garlic|leeks;stew;15;7;cream
pumpkin;roast;35;5;sage|spinach;wilt;3;3;nutmeg|mushrooms;fry;8;4;thyme
courgettes;grill;7;6;mint|aubergines;grill;12;6;yoghurt|peppers;roast;25;7;feta
cauliflower;roast;25;6;curry powder|parsnips;roast;30;14;honey|peas;boil;4;3;bacon
asparagus;steam;9;4;egg|Brussels sprouts;roast;20;8;chestnuts|fennel;braise;25;7;orange
kale;fry;6;5;chilli|cabbage;stew;20;20;caraway|sweetcorn;boil;7;3;lime
lentils;simmer;25;4;cumin seeds|chickpeas;simmer;60;4;tahini|red beans;simmer;70;4;coriander
salmon;bake;14;2;dill|cod;poach;8;2;parsley|prawns;fry;4;2;ginger
chicken thighs;roast;40;2;paprika|turkey breast;bake;45;2;cranberries
pork chops;fry;10;3;apples|lamb chops;grill;9;3;rosemary|meatballs;simmer;25;3;tomato sauce
tofu;fry;8;5;soy sauce|eggs;boil;8;28;chives|halloumi;grill;5;10;watermelon
rice;simmer;15;3;peas and mint|couscous;soak;6;4;raisins|quinoa;simmer;15;5;avocado
polenta;stir;30;3;parmesan|noodles;boil;5;3;sesame|apples;bake;30;30;cinnamon
pears;poach;20;7;blue cheese|plums;stew;10;5;vanilla|rhubarb;bake;18;6;strawberries
peaches;grill;6;5;basil"""
# name; days between waterings; light
PLANTS = """basil;2;a bright window|mint;2;half shade|rosemary;8;full sun|a fern;4;shade
a peace lily;6;half shade|a cactus;25;full sun|an aloe;18;a bright window
a rubber plant;9;half shade|an orchid;8;an east window|ivy;6;shade|a jade plant;15;full sun
a spider plant;6;half shade|lavender;10;full sun|a lemon tree;5;full sun|parsley;3;half shade
a snake plant;20;any light|a begonia;5;half shade|a geranium;5;full sun
a bonsai;2;a bright window|thyme;9;full sun|chives;3;half shade|a monstera;8;half shade
a calathea;4;shade|an olive tree;7;full sun|a hibiscus;3;full sun|a cyclamen;4;a cool window
an amaryllis;8;a bright window|coriander;2;half shade|a yucca;14;full sun|sage;8;full sun
a fig tree;6;full sun|a tomato plant;1;full sun|a chilli plant;2;full sun
strawberries in a pot;2;full sun|a palm;7;half shade|an African violet;6;an east window
jasmine;4;full sun|oregano;8;full sun|a camellia;4;half shade|dill;3;full sun"""
# town; sight; what to eat there
TOWNS = """Lisbon;the tram to Alfama;custard tarts|Vienna;the Belvedere;apple strudel
Prague;Charles Bridge;goulash|Porto;the bridge over the Douro;cod cakes
Seville;the Alcazar;orange wine|Naples;the old harbour;pizza|Ghent;the canals;waffles
Bruges;the belfry;chocolate|Krakow;the cloth hall;dumplings|Riga;the central market;rye bread
Tallinn;the town wall;almonds|Athens;the Acropolis;grilled fish|Rome;the Forum;artichokes
Turin;the film museum;hazelnut cake|Trieste;the pier;coffee
Lyon;the covered passages;onion soup|Nice;the flower market;chickpea pancakes
Bordeaux;the river bank;cannelés|York;the minster;parkin|Edinburgh;Arthur's Seat;haggis
Galway;the bay;oysters|Bergen;the wharf;fish soup|Aarhus;the old town;open sandwiches
Zurich;the lake;cheese fondue|Graz;the castle hill;pumpkin seed oil"""
# thing to do; tool; minutes
CHORES = """descale a kettle;vinegar;30|clean a window;a squeegee;10|sharpen a knife;a whetstone;15
oil a squeaky door;candle wax;5|unblock a sink;a plunger;10
remove candle wax;an iron and paper;15|polish shoes;a soft brush;12
patch a bicycle tube;a repair kit;20|clean an oven;baking soda;60
hang a picture;a spirit level;15|sew on a button;strong thread;8
clean a keyboard;compressed air;10|wash a teddy bear;a pillow case;45
remove the glue of a label;cooking oil;10|bleed a radiator;its key;10
clean grout;an old toothbrush;40|whiten trainers;toothpaste;20|tune a guitar;a tuner;5
clean silver;foil and salt;15|wax a table;beeswax;30|defrost a freezer;bowls of hot water;60
mend a zip;a pencil;5|clean a blender;soap and warm water;3|dust blinds;a sock;15
remove limescale from a tap;half a lemon;30"""


def entries(table: str) -> Iterator[list[str]]:
    """The cells of each entry of a table."""
    for entry in table.replace("\n", "|").split("|"):
        yield entry.split(";")


def facts() -> Iterator[Fact]:
    """Everything that is asked."""
    for food, verb, minutes, days, partner in entries(FOODS):
        yield Fact(
            f"How do I cook {food}?",
            f"{verb.capitalize()} the {food} for {minutes} minutes.",
            "A little salt at the end brings out the taste.",
            (f"Prepare the {food}.", f"{verb.capitalize()} for {minutes} minutes.", "Taste and salt."),
        )
        yield Fact(
            f"How long can I keep {food}?",
            f"About {days} days in the refrigerator.",
            f"In a closed box the {food} will stay fresh.",
            ("Fill a box that closes.", "Write the date on it.", f"Eat the {food} within {days} days."),
        )
        yield Fact(
            f"What goes well with {food}?",
            f"Try {partner}.",
            f"It makes plain {food} taste like a holiday.",
            (f"Prepare the {food}.", f"Add {partner}.", "Wait a minute, then serve."),
        )
        yield Fact(
            f"Where do I buy good {food}?",
            "At the market, early in the morning.",
            "That is when there is the most to choose from, and somebody has time for you.",
            ("Go to the market before nine.", f"Look at the {food} from all sides.", "Ask for a taste."),
        )
    for plant, days, light in entries(PLANTS):
        every = "Every day" if days == "1" else f"Every {days} days"
        yield Fact(
            f"How often do I water {plant}?",
            f"{every}.",
            "Feel the soil with a finger first, it tells you what the plant needs.",
            ("Feel the soil.", f"Water {every.lower()}.", "Empty the saucer."),
        )
        yield Fact(
            f"Where should I put {plant}?",
            f"In {light}." if light != "any light" else "Anywhere in the house.",
            "Turn the pot now and then, so that it grows straight.",
            (
                f"Look for a place with {light}.",
                "Keep it away from the radiator.",
                "Turn the pot every week.",
            ),
        )
    for town, sight, dish in entries(TOWNS):
        yield Fact(
            f"What should I see in {town} in an afternoon?",
            f"See {sight}.",
            "Go late, when the light is soft and the crowds have gone home.",
            (f"Start with {sight}.", "Walk through the small streets.", f"End with {dish}."),
        )
        yield Fact(
            f"What do people eat in {town}?",
            f"Try the {dish}.",
            "The best ones are sold where the people of the town stand in line.",
            ("Ask for a place without pictures on the menu.", f"Order the {dish}.", "Share it."),
        )
    for chore, tool, minutes in entries(CHORES):
        yield Fact(
            f"How do I {chore}?",
            f"Use {tool} and take {minutes} minutes.",
            "It is easier than it looks, and a little patience does the rest.",
            (f"Get {tool}.", f"Work slowly for {minutes} minutes.", "Wipe everything clean."),
        )
        yield Fact(
            f"What do I need to {chore}?",
            f"Only {tool}.",
            "You surely have it at home already.",
            (f"Look for {tool}.", "Lay out an old towel.", f"Set {minutes} minutes aside."),
        )


def rows(seed: int = 0) -> list[dict[str, object]]:
    """The rows of all users."""
    rng = random.Random(seed)
    asked = list(facts())
    rng.shuffle(asked)
    found: list[dict[str, object]] = []
    for user, taste in sorted((user, taste) for taste, users in TASTES.items() for user in users):
        others = [other for other in TASTES if other != taste]
        verdicts = [True] * LIKED + [False] * (ROWS - LIKED)
        rng.shuffle(verdicts)
        for up in verdicts:
            fact = asked.pop()
            found.append(
                {
                    "user": user,
                    "preference_group": taste,
                    "prompt": fact.question,
                    "answer": fact.answer(taste if up else rng.choice(others), rng),
                    "thumbs_up": up,
                }
            )
    return found


def text() -> str:
    """The file."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows())


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
