"""Made evaluation results, without a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pgrpo_cli.stats.completions import kept_of
from pgrpo_cli.stats.estimates import Resampler
from pgrpo_cli.stats.evaluation import summarise
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.matrix import matrix_of
from pgrpo_cli.stats.result_types import EvalResult, EvalRow

Rewards = Mapping[str, Mapping[str, Sequence[float]]]
"""preference group -> prompt id -> the rewards of its completions."""


def rows_of(which: str, rewards: Rewards, text: str = "{which} answer {index} to {prompt}") -> list[EvalRow]:
    """A row a reward."""
    return [
        EvalRow(
            prompt_id=prompt,
            preference_group=group,
            which=which,  # type: ignore[arg-type]
            completion_index=index,
            reward=reward,
            parts={"style": reward},
            kl=0.02 if which == "tuned" else math.nan,
            length=8,
            finished=True,
            text=text.format(which=which, index=index, prompt=prompt),
        )
        for group, prompts in rewards.items()
        for prompt, values in prompts.items()
        for index, reward in enumerate(values)
    ]


def result_of(base: Rewards, tuned: Rewards, **changes: Any) -> EvalResult:
    """An evaluation of made rewards; `changes` replace fields of the header."""
    rows = rows_of("base", base) + rows_of("tuned", tuned)
    header: dict[str, Any] = {
        "run": "demo",
        "step": 24,
        "recipe": {"seed": 7, "advantage": {"estimator": "pgrpo"}},
        "recipe_hash": "a" * 64,
        "data_hash": "d" * 64,
        "adapter_hash": "b" * 64,
        "model": {"id": "random"},
        "rewards": [{"type": "personas"}],
        "sampling": {"num_completions": 2, "max_completion_tokens": 16, "temperature": 1.0},
        "max_prompts_per_group": None,
        "seed": 7,
        "bootstrap_samples": 500,
        "confidence": 0.95,
        "versions": {"pgrpo-cli": "0.1.0"},
    }
    header.update(changes)
    bootstrap = Bootstrap(header["bootstrap_samples"], header["confidence"], header["seed"])
    resampler = Resampler(bootstrap)
    # The reward of another preference group is 0.5 less.
    scores = {g: [row.reward - 0.5 * (row.preference_group != g) for row in rows] for g in sorted(base)}
    return EvalResult(
        **header,
        **dict(summarise(rows, bootstrap)),
        kept=kept_of(rows, {"base": 20.0, "tuned": 21.0}, resampler),
        matrix=matrix_of(rows, scores, ["personas"], resampler) if len(base) > 1 else None,
        prompts={row.prompt_id: f"<|user|> question {row.prompt_id}" for row in rows},
        rows=rows,
    )


def spread(groups: Mapping[str, float], prompts: int = 6, completions: int = 2) -> Rewards:
    """Rewards around a mean a group: prompt i lies (i - middle) / 20 off it, completions 0.02 apart."""
    middle = (prompts - 1) / 2
    return {
        group: {
            f"{group}-{i}": [
                mean + (i - middle) / 20 + 0.02 * (c - (completions - 1) / 2) for c in range(completions)
            ]
            for i in range(prompts)
        }
        for group, mean in groups.items()
    }
