"""A real tokenizer for tests, made on the spot: a token is a byte, the chat template is ChatML."""

from __future__ import annotations

from typing import Any

from pgrpo_cli.model.load.random_model import random_tokenizer


def byte_tokenizer(*, chat_template: str | None = "chatml", max_length: int | None = None) -> Any:
    """One token a byte and one a special token, so that lengths can be counted by hand.

    `chat_template` None leaves it without one; `max_length` is the tokenizer's own limit in tokens.
    """
    tokenizer = random_tokenizer()
    if chat_template != "chatml":
        tokenizer.chat_template = chat_template
    if max_length is not None:
        tokenizer.model_max_length = max_length
    return tokenizer
