"""The model card of a finished adapter."""

from __future__ import annotations

from pgrpo_cli import __version__
from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.recipe.schema import Recipe

_ROWS = 100


def model_card(recipe: Recipe, history: RewardHistory) -> str:
    """Markdown with the front matter that hubs read: what was trained, how, and on whom.

    Of more than 100 preference groups it lists those with the most rewards.
    """
    groups = history.stats(history.most_seen(_ROWS))
    rows = "\n".join(
        f"| {name} | {s.prompts} | {s.n} | {s.mean:.3f} | {s.std:.3f} |" for name, s in groups.items()
    )
    others = len(history.preference_groups) - len(groups)
    which = f" (the {len(groups)} most seen; {others} more are not listed)" if others else ""
    return f"""---
library_name: peft
base_model: "{recipe.model.id}"
tags: [lora, p-grpo, personalization]
---

# {recipe.name}

A LoRA adapter (rank {recipe.adapter.r}) on `{recipe.model.id}`, trained by pgrpo {__version__} with the
advantage
estimator `{recipe.advantage.estimator}` for {recipe.train.steps} steps of {recipe.train.prompts_per_step}
prompts x
{recipe.rollout.num_generations} completions (P-GRPO: arXiv 2603.10009).

Rewards seen in training, by preference group{which}:

| preference group | prompts | completions | mean reward | standard deviation |
| --- | ---: | ---: | ---: | ---: |
{rows}
"""
