"""How soon picks tell to which preference group a person belongs: simulated people, the seven personas.

    python benchmarks/placement.py
    python benchmarks/placement.py --users 200 --json placement.json

A person of a persona is shown pairs of answers in the seven styles (short texts of the synthetic task) and
picks by the persona's reward: P(first) = 1 / (1 + exp(-s · d)), with the difference d of the two rewards in
standard deviations, and the sharpness s. The model of `conversation/placement.py` takes s to be 2. "Nobody"
picks by a coin. A person is placed right where their preference group, or "nobody yet", is the likeliest.
`random`: pairs of two random answers; `most telling`: of a few random answers the pair that tells most, as
`pgrpo taste` asks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from benchmarks.markdown import table
from pgrpo_cli.conversation.placement import Floats, most_telling, posterior
from pgrpo_cli.data.sources.persona_texts import QUOTES
from pgrpo_cli.recipe.reward_text import PersonasReward
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.personas import PERSONAS, PersonasFunction
from pgrpo_cli.stats.intervals import Interval, share_interval

CANDIDATES = 4
"""Answers among which the pair that tells most is looked for, as in `pgrpo taste`."""
AFTER = (5, 10, 20)
WAYS = ("random", "most telling")
SHARPNESS = (1.0, 2.0, 4.0)
NOBODY = len(PERSONAS)


def rewards_of_answers() -> Floats:
    """The reward of each answer by each persona, [A, K]."""
    weights = PersonasReward()
    reward = PersonasFunction(weights.style_weight, weights.genre_weight)
    texts = [text for quotes in QUOTES.values() for text in quotes]
    columns = [
        [score.value for score in reward([Completion("p", name, "", text) for text in texts])]
        for name in PERSONAS
    ]
    return np.array(columns).T


def placed(
    rewards_A_K: Floats, person: int, sharpness: float, way: str, picks: int, rng: np.random.Generator
) -> list[int]:
    """Where one person is placed after each pick: the place of a persona, or NOBODY."""
    scale_K = rewards_A_K.std(axis=0)
    first: list[Floats] = []
    second: list[Floats] = []
    shares: list[float] = []
    found = []
    now_K = np.full(NOBODY + 1, 1 / (NOBODY + 1))
    for _ in range(picks):
        some = rng.choice(len(rewards_A_K), CANDIDATES if way == "most telling" else 2, replace=False)
        pairs = list(combinations(some, 2))
        one, other = (rewards_A_K[[pair[side] for pair in pairs]] for side in (0, 1))
        chosen = most_telling(one, other, scale_K, now_K)
        a, b = pairs[chosen]
        difference = 0.0 if person == NOBODY else (rewards_A_K[a] - rewards_A_K[b])[person] / scale_K[person]
        first.append(rewards_A_K[a])
        second.append(rewards_A_K[b])
        shares.append(float(rng.random() < 1 / (1 + np.exp(-sharpness * difference))))
        now_K = posterior(np.stack(first), np.stack(second), shares, scale_K)
        found.append(int(now_K.argmax()))
    return found


def shares_placed(
    users: int, sharpness: float, way: str, *, seed: int = 0, after: Sequence[int] = AFTER
) -> tuple[list[Interval], list[Interval]]:
    """Shares placed right after so many picks, of `users` people of each persona, and of as many nobodies."""
    rng = np.random.default_rng([seed, int(10 * sharpness), WAYS.index(way)])
    rewards_A_K = rewards_of_answers()
    right = np.array(
        [
            [placed(rewards_A_K, person, sharpness, way, max(after), rng)[n - 1] == person for n in after]
            for person in range(NOBODY + 1)
            for _ in range(users)
        ]
    ).reshape(NOBODY + 1, users, len(after))
    members, nobodies = right[:NOBODY].reshape(-1, len(after)), right[NOBODY]
    return _intervals(members), _intervals(nobodies)


def _intervals(right_N_P: np.ndarray) -> list[Interval]:
    return [share_interval(float(column.mean()), len(column), 0.95) for column in right_N_P.T]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--users", type=int, default=20, help="people of each persona")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rows, record = [], []
    for sharpness in SHARPNESS:
        for way in WAYS:
            members, nobodies = shares_placed(arguments.users, sharpness, way, seed=arguments.seed)
            for who, shares in (("the seven personas", members), ("nobody", nobodies)):
                rows.append([f"{sharpness:g}", way, who, *map(_shown, shares)])
                record.append(
                    {
                        "sharpness": sharpness,
                        "pairs": way,
                        "people": who,
                        "placed_right": [vars(share) for share in shares],
                    }
                )
    heading = ["sharpness", "pairs", "people", *(f"placed right after {n} picks" for n in AFTER)]
    print(table(heading, rows))  # noqa: T201
    print(f"\nBy chance, {1 / (NOBODY + 1):.1%}: one of seven personas, or nobody yet.")  # noqa: T201
    if arguments.json:
        arguments.json.write_text(json.dumps({"users": arguments.users, "rows": record}, indent=2) + "\n")


def _shown(share: Interval) -> str:
    return f"{share.mean:.0%} ({share.low:.0%} to {share.high:.0%})"


if __name__ == "__main__":
    main()
