"""`eval.lm_eval`: general tasks, answered by the base model and the tuned one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .base import Section
from .path_text import PathText


class LmEvalSection(Section):
    """Tasks of the LM Evaluation Harness, the package lm-eval, answered by the base model and the tuned one.

    Needs `pip install 'pgrpo-cli[lm-eval]'`. Most tasks get their documents from the Hugging Face Hub. Tasks
    that lm-eval marks as running a model's programs (`humaneval` and its like) are refused; those that fetch
    a metric's code (`squadv2` and its like) need --allow-code.
    """

    tasks: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Names of tasks, groups and tags, as `lm-eval ls tasks` lists them."
    )
    limit: int | None = Field(
        500, ge=1, description="Documents of each task, the first ones; null: all of them."
    )
    num_fewshot: int | None = Field(
        None, ge=0, description="Solved examples before each document. Null: what the task says."
    )
    chat_template: bool = Field(
        False,
        description="Ask as a user in the chat template, with model.system_prompt, "
        "model.chat_template_kwargs, and few-shot examples as earlier turns.",
    )
    batch_size: int = Field(
        8, ge=1, description="Requests computed at a time; halved when memory does not hold them."
    )
    max_length: int = Field(
        2048,
        ge=16,
        le=10_000_000,
        description="Tokens of a request, at most; a longer one loses its beginning.",
    )
    include_path: PathText | None = Field(
        None,
        description="Folder of task files of your own; a relative path starts at the recipe's folder. Such "
        "files name Python to run: needs --allow-code.",
    )
