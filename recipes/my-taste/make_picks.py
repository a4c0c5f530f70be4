"""Writes taste.jsonl beside it: the picks of somebody who likes it short and calm, as an example of the form.

    python recipes/my-taste/make_picks.py

The rule: of two answers the one with fewer words is picked, where each ! and each ? counts like eight words.
"""

from __future__ import annotations

import hashlib
import json
import random
from itertools import combinations
from pathlib import Path

QUESTIONS = {
    "What shall I cook tonight?": "make a tomato soup",
    "What can I do on a rainy Sunday?": "go to the museum",
    "Which book should I read next?": "read Dune",
    "How can I fall asleep earlier?": "put the phone away at nine",
    "What should I plant on my balcony?": "plant some thyme",
    "How do I begin to run?": "run for ten minutes every other day",
    "What could I give my sister for her birthday?": "bake her a cake",
    "Which language should I learn?": "learn Portuguese",
    "How can I save money this month?": "cook at home",
    "What should I see in Lisbon?": "take the old tram up the hill",
    "How do I keep my kitchen tidy?": "wash up right after dinner",
    "What game can four of us play?": "play a round of cards",
    "How can I wake up in a good mood?": "open the window first",
    "What should I pack for the mountains?": "take a warm jacket",
    "How do I make new friends here?": "join a choir",
    "What can I do with old bread?": "make croutons of it",
    "Which film fits a quiet evening?": "watch an old comedy",
    "How do I calm down before an exam?": "breathe slowly for a minute",
    "What should I have for breakfast?": "eat some porridge",
    "How can I spend less time on my phone?": "leave it in another room",
}

ANSWERS = (
    "{Do}.",
    "You could {do}.",
    "There are many things that come to mind, but if I were you I would {do}, since it is easy, and since it "
    "tends to work for most people who ask me that.",
    "{Do}! You will love it! It is amazing!",
    "- {Do}\n- Take your time\n- Enjoy it",
    "Would you like to {do}? Or would you rather do something else?",
    "I would suggest that you {do}, which is certainly suitable.",
)


def dislike(answer: str) -> int:
    """The hidden taste: the smaller, the better."""
    return len(answer.split()) + 8 * (answer.count("!") + answer.count("?"))


def picks() -> list[dict[str, object]]:
    """Two pairs of answers to each question."""
    order = random.Random(0)
    found = []
    for number, (question, do) in enumerate(QUESTIONS.items()):
        answers = [text.format(do=do, Do=do[0].upper() + do[1:]) for text in ANSWERS]
        for pair in order.sample(list(combinations(answers, 2)), 2):
            shown = pair if order.random() < 0.5 else pair[::-1]
            first, second = map(dislike, shown)
            found.append(
                {
                    "version": 1,
                    "kind": "pick",
                    "id": hashlib.sha256("\n".join((question, *shown)).encode()).hexdigest()[:32],
                    "time": f"2026-11-30T03:{number:02}:00+00:00",
                    "user": "me",
                    "messages": [{"role": "user", "content": question}],
                    "answers": list(shown),
                    "pick": "=" if first == second else "1" if first < second else "2",
                }
            )
    return found


if __name__ == "__main__":
    lines = "".join(json.dumps(pick, ensure_ascii=False) + "\n" for pick in picks())
    Path(__file__).with_name("taste.jsonl").write_text(lines, encoding="utf-8")
