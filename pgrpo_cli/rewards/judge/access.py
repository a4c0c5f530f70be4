"""What a judge needs before it is asked: leave and a key, a file for its answers, and the question."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.paths import below
from pgrpo_cli.recipe.evaluation import PairJudge
from pgrpo_cli.recipe.rewards import JudgeReward
from pgrpo_cli.recipe.templates import Template, TemplateProblem
from pgrpo_cli.rewards.base import BuildContext, Completion, where

from .cache import JudgeCache
from .client import http_client, is_this_machine

CACHE_FILE = "judge.sqlite"

AnyJudge = JudgeReward | PairJudge
"""A section of a recipe that names a judge."""


def access(section: AnyJudge, context: BuildContext) -> tuple[Path | None, str | None]:
    """The file of its answers and its key.

    Raises RecipeError unless it may be asked, RewardError for a file or a proxy that cannot be used.
    """
    who = f"reward {section.label!r}" if isinstance(section, JudgeReward) else section.label
    if not is_this_machine(section.host) and section.host not in context.allowed_hosts:
        raise RecipeError(
            f"{who} sends prompts and completions to {section.host}"
            + (f", with the key in {section.api_key_env}" if section.api_key_env else ""),
            remedy=f"If you trust the recipe and that host with them, add --allow-host {section.host}",
        )
    key = _key(section, who)
    _check_environment(section, key, who)
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


def _check_environment(section: AnyJudge, key: str | None, who: str) -> None:
    """Raises RewardError where a proxy or certificates of the environment cannot be used."""
    try:
        http_client(section, key)
    except (ImportError, ValueError, OSError) as error:
        names: tuple[str, ...]
        if isinstance(error, OSError):
            what, names = "certificates", ("SSL_CERT_FILE", "SSL_CERT_DIR")
            remedy = "Name a file of certificates that is there, or unset it."
        else:
            what, names = "a proxy", ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
            remedy = "Name it by http://HOST:PORT, or unset it; socks5:// needs `pip install socksio`."
        named = ", ".join(sorted(name for name in os.environ if name.upper() in names))
        raise RewardError(
            f"{who}: the environment ({named}) names {what} that cannot be used for {section.host}: "
            f"{type(error).__name__}",
            remedy=remedy,
        ) from error


class Rubric:
    """Renders the rubric of a recipe's judge."""

    def __init__(self, section: AnyJudge) -> None:
        self._label = section.label
        self._template = Template(section.rubric)
        self._instructions = section.preference_group_rubrics

    def __call__(self, asked: Completion, **answers: str) -> str:
        """The text about `answers`, by variable, to the prompt that `asked` answers. Raises RewardError."""
        known: dict[str, Any] = {
            "prompt": asked.prompt,
            **answers,
            "preference_group": asked.preference_group,
            "preference_group_rubric": self._instructions.get(asked.preference_group, ""),
            "columns": dict(asked.columns),
        }
        if asked.columns.get("reference") is not None:
            known["reference"] = asked.columns["reference"]
        try:
            return self._template.render(known)
        except TemplateProblem as problem:
            raise RewardError(
                f"judge {self._label!r}: the rubric cannot be written for {where(asked)}: {problem}",
                remedy="Correct `rubric`; `{% if reference is defined %}` asks what a row has, and "
                "`{{ columns.note or '' }}` writes nothing for a null.",
            ) from problem
