"""A reward of your own: 1 if no number in the answer is above the budget of its row, else 0."""

import re


def reward(prompts, completions, budget, **columns):
    """`budget` has the column of that name, one entry per completion."""
    highest = [max(map(int, re.findall("[0-9]+", text)), default=0) for text in completions]
    return [float(number <= limit) for number, limit in zip(highest, budget, strict=True)]
