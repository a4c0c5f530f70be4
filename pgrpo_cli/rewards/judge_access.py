"""Whether a judge may be asked: its host allowed, its key there, its file of answers usable."""

from __future__ import annotations

import os
from pathlib import Path

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.paths import below
from pgrpo_cli.recipe.eval_judge import PairJudge
from pgrpo_cli.recipe.reward_judge import JudgeReward

from .base import BuildContext
from .judge_cache import JudgeCache
from .judge_client import is_this_machine

CACHE_FILE = "judge.sqlite"

AnyJudge = JudgeReward | PairJudge
"""A section of a recipe that names a judge."""


def access(section: AnyJudge, context: BuildContext) -> tuple[Path | None, str | None]:
    """The file of its answers and its key.

    Raises RecipeError unless it may be asked, RewardError where the file cannot be used.
    """
    who = f"reward {section.label!r}" if isinstance(section, JudgeReward) else section.label
    if not is_this_machine(section.host) and section.host not in context.allowed_hosts:
        raise RecipeError(
            f"{who} sends prompts and completions to {section.host}"
            + (f", with the key in {section.api_key_env}" if section.api_key_env else ""),
            remedy=f"If you trust the recipe and that host with them, add --allow-host {section.host}",
        )
    key = _key(section, who)
    path = below(CACHE_FILE, context.run_dir, who) if context.run_dir else None
    if path is not None:
        # What is wrong with the file shows before anything is sampled.
        JudgeCache(path).close()
    return path, key


def _key(section: AnyJudge, who: str) -> str | None:
    if section.api_key_env is None:
        return None
    key = os.environ.get(section.api_key_env, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        problem = "holds characters that no key has" if key else "is not set"
        raise RecipeError(
            f"{who}: the environment variable {section.api_key_env} {problem}",
            remedy=f"Set it to the judge's key: export {section.api_key_env}=...",
        )
    return key
