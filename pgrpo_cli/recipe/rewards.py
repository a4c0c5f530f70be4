"""`rewards`: what a completion is worth to a preference group."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .reward_base import RewardBase
from .reward_judge import JudgeReward


class PersonasReward(RewardBase):
    """Style and genre of the seven synthetic personas, with each one's own scale, offset and difficulty."""

    type: Literal["personas"] = "personas"
    style_weight: float = Field(0.6, ge=0, description="Share of the style part.")
    genre_weight: float = Field(0.4, ge=0, description="Share of the genre part.")


class RegexReward(RewardBase):
    """1 where the pattern is found in the completion; with `count`, the share of `limit` matches found."""

    type: Literal["regex"] = "regex"
    pattern: str = Field(description="Python regular expression, searched anywhere in the completion.")
    ignore_case: bool = Field(False, description="Match without regard to case.")
    count: bool = Field(False, description="Reward matches / limit instead of 0 or 1.")
    limit: int = Field(1, ge=1, description="Matches worth the full reward when `count` is true.")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value


class LengthReward(RewardBase):
    """1 inside [min, max], falling linearly to 0 at `slack` outside of it."""

    type: Literal["length"] = "length"
    unit: Literal["characters", "words", "sentences"] = Field("words", description="What is counted.")
    min: int = Field(0, ge=0, description="Least length worth the full reward.")
    max: int = Field(ge=0, description="Greatest length worth the full reward.")
    slack: int = Field(10, ge=1, description="Distance outside the interval at which the reward reaches 0.")


class KeywordReward(RewardBase):
    """Share of the keywords that occur in the completion, as whole words, without regard to case."""

    type: Literal["keyword"] = "keyword"
    keywords: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, description="Words or phrases."
    )
    need: Literal["any", "share"] = Field("any", description="`any`: 1 if one occurs. `share`: found / all.")


class PythonReward(RewardBase):
    """A function of yours, TRL's way: `f(prompts, completions, **columns) -> numbers`. Needs --allow-code.

    Prompts and completions are lists of texts; the columns are `preference_group`, `prompt_id` and the data
    rows' further columns, lists too. It returns a number for each completion, or None for no reward. A plain
    function is called once a step, with all completions. An `async def` function, such as a judge over HTTP,
    is called with each batch of completions as soon as it is sampled, while the model samples the next one
    (`rollout.tokens_per_batch` sets their size). So it must score each completion by itself, whatever else is
    in its batch. Its calls run at once with each other and with other such rewards, on one event loop that
    lasts for the run; `asyncio.Semaphore` limits the requests in flight, `asyncio.to_thread` is for libraries
    that block. Nothing that a run records depends on how long a call takes.
    """

    type: Literal["python"] = "python"
    file: str = Field(description="Python file; a relative path starts at the recipe's folder.")
    function: str = Field("reward", description="Name of the function in it, plain or `async def`.")


class PluginReward(RewardBase):
    """A reward that an installed package registers under the entry point group `pgrpo.rewards`.

    With `async def __call__` it is called as an `async def` function of `type: python` is.
    """

    type: Literal["plugin"] = "plugin"
    plugin: str = Field(description="Name of the entry point.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of its factory.")


Reward = Annotated[
    PersonasReward | RegexReward | LengthReward | KeywordReward | PythonReward | PluginReward | JudgeReward,
    Field(discriminator="type"),
]
