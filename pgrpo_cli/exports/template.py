"""The chat template as other programs get it: with the variables that the recipe gives it written into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.pretrained.chat import Chat, Messages
from pgrpo_cli.recipe.schema import Recipe


def baked_template(source: str, variables: Mapping[str, Any]) -> str:
    """The template, begun by an assignment of each variable: no other program knows the recipe's
    `model.chat_template_kwargs`.
    """
    # Python's literals of what YAML holds are Jinja's.
    return "".join(f"{{%- set {name} = {value!r} -%}}" for name, value in variables.items()) + source


def bake(tokenizer: Any, recipe: Recipe) -> Any:
    """The tokenizer with that template, and only that one."""
    tokenizer.chat_template = baked_template(tokenizer.get_chat_template(), recipe.model.chat_template_kwargs)
    return tokenizer


def chats(tokenizer: Any, prompts: Sequence[PreparedPrompt]) -> list[Messages]:
    """The conversations of prompts as the template is given them."""
    chat = Chat(tokenizer, "the exported tokenizer")
    return [chat.written(prompt.messages) for prompt in prompts]
