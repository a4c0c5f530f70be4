"""`rewards` that are code of yours: a Python file, or a package's plug-in."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from .path_text import PathText
from .reward_base import RewardBase


class PythonReward(RewardBase):
    """A function of yours, TRL's way: `f(prompts, completions, **columns) -> numbers`. Needs --allow-code.

    Prompts and completions are lists of texts; the columns are `preference_group`, `prompt_id` and the data
    rows' further columns, lists too. It returns a number for each completion, or None for no reward. A plain
    function is called once per step with all completions. An `async def` function, such as a judge over HTTP,
    is called with each batch of completions as soon as it is sampled, while the model samples the next one
    (`rollout.tokens_per_batch` sets their size). So it must score each completion by itself, whatever else is
    in its batch. Its calls run at once with each other and with other such rewards, on one event loop that
    lasts for the run; `asyncio.Semaphore` limits the requests in flight, `asyncio.to_thread` is for libraries
    that block. Nothing that a run records depends on how long a call takes.
    The file, and the function while it is called, may import modules of the file's folder.
    """

    by_preference_group: ClassVar[bool | None] = None

    type: Literal["python"] = "python"
    file: PathText = Field(description="Python file; a relative path starts at the recipe's folder.")
    function: str = Field("reward", description="Name of the function in it, plain or `async def`.")


class PluginReward(RewardBase):
    """A reward that an installed package registers under the entry point group `pgrpo.rewards`.

    Needs --allow-code: the recipe chooses which plug-in runs, and with which options.
    With `async def __call__` it is called as an `async def` function of `type: python` is.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    by_preference_group: ClassVar[bool | None] = None

    type: Literal["plugin"] = "plugin"
    plugin: str = Field(description="Name of the entry point.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of its factory.")


CodeSection = PythonReward | PluginReward
