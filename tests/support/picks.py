"""Picks of people whose taste is a function of the answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import combinations
from typing import Any

from pgrpo_cli.feedback.records import Pick

QUESTION = "Which music do you recommend?"
ANSWERS = (
    "Miles Davis.",
    "Try jazz.",
    "You could listen to Kind of Blue, which is calm, and then to some of the later records.",
    "There are many records that I would recommend, among them those of Bill Evans, and those of Chet Baker.",
    "Wow! Kind of Blue! You will love it!",
    "So good! Play it loud!",
    "- Kind of Blue\n- Blue Train\n- Waltz for Debby",
    "- Jazz\n- Soul\n- Funk\n- Blues",
    "Do you like jazz?",
    "Have you heard Blue Train? Or would you rather hear a waltz?",
    "PLAY BLUE TRAIN NOW.",
    "LISTEN TO MILES DAVIS.",
    "I would kindly suggest the recordings of Bill Evans, which are certainly suitable.",
    "Perhaps the music that I recommend is that of the piano trios, as it suits an evening at home.",
)


def picks_of(
    user: str, utility: Callable[[str], float], count: int, *, seed: int = 0, **values: Any
) -> list[Pick]:
    """The first `count` pairs in a shuffled order; the greater utility is picked, and a tie where equal."""
    pairs = list(combinations(ANSWERS, 2))
    order = random.Random(seed)
    order.shuffle(pairs)
    found = []
    for number, pair in enumerate(pairs[:count]):
        shown = pair if order.random() < 0.5 else pair[::-1]
        difference = utility(shown[0]) - utility(shown[1])
        found.append(
            Pick(
                id=f"{user}-{seed}-{number}",
                time="2026-11-30T03:00:00+00:00",
                user=user,
                messages=({"role": "user", "content": QUESTION},),
                answers=(shown[0], shown[1]),
                pick="=" if difference == 0 else "1" if difference > 0 else "2",
                **values,
            )
        )
    return found
