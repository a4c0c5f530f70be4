"""Runs without a model whose every number is made: healthy ones, and such with one illness.

What they leave on disk is written by the project's own stores, from rollouts, scores and updates that only
look as if a model had made them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgrpo_cli.algo.types import UpdateResult
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.histories import RewardHistories
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.rewards.base import Score
from pgrpo_cli.state.history_store import HistoryStore
from pgrpo_cli.state.records import step_record
from pgrpo_cli.state.run import RunDirectory, claim
from pgrpo_cli.state.runlog import RunLog
from pgrpo_cli.training import scored_step

from .recipes import changed

STEPS, P, G = 50, 6, 6
LIMIT = 64
"""rollout.max_completion_tokens"""

Random = np.random.Generator
Parts = Callable[[float, str, float, Random], Mapping[str, float]]
"""(progress of the run from 0 to 1, preference group, what the prompt is like, randomness) -> parts of one
completion's reward, `helpful` and `brief`, each NaN if missing.
"""


def healthy(progress: float, preference_group: str, prompt: float, random: Random) -> dict[str, float]:
    """Two parts that vary from answer to answer, of which one rises slowly."""
    helpful = 0.3 + 0.2 * progress + 0.05 * prompt + 0.15 * random.standard_normal()
    return {"helpful": helpful, "brief": 0.5 + 0.15 * random.standard_normal()}


@dataclass(frozen=True)
class Made:
    """How a run goes; all that is not said is healthy. Functions of `progress` get it from 0 to 1."""

    parts: Parts = healthy
    length: Callable[[float], float] = lambda progress: 24.0
    finished: float = 0.9
    """Share of completions that end by themselves."""
    texts: int = 1000
    """Different texts that a prompt may get."""
    words: Callable[[float, str], str] = lambda progress, preference_group: ""
    """What each text ends with."""
    kl: Callable[[float], float | None] = lambda progress: 0.05 * progress
    """None: not recorded, as with beta 0."""
    entropy: Callable[[float], float] = lambda progress: 1.5 - 0.3 * progress
    grad_norm: float = 0.5
    training_prompts: Mapping[str, int] = field(default_factory=lambda: {"calm": 150, "loud": 150})
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys as `changed` takes them."""


def recipe_of(made: Made) -> Recipe:
    """Two rewards of a Python file, which no rule knows the range of; they are never called."""
    values: dict[str, Any] = {
        "rewards": [
            {"type": "python", "file": "judge.py", "name": "helpful"},
            {"type": "python", "file": "judge.py", "name": "brief", "weight": 0.5},
        ],
        "rollout__num_generations": G,
        "rollout__max_completion_tokens": LIMIT,
        "train__steps": STEPS,
        "train__prompts_per_step": P,
        "loss__beta": 0.001,
    }
    return Recipe.model_validate(changed(**{**values, **made.recipe}))


def make(
    path: Path,
    made: Made = Made(),
    *,
    steps: int = STEPS,
    on_step: Callable[[RunDirectory, dict[str, Any]], None] = lambda run, record: None,
) -> RunDirectory:
    """Write the run; `progress` is 1 at step `STEPS`, however many there are. `on_step` is called after each
    step with what was logged.
    """
    run, recipe = RunDirectory(path), recipe_of(made)
    claim(run, recipe, path.parent)
    run.data.mkdir()
    counts = {name: {"train": count, "eval": 2} for name, count in made.training_prompts.items()}
    (run.data / "manifest.json").write_text(json.dumps({"version": 1, "preference_groups": counts}))
    histories = RewardHistories(recipe.advantage, recipe.history)
    random = np.random.default_rng(0)
    with HistoryStore(run.history_path) as store, RunLog(run.metrics_path) as log:
        for step in range(1, steps + 1):
            progress = (step - 1) / (STEPS - 1)
            rollouts, scores_N = _rollouts(step, progress, made, recipe, random)
            groups_N = rollouts.preference_groups_N
            advantages = histories.advantages(scores_N, groups_N, num_generations=G, step=step)
            scored = scored_step(step, rollouts, scores_N, advantages)
            histories.record(store, scored)
            kl = made.kl(progress)
            metrics = {} if kl is None else {"kl": kl * float(random.uniform(0.8, 1.2))}
            loss = -advantages.advantages_N.mean().item()
            norm = made.grad_norm * float(random.uniform(0.5, 1.5))
            update = UpdateResult(loss, norm, metrics, tokens=100, padding=0, reference_seconds=0.0)
            learning_rate = recipe.train.learning_rate_at(step)
            record = step_record(scored, [update], learning_rate, {"training": 1.0}, {})
            log.append(record)
            on_step(run, record)
    return run


def _rollouts(
    step: int, progress: float, made: Made, recipe: Recipe, random: Random
) -> tuple[Rollouts, list[Score]]:
    names = [name for name, count in made.training_prompts.items() if count >= P]
    prompts_P = [
        PreparedPrompt(f"{step}-{p}", names[p % len(names)], "text", (1, 2, 3), {}) for p in range(P)
    ]
    likings_P = random.standard_normal(P)
    scores_N = [
        _score(recipe, made.parts(progress, prompt.preference_group, float(liking), random))
        for prompt, liking in zip(prompts_P, likings_P, strict=True)
        for _ in range(G)
    ]
    wanted_N = made.length(progress) * random.uniform(0.7, 1.3, P * G)
    lengths_N = torch.tensor(np.clip(wanted_N.round(), 1, LIMIT), dtype=torch.int64)
    mask_N_T = torch.arange(LIMIT) < lengths_N.unsqueeze(1)
    rollouts = Rollouts(
        prompts=tuple(prompts_P),
        num_generations=G,
        completion_ids_N_T=torch.zeros(mask_N_T.shape, dtype=torch.int64),
        completion_mask_N_T=mask_N_T,
        sampling_logprobs_N_T=torch.full(mask_N_T.shape, -made.entropy(progress)),
        finished_N=torch.tensor(random.random(P * G) < made.finished),
        texts_N=tuple(
            f"answer {random.integers(made.texts)} to {n // G}"
            + made.words(progress, prompts_P[n // G].preference_group)
            for n in range(P * G)
        ),
    )
    return rollouts, scores_N


def _score(recipe: Recipe, parts: Mapping[str, float]) -> Score:
    """The weighted sum; like the real one it records no part that is missing."""
    weights = {reward.label: reward.weight for reward in recipe.rewards}
    total = sum(weights[name] * value for name, value in parts.items() if weights[name])
    return Score(total, {name: value for name, value in parts.items() if not math.isnan(value)})
